import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ResourceSlice } from "../../../../src/api/kubernetes.ts";
import type { Inventory } from "../../../../src/dra/driver/inventory.ts";
import type { Machine } from "../../../../src/dra/driver/machine.ts";
import { type SliceController, startSliceController } from "../../../../src/dra/driver/slice-controller.ts";
import { type KubeClient, KubeError, type RequestOptions } from "../../../../src/kube/client.ts";
import { createClock } from "../../../simulation/clock.ts";
import { createNetwork } from "../../../simulation/network.ts";
import { createProcess } from "../../../simulation/process.ts";
import { createRandom } from "../../../simulation/random.ts";
import { createApiServer } from "../../../support/api-double/server.ts";
import { node } from "../../../support/driver.ts";
import { machineGpus } from "../../../support/machine-gpus.ts";

/** The controller against the API server's double, in virtual time. */

type Slice = ResourceSlice & { metadata: { uid: string } };
const since = "2026-01-01T00:00:00Z";

let scene: ReturnType<typeof openScene>;
beforeEach(async () => {
  scene = openScene();
  await scene.admin.request("POST", "/api/v1/nodes", { body: { metadata: { name: node } } });
});
afterEach(async () => {
  await scene.close();
});

function openScene() {
  const clock = createClock();
  const random = createRandom(1);
  let uids = 0;
  const api = createApiServer({ nowMs: () => clock.nowMs, newUid: () => `uid-${++uids}`, injects: () => false });
  const process = createProcess("node-agent", clock, random);
  const client = createNetwork(api, clock, random).client(process, "admin");
  const writes: string[] = [];
  const errors: string[] = [];
  const stoodBy: boolean[] = [];
  let inventory: Inventory = { gpus: machineGpus("dgx-a100-mig"), losses: {} };
  const listeners = new Set<() => void>();
  /** What happens to writes on the way: an error, or another body. */
  let meddle: (body: ResourceSlice) => ResourceSlice | Error = (body) => body;
  let succeeded = false;
  const meddling: KubeClient = {
    ...client,
    async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
      if (method === "GET") return client.request<T>(method as "GET", path, options);
      writes.push(method);
      const { body } = options;
      const passed = method === "DELETE" ? body : meddle(body as ResourceSlice);
      if (passed instanceof Error) throw passed;
      return client.request<T>(method as "PUT", path, { ...options, body: passed });
    },
  };
  const running = (async () => {
    while (!clock.stopped) {
      await clock.run(clock.nowMs + 10);
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  let controller: SliceController | undefined;
  return {
    admin: client,
    ...{ writes, errors, stoodBy },
    start() {
      controller = startSliceController({
        client: meddling,
        nodeName: node,
        machine: {
          inventory: () => inventory,
          onChange(listener) {
            listeners.add(listener);
            return () => void listeners.delete(listener);
          },
        } as Machine,
        timing: process.timing,
        hasSuccessor: async () => succeeded,
        onWritten: () => undefined,
        onStandBy: (standsBy) => stoodBy.push(standsBy),
        onError: (message) => errors.push(message),
      });
    },
    set(next: Partial<Inventory>) {
      inventory = { ...inventory, ...next };
      for (const listener of listeners) listener();
    },
    meddle(how: typeof meddle) {
      meddle = how;
    },
    succeed(by: boolean) {
      succeeded = by;
    },
    slices: () => [...api.store.all("resourceslices").values()] as unknown as Slice[],
    /** Virtual time. */
    wait: (forMs: number) => process.timing.sleep(forMs, new AbortController().signal),
    async wipe() {
      for (const { metadata } of this.slices()) {
        await client.request("DELETE", `/apis/resource.k8s.io/v1/resourceslices/${metadata.name}`);
      }
    },
    async close() {
      await controller?.stop();
      process.kill();
      clock.stop();
      await running;
    },
  };
}

const taintsOf = (slices: readonly Slice[], device: string) =>
  slices.flatMap(({ spec }) => spec.devices ?? []).find(({ name }) => name === device)?.taints;

test("publishes the pool whole, owned by its Node, and writes nothing more", async () => {
  scene.start();
  await scene.wait(5_000);
  const slices = scene.slices();
  expect(slices.map(({ spec }) => [spec.sharedCounters?.length ?? 0, spec.devices?.length ?? 0])).toEqual([
    [8, 0],
    [0, 52],
    [0, 52],
    [0, 52],
    [0, 52],
  ]);
  for (const { metadata, spec } of slices) {
    expect(metadata.ownerReferences).toEqual([
      { apiVersion: "v1", kind: "Node", name: node, uid: "uid-1", controller: true },
    ]);
    expect(spec.pool).toEqual({ name: node, generation: 1, resourceSliceCount: 5 });
  }
  await scene.wait(600_000);
  expect(scene.writes).toHaveLength(5);
});

test("what the kubelet wipes is there again within a second", async () => {
  scene.start();
  await scene.wait(5_000);
  await scene.wipe();
  await scene.wait(1_000);
  expect(scene.slices()).toHaveLength(5);
});

test("a taint changes one slice and no generation; it goes with its cause", async () => {
  scene.start();
  await scene.wait(5_000);
  scene.set({ losses: { "gpu-3": { how: "taint", since } } });
  await scene.wait(1_000);
  expect(taintsOf(scene.slices(), "gpu-3")).toEqual([
    { key: "gpu.kllama.ai/gpu-lost", effect: "NoExecute", timeAdded: since },
  ]);
  scene.set({ losses: {} });
  await scene.wait(1_000);
  expect(taintsOf(scene.slices(), "gpu-3")).toBeUndefined();
  expect(scene.slices().every(({ spec }) => spec.pool.generation === 1)).toBe(true);
  expect(scene.writes).toHaveLength(7);
});

test("a taint keeps its time when a driver that was restarted finds the same trouble; once it is gone the next one has its own", async () => {
  const later = "2026-01-01T00:10:00Z";
  const trouble = (at: string) => ({
    losses: { "gpu-3": { how: "taint" as const, since: at } },
    troubles: { "gpu-5": [{ key: "xid" as const, value: "79", since: at, message: "XID 79" }] },
  });
  const times = () =>
    ["gpu-3", "gpu-5"].map((name) => taintsOf(scene.slices(), name)?.map(({ timeAdded }) => timeAdded));
  scene.set(trouble(since));
  scene.start();
  await scene.wait(5_000);
  const writes = scene.writes.length;
  scene.set(trouble(later));
  await scene.wait(1_000);
  expect([times(), scene.writes.length]).toEqual([[[since], [since]], writes]);
  scene.set({ losses: {}, troubles: {} });
  await scene.wait(1_000);
  expect(times()).toEqual([undefined, undefined]);
  scene.set(trouble(later));
  await scene.wait(1_000);
  expect(times()).toEqual([[later], [later]]);
});

describe("a write that fails", () => {
  test("is tried again, ever later, until the pool is whole", async () => {
    const busy = new KubeError("too busy", { status: 500, reason: "InternalError" });
    let attempts = 0;
    scene.meddle((body) => (++attempts <= 7 ? busy : body));
    scene.start();
    await scene.wait(300_000);
    expect(scene.slices()).toHaveLength(5);
    expect(scene.errors).toEqual(Array.from({ length: 7 }, () => "publishing ResourceSlices: too busy"));
  });

  test("half way is made good: consumers see the old pool or the whole new one", async () => {
    scene.start();
    await scene.wait(5_000);
    let writes = 0;
    // The third of five, once.
    scene.meddle((body) => (++writes === 3 ? new KubeError("too busy", { status: 500, reason: "x" }) : body));
    scene.set({ gpus: machineGpus("dgx-a100-mig").map((gpu) => ({ ...gpu, driverVersion: "999.0.0" })) });
    await scene.wait(60_000);
    const generations = new Set(scene.slices().map(({ spec }) => spec.pool.generation));
    expect(generations.size).toBe(1);
    expect(Math.max(...generations)).toBeGreaterThan(1);
    const versions = scene
      .slices()
      .flatMap(({ spec }) => spec.devices ?? [])
      .map(({ attributes }) => attributes?.["driverVersion"]);
    expect(versions).toHaveLength(208);
    for (const version of versions) expect(version).toEqual({ version: "999.0.0" });
  });
});

test("fields that the API server drops are named with a remedy, once for each content, and not written again and again", async () => {
  scene.set({ losses: { "gpu-3": { how: "taint", since } } });
  scene.meddle((body) => ({
    ...body,
    spec: {
      ...body.spec,
      ...(body.spec.devices === undefined
        ? {}
        : { devices: body.spec.devices.map(({ taints: _, ...device }) => device) }),
    },
  }));
  scene.start();
  await scene.wait(600_000);
  expect(scene.errors).toHaveLength(1);
  expect(scene.errors[0]).toMatch(
    /^ResourceSlice node-1-gpu\.kllama\.ai-00002: the API server did not keep spec\.devices\.\d+\.taints.*DRADeviceTaints/,
  );
  expect(scene.writes).toHaveLength(5);
  expect(taintsOf(scene.slices(), "gpu-3")).toBeUndefined();
  // The gate is on now: another change of the slice brings all of it.
  scene.meddle((body) => body);
  scene.set({ losses: { "gpu-2": { how: "taint", since }, "gpu-3": { how: "taint", since } } });
  await scene.wait(1_000);
  for (const gpu of ["gpu-2", "gpu-3"]) expect(taintsOf(scene.slices(), gpu)).toHaveLength(1);
});

test("NVLink domains stand side by side; a slice with a taint holds 64 devices, one without 128", async () => {
  const [gpu] = machineGpus("h100-pcie");
  const gpus = Array.from({ length: 100 }, (_, minor) => ({
    ...gpu!,
    ...{ minor, uuid: `GPU-${minor}`, nvlinkDomain: minor % 2 === 0 ? "even" : "odd" },
  }));
  scene.set({ gpus });
  scene.start();
  await scene.wait(5_000);
  const names = () => scene.slices().map(({ spec }) => spec.devices?.map(({ name }) => name) ?? []);
  const inOrder = [...gpus.filter(({ minor }) => minor % 2 === 0), ...gpus.filter(({ minor }) => minor % 2 === 1)];
  expect(names()).toEqual([inOrder.map(({ minor }) => `gpu-${minor}`)]);
  scene.set({ losses: { "gpu-99": { how: "taint", since } } });
  await scene.wait(5_000);
  expect(names().map(({ length }) => length)).toEqual([64, 36]);
  expect(names().flat()).toEqual(inOrder.map(({ minor }) => `gpu-${minor}`));
  for (const { spec } of scene.slices()) expect(spec.pool).toMatchObject({ generation: 2, resourceSliceCount: 2 });
});

test("nothing is taken back while the machine cannot be read", async () => {
  scene.start();
  await scene.wait(5_000);
  scene.set({ gpus: [], unread: "NVML does not answer" });
  await scene.wait(60_000);
  expect(scene.slices()).toHaveLength(5);
  expect(scene.errors.at(-1)).toBe("publishing ResourceSlices: the devices could not be read: NVML does not answer");
});

test("what a younger process publishes is left alone until that is gone", async () => {
  scene.start();
  await scene.wait(5_000);
  const before = scene.slices().map(({ spec }) => spec.devices?.length);
  scene.succeed(true);
  await scene.wipe();
  await scene.wait(60_000);
  expect(scene.slices()).toEqual([]);
  scene.succeed(false);
  await scene.wait(5_000);
  expect(scene.slices().map(({ spec }) => spec.devices?.length)).toEqual(before);
  expect(scene.stoodBy).toEqual([true, false]);
});
