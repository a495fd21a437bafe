import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import { cdiSpec, specFile } from "../../src/dra/driver/cdi.ts";
import { decodeCheckpoint } from "../../src/dra/driver/checkpoint.ts";
import { namesIn } from "../../src/dra/driver/durable-files.ts";
import { overlap, type PreparedClaim } from "../../src/dra/driver/prepared-claim.ts";
import { claimObject, type DriverScene, openScene } from "./driver.ts";
import { act } from "./driver-life.ts";

/** Claims with every kind of step, on one machine, and the judgement of what is left of them when their driver is cut short. */

export const machineType = "dgx-a100-mig";
/** Configuration of a claim whose GPUs are shared in turns. */
export const timeSlices = {
  source: "FromClaim",
  opaque: {
    driver: "gpu.kllama.ai",
    parameters: {
      ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
      sharing: { strategy: "TimeSlicing", timeSlicingConfig: { interval: "Long" } },
    },
  },
};

/** `kept` is prepared throughout, the others come and go. */
export const claims: readonly ResourceClaim[] = [
  claimObject("kept", ["gpus gpu-1", "part gpu-0-mig-1g10gb-19-6"]),
  claimObject("parts", ["part gpu-0-mig-2g20gb-14-2", "more gpu-0-mig-1g10gb-19-0", "whole gpu-2"]),
  claimObject("slices", ["gpus gpu-3", "gpus gpu-4"], { config: [timeSlices] }),
  claimObject("whole", ["gpus gpu-5"]),
];
export const other = ["slices", "parts", "whole"];

/** The driver of these claims on a folder of its own. */
export async function openWithClaims(
  path: string,
  options: Omit<NonNullable<Parameters<typeof openScene>[1]>, "folder"> = {},
): Promise<DriverScene> {
  const driver = await openScene(machineType, { ...options, folder: path });
  for (const claim of claims) driver.claims.set(claim.metadata.name, claim);
  return driver;
}

export async function closeScene(driver: DriverScene): Promise<void> {
  await driver.preparation.idle();
  await driver.machine.close();
}

/** Judges what lies on disk and board: nothing half done, nothing twice, nothing lost and nothing left over. */
export async function judge(driver: DriverScene): Promise<string[]> {
  const reading = decodeCheckpoint(readFileSync(driver.checkpoint));
  if (reading.kind !== "sound") throw new Error(`the checkpoint is ${reading.kind}: ${reading.why}`);
  const prepared = reading.checkpoint.claims;
  expect(prepared.filter(({ state }) => state !== "Completed")).toEqual([]);
  for (const [index, one] of prepared.entries()) {
    for (const rival of prepared.slice(index + 1)) {
      const twice = one.devices.find((device) => rival.devices.some((theirs) => overlap(device, theirs)));
      expect(twice, `${one.name} and ${rival.name}`).toBeUndefined();
    }
  }
  expect(await namesIn(driver.cdiFolder).then((names) => names.toSorted())).toEqual(
    prepared.map(({ uid }) => specFile(uid)).toSorted(),
  );
  for (const claim of prepared) expect(JSON.parse(await driver.spec(claim.name))).toEqual(cdiSpec(claim));
  expect(boardOf(driver)).toEqual(boardFor(prepared));
  return prepared.map(({ name }) => name).toSorted();
}

type Board = { instances?: { gpu: string; start: number; uuid?: string }[]; timeSlices?: Record<string, string> };

function boardOf({ folder: path }: DriverScene) {
  const { instances = [], timeSlices: slices = {} } = JSON.parse(
    readFileSync(join(path, "machine.json"), "utf8"),
  ) as Board;
  return { parts: instances.map(({ gpu, start, uuid }) => `${gpu} ${start} ${uuid}`).toSorted(), slices };
}

function boardFor(prepared: readonly PreparedClaim[]) {
  const devices = prepared.flatMap((claim) => claim.devices);
  return {
    parts: devices
      .flatMap(({ gpu, partition }) => (partition ? [`${gpu.uuid} ${partition.start} ${partition.uuid}`] : []))
      .toSorted(),
    slices: Object.fromEntries(devices.flatMap(({ gpu, timeSlice }) => (timeSlice ? [[gpu.uuid, timeSlice]] : []))),
  };
}

/** Others get what was given back: new claims of the same devices. */
export async function inherit(driver: DriverScene): Promise<void> {
  for (const name of ["kept", ...other]) {
    const { spec, status } = driver.claims.get(name)!;
    driver.claims.set(`${name}-heir`, { ...claimObject(`${name}-heir`, []), spec, ...(status ? { status } : {}) });
  }
  await act(driver, { prepare: ["kept", ...other].map((name) => `${name}-heir`) });
  expect(await judge(driver)).toHaveLength(4);
}
