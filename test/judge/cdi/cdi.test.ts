import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openHost } from "../../../src/dra/driver/host/host.ts";
import type { Machine } from "../../../src/dra/driver/machine.ts";
import { openNvidiaMachine } from "../../../src/dra/driver/nvidia/machine.ts";
import { systemTiming } from "../../../src/kube/timing.ts";
import { claimObject, type DriverScene, openScene } from "../../support/driver.ts";
import { fakeNvml, fakeNvmlFiles, firstLook, withoutCompiler } from "../../support/nvml/fake.ts";
import { buildGoProgram } from "../build.ts";

/**
 * The Container Device Interface's own code loads what the driver wrote, checks it against the published schema, works out the
 * version that it needs, and injects it as a container runtime does.
 */

interface Verdict {
  errors: Record<string, string[]>;
  env: string[] | null;
  devices: { path: string; type: string; major: number; minor: number }[] | null;
  mounts: { source: string; destination: string }[] | null;
  refused?: string;
}

let program: string;
let root: string;
let driver: DriverScene | undefined;

beforeAll(async () => {
  const folder = fileURLToPath(new URL(".", import.meta.url));
  program = await buildGoProgram(folder, "the Container Device Interface's own code cannot judge the driver");
});
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "kllama-cdi-"));
});
afterEach(async () => {
  await driver?.remove();
  driver = undefined;
  rmSync(root, { recursive: true, force: true });
});

const judged = (ids: string[]): Verdict =>
  JSON.parse(execFileSync(program, [driver!.cdiFolder, ...ids], { encoding: "utf8" })) as Verdict;

function write(path: string, text = ""): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

/** A host with NVIDIA's kernel driver; the nodes are ordinary files, so their numbers have to be in the spec or do not matter. */
async function nvidia(kind: "hgx" | "mig"): Promise<Machine> {
  for (const node of ["nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-modeset"])
    write(`dev/${node}`);
  write("proc/devices", "Character devices:\n  1 mem\n195 nvidia\n237 nvidia-caps\n");
  for (const [index, gi] of [
    [0, 1],
    [0, 2],
  ] as const) {
    const folder = `proc/driver/nvidia/capabilities/gpu${index}/mig/gi${gi}`;
    write(`${folder}/access`, `DeviceFileMinor: ${30 * gi}\nDeviceFileMode: 292\nDeviceFileModify: 1\n`);
    write(`${folder}/ci0/access`, `DeviceFileMinor: ${30 * gi + 1}\nDeviceFileMode: 292\nDeviceFileModify: 1\n`);
  }
  const machine = openNvidiaMachine({
    ...{ host: openHost(root), library: fakeNvml!, partitionable: "all", timing: systemTiming },
    lockFile: join(root, "nvml.lock"),
    env: fakeNvmlFiles(kind, root).env,
    setTimeSlice: async () => undefined,
    fallback: () => Promise.reject(new Error("none")),
    onWarning: () => undefined,
  });
  await firstLook(machine);
  return machine;
}

test("a claim with two requests on a simulated machine", async () => {
  driver = await openScene("dgx-h100");
  driver.claims.set("c", claimObject("c", ["a gpu-1", "a gpu-0", "b gpu-2"]));
  const ids = (await driver.prepare("c"))["c"] as string[];
  const { errors, refused, env, devices } = judged(ids.slice(0, 1));
  expect([errors, refused, devices]).toEqual([{}, undefined, null]);
  const [first, second] = driver.machine.inventory().gpus;
  expect(env).toContain(`IREE_DEVICE=cuda://${first?.uuid},cuda://${second?.uuid}`);
  expect(judged(["gpu.kllama.ai/claim=none"]).refused).toContain("unresolvable CDI devices");
});

