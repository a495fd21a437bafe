import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { ResourceClaim } from "../../../../src/api/kubernetes.ts";
import { specFile } from "../../../../src/dra/driver/cdi.ts";
import { watchForeignPartitions } from "../../../../src/dra/driver/foreign-partitions.ts";
import type { DeviceHealthMessage } from "../../../../src/dra/driver/grpc.ts";
import { watchHealth } from "../../../../src/dra/driver/health.ts";
import { createReconciler } from "../../../../src/dra/driver/reconcile.ts";
import { readMemory, rebuildClaims } from "../../../../src/dra/driver/recovery.ts";
import { poolSlices } from "../../../../src/dra/driver/slices.ts";
import { startUpkeep } from "../../../../src/dra/driver/upkeep.ts";
import { KubeError } from "../../../../src/kube/client.ts";
import { systemTiming } from "../../../../src/kube/timing.ts";
import { claimObject, type DriverScene, node, openScene } from "../../../support/driver.ts";
import { awaken } from "../../../support/driver-life.ts";
import { createVirtualTiming } from "../../../support/virtual-timing.ts";

const soon = { timeout: 20_000 };

const opened: DriverScene[] = [];

/** A driver with two prepared claims: `a` on a GPU, `b` on a partition. */
async function prepared(): Promise<DriverScene> {
  const driver = await openScene("dgx-a100-mig");
  opened.push(driver);
  driver.claims.set("a", claimObject("a", ["gpus gpu-1"]));
  driver.claims.set("b", claimObject("b", ["gpus gpu-0-mig-2g20gb-14-2"]));
  await driver.prepare("a", "b");
  return driver;
}

async function restarted(before: DriverScene): Promise<DriverScene> {
  const driver = await openScene("dgx-a100-mig", { folder: before.folder });
  opened.push(driver);
  for (const [name, claim] of before.claims) driver.claims.set(name, claim);
  return driver;
}

function rebuild(driver: DriverScene) {
  const { cdiFolder, machine, claims } = driver;
  return rebuildClaims({ cdiFolder, pool: node, machine, readClaim: async (_, name) => claims.get(name) });
}

function reconciler(
  driver: DriverScene,
  timing = createVirtualTiming(),
  read = async (name: string) => driver.claims.get(name),
) {
  const { preparation, store, cdiFolder } = driver;
  const readClaim = (_: string, name: string) => read(name);
  const findForeign = async (): Promise<void> => undefined;
  return createReconciler({
    preparation,
    store,
    cdiFolder,
    timing,
    readClaim,
    onPresent: () => undefined,
    findForeign,
  });
}

afterEach(async () => {
  for (const made of opened.splice(0)) await made.remove();
});

describe("a checkpoint that is", () => {
  test.for<[string, (text: string) => string, string]>([
    ["empty", () => "", "corrupt"],
    ["cut short", (text) => text.slice(0, -5), "corrupt"],
    ["of a later version", (text) => text.replace('"version":1', '"version":9'), "newer"],
  ])("%s is put aside, and rebuilt from specs, API and boards", async ([, harm, why]) => {
    const before = await prepared();
    const known = [...before.store.claims.values()];
    await writeFile(before.checkpoint, harm(await readFile(before.checkpoint, "utf8")));
    const memory = await readMemory(before.checkpoint, before.cdiFolder, "boot");
    expect(memory.lost?.kind).toBe(why);
    const rebuilt = await rebuild(before);
    const byName = (claims: readonly { name: string }[]) => claims.toSorted((a, b) => (a.name < b.name ? -1 : 1));
    expect(byName(rebuilt)).toMatchObject(
      byName(known).map((claim) => ({ ...claim, devices: expect.any(Array) as unknown })),
    );
    const [, b] = byName(rebuilt) as typeof rebuilt;
    expect(b?.devices[0]?.partition).toMatchObject({
      uuid: before.store.claims.get(b!.uid)?.devices[0]?.partition?.uuid,
    });
  });

  test("missing while specs are there is rebuilt; missing on a fresh node is no loss", async () => {
    const before = await prepared();
    await rm(before.checkpoint);
    expect((await readMemory(before.checkpoint, before.cdiFolder, "boot")).lost?.why).toMatch(/CDI specs do/);
    expect(await readMemory(before.checkpoint, join(before.folder, "none"), "boot")).toEqual({ claims: [] });
  });

  test("put aside twice keeps both", async () => {
    const before = await prepared();
    for (const number of [1, 2]) {
      await writeFile(before.checkpoint, `x${number}`);
      const { rebuilt } = await awaken(await restarted(before));
      expect(rebuilt).toEqual([{ why: expect.any(String), aside: `${before.checkpoint}.corrupt-${number}` }]);
      expect(await readFile(`${before.checkpoint}.corrupt-${number}`, "utf8")).toBe(`x${number}`);
    }
  });

  test.for<[string, Error, string]>([
    ["is away", new Error("the API server is away"), "the API server is away"],
    [
      "cannot be reached",
      new KubeError("GET /apis/resource.k8s.io/v1/namespaces/team/resourceclaims/a: refused", {
        ...{ status: 0, reason: "Unreachable" },
      }),
      "the API server did not answer (Unreachable)",
    ],
    [
      "refuses",
      new KubeError('GET /apis/…: resourceclaims "a" is forbidden', { status: 403, reason: "Forbidden" }),
      "the API server answered 403 (Forbidden)",
    ],
  ])(
    "damaged when the API server %s is refused with the reason, without names, kept as it is, and rebuilt later",
    async ([, error, why]) => {
      const before = await prepared();
      await writeFile(before.checkpoint, "x");
      const after = await restarted(before);
      const { memory, preparation, store, checkpoint, cdiFolder, machine, claims } = after;
      const timing = createVirtualTiming();
      let away = true;
      const rebuilt: unknown[] = [];
      const upkeep = startUpkeep({
        ...{ memory, preparation, store, machine, checkpoint, cdiFolder, timing, pool: node },
        readClaim: async (_, name) => {
          if (away) throw error;
          return claims.get(name);
        },
        findForeign: async () => undefined,
        onPresent: () => undefined,
        onRebuilt: (...what) => rebuilt.push(what),
        onRepairs: () => undefined,
        onError: () => undefined,
      });
      await vi.waitFor(
        () => expect(upkeep.rebuilding()).toBe(`the first line is not that of a checkpoint; the last try: ${why}`),
        soon,
      );
      expect(await readFile(checkpoint, "utf8")).toBe("x");
      away = false;
      await vi.waitFor(async () => {
        await timing.advance(2_000);
        expect(rebuilt).toHaveLength(1);
      }, soon);
      expect(upkeep.rebuilding()).toBeUndefined();
      expect(store.claims.size).toBe(2);
      await upkeep.stop();
    },
  );
});

