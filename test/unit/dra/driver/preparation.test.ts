import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { CdiSpec } from "../../../../src/dra/driver/cdi.ts";
import { specFile } from "../../../../src/dra/driver/cdi.ts";
import { awaited, claimObject, type DriverScene, openScene, referenceTo } from "../../../support/driver.ts";

const opened: DriverScene[] = [];

async function scene(type = "dgx-h100", options: Parameters<typeof openScene>[1] = {}): Promise<DriverScene> {
  const made = await openScene(type, options);
  opened.push(made);
  return made;
}

/** The API server has a claim of that name, on these devices, as `claimObject` takes them. */
function give(driver: DriverScene, name: string, ...devices: string[]): string {
  const claim = claimObject(
    name,
    devices.map((device) => `gpus ${device}`),
  );
  driver.claims.set(name, claim);
  return claim.metadata.uid!;
}

afterEach(async () => {
  for (const made of opened.splice(0)) await made.remove();
});

test("a claim gets one CDI device per request, and its file goes when it is unprepared", async () => {
  const driver = await scene();
  const uid = give(driver, "c", "gpu-1", "gpu-0");
  expect(await driver.prepare("c")).toEqual({ c: [`gpu.kllama.ai/claim=${uid}-gpus`] });
  expect(await driver.specs()).toEqual([specFile(uid)]);
  const spec = JSON.parse(await readFile(join(driver.cdiFolder, specFile(uid)), "utf8")) as CdiSpec;
  expect(spec.devices.map(({ name }) => name)).toEqual([`${uid}-gpus`]);
  expect(await driver.unprepare("c")).toEqual({ c: "" });
  expect(await driver.specs()).toEqual([]);
  expect(driver.store.claims.size).toBe(0);
});

test("every device is named, the CDI device once per request", async () => {
  const driver = await scene();
  const claim = claimObject("c", ["a gpu-0", "a gpu-1", "b gpu-2"]);
  driver.claims.set("c", claim);
  const { uid } = referenceTo(claim);
  const answers = await driver.preparation.prepare([referenceTo(claim)], awaited);
  expect(answers[uid]).toEqual({
    error: "",
    devices: [
      {
        request_names: ["a"],
        pool_name: "node-1",
        device_name: "gpu-0",
        cdi_device_ids: [`gpu.kllama.ai/claim=${uid}-a`],
      },
      { request_names: ["a"], pool_name: "node-1", device_name: "gpu-1", cdi_device_ids: [] },
      {
        request_names: ["b"],
        pool_name: "node-1",
        device_name: "gpu-2",
        cdi_device_ids: [`gpu.kllama.ai/claim=${uid}-b`],
      },
    ],
  });
});

describe("asking twice changes nothing", () => {
  test("a prepared claim gets the same answer, before and after a restart", async () => {
    const first = await scene();
    const uid = give(first, "c", "gpu-0");
    const answer = await first.prepare("c");
    expect(await first.prepare("c")).toEqual(answer);
    const second = await scene("dgx-h100", { folder: first.folder });
    second.claims.set("c", first.claims.get("c")!);
    expect(await second.prepare("c")).toEqual(answer);
    expect(second.prepared).toEqual([]);
    expect(await second.specs()).toEqual([specFile(uid)]);
  });

  test("a spec that was removed is written again", async () => {
    const driver = await scene();
    const uid = give(driver, "c", "gpu-0");
    await driver.prepare("c");
    await rm(driver.cdiFolder, { recursive: true });
    await driver.prepare("c");
    expect(await driver.specs()).toEqual([specFile(uid)]);
  });

  test("what was never prepared is unprepared without complaint", async () => {
    const driver = await scene();
    give(driver, "c", "gpu-0");
    expect(await driver.unprepare("c")).toEqual({ c: "" });
  });

  test("after a reboot nothing is prepared", async () => {
    const first = await scene();
    give(first, "c", "gpu-0");
    await first.prepare("c");
    const second = await scene("dgx-h100", { folder: first.folder, bootId: "another" });
    expect(second.store.claims.size).toBe(0);
  });
});

