import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ResourceClaim } from "../../../../src/api/kubernetes.ts";
import { cdiSpec, specFile } from "../../../../src/dra/driver/cdi.ts";
import { decodeCheckpoint } from "../../../../src/dra/driver/checkpoint.ts";
import { namesIn } from "../../../../src/dra/driver/durable-files.ts";
import { overlap, type PreparedClaim } from "../../../../src/dra/driver/prepared-claim.ts";
import { claimObject, type DriverScene, openScene } from "../../../support/driver.ts";
import type { Life } from "../../../support/driver-child.ts";
import { act, awaken, type Deed } from "../../../support/driver-life.ts";

/**
 * The driver is killed with SIGKILL right after a step that changes a disk or a board, at every such step in turn. Whoever
 * comes after it must find all that is left over, and lose nothing. `npm run driver-faults` dies 200 times; without it a slice.
 */
const kills = process.env["KLLAMA_DRIVER_FAULTS"] === "all" ? 200 : 6;

const child = fileURLToPath(new URL("../../../support/driver-child.ts", import.meta.url));
const type = "dgx-a100-mig";
const timeSlices = {
  source: "FromClaim",
  opaque: {
    driver: "gpu.kllama.ai",
    parameters: {
      ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
      sharing: { strategy: "TimeSlicing", timeSlicingConfig: { interval: "Long" } },
    },
  },
};

/** All claims of a life: `kept` is prepared throughout, the others come and go. */
const claims: readonly ResourceClaim[] = [
  claimObject("kept", ["gpus gpu-1", "part gpu-0-mig-1g10gb-19-6"]),
  claimObject("parts", ["part gpu-0-mig-2g20gb-14-2", "more gpu-0-mig-1g10gb-19-0", "whole gpu-2"]),
  claimObject("slices", ["gpus gpu-3", "gpus gpu-4"], { config: [timeSlices] }),
  claimObject("whole", ["gpus gpu-5"]),
];
const other = ["slices", "parts", "whole"];

interface Chapter {
  what: string;
  /** What happened before: the last deed may itself be cut short after `cutAfter` effects. */
  before: readonly Deed[];
  cutAfter?: number;
  /** Done by the one that is killed. */
  deeds: readonly Deed[];
  /** What the kubelet asks for again, and what is prepared once that is answered. */
  again: Deed;
  after: readonly string[];
}

const chapters: readonly Chapter[] = [
  {
    what: "preparing a claim of a GPU and two partitions",
    before: [{ prepare: ["kept"] }],
    deeds: [{ prepare: ["parts"] }],
    again: { prepare: ["parts"] },
    after: ["kept", "parts"],
  },
  {
    what: "preparing three claims in one batch",
    before: [{ prepare: ["kept"] }],
    deeds: [{ prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "preparing what a predecessor left half prepared, before it was undone",
    before: [{ prepare: ["kept"] }, { prepare: other }],
    cutAfter: 12,
    deeds: [{ prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "unpreparing a claim of a GPU and two partitions",
    before: [{ prepare: ["kept", "parts"] }],
    deeds: [{ unprepare: ["parts"] }],
    again: { unprepare: ["parts"] },
    after: ["kept"],
  },
  {
    what: "unpreparing three claims in one batch",
    before: [{ prepare: ["kept", ...other] }],
    deeds: [{ unprepare: other }],
    again: { unprepare: other },
    after: ["kept"],
  },
  {
    what: "undoing at the start what a predecessor left half prepared",
    before: [{ prepare: ["kept"] }, { prepare: other }],
    cutAfter: 20,
    deeds: [{ awaken: true }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "finishing at the start what a predecessor left half unprepared, then preparing it anew",
    before: [{ prepare: ["kept", ...other] }, { unprepare: other }],
    cutAfter: 4,
    deeds: [{ awaken: true }, { prepare: other }],
    again: { prepare: other },
    after: ["kept", ...other],
  },
  {
    what: "rebuilding a lost checkpoint, then unpreparing",
    before: [{ prepare: ["kept", ...other] }, { loseCheckpoint: true }],
    deeds: [{ awaken: true }, { unprepare: ["parts", "slices"] }],
    again: { unprepare: ["parts", "slices"] },
    after: ["kept", "whole"],
  },
];

const made: string[] = [];
const cache = mkdtempSync(join(tmpdir(), "kllama-kills-cache-"));

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "kllama-kill-"));
  made.push(path);
  return path;
}

/** Resolves to whether it was killed. */
function live(life: Life): Promise<boolean> {
  const environment = { ...process.env, NODE_COMPILE_CACHE: cache };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [child, JSON.stringify(life)], { env: environment }, (error, _, stderr) => {
      if (error === null) resolve(false);
      else if (error.signal === "SIGKILL") resolve(true);
      else reject(new Error(stderr));
    });
  });
}

