import { mkdtempSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { ResourceClaim } from "../../../../src/api/kubernetes.ts";
import { specFile } from "../../../../src/dra/driver/cdi.ts";
import { watchForeignPartitions } from "../../../../src/dra/driver/foreign-partitions.ts";
import type { Machine } from "../../../../src/dra/driver/machine.ts";
import { createReconciler, type Pass } from "../../../../src/dra/driver/reconcile.ts";
import { rebuildClaims } from "../../../../src/dra/driver/recovery.ts";
import { startUpkeep, type Upkeep } from "../../../../src/dra/driver/upkeep.ts";
import { systemTiming, type Timing } from "../../../../src/kube/timing.ts";
import { awaited, claimObject, type DriverScene, node, openScene, referenceTo } from "../../../support/driver.ts";
import { timeSlices } from "../../../support/driver-claims.ts";
import { openTroubledMachine, type Troubles } from "../../../support/troubled-machine.ts";
import { createVirtualTiming, type VirtualTiming } from "../../../support/virtual-timing.ts";

/** Boards that fall off the bus, a machine that cannot be read, an API server that fails: what of it may not spread. */

const minute = 60_000;
/** Many times what it takes: it is for the machine to be busy. */
const soon = { timeout: 20_000 };

let driver: DriverScene;
let machine: Machine;
let troubles: Troubles;
let lose: (uuid: string) => void;
let timing: VirtualTiming;
let upkeep: Upkeep | undefined;

beforeEach(async () => {
  const folder = mkdtempSync(join(tmpdir(), "kllama-troubles-"));
  ({ machine, troubles, lose } = await openTroubledMachine("dgx-a100-mig", folder));
  driver = await openScene("", { folder, machine });
  timing = createVirtualTiming();
  for (const claim of [
    claimObject("whole", ["gpus gpu-1"]),
    claimObject("part", ["gpus gpu-0-mig-2g20gb-14-2"]),
    claimObject("slices", ["gpus gpu-2", "gpus gpu-3"], { config: [timeSlices] }),
  ])
    driver.claims.set(claim.metadata.name, claim);
});
afterEach(async () => {
  await upkeep?.stop();
  upkeep = undefined;
  await driver.remove();
});

const gpu = (minor: number): string => machine.inventory().gpus.find((each) => each.minor === minor)!.uuid;
const names = (): string[] => [...driver.store.claims.values()].map(({ name }) => name).toSorted();
const readClaim = async (_: string, name: string): Promise<ResourceClaim | undefined> => driver.claims.get(name);
const instances = async (minor: number) =>
  (await machine.gpuInstances(gpu(minor))).map(({ profileId, start }) => `${profileId} at ${start}`);

/** The driver after a restart that found its checkpoint damaged. */
async function restartWithoutCheckpoint(): Promise<void> {
  await writeFile(driver.checkpoint, "damaged");
  const { claims } = driver;
  driver = await openScene("", { folder: driver.folder, machine });
  for (const [name, claim] of claims) driver.claims.set(name, claim);
}

function reconciler(read = readClaim): () => Promise<Pass> {
  const { preparation, store, cdiFolder } = driver;
  const watched = watchForeignPartitions(machine, () => store.claims.values(), systemTiming);
  const findForeign = (): Promise<void> => watched.findForeign();
  return createReconciler({
    preparation,
    store,
    cdiFolder,
    timing,
    readClaim: read,
    onPresent: () => undefined,
    findForeign,
  });
}

/** Told of what fails. */
function start(failures: string[] = [], read = readClaim, own: Timing = timing): Upkeep {
  const { memory, preparation, store, checkpoint, cdiFolder } = driver;
  upkeep = startUpkeep({
    ...{ memory, preparation, store, machine, checkpoint, cdiFolder, timing: own, pool: node, readClaim: read },
    findForeign: async () => undefined,
    onPresent: () => undefined,
    onRebuilt: () => undefined,
    onRepairs: () => undefined,
    onError: (part, error) => failures.push(`${part}: ${(error as Error).message}`),
  });
  return upkeep;
}

/** How long an upkeep pauses, each time, if no time passes in a pause; after so many the last one lasts. */
async function pauses(count: number, begin: (own: Timing) => Upkeep): Promise<number[]> {
  const pausesMs: number[] = [];
  const enough = Promise.withResolvers<void>();
  begin({
    ...timing,
    async sleep(delayMs, signal) {
      pausesMs.push(delayMs);
      if (pausesMs.length < count) return;
      enough.resolve();
      await timing.sleep(Number.POSITIVE_INFINITY, signal);
    },
  });
  await enough.promise;
  return pausesMs;
}

describe("a lost checkpoint", () => {
  test("is not rebuilt before the machine could be read: no spec of a running pod goes, no device is given twice", async () => {
    await driver.prepare("whole", "part");
    const specs = await driver.specs();
    await restartWithoutCheckpoint();
    troubles.inventory = { gpus: [], unread: "NVML does not start" };
    const running = start();
    await vi.waitFor(() => expect(running.rebuilding()).toMatch(/could not be read yet: NVML does not start$/), soon);
    expect([await driver.specs(), await readFile(driver.checkpoint, "utf8")]).toEqual([specs, "damaged"]);
    troubles.inventory = {};
    await vi.waitFor(async () => {
      await timing.advance(2_000);
      expect(running.rebuilding()).toBeUndefined();
    }, soon);
    expect(names()).toEqual(["part", "whole"]);
    expect(await driver.specs()).toEqual(specs);
    driver.claims.set("thief", claimObject("thief", ["gpus gpu-1"]));
    expect((await driver.prepare("thief"))["thief"]).toContain("is in use by claim team/whole");
  });

  test("is rebuilt from the specs where boards and host do not tell: recovery ends", async () => {
    const answers = await driver.prepare("whole", "part", "slices");
    const texts = await Promise.all(["whole", "part", "slices"].map((name) => driver.spec(name)));
    const uuid = [...driver.store.claims.values()].find(({ name }) => name === "part")?.devices[0]?.partition?.uuid;
    await restartWithoutCheckpoint();
    troubles.noAccess = true;
    troubles.deaf.add(gpu(0));
    const running = start();
    await vi.waitFor(() => expect(running.rebuilding()).toBeUndefined(), soon);
    expect(names()).toEqual(["part", "slices", "whole"]);
    // Asked again, all is as it was, to the letter.
    expect(await driver.prepare("whole", "part", "slices")).toEqual(answers);
    expect(await Promise.all(["whole", "part", "slices"].map((name) => driver.spec(name)))).toEqual(texts);
    // Once the board answers its partition is found by its UUID.
    troubles.deaf.clear();
    expect((await machine.gpuInstances(gpu(0))).map((each) => each.uuid)).toEqual([uuid]);
    expect(await driver.unprepare("part")).toEqual({ part: "" });
    expect(await instances(0)).toEqual([]);
  });

  test("is tried again ever more rarely while the API server is away", async () => {
    await driver.prepare("whole");
    await restartWithoutCheckpoint();
    const failures: string[] = [];
    const pausesMs = await pauses(8, (own) => start(failures, () => Promise.reject(new Error("away")), own));
    expect(pausesMs).toEqual([2, 4, 8, 16, 30, 30, 30, 30].map((seconds) => seconds * 1_000));
    expect(failures).toEqual(Array.from({ length: 8 }, () => "recovery: away"));
  });

  test("a partition that stands in its place under another UUID is not taken for the claim's", async () => {
    await driver.prepare("part");
    const [ours] = await machine.gpuInstances(gpu(0));
    await machine.destroyGpuInstance(gpu(0), ours!.id);
    await machine.createComputeInstance(gpu(0), await machine.createGpuInstance(gpu(0), 14, 2));
    expect(await rebuildClaims({ cdiFolder: driver.cdiFolder, pool: node, machine, readClaim })).toEqual([]);
  });
});

describe("one thing that cannot be put right", () => {
  test("keeps no other from it: a claim that is gone is given back, specs come back, strays go", async () => {
    await driver.prepare("whole", "part", "slices");
    for (const claim of driver.store.claims.values()) if (claim.name === "part") claim.state = "Aborted";
    troubles.deaf.add(gpu(0));
    driver.claims.delete("whole");
    const stray = "11111111-1111-4111-8111-111111111111";
    await mkdir(join(driver.cdiFolder, specFile(stray)));
    await rm(join(driver.cdiFolder, specFile(referenceTo(driver.claims.get("slices")!).uid)));
    const other = "22222222-2222-4222-8222-222222222222";
    await writeFile(join(driver.cdiFolder, specFile(other)), "{}");
    const pass = reconciler();
    const first = await pass();
    expect(first).toMatchObject({ undone: 0, strays: 1 });
    // The partition, the folder in a spec's place, and the look for what others have cut.
    expect(first.failures.map(({ message }) => message)).toEqual([
      expect.stringContaining("does not answer"),
      expect.stringContaining("a folder is in its place"),
      expect.stringContaining("does not answer"),
    ]);
    expect(JSON.parse(await driver.spec("slices"))).toMatchObject({ kind: "gpu.kllama.ai/claim" });
    await timing.advance(5 * minute);
    expect(await pass()).toMatchObject({ undone: 1 });
    expect(names()).toEqual(["part", "slices"]);
  });

  test("is tried again ever more rarely, each time with one read per claim", async () => {
    await driver.prepare("whole", "part");
    for (const claim of driver.store.claims.values()) if (claim.name === "part") claim.state = "Aborted";
    troubles.deaf.add(gpu(0));
    let reads = 0;
    const failures: string[] = [];
    const read = (namespace: string, name: string) => {
      reads++;
      return readClaim(namespace, name);
    };
    const pausesMs = await pauses(10, (own) => start(failures, read, own));
    expect(pausesMs).toEqual([2, 4, 8, 16, 32, 64, 128, 256, 300, 300].map((seconds) => seconds * 1_000));
    expect([reads, failures.length]).toEqual([10, 10]);
  });

  test("what the API server does not tell is taken as it was before", async () => {
    await driver.prepare("whole", "slices");
    const whole = driver.claims.get("whole")!;
    driver.claims.delete("whole");
    let away = false;
    const pass = reconciler(async (namespace, name) => {
      if (away) throw new Error("away");
      return readClaim(namespace, name);
    });
    expect(await pass()).toMatchObject({ undone: 0, failures: [] });
    away = true;
    await timing.advance(minute);
    expect(await pass()).toMatchObject({ undone: 0, failures: [{ message: "away" }, { message: "away" }] });
    away = false;
    await timing.advance(5 * minute);
    expect(await pass()).toMatchObject({ undone: 1, failures: [] });
    expect(names()).toEqual(["slices"]);
    // Gone for a moment is not gone.
    driver.claims.set("whole", {
      ...whole,
      metadata: { ...whole.metadata, uid: "33333333-3333-4333-8333-333333333333" },
    });
    await driver.prepare("whole");
    expect(names()).toEqual(["slices", "whole"]);
  });
});

describe("a board that is gone", () => {
  test("holds up no unpreparing: what was left on it is forgotten, and told", async () => {
    const told: string[] = [];
    const { folder, claims } = driver;
    driver = await openScene("", {
      ...{ folder, machine },
      onForgotten: ({ name }, { device }, why) => told.push(`${name} ${device}: ${why.message}`),
    });
    for (const [name, claim] of claims) driver.claims.set(name, claim);
    await driver.prepare("part", "slices");
    // A board that only fails for now keeps what it has to do.
    troubles.deaf.add(gpu(0)).add(gpu(2));
    expect(await driver.unprepare("part", "slices")).toEqual({
      part: `${gpu(0)} does not answer`,
      slices: `${gpu(2)} does not answer`,
    });
    expect(names()).toEqual(["part", "slices"]);
    lose(gpu(0));
    expect(await driver.unprepare("part")).toEqual({ part: "" });
    lose(gpu(2));
    expect(await driver.unprepare("slices")).toEqual({ slices: "" });
    expect(told).toEqual([
      `part gpu-0-mig-2g20gb-14-2: ${gpu(0)} does not answer`,
      `slices gpu-2: ${gpu(2)} does not answer`,
    ]);
    expect([names(), await driver.specs()]).toEqual([[], []]);
    // The claim's other board, which works, was set back.
    const state = JSON.parse(await readFile(join(folder, "machine.json"), "utf8")) as { timeSlices: object };
    expect(Object.keys(state.timeSlices)).toEqual([gpu(2)]);
  });

  test("and was there in no reading since the start is as gone; where boards may be missing it is not", async () => {
    await driver.prepare("part");
    const rest = machine.inventory().gpus.filter(({ minor }) => minor !== 0);
    troubles.deaf.add(gpu(0));
    for (const unsure of [{ incomplete: true as const }, { unread: "no" }]) {
      troubles.inventory = { gpus: rest, ...unsure };
      expect((await driver.unprepare("part"))["part"]).toContain("does not answer");
    }
    troubles.inventory = { gpus: rest };
    expect(await driver.unprepare("part")).toEqual({ part: "" });
  });

  test("neither stops reconciling nor hides what others have cut elsewhere", async () => {
    await driver.prepare("part", "whole");
    driver.claims.clear();
    lose(gpu(0));
    await machine.createGpuInstance(gpu(4), 19, 0);
    const pass = reconciler();
    expect(await pass()).toMatchObject({ undone: 0, failures: [] });
    await timing.advance(5 * minute);
    expect(await pass()).toMatchObject({ undone: 2, failures: [] });
    const watched = watchForeignPartitions(machine, () => [], systemTiming);
    troubles.deaf.add(gpu(1));
    await expect(watched.findForeign()).rejects.toThrow(`${gpu(1)} does not answer`);
    expect(Object.keys(watched.inventory().troubles ?? {})).toContain("gpu-4-mig-1g10gb-19-0");
  });
});

describe("what an administrator cuts while we are about to", () => {
  /** He is quicker: after our note, before our board is asked. */
  async function overtaken(cut: (uuid: string) => Promise<unknown>, outcome?: Error): Promise<string> {
    const { createGpuInstance } = machine;
    machine = Object.assign(machine, {
      createGpuInstance: async (uuid: string, profileId: number, start: number) => {
        await cut(uuid);
        if (outcome !== undefined) throw outcome;
        return createGpuInstance(uuid, profileId, start);
      },
    });
    const { folder, claims } = driver;
    driver = await openScene("", { folder, machine });
    for (const [name, claim] of claims) driver.claims.set(name, claim);
    return String((await driver.prepare("part"))["part"]);
  }

  test("is his when the board refuses us", async () => {
    const { createGpuInstance } = machine;
    expect(await overtaken((uuid) => createGpuInstance(uuid, 14, 2))).toContain("insufficient resources");
    expect([await instances(0), names()]).toEqual([["14 at 2"], []]);
  });

  test("is his when nobody knows what became of our request and his has a compute instance", async () => {
    const { createGpuInstance, createComputeInstance } = machine;
    const cut = async (uuid: string) => createComputeInstance(uuid, await createGpuInstance(uuid, 14, 2));
    expect(await overtaken(cut, new Error("NVML did not answer"))).toBe("NVML did not answer");
    expect([await instances(0), names()]).toEqual([["14 at 2"], []]);
  });

  test("is his when he has put it in the place of ours, with the same ID", async () => {
    await driver.prepare("part");
    const [ours] = await machine.gpuInstances(gpu(0));
    await machine.destroyGpuInstance(gpu(0), ours!.id);
    const his = await machine.createGpuInstance(gpu(0), 14, 2);
    expect(his).toBe(ours!.id);
    await machine.createComputeInstance(gpu(0), his);
    expect(await driver.unprepare("part")).toEqual({ part: "" });
    expect(await instances(0)).toEqual(["14 at 2"]);
  });
});

describe("a prepared claim that is asked for again gets its answer", () => {
  test.for<[string, () => void]>([
    ["when its device is lost meanwhile", () => lose(gpu(1))],
    [
      "when the machine could not be read yet since the restart",
      () => Object.assign(troubles, { inventory: { gpus: [], unread: "not yet" } }),
    ],
    ["when its board is there no more", () => Object.assign(troubles, { inventory: { gpus: [] } })],
  ])("%s", async ([, befall]) => {
    const answer = await driver.prepare("whole");
    befall();
    expect(await driver.prepare("whole")).toEqual(answer);
    // A new claim gets nothing of the kind.
    driver.claims.set("late", claimObject("late", ["gpus gpu-1"]));
    expect(typeof (await driver.prepare("late"))["late"]).toBe("string");
  });

  test("but not when the name means another board by now", async () => {
    await driver.prepare("whole");
    const gpus = machine.inventory().gpus.map((each) => (each.minor === 1 ? { ...each, uuid: "GPU-other" } : each));
    troubles.inventory = { gpus };
    expect((await driver.prepare("whole"))["whole"]).toContain("its allocation changed while it was prepared");
  });
});

test("ten thousand claims in one call are read a few at a time, and each is answered", async () => {
  const wanted = Array.from({ length: 10_000 }, (_, index) => ({
    ...{ namespace: "team", name: `c${index}` },
    uid: `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`,
  }));
  let [now, most] = [0, 0];
  const { folder } = driver;
  driver = await openScene("", {
    ...{ folder, machine },
    async readClaim(_, name) {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setImmediate(resolve));
      now--;
      const index = Number(name.slice(1));
      // Administrators may look at one device as often as they like.
      const results = index % 10 === 0 ? ["gpus gpu-1 admin"] : index === 1 ? ["gpus gpu-1"] : ["gpus gpu-9"];
      return index % 3 === 0 ? undefined : claimObject(name, results, { uid: wanted[index]!.uid });
    },
  });
  const answers = await driver.preparation.prepare(wanted, awaited);
  expect(most).toBeLessThanOrEqual(64);
  expect(Object.keys(answers)).toHaveLength(10_000);
  const prepared = Object.values(answers).filter(({ error }) => error === "").length;
  expect(prepared).toBe(driver.store.claims.size);
  expect(prepared).toBeGreaterThan(600);
  expect(await driver.specs()).toHaveLength(prepared);
  expect(Object.values(await driver.preparation.unprepare(wanted, awaited)).every(({ error }) => error === "")).toBe(
    true,
  );
  expect(await driver.specs()).toEqual([]);
});
