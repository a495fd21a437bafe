import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { DeviceHealthMessage } from "../../../../../src/dra/driver/grpc.ts";
import { watchHealth } from "../../../../../src/dra/driver/health.ts";
import { openHost } from "../../../../../src/dra/driver/host/host.ts";
import { devicesByGpu, isGone } from "../../../../../src/dra/driver/inventory.ts";
import { BoardRefusal, type Machine } from "../../../../../src/dra/driver/machine.ts";
import { type NvidiaOptions, openNvidiaMachine } from "../../../../../src/dra/driver/nvidia/machine.ts";
import { poolSlices } from "../../../../../src/dra/driver/slices.ts";
import { systemTiming } from "../../../../../src/kube/timing.ts";
import { claimObject, type DriverScene, openScene } from "../../../../support/driver.ts";
import {
  type FakeMachine,
  fakeNvml,
  fakeNvmlFiles,
  firstLook,
  withoutCompiler,
  writePciTree,
} from "../../../../support/nvml/fake.ts";

/** The whole path from the slices down to C: the library is a fake, its process and all above it are not. */

let folder: string;
let machine: Machine | undefined;
let warnings: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "kllama-nvml-"));
  warnings = [];
});
afterEach(async () => {
  await machine?.close();
  machine = undefined;
  rmSync(folder, { recursive: true, force: true });
});

const uuid = (index: number): string => `GPU-00000000-0000-4000-8000-0000000000${String(index).padStart(2, "0")}`;
const soon = { timeout: 20_000, interval: 20 };

async function open(kind: FakeMachine, more: Partial<NvidiaOptions> = {}) {
  const { env, setFaults } = fakeNvmlFiles(kind, folder);
  const options = { host: openHost(folder), library: fakeNvml!, partitionable: new Set<string>(), env, refreshMs: 50 };
  const opened = openNvidiaMachine({
    ...{ ...options, timing: systemTiming, nvmlLimitMs: 20_000, lockFile: join(folder, "nvml.lock") },
    setTimeSlice: async () => undefined,
    fallback: () => Promise.reject(new Error("there is no nvidia-smi")),
    onWarning: (message) => warnings.push(message),
    ...more,
  });
  machine = opened;
  await firstLook(opened);
  return { machine: opened, setFaults };
}

const namesOf = ({ inventory }: Machine): string[] =>
  devicesByGpu(inventory().gpus).flatMap((group) => group.map(({ name }) => name));
const published = ({ inventory }: Machine) =>
  poolSlices(inventory(), { nodeName: "n", nodeUid: "u", generation: 1 }).flatMap(({ spec }) => spec.devices ?? []);