describe("one device, one claim", () => {
  test.for<[string, string, string[], string[], string | undefined]>([
    ["the same GPU", "dgx-h100", ["gpu-0"], ["gpu-1", "gpu-0"], "device node-1/gpu-0 is in use by claim team/a"],
    ["other GPUs", "dgx-h100", ["gpu-0"], ["gpu-1"], undefined],
    [
      "a partition of a GPU in use",
      "dgx-a100-mig",
      ["gpu-0"],
      ["gpu-0-mig-1g10gb-19-0"],
      "device node-1/gpu-0-mig-1g10gb-19-0 is in use",
    ],
    [
      "a GPU whose partition is in use",
      "dgx-a100-mig",
      ["gpu-0-mig-1g10gb-19-6"],
      ["gpu-0"],
      "device node-1/gpu-0 is in use by claim team/a",
    ],
    [
      "partitions that share a memory slice",
      "dgx-a100-mig",
      ["gpu-0-mig-2g20gb-14-2"],
      ["gpu-0-mig-1g10gb-19-3"],
      "is in use by claim team/a",
    ],
    ["partitions side by side", "dgx-a100-mig", ["gpu-0-mig-2g20gb-14-2"], ["gpu-0-mig-1g10gb-19-4"], undefined],
    ["partitions of two GPUs", "dgx-a100-mig", ["gpu-0-mig-2g20gb-14-2"], ["gpu-1-mig-2g20gb-14-2"], undefined],
  ])("%s", async ([, type, first, second, refusal]) => {
    const driver = await scene(type);
    give(driver, "a", ...first);
    give(driver, "b", ...second);
    await driver.prepare("a");
    const { b } = await driver.prepare("b");
    if (refusal === undefined) expect(b).toHaveLength(1);
    else expect(b).toContain(refusal);
    await driver.unprepare("a");
    expect((await driver.prepare("b"))["b"]).toHaveLength(1);
  });

  test("what another tenant's claim is called is told nobody: its UID is, by which an administrator finds it", async () => {
    const driver = await scene();
    const secret = claimObject("secret-project", ["gpus gpu-0"]);
    secret.metadata.namespace = "rivals";
    driver.claims.set("secret-project", secret);
    give(driver, "b", "gpu-0");
    await driver.prepare("secret-project");
    const { uid } = secret.metadata;
    const { b } = await driver.prepare("b");
    expect(b).toBe(`device node-1/gpu-0 is in use by a claim of another namespace, UID ${uid}`);
  });

  test("a claim that was left half done and has other devices by now is in nobody's way", async () => {
    const driver = await scene();
    const uid = give(driver, "a", "gpu-0");
    give(driver, "b", "gpu-0");
    await driver.prepare("a");
    driver.store.claims.get(uid)!.state = "Started";
    driver.claims.set("a", claimObject("a", ["gpus gpu-1"], { uid }));
    expect(Object.values(await driver.prepare("a", "b")).map((ids) => typeof ids)).toEqual(["object", "object"]);
  });

  test("two claims of one call on the same GPU: the first gets it, the second is told", async () => {
    const driver = await scene();
    give(driver, "a", "gpu-0");
    give(driver, "b", "gpu-0");
    give(driver, "c", "gpu-1");
    const { a, b, c } = await driver.prepare("a", "b", "c");
    expect([a, c].map((ids) => ids?.length)).toEqual([1, 1]);
    expect(b).toBe("device node-1/gpu-0 is in use by claim team/a");
    expect(await driver.specs()).toHaveLength(2);
  });

  test.for<[string, string[], string | undefined]>([
    ["gpu-0 twice", ["gpu-0", "gpu-0"], "claim team/c: holds gpu-0 twice"],
    ["a GPU and its partition", ["gpu-0", "gpu-0-mig-1g10gb-19-0"], "claim team/c: holds gpu-0 and gpu-0-mig-1g10gb"],
    ["partitions that overlap", ["gpu-0-mig-2g20gb-14-2", "gpu-0-mig-1g10gb-19-3"], "which is the same hardware"],
    ["partitions side by side", ["gpu-0-mig-2g20gb-14-2", "gpu-0-mig-1g10gb-19-4"], undefined],
  ])("within one claim: %s", async ([, devices, refusal]) => {
    const driver = await scene("dgx-a100-mig");
    give(driver, "c", ...devices);
    const { c } = await driver.prepare("c");
    if (refusal === undefined) expect(c).toHaveLength(1);
    else expect(c).toContain(refusal);
    expect(driver.store.claims.size).toBe(refusal === undefined ? 1 : 0);
  });

  test("an administrator's claim looks at a device in use", async () => {
    const driver = await scene();
    give(driver, "a", "gpu-0");
    driver.claims.set("admin", claimObject("admin", ["gpus gpu-0 admin"]));
    expect((await driver.prepare("admin"))["admin"]).toHaveLength(1);
    expect((await driver.prepare("a"))["a"]).toHaveLength(1);
  });

  test("an administrator's claim changes no board: it sets no time slice, and cuts no partition", async () => {
    const steps: string[] = [];
    const driver = await scene("dgx-a100-mig", { onEffect: (step) => void steps.push(step) });
    const config = [
      {
        source: "FromClass",
        opaque: {
          driver: "gpu.kllama.ai",
          parameters: {
            ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
            sharing: { strategy: "TimeSlicing", timeSlicingConfig: { interval: "Long" } },
          },
        },
      },
    ];
    driver.claims.set("used", claimObject("used", ["gpus gpu-3"], { config }));
    driver.claims.set("looks", claimObject("looks", ["gpus gpu-3 admin"], { config }));
    driver.claims.set("cuts", claimObject("cuts", ["gpus gpu-0-mig-1g10gb-19-0 admin"]));
    await driver.prepare("used");
    steps.splice(0);
    expect((await driver.prepare("looks"))["looks"]).toHaveLength(1);
    expect((await driver.prepare("cuts"))["cuts"]).toContain("exists only while a claim has it");
    expect(await driver.unprepare("looks", "cuts")).toEqual({ looks: "", cuts: "" });
    expect(steps.filter((step) => step.startsWith("board/"))).toEqual([]);
  });

  test("a claim that was allocated anew while it was prepared", async () => {
    const driver = await scene();
    const uid = give(driver, "c", "gpu-0");
    await driver.prepare("c");
    driver.claims.set("c", claimObject("c", ["gpus gpu-1"], { uid }));
    expect((await driver.prepare("c"))["c"]).toContain("allocation changed while it was prepared");
  });
});