async function open(path: string, onEffect: () => void = () => undefined): Promise<DriverScene> {
  const driver = await openScene(type, { folder: path, onEffect });
  for (const claim of claims) driver.claims.set(claim.metadata.name, claim);
  return driver;
}

async function close(driver: DriverScene): Promise<void> {
  await driver.preparation.idle();
  await driver.machine.close();
}

/** The chapter's beginning, in a folder, and the number of effects of its deeds. */
async function begin(chapter: Chapter): Promise<{ folder: string; effects: number }> {
  const path = folder();
  const whole = chapter.cutAfter === undefined ? chapter.before : chapter.before.slice(0, -1);
  const driver = await open(path);
  for (const deed of whole) await act(driver, deed);
  await close(driver);
  const cut = chapter.before.slice(whole.length);
  if (cut.length > 0) {
    expect(await live({ folder: path, type, claims, deeds: cut, dieAfter: chapter.cutAfter! }), chapter.what).toBe(
      true,
    );
  }
  let effects = 0;
  const rehearsal = folder();
  cpSync(path, rehearsal, { recursive: true });
  const counted = await open(rehearsal, () => (effects += 1));
  for (const deed of chapter.deeds) await act(counted, deed);
  await close(counted);
  return { folder: path, effects };
}

/** Judges what lies on disk and board: nothing half done, nothing twice, nothing lost and nothing left over. */
async function judge(driver: DriverScene): Promise<string[]> {
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

/** The successor wakes up; the kubelet asks again; then all is given back, and others get it. */
async function outlive(path: string, chapter: Chapter): Promise<void> {
  const driver = await open(path);
  try {
    await awaken(driver);
    const found = await judge(driver);
    expect(found).toContain("kept");
    const { checkpoint } = driver;
    await act(driver, chapter.again);
    expect(await judge(driver)).toEqual([...chapter.after].toSorted());
    // Asking once more changes nothing.
    const before = readFileSync(checkpoint);
    await act(driver, { prepare: chapter.after });
    expect(readFileSync(checkpoint).equals(before)).toBe(true);
    await act(driver, { unprepare: chapter.after });
    for (const name of ["kept", ...other]) {
      const { spec, status } = driver.claims.get(name)!;
      driver.claims.set(`${name}-heir`, { ...claimObject(`${name}-heir`, []), spec, ...(status ? { status } : {}) });
    }
    await act(driver, { prepare: ["kept", ...other].map((name) => `${name}-heir`) });
    expect(await judge(driver)).toHaveLength(4);
  } finally {
    await close(driver);
  }
}

const beginnings: { chapter: Chapter; folder: string; effects: number }[] = [];

beforeAll(async () => {
  // A slice reads every third chapter: the one of three claims prepared, of three unprepared, and of the lost checkpoint.
  const read = kills < 100 ? chapters.filter((_, index) => index % 3 === 1) : chapters;
  for (const chapter of read) beginnings.push({ chapter, ...(await begin(chapter)) });
}, 300_000);

afterAll(() => {
  for (const path of [...made, cache]) rmSync(path, { recursive: true, force: true });
});

describe("a driver that is killed", () => {
  test(`${kills} times, right after each step that changes a disk or a board: its successor loses nothing and leaves nothing over`, async () => {
    const boundaries = beginnings.flatMap(({ chapter, folder: from, effects }) =>
      Array.from({ length: effects }, (_, index) => ({ chapter, from, dieAfter: index + 1 })),
    );
    expect(boundaries.length).toBeGreaterThan(kills < 100 ? 40 : 150);
    for (let kill = 0; kill < kills; kill++) {
      // A slice is spread over all; past the last one it begins again, and then the successor is killed as well.
      const index = kills < boundaries.length ? Math.floor((kill * boundaries.length) / kills) : kill;
      const { chapter, from, dieAfter } = boundaries[index % boundaries.length]!;
      const path = folder();
      cpSync(from, path, { recursive: true });
      const killed = await live({ folder: path, type, claims, deeds: chapter.deeds, dieAfter });
      expect(killed, `${chapter.what}: effect ${dieAfter}`).toBe(true);
      if (index >= boundaries.length) {
        await live({ folder: path, type, claims, deeds: [{ awaken: true }, chapter.again], dieAfter: 1 + (kill % 7) });
      }
      try {
        await outlive(path, chapter);
      } catch (error) {
        throw new Error(`killed while ${chapter.what}, after effect ${dieAfter}`, { cause: error });
      }
      rmSync(path, { recursive: true, force: true });
    }
  }, 1_200_000);
});