describe.skipIf(fakeNvml === undefined)(`NVML${withoutCompiler}`, () => {
  test("eight GPUs behind NVSwitch are one NVLink domain; sysfs tells root, NUMA node and near network cards", async () => {
    writePciTree(
      folder,
      [
        { address: "0000:1b:00.0", root: "pci0000:15", numa: 0 },
        { address: "0000:1d:00.0", root: "pci0000:15", numa: 0 },
        { address: "0000:43:00.0", root: "pci0000:37", numa: -1 },
      ],
      { mlx5_0: "0000:1d:00.0" },
    );
    const hgx = (await open("hgx")).machine;
    expect(namesOf(hgx)).toEqual(Array.from({ length: 8 }, (_, i) => `gpu-${i}`));
    const domains = new Set(hgx.inventory().gpus.map(({ nvlinkDomain }) => nvlinkDomain));
    expect([...domains]).toEqual([expect.stringMatching(/^nvlink-[0-9a-f]{16}$/)]);
    const [first, second] = published(hgx);
    expect(first).toEqual({
      name: "gpu-0",
      attributes: {
        productName: { string: "NVIDIA H100 80GB HBM3" },
        brand: { string: "Nvidia" },
        architecture: { string: "Hopper" },
        addressingMode: { string: "HMM" },
        gpuModuleID: { int: 2 },
        cudaComputeCapability: { version: "9.0.0" },
        driverVersion: { version: "570.133.5" },
        cudaDriverVersion: { version: "12.8.0" },
        "resource.kubernetes.io/pciBusID": { string: "0000:1b:00.0" },
        "resource.kubernetes.io/pcieRoot": { string: "pci0000:15" },
        "resource.kubernetes.io/numaNode": { int: 0 },
        nics: { string: "mlx5_0" },
        type: { string: "gpu" },
        uuid: { string: uuid(0) },
        index: { int: 0 },
        nvlinkDomain: { string: [...domains][0] },
      },
      capacity: { memory: { value: "81559Mi" } },
    });
    expect(published(hgx).map(({ attributes }) => attributes?.["gpuModuleID"]?.int)).toEqual([2, 4, 1, 3, 7, 5, 8, 6]);
    // The kernel's −1 says that it does not know.
    expect(second?.attributes).not.toHaveProperty(["resource.kubernetes.io/numaNode"]);
    expect(second?.attributes).not.toHaveProperty("nics");
    expect(warnings).toEqual([]);
  });

  test("bridges join pairs; such boards are on no base, and have no number there", async () => {
    const bridged = (await open("bridge")).machine;
    expect(published(bridged).flatMap(({ attributes }) => attributes?.["gpuModuleID"] ?? [])).toEqual([]);
    const { gpus } = bridged.inventory();
    const domains = gpus.map(({ nvlinkDomain }) => nvlinkDomain);
    expect(domains[0]).toBe(domains[1]);
    expect(domains[2]).toBe(domains[3]);
    expect(domains[0]).not.toBe(domains[2]);
  });

  test("boards of a multi-node domain carry its clique", async () => {
    const { gpus } = (await open("nvl")).machine.inventory();
    const clique = "10111213-1415-1617-1819-1a1b1c1d1e1f.32766";
    expect(gpus.map((gpu) => [gpu.clique, gpu.nvlinkDomain, gpu.pciBusID])).toEqual(
      ["0008", "0009", "0018", "0019"].map((domain) => [clique, clique, `${domain}:01:00.0`]),
    );
  });

  describe("boards in MIG mode", () => {
    test("that are opted in are cut up: every profile at every place, with the counters of the board", async () => {
      const mig = (await open("mig", { partitionable: "all" })).machine;
      const names = namesOf(mig);
      // 7 + 7 + 4 + 3 + 2 + 1 + 1 places on each of two boards, and no whole board.
      expect(names).toHaveLength(50);
      expect(names.slice(0, 2)).toEqual(["gpu-0-mig-1g10gb-19-0", "gpu-0-mig-1g10gb-19-1"]);
      expect(names).toContain("gpu-1-mig-3g40gb-9-4");
      expect(names).toContain("gpu-1-mig-1g10gb-me-20-6");
      const slices = poolSlices(mig.inventory(), { nodeName: "n", nodeUid: "u", generation: 1 });
      expect(slices[0]?.spec.sharedCounters?.[0]).toMatchObject({
        name: "gpu-0-counter-set",
        counters: { multiprocessors: { value: "98" }, memory: { value: "80640Mi" }, "memory-slice-7": { value: "1" } },
      });
      const device = published(mig).find(({ name }) => name === "gpu-0-mig-2g20gb-14-2");
      expect(device).toMatchObject({
        attributes: { type: { string: "mig" }, profile: { string: "2g.20gb" }, parentUUID: { string: uuid(0) } },
        consumesCounters: [{ counters: { multiprocessors: { value: "28" }, "memory-slice-3": { value: "1" } } }],
      });
      // Partitions reach no peer.
      expect(device?.attributes).not.toHaveProperty("nvlinkDomain");
    });

    test("that are not are used as they are cut", async () => {
      const cut = (await open("mig", { partitionable: new Set(["1"]) })).machine;
      expect(namesOf(cut).filter((name) => name.startsWith("gpu-0"))).toEqual([]);
      const instance = await cut.createGpuInstance(uuid(0), 9, 4);
      const { uuid: partition } = await cut.createComputeInstance(uuid(0), instance);
      await vi.waitFor(() => expect(namesOf(cut)).toContain("gpu-0-mig-3g40gb-9-4"), soon);
      const device = published(cut).find(({ name }) => name === "gpu-0-mig-3g40gb-9-4");
      expect(device).toMatchObject({
        attributes: { uuid: { string: partition } },
        capacity: { memorySlice7: { value: "1" } },
      });
      expect(device).not.toHaveProperty("consumesCounters");
    });

    test("are cut and made whole again, by whichever process of NVML", async () => {
      const { machine: mig, setFaults } = await open("mig", { partitionable: "all" });
      const id = await mig.createGpuInstance(uuid(1), 14, 2);
      expect(await mig.gpuInstances(uuid(1))).toEqual([{ id, profileId: 14, start: 2, size: 2 }]);
      await expect(mig.createGpuInstance(uuid(1), 19, 3)).rejects.toThrow("Insufficient Resources");
      await expect(mig.createGpuInstance(uuid(1), 14, 1)).rejects.toThrow("no placement at memory slice 1");
      const made = await mig.createComputeInstance(uuid(1), id);
      expect(made.uuid).toMatch(/^MIG-/);
      setFaults("die nvmlGpuInstanceGetInfo");
      await expect(mig.gpuInstances(uuid(1))).rejects.toThrow("the process that calls NVML ended: SIGSEGV");
      setFaults();
      expect(await mig.gpuInstances(uuid(1))).toEqual([{ id, profileId: 14, start: 2, size: 2, uuid: made.uuid }]);
      await mig.destroyGpuInstance(uuid(1), id);
      await mig.destroyGpuInstance(uuid(1), id);
      expect(await mig.gpuInstances(uuid(1))).toEqual([]);
    });
  });

  describe("claims of partitions", () => {
    const part = "gpu-0-mig-2g20gb-14-2";

    async function driverOf(mig: Machine): Promise<DriverScene> {
      // Containers need no device nodes here.
      const reachable: Machine = { ...mig, access: async () => ({ nodes: [], references: [] }) };
      const driver = await openScene("", { folder, machine: reachable });
      driver.claims.set("c", claimObject("c", [`gpus ${part}`]));
      return driver;
    }

    test("whose process was killed while the kernel worked: who looks afterwards waits until it is done, and nothing is left over", async () => {
      const { machine: mig, setFaults } = await open("mig", { partitionable: "all" });
      const driver = await driverOf(mig);
      setFaults("late nvmlDeviceCreateGpuInstanceWithPlacement 1000");
      expect((await driver.prepare("c"))["c"]).toContain("the process that calls NVML ended: SIGKILL");
      expect([await mig.gpuInstances(uuid(0)), driver.store.claims.size]).toEqual([[], 0]);
      setFaults();
      expect((await driver.prepare("c"))["c"]).toHaveLength(1);
    });

    test("that an administrator cut and has cut anew since the last look: the claim gets nothing of what is there now", async () => {
      const admin = (await open("mig")).machine;
      onTestFinished(() => admin.close());
      const cut = async (profileId: number) => {
        const id = await admin.createGpuInstance(uuid(0), profileId, 2);
        return { id, uuid: (await admin.createComputeInstance(uuid(0), id)).uuid };
      };
      const before = await cut(14);
      const driver = await driverOf((await open("mig", { refreshMs: 600_000 })).machine);
      expect((await driver.prepare("c"))["c"]).toHaveLength(1);
      await driver.unprepare("c");
      await admin.destroyGpuInstance(uuid(0), before.id);
      const { c } = await driver.prepare("c");
      expect(c).toBe(
        `device ${part}: ${before.uuid} is gone from ${uuid(0)}; delete the claim, or cut the partition again`,
      );
      expect((await cut(19)).id).toBe(before.id);
      expect(await driver.prepare("c")).toEqual({ c });
      expect([driver.store.claims.size, await driver.specs()]).toEqual([0, []]);
    });

    test("on a board that fell off the bus: they are unprepared all the same", async () => {
      const { machine: mig, setFaults } = await open("mig", { partitionable: "all" });
      const driver = await driverOf(mig);
      await driver.prepare("c");
      setFaults("broken 0 999");
      expect((await driver.unprepare("c"))["c"]).toContain("NVML error 999");
      setFaults("lost 0");
      await vi.waitFor(async () => expect(await driver.unprepare("c")).toEqual({ c: "" }), soon);
      expect([driver.store.claims.size, await driver.specs()]).toEqual([0, []]);
    });

    test("a refusal by the board is told from a failure whose outcome nobody knows", async () => {
      const { machine: mig, setFaults } = await open("mig", { partitionable: "all" });
      await mig.createGpuInstance(uuid(0), 14, 2);
      await expect(mig.createGpuInstance(uuid(0), 14, 2)).rejects.toBeInstanceOf(BoardRefusal);
      setFaults("fail nvmlDeviceCreateGpuInstanceWithPlacement 999");
      const unclear: unknown = await mig.createGpuInstance(uuid(0), 19, 6).catch((error: unknown) => error);
      expect(unclear).toBeInstanceOf(Error);
      expect(unclear).not.toBeInstanceOf(BoardRefusal);
    });
  });

  test("ends with its parent, also while a call hangs", async () => {
    const { env, setFaults } = fakeNvmlFiles("mig", folder);
    setFaults("slow nvmlDeviceGetGpuInstances 600000");
    const program = fileURLToPath(new URL("../../../../support/nvml/parent.ts", import.meta.url));
    const lockFile = join(folder, "nvml.lock");
    const parent = spawn(process.execPath, [program, fakeNvml!, lockFile, uuid(0)], { env, stdio: "inherit" });
    const exited = new Promise((resolve) => parent.once("exit", resolve));
    try {
      // It is made right before the board is asked.
      await vi.waitFor(() => expect(existsSync(lockFile)).toBe(true), soon);
      const [child] = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, "utf8").trim().split(" ");
      expect(existsSync(`/proc/${child}`)).toBe(true);
      parent.kill("SIGKILL");
      await exited;
      await vi.waitFor(() => expect(existsSync(`/proc/${child}`)).toBe(false), soon);
    } finally {
      parent.kill("SIGKILL");
    }
  });

  describe("errors", () => {
    const healths = (of: Machine) => {
      const heard: DeviceHealthMessage[] = [];
      watchHealth(of, "n", systemTiming, (devices) => heard.push(...devices))();
      return Object.fromEntries(heard.map(({ device, health }) => [device.device_name, health]));
    };
    const taints = (of: Machine) =>
      published(of).flatMap(({ name, taints = [] }) => taints.map((t) => [name, t.key, t.value]));

    test("an XID becomes a taint until the board has been quiet; those of faulty programs do not", async () => {
      const timing = { ...systemTiming, nowMs: () => systemTiming.nowMs() + skippedMs };
      let skippedMs = 0;
      const { machine: hgx, setFaults } = await open("hgx", { timing });
      setFaults("xid 3 79", "xid 4 13");
      await vi.waitFor(() => expect(taints(hgx)).toEqual([["gpu-3", "gpu.kllama.ai/xid", "79"]]), soon);
      setFaults("recovery 3 1");
      const wanted = [
        ["gpu-3", "gpu.kllama.ai/xid", "79"],
        ["gpu-3", "gpu.kllama.ai/recovery", "gpu-reset"],
      ];
      await vi.waitFor(() => expect(taints(hgx)).toEqual(wanted), soon);
      skippedMs = 400_000;
      setFaults("ecc 5 2");
      await vi.waitFor(() => expect(taints(hgx)).toEqual([["gpu-5", "gpu.kllama.ai/ecc", "uncorrected"]]), soon);
      setFaults();
      await vi.waitFor(() => expect(taints(hgx)).toEqual([]), soon);
    });

    test("a GPU that fell off the bus keeps its place with a taint, and comes back", async () => {
      const { machine: hgx, setFaults } = await open("hgx");
      const before = published(hgx);
      setFaults("lost 2");
      await vi.waitFor(() => expect(taints(hgx)).toEqual([["gpu-2", "gpu.kllama.ai/gpu-lost", undefined]]), soon);
      // The others are joined as before, by the same name.
      expect(published(hgx).map(({ taints: _, ...rest }) => rest)).toEqual(before);
      expect(warnings[0]).toContain("GPU 2: nvmlDeviceGetHandleByIndex_v2: GPU is lost");
      setFaults();
      await vi.waitFor(() => expect(taints(hgx)).toEqual([]), soon);
    });

    test("a call that hangs is given up, blocks nobody, and the next one works", async () => {
      const { machine: hgx, setFaults } = await open("mig", {
        nvmlLimitMs: 2_000,
        partitionable: "all",
        refreshMs: 60_000,
      });
      // On a busy machine the process may need more than the limit to start, and then the next one.
      await vi.waitFor(() => expect(namesOf(hgx)).toHaveLength(50), soon);
      setFaults("slow nvmlDeviceGetGpuInstances 60000");
      let ticks = 0;
      const ticker = setInterval(() => ticks++, 10);
      const error = await hgx.gpuInstances(uuid(0)).catch((failure: Error) => failure.message);
      clearInterval(ticker);
      expect(error).toBe("NVML did not answer instances within 2 s; it is asked again in 1 s");
      // The event loop ran meanwhile.
      expect(ticks).toBeGreaterThan(10);
      setFaults();
      await vi.waitFor(async () => expect(await hgx.gpuInstances(uuid(0))).toEqual([]), { timeout: 30_000 });
    });

    test("while NVML does not start, the inventory says why and nothing is published; then it heals", async () => {
      const { setFaults } = fakeNvmlFiles("hgx", folder);
      setFaults("fail nvmlInit_v2 9");
      const timing = { ...systemTiming, sleep: (_: number, signal: AbortSignal) => systemTiming.sleep(20, signal) };
      const { machine: hgx } = await open("hgx", { timing });
      expect(hgx.inventory()).toMatchObject({
        gpus: [],
        unread: "NVML: nvmlInit_v2: Driver Not Loaded (NVML error 9); nvidia-smi: there is no nvidia-smi",
      });
      setFaults();
      await vi.waitFor(() => expect(hgx.inventory().gpus).toHaveLength(8), soon);
      expect(hgx.inventory().unread).toBeUndefined();
    });

    test("events that cannot be waited for are waited for again; a board that knows one kind of them is heard", async () => {
      const { setFaults } = fakeNvmlFiles("hgx", folder);
      // XIDs alone, memory errors alone, none.
      const types = ["events 3 8", "events 4 2", "events 5 0"];
      setFaults(...types, "fail nvmlEventSetWait_v2 999");
      const { machine: hgx } = await open("hgx", { refreshMs: 60_000 });
      setFaults(...types, "xid 3 79", "xid 6 74");
      const wanted = [
        ["gpu-3", "gpu.kllama.ai/xid", "79"],
        ["gpu-6", "gpu.kllama.ai/xid", "74"],
      ];
      await vi.waitFor(() => expect(taints(hgx)).toEqual(wanted), soon);
    });

    test("a driver that cannot tell one figure hides no board", async () => {
      const { setFaults } = fakeNvmlFiles("hgx", folder);
      setFaults("field 2 2", "field 4 999", "fail nvmlDeviceGetModuleId 25", "fail nvmlDeviceGetGpuFabricInfoV 25");
      const { machine: hgx } = await open("hgx");
      expect([namesOf(hgx).length, taints(hgx), warnings]).toEqual([8, [], []]);
    });

    test("a board that answers with an error is unknown, it alone; it keeps what is known of it until it answers again", async () => {
      const { machine: hgx, setFaults } = await open("hgx");
      const before = published(hgx);
      setFaults("broken 2 999", "ecc 5 1");
      const wanted = [
        ["gpu-2", "gpu.kllama.ai/unreadable", "error"],
        ["gpu-5", "gpu.kllama.ai/ecc", "uncorrected"],
      ];
      await vi.waitFor(() => expect(taints(hgx)).toEqual(wanted), soon);
      expect(published(hgx).map(({ taints: _, ...rest }) => rest)).toEqual(before);
      expect(healths(hgx)).toMatchObject({ "gpu-1": "HEALTHY", "gpu-2": "UNKNOWN", "gpu-5": "UNHEALTHY" });
      expect(isGone(uuid(2), hgx.inventory())).toBe(false);
      setFaults();
      await vi.waitFor(() => expect([taints(hgx), healths(hgx)["gpu-2"]]).toEqual([[], "HEALTHY"]), soon);
    });

    test("a board in MIG mode of which the driver tells no profile is not published, and the others are", async () => {
      const { setFaults } = fakeNvmlFiles("mig", folder);
      setFaults("profiles 0 3");
      const { machine: mig } = await open("mig", { partitionable: "all" });
      expect([namesOf(mig).length, namesOf(mig).filter((name) => name.startsWith("gpu-0"))]).toEqual([25, []]);
      expect(warnings[0]).toContain(
        "GPU 0: nvmlDeviceGetGpuInstanceProfileInfoV: MIG mode is on, and no profile is told",
      );
      for (const { spec } of poolSlices(mig.inventory(), { nodeName: "n", nodeUid: "u", generation: 1 })) {
        expect(JSON.stringify(spec)).not.toMatch(/Infinity|NaN|undefined/);
      }
    });

    test("a board that was never read is missed, not taken for gone", async () => {
      const { setFaults } = fakeNvmlFiles("hgx", folder);
      setFaults("broken 7 999");
      const { machine: hgx } = await open("hgx");
      expect([namesOf(hgx).length, isGone(uuid(7), hgx.inventory())]).toEqual([7, false]);
      setFaults("lost 7");
      await vi.waitFor(() => expect(isGone(uuid(7), hgx.inventory())).toBe(true), soon);
      setFaults();
      await vi.waitFor(() => expect(namesOf(hgx)).toHaveLength(8), soon);
    });

    test("after some looks that failed nobody knows how the devices are, until one succeeds", async () => {
      const { machine: hgx, setFaults } = await open("hgx");
      const before = published(hgx);
      setFaults("fail nvmlDeviceGetCount_v2 999");
      await vi.waitFor(() => expect(new Set(Object.values(healths(hgx)))).toEqual(new Set(["UNKNOWN"])), soon);
      expect(hgx.inventory().stale).toMatch(/nvmlDeviceGetCount_v2: .*\(NVML error 999\)/);
      // Claims are allocated and prepared as before: what is not known is not broken.
      expect(published(hgx)).toEqual(before);
      setFaults();
      await vi.waitFor(() => expect(new Set(Object.values(healths(hgx)))).toEqual(new Set(["HEALTHY"])), soon);
    });

    test("while NVML never answered, nvidia-smi is read each time, and NVML as soon as it does", async () => {
      const { setFaults } = fakeNvmlFiles("hgx", folder);
      setFaults("fail nvmlInit_v2 9");
      let boards = 8;
      const board = (index: number) => ({
        ...{ uuid: uuid(index), minor: index, name: "NVIDIA H100", brand: "NVIDIA", architecture: "Hopper", links: [] },
        ...{ computeCapability: [9, 0] as const, memoryBytes: 2 ** 36, busId: `00000000:0${index}:00.0` },
      });
      const { machine: hgx } = await open("hgx", {
        fallback: async () => ({
          ...{
            driverVersion: "570.1",
            cudaDriverVersion: "12.8.0",
            lost: [],
            unreadable: [],
            isPartial: true as const,
          },
          boards: Array.from({ length: boards }, (_, index) => board(index)),
        }),
      });
      expect([namesOf(hgx).length, hgx.inventory().incomplete]).toEqual([8, true]);
      boards = 7;
      await vi.waitFor(() => expect(taints(hgx)).toEqual([["gpu-7", "gpu.kllama.ai/gpu-lost", undefined]]), soon);
      boards = 8;
      await vi.waitFor(() => expect(taints(hgx)).toEqual([]), soon);
      // Said once, not each time.
      expect(warnings.filter((text) => text.includes("read with nvidia-smi instead"))).toHaveLength(1);
      setFaults();
      await vi.waitFor(() => expect(hgx.inventory().gpus[0]?.nvlinkDomain).toMatch(/^nvlink-/), soon);
      expect(hgx.inventory().incomplete).toBeUndefined();
    });

    test("a library that is not there", async () => {
      const { machine: none } = await open("hgx", { library: join(folder, "libnvidia-ml.so.1") });
      expect(none.inventory().unread).toMatch(/libnvidia-ml\.so\.1.*cannot open shared object file/);
    });
  });
});