describe.skipIf(fakeNvml === undefined)(`NVIDIA's nodes${withoutCompiler}`, () => {
  /** As on a host: paths of nodes are absolute, and the runtime asks the host for the numbers that are not given. */
  const paths = (verdict: Verdict) => verdict.devices?.map(({ path }) => path);

  test("of whole GPUs and the common ones, and of partitions with their numbers", async () => {
    driver = await openScene("", { machine: await nvidia("mig") });
    driver.claims.set("c", claimObject("c", ["m gpu-0-mig-1g10gb-19-0", "m gpu-0-mig-2g20gb-14-2"]));
    const ids = (await driver.prepare("c"))["c"] as string[];
    expect(ids).toHaveLength(1);
    const claim = driver.prepared[0]!;
    expect(claim.devices.flatMap(({ access }) => access!.nodes.map(({ path }) => path))).toEqual([
      ...["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"],
      ...["/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"],
      ...["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"],
      ...["/dev/nvidia-caps/nvidia-cap60", "/dev/nvidia-caps/nvidia-cap61"],
    ]);
    const { errors, refused } = judged(ids);
    expect(errors).toEqual({});
    // This machine has no such nodes, and the runtime says so.
    expect(refused).toContain('"/dev/nvidia0"');
  });

  test("come from nvidia-ctk's description where there is one", async () => {
    const uuid = "GPU-00000000-0000-4000-8000-000000000000";
    write(
      "etc/cdi/nvidia.yaml",
      `cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: ${uuid}\n  containerEdits:\n    env: [A=B]\n- name: all\n`,
    );
    write("etc/cdi/broken.yaml", "kind: nvidia.com/gpu: {");
    driver = await openScene("", { machine: await nvidia("mig") });
    driver.claims.set("c", claimObject("c", ["m gpu-0-mig-1g10gb-19-0", "m gpu-0-mig-2g20gb-14-2"]));
    const ids = (await driver.prepare("c"))["c"] as string[];
    // Once, though both partitions are of that board.
    expect(ids.slice(1)).toEqual([`nvidia.com/gpu=${uuid}`]);
    const verdict = judged(ids.slice(0, 1));
    expect([verdict.errors, verdict.refused]).toEqual([{}, undefined]);
    expect(paths(verdict)).toEqual([30, 31, 60, 61].map((minor) => `/dev/nvidia-caps/nvidia-cap${minor}`));
    expect(verdict.devices?.[0]).toMatchObject({ type: "c", major: 237, minor: 30 });
    expect(verdict.env?.find((text) => text.startsWith("CUDA_VISIBLE_DEVICES="))).toMatch(/=MIG-[0-9a-f-]+,MIG-/);
    // What the description says of all its devices, NVIDIA's libraries for instance, comes along with a device that is named.
    const described = {
      ...{ cdiVersion: "0.3.0", kind: "nvidia.com/gpu" },
      devices: [{ name: uuid, containerEdits: { env: ["A=B"] } }],
      containerEdits: { env: ["COMMON=1"], mounts: [{ hostPath: "/lib/cuda", containerPath: "/lib/cuda" }] },
    };
    writeFileSync(join(driver.cdiFolder, "nvidia.json"), JSON.stringify(described));
    const whole = judged(ids);
    expect([whole.errors, whole.refused]).toEqual([{}, undefined]);
    expect(whole.env?.filter((text) => /^(A|COMMON)=/.test(text)).toSorted()).toEqual(["A=B", "COMMON=1"]);
    expect(whole.mounts?.map(({ destination }) => destination)).toContain("/lib/cuda");
  });

  test("that are missing fail the claim, which leaves nothing", async () => {
    driver = await openScene("", { machine: await nvidia("mig") });
    rmSync(join(root, "dev/nvidia-uvm"));
    driver.claims.set("c", claimObject("c", ["m gpu-0-mig-1g10gb-19-0"]));
    expect((await driver.prepare("c"))["c"]).toContain("the host has no /dev/nvidia-uvm; run nvidia-modprobe");
    write("dev/nvidia-uvm");
    rmSync(join(root, "proc/devices"));
    expect((await driver.prepare("c"))["c"]).toContain("the host has no nvidia-caps in /proc/devices");
    const [gpu] = driver.machine.inventory().gpus;
    expect([await driver.machine.gpuInstances(gpu!.uuid), driver.store.claims.size]).toEqual([[], 0]);
  });

  test("MPS brings its folder and limits, if somebody serves it", async () => {
    driver = await openScene("", { machine: await nvidia("hgx") });
    const parameters = {
      ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
      sharing: {
        strategy: "MPS",
        mpsConfig: { defaultActiveThreadPercentage: 50, defaultPinnedDeviceMemoryLimit: "10G" },
      },
    };
    const config = [{ source: "FromClaim", requests: ["a"], opaque: { driver: "gpu.kllama.ai", parameters } }];
    driver.claims.set("c", claimObject("c", ["a gpu-0", "a gpu-1", "b gpu-2"], { config }));
    expect((await driver.prepare("c"))["c"]).toContain(
      "nobody serves MPS in /tmp/nvidia-mps; run nvidia-cuda-mps-control",
    );
    write("tmp/nvidia-mps/control");
    const ids = (await driver.prepare("c"))["c"] as string[];
    expect(ids).toHaveLength(2);
    expect(judged([]).errors).toEqual({});
    const { devices } = JSON.parse(await driver.spec("c")) as {
      devices: { containerEdits: { env: string[]; mounts?: object[] } }[];
    };
    expect(devices[0]?.containerEdits.mounts).toEqual([
      { hostPath: "/tmp/nvidia-mps", containerPath: "/tmp/nvidia-mps", options: ["rw", "nosuid", "bind"] },
    ]);
    expect(devices[0]?.containerEdits.env.slice(-3)).toEqual([
      "CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps",
      "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50",
      "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=10G,1=10G",
    ]);
    expect(devices[1]?.containerEdits.mounts).toBeUndefined();
  });
});

test("the judge finds a version that is too low, and a field that the schema does not know", async () => {
  driver = await openScene("dgx-h100");
  mkdirSync(driver.cdiFolder);
  const spec = {
    kind: "gpu.kllama.ai/claim",
    annotations: { a: "b" },
    devices: [{ name: "1", containerEdits: { env: ["A=B"] } }],
  };
  writeFileSync(join(driver.cdiFolder, "low.json"), JSON.stringify({ cdiVersion: "0.5.0", ...spec }));
  writeFileSync(join(driver.cdiFolder, "odd.json"), JSON.stringify({ cdiVersion: "0.6.0", ...spec, more: 1 }));
  const { errors } = judged([]);
  expect(Object.keys(errors)).toEqual(["low.json", "odd.json"]);
});