describe("a claim that is no longer wanted", () => {
  test("is gone, has a successor, or is being deleted", async () => {
    const driver = await scene();
    const claim = claimObject("c", ["gpus gpu-0"]);
    const ask = async () => {
      const answers = await driver.preparation.prepare([referenceTo(claim)], awaited);
      return Object.values(answers)[0]?.error;
    };
    expect(await ask()).toBe("claim team/c: does not exist; recreate the pod");
    driver.claims.set("c", claimObject("c", ["gpus gpu-0"]));
    expect(await ask()).toContain("claim team/c: has UID");
    driver.claims.set("c", { ...claim, metadata: { ...claim.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" } });
    expect(await ask()).toBe("claim team/c: is being deleted");
    expect(driver.store.claims.size).toBe(0);
  });

  test("a call that was cancelled while the claim was read begins nothing", async () => {
    const driver = await scene();
    const claim = claimObject("c", ["gpus gpu-0"]);
    const call = { ...awaited, cancelled: false };
    Object.defineProperty(driver.claims, "get", {
      value: () => {
        call.cancelled = true;
        return claim;
      },
    });
    const answers = await driver.preparation.prepare([referenceTo(claim)], call);
    expect(Object.values(answers)[0]?.error).toBe("the call was cancelled");
    expect(driver.store.claims.size).toBe(0);
  });

  test("a UID that is none never becomes a file name", async () => {
    const driver = await scene();
    const uid = "../../../escape";
    const answers = await driver.preparation.prepare([{ namespace: "team", name: "c", uid }], awaited);
    expect(answers[uid]?.error).toContain("is not a UID");
    expect(await driver.preparation.unprepare([{ namespace: "team", name: "c", uid }], awaited)).toEqual({
      [uid]: { error: "" },
    });
    expect(await readdir(driver.folder)).not.toContain("escape");
  });
});

describe("partitions", () => {
  const partition = "gpu-0-mig-2g20gb-14-2";

  test("are cut out of the board for a claim and go with it", async () => {
    const driver = await scene("dgx-a100-mig");
    give(driver, "c", partition);
    const gpu = driver.machine.inventory().gpus[0]!.uuid;
    await driver.prepare("c");
    const [instance] = await driver.machine.gpuInstances(gpu);
    expect(instance).toMatchObject({ profileId: 14, start: 2, size: 2, uuid: expect.stringMatching(/^MIG-/) });
    expect(driver.prepared[0]?.devices[0]?.partition).toMatchObject({
      gpuInstance: instance?.id,
      uuid: instance?.uuid,
    });
    expect(await driver.unprepare("c")).toEqual({ c: "" });
    expect(await driver.machine.gpuInstances(gpu)).toEqual([]);
  });

  test("are not made where somebody else's is, which stays", async () => {
    const driver = await scene("dgx-a100-mig");
    const gpu = driver.machine.inventory().gpus[0]!.uuid;
    const foreign = await driver.machine.createGpuInstance(gpu, 19, 3);
    give(driver, "c", partition);
    expect((await driver.prepare("c"))["c"]).toContain(`GPU instance ${foreign} of ${gpu} is in its place`);
    expect(await driver.machine.gpuInstances(gpu)).toHaveLength(1);
    expect(driver.store.claims.size).toBe(0);
  });

  test("the board refuses what its engines do not suffice for, and nothing is left over", async () => {
    const driver = await scene("dgx-a100-mig");
    const gpu = driver.machine.inventory().gpus[0]!.uuid;
    give(driver, "a", "gpu-0-mig-1g10gb-me-20-0");
    give(driver, "b", "gpu-0-mig-1g10gb-me-20-1");
    expect((await driver.prepare("a"))["a"]).toHaveLength(1);
    expect((await driver.prepare("b"))["b"]).toBe(`GPU ${gpu}: insufficient resources for profile 20 at 1`);
    expect(await driver.machine.gpuInstances(gpu)).toHaveLength(1);
    await driver.unprepare("a");
    expect((await driver.prepare("b"))["b"]).toHaveLength(1);
  });

  test("one that fails takes the others of its claim along", async () => {
    const driver = await scene("dgx-a100-mig");
    const [first, second] = driver.machine.inventory().gpus;
    await driver.machine.createGpuInstance(second!.uuid, 19, 0);
    give(driver, "c", "gpu-0-mig-1g10gb-19-0", "gpu-1-mig-1g10gb-19-0");
    expect((await driver.prepare("c"))["c"]).toContain("was not made by kllama");
    expect(await driver.machine.gpuInstances(first!.uuid)).toEqual([]);
    expect(await driver.specs().catch(() => [])).toEqual([]);
  });
});

describe("time slices", () => {
  const slices = async ({ folder }: DriverScene): Promise<object> =>
    (JSON.parse(await readFile(join(folder, "machine.json"), "utf8")) as { timeSlices: object }).timeSlices;

  test("are set for a claim and set back with it, also by whoever finds it half prepared", async () => {
    const parameters = {
      ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
      sharing: { strategy: "TimeSlicing", timeSlicingConfig: { interval: "Long" } },
    };
    const config = [{ source: "FromClaim", opaque: { driver: "gpu.kllama.ai", parameters } }];
    const driver = await scene();
    driver.claims.set("c", claimObject("c", ["gpus gpu-1"], { config }));
    const gpu = driver.machine.inventory().gpus[1]!.uuid;
    expect((await driver.prepare("c"))["c"]).toHaveLength(1);
    expect(await slices(driver)).toEqual({ [gpu]: "Long" });
    expect(await driver.unprepare("c")).toEqual({ c: "" });
    expect(await slices(driver)).toEqual({});
    await rm(driver.cdiFolder, { recursive: true });
    await writeFile(driver.cdiFolder, "");
    expect((await driver.prepare("c"))["c"]).toMatch(/EEXIST|ENOTDIR/);
    expect(await slices(driver)).toEqual({});
  });
});

describe("a CDI folder that is", () => {
  /** Root ignores permission bits, so a file in the folder's place stands for a folder that cannot be written. */
  test("not writable fails the claim with a reason, leaves nothing, and heals by itself", async () => {
    const driver = await scene();
    give(driver, "c", "gpu-0");
    await writeFile(driver.cdiFolder, "");
    expect((await driver.prepare("c"))["c"]).toMatch(/EEXIST|ENOTDIR/);
    await rm(driver.cdiFolder);
    expect((await driver.prepare("c"))["c"]).toHaveLength(1);
    expect(await driver.specs()).toHaveLength(1);
  });

  test("missing is made", async () => {
    const driver = await scene();
    give(driver, "c", "gpu-0");
    await mkdir(driver.cdiFolder, { recursive: true });
    await rm(driver.cdiFolder, { recursive: true });
    expect((await driver.prepare("c"))["c"]).toHaveLength(1);
  });
});

test("a checkpoint that cannot be written fails every claim of the call and prepares none", async () => {
  const driver = await scene();
  give(driver, "a", "gpu-0");
  give(driver, "b", "gpu-1");
  await mkdir(`${driver.checkpoint}.tmp`);
  const answers = await driver.prepare("a", "b");
  expect(Object.values(answers).every((answer) => String(answer).includes("EISDIR"))).toBe(true);
  expect(driver.store.claims.size).toBe(0);
  await rm(`${driver.checkpoint}.tmp`, { recursive: true });
  expect(Object.values(await driver.prepare("a", "b")).map((ids) => ids.length)).toEqual([1, 1]);
});

test("calls that wait together share the checkpoint's writes", async () => {
  let writes = 0;
  const driver = await scene("gb200-nvl72", {
    onEffect: (effect) => (writes += effect === "checkpoint/rename" ? 1 : 0),
  });
  for (let index = 0; index < 4; index++) give(driver, `c-${index}`, `gpu-${index}`);
  await Promise.all([0, 1, 2, 3].map((index) => driver.prepare(`c-${index}`)));
  expect(writes).toBe(2);
  expect(await driver.specs()).toHaveLength(4);
});