test("rebuilding leaves out claims that are gone, have successors, or lost their partition", async () => {
  const driver = await prepared();
  driver.claims.set("a", claimObject("a", ["gpus gpu-1"]));
  const [instance] = await driver.machine.gpuInstances(driver.machine.inventory().gpus[0]!.uuid);
  await driver.machine.destroyGpuInstance(driver.machine.inventory().gpus[0]!.uuid, instance!.id);
  expect(await rebuild(driver)).toEqual([]);
  driver.claims.clear();
  expect(await rebuild(driver)).toEqual([]);
});

test("rebuilding waits for a board that could not be read and that a claim has: else its partition were nobody's", async () => {
  const driver = await prepared();
  const { gpus, ...inventory } = driver.machine.inventory();
  const partly = { ...inventory, gpus: gpus.filter(({ minor }) => minor !== 0), incomplete: true } as const;
  const machine = { ...driver.machine, inventory: () => partly };
  await expect(rebuild({ ...driver, machine })).rejects.toThrow(
    "not all boards of node node-1 could be read, and a prepared claim has device gpu-0-mig-2g20gb-14-2",
  );
  driver.claims.delete("b");
  expect((await rebuild({ ...driver, machine })).map(({ name }) => name)).toEqual(["a"]);
});

test("rebuilding keeps claims that are being deleted, and those on devices that broke", async () => {
  const driver = await prepared();
  const a = driver.claims.get("a")!;
  driver.claims.set("a", { ...a, metadata: { ...a.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" } });
  const state = JSON.parse(await readFile(join(driver.folder, "machine.json"), "utf8")) as object;
  const losses = { "gpu-1": { how: "remove", since: "2026-01-01T00:00:00Z" } };
  await writeFile(join(driver.folder, "machine.json"), JSON.stringify({ ...state, losses }));
  expect((await rebuild(await restarted(driver))).map(({ name }) => name).toSorted()).toEqual(["a", "b"]);
});

describe("reconciling", () => {
  test("leaves what is in order alone", async () => {
    const driver = await prepared();
    expect(await reconciler(driver)()).toEqual({ undone: 0, strays: 0, failures: [] });
    expect(driver.store.claims.size).toBe(2);
  });

  test("undoes what was cut short, partition and spec included", async () => {
    const driver = await prepared();
    for (const claim of driver.store.claims.values()) claim.state = claim.name === "a" ? "Started" : "Aborted";
    await driver.store.save();
    const after = await restarted(driver);
    expect(await reconciler(after)()).toEqual({ undone: 2, strays: 0, failures: [] });
    expect(await after.specs()).toEqual([]);
    expect(await after.machine.gpuInstances(after.machine.inventory().gpus[0]!.uuid)).toEqual([]);
  });

  test("undoes a prepared claim that is gone in two passes, minutes apart", async () => {
    const driver = await prepared();
    const timing = createVirtualTiming();
    const pass = reconciler(driver, timing);
    const a = driver.claims.get("a")!;
    driver.claims.delete("a");
    expect((await pass()).undone).toBe(0);
    driver.claims.set("a", a);
    expect((await pass()).undone).toBe(0);
    driver.claims.set("a", { ...a, status: {} });
    expect((await pass()).undone).toBe(0);
    // Looked at again soon because something else failed: the kubelet may yet say that its pod is over.
    await timing.advance(60_000);
    expect((await pass()).undone).toBe(0);
    await timing.advance(240_000);
    expect((await pass()).undone).toBe(1);
    expect([...driver.store.claims.values()].map(({ name }) => name)).toEqual(["b"]);
  });

  // Its pod was deleted by force while the kubelet was down, and the kubelet forgot it.
  test.for<[string, Parameters<typeof claimObject>[1], { pool?: string }, number]>([
    ["on another node", ["gpus gpu-1"], { pool: "node-2" }, 1],
    ["with other devices of this one", ["gpus gpu-2"], {}, 1],
    ["by another driver", [], {}, 1],
    ["with one of its devices and another", ["gpus gpu-1", "more gpu-2"], {}, 0],
  ])(
    "undoes a prepared claim that was allocated anew %s, after minutes: its devices are nobody's",
    async ([, results, more, undone]) => {
      const driver = await prepared();
      const timing = createVirtualTiming();
      const pass = reconciler(driver, timing);
      const { uid } = driver.claims.get("a")!.metadata;
      driver.claims.set("a", claimObject("a", results, { ...more, uid: uid! }));
      expect((await pass()).undone).toBe(0);
      await timing.advance(300_000);
      expect((await pass()).undone).toBe(undone);
      expect(driver.store.claims.has(uid!)).toBe(undone === 0);
    },
  );

  test("leaves a claim alone that was allocated and prepared anew while the pass that would have undone it was reading", async () => {
    const driver = await prepared();
    const [held, part] = [driver.claims.get("a")!, driver.claims.get("b")!];
    const released = (claim: ResourceClaim): ResourceClaim => ({ ...claim, status: {} });
    const timing = createVirtualTiming();
    let whileReading = async (): Promise<void> => undefined;
    const pass = reconciler(driver, timing, async (name) => {
      const read = driver.claims.get(name);
      if (name === "a") await whileReading();
      return read;
    });
    driver.claims.set("a", released(held)).set("b", released(part));
    expect(await pass()).toEqual({ undone: 0, strays: 0, failures: [] });
    await timing.advance(300_000);
    whileReading = async () => {
      whileReading = async () => undefined;
      driver.claims.set("a", held);
      expect((await driver.prepare("a"))["a"]).toHaveLength(1);
    };
    expect(await pass()).toEqual({ undone: 1, strays: 0, failures: [] });
    expect([...driver.store.claims.keys()]).toEqual([held.metadata.uid]);
    expect(await driver.specs()).toEqual([specFile(held.metadata.uid!)]);
  });

  test("writes specs that are missing and removes those of nobody, but no other driver's", async () => {
    const driver = await prepared();
    const specs = await driver.specs();
    await rm(join(driver.cdiFolder, specs[0]!));
    await writeFile(join(driver.cdiFolder, specFile("11111111-1111-4111-8111-111111111111")), "{}");
    await writeFile(join(driver.cdiFolder, "nvidia.yaml"), "");
    expect(await reconciler(driver)()).toEqual({ undone: 0, strays: 1, failures: [] });
    expect(await driver.specs()).toEqual([...specs, "nvidia.yaml"]);
  });
});

test("a partition that nobody's claim accounts for taints what it stands in the way of, until it is gone; it is never destroyed", async () => {
  const driver = await prepared();
  const { store, cdiFolder, claims } = driver;
  const machine = watchForeignPartitions(driver.machine, () => store.claims.values(), systemTiming);
  const told: unknown[] = [];
  machine.onChange(() => told.push(1));
  const pass = createReconciler({
    ...{ preparation: driver.preparation, store, cdiFolder, timing: systemTiming, findForeign: machine.findForeign },
    readClaim: async (_, name) => claims.get(name),
    onPresent: () => undefined,
  });
  const tainted = () =>
    poolSlices(machine.inventory(), { nodeName: node, nodeUid: "u", generation: 1 })
      .flatMap(({ spec }) => spec.devices ?? [])
      .flatMap(({ name, taints = [] }) => taints.map(({ key, value, effect }) => `${name} ${key}=${value}:${effect}`));
  await pass();
  expect(tainted()).toEqual([]);
  const gpu = machine.inventory().gpus[0]!.uuid;
  const foreign = await driver.machine.createGpuInstance(gpu, 15, 6);
  await pass();
  const suffix = `gpu.kllama.ai/foreign-partition=gi-${foreign}:NoSchedule`;
  expect(tainted()).toEqual(
    ["1g10gb-19-6", "1g10gb-me-20-6", "1g20gb-15-6", "3g40gb-9-4", "7g80gb-0-0"].map(
      (part) => `gpu-0-mig-${part} ${suffix}`,
    ),
  );
  // What stands in the way breaks nothing.
  const health: DeviceHealthMessage[] = [];
  watchHealth(machine, node, systemTiming, (devices) => health.push(...devices))();
  expect(health.every((device) => device.health === "HEALTHY")).toBe(true);
  await pass();
  expect(told).toHaveLength(1);
  expect((await driver.machine.gpuInstances(gpu)).map(({ id }) => id)).toContain(foreign);
  await driver.machine.destroyGpuInstance(gpu, foreign);
  await pass();
  expect(tainted()).toEqual([]);
});
