import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { ResourceClaim, ResourceSlice } from "../../src/api/kubernetes.ts";
import { specFile } from "../../src/dra/driver/cdi.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { installManifests } from "../../src/kube/install.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { type KubeletJudge, openKubeletJudge } from "../judge/kubelet/judge.ts";
import {
  allocateClaim,
  createDriverNode,
  type DriverNode,
  type DriverProcess,
  reserveFor,
} from "../support/driver-node.ts";
import { type Followed, follow } from "../support/follow.ts";
import { startOtherPlugin } from "../support/other-plugin.ts";

/**
 * The kubelet's own code is the judge: its plugin manager finds the driver's sockets, its DRA manager prepares pods with it.
 * The cases are those of Kubernetes' `test/e2e_node/dra_test.go` and, for updates of the driver, of `test/e2e/dra/dra.go`;
 * docs/driver.md has the whole list. `npm run kubelet` plays them on Kubernetes 1.37.
 */
const version = judgedVersion(process.env["KLLAMA_KUBELET"] ?? "1.36.3");

let plane: ControlPlane;
let admin: KubeClient;
let slices: Followed<ResourceSlice>;
interface Machine {
  driver: DriverNode;
  kubelet: KubeletJudge;
}
let driver: DriverNode;
let kubelet: KubeletJudge;
let number = 0;
/** What takes the kubelet long begins at once, and is judged at the end. */
let left: Machine;
let stuck: Machine & { refusal: Promise<Error | undefined> };

const soon = { timeout: 30_000, interval: 50 };
const slicesOf = ({ name }: DriverNode): ResourceSlice[] =>
  [...slices.items.values()].filter(({ spec }) => spec.nodeName === name);
const idOf = (claim: ResourceClaim, request = "gpus"): string => `gpu.kllama.ai/claim=${claim.metadata.uid}-${request}`;

function judgedVersion(wanted: string): "1.36.3" | "1.37.1" {
  if (wanted === "1.36.3" || wanted === "1.37.1") return wanted;
  throw new Error(`KLLAMA_KUBELET=${wanted}: write 1.36.3 or 1.37.1`);
}

/** A Node with the driver's folders and a kubelet that runs. */
async function newMachine(type = "dgx-h100"): Promise<Machine> {
  const made = await createDriverNode(plane, admin, `judged-${++number}`, type);
  const folders = { kubelet: made.kubeletFolder, state: join(made.stateFolder, "kubelet") };
  const judge = await openKubeletJudge(version, plane.admin.path, made.name, folders);
  await judge.start();
  return { driver: made, kubelet: judge };
}

async function machine(type?: string): Promise<void> {
  ({ driver, kubelet } = await newMachine(type));
}

/** A pod on the node, with one claim on these devices, reserved for it; `of`: and on the other driver's. */
async function pod(
  name: string,
  results: string[],
  more: { requests?: (string | undefined)[]; of?: string; on?: DriverNode; claim?: ResourceClaim } = {},
): Promise<ResourceClaim> {
  const { requests = [undefined], on = driver } = more;
  const claim = more.claim ?? (await allocateClaim(admin, on.name, `${on.name}-${name}`, results, more.of));
  await reserveFor(admin, claim, `${on.name}-${name}`, {
    nodeName: on.name,
    resourceClaims: [{ name: "gpus", resourceClaimName: claim.metadata.name }],
    containers: (requests.length === 0 ? ["none"] : requests).map((request, index) => ({
      name: `c${index}`,
      image: "registry.k8s.io/pause:3.10",
      ...(requests.length === 0
        ? {}
        : { resources: { claims: [{ name: "gpus", ...(request === undefined ? {} : { request }) }] } }),
    })),
  });
  return claim;
}
const named = (name: string): string => `${driver.name}-${name}`;

beforeAll(async () => {
  plane = await startControlPlane({ components: [], version });
  admin = createClient(await loadConnection({ kubeconfigPath: plane.admin.path }));
  await installManifests(admin, ["deploy/rbac.yaml", "deploy/device-classes.yaml"]);
  const labels = { "resource.kubernetes.io/admin-access": "true" };
  await admin.request("POST", "/api/v1/namespaces", { body: { metadata: { name: "team", labels } } });
  await admin.request("POST", "/api/v1/namespaces/team/serviceaccounts", { body: { metadata: { name: "default" } } });
  slices = await follow(admin, "/apis/resource.k8s.io/v1/resourceslices");
  await machine("h100-pcie");
  await driver.start();
  await pod("p", ["gpus gpu-0"]);
  await kubelet.prepareInTheEnd(named("p"));
  await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
  await driver.kill("SIGTERM");
  left = { driver, kubelet };
  await machine("h100-pcie");
  await driver.start();
  for (const [index, name] of ["p", "slow"].entries()) await pod(name, [`gpus gpu-${index}`]);
  await kubelet.prepareInTheEnd(named("p"));
  driver.freeze(true);
  const refusal = kubelet.prepare(named("slow")).then(
    () => undefined,
    (error: Error) => error,
  );
  stuck = { driver, kubelet, refusal };
});

afterEach(async () => {
  await kubelet.close();
  await driver.remove();
});

afterAll(async () => {
  for (const each of [left, stuck]) {
    await each?.kubelet.close();
    await each?.driver.remove();
  }
  await slices?.stop();
  await admin?.close();
  await plane?.stop();
});

describe("registration", () => {
  test("a pod gets its CDI devices, and they go with it", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0", "gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("p"));
    expect(await kubelet.devices(named("p"))).toEqual({ c0: [idOf(claim)] });
    expect(await readdir(driver.cdiFolder)).toEqual([specFile(claim.metadata.uid!)]);
    await kubelet.unprepare(named("p"));
    expect(await kubelet.mightNeedToUnprepare(named("p"))).toBe(false);
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });

  test("must register after Kubelet restart", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.stop();
    await kubelet.start();
    await kubelet.prepareInTheEnd(named("p"));
  });

  test("must register after plugin restart, also after kill -9", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await pod("q", ["gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("p"));
    await driver.kill("SIGKILL");
    await driver.start();
    await kubelet.prepareInTheEnd(named("q"));
    await driver.kill("SIGTERM");
    await driver.start();
    await kubelet.unprepareInTheEnd(named("p"));
    await kubelet.unprepareInTheEnd(named("q"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });

  test("must process pod created when kubelet is not running", async () => {
    await machine();
    await driver.start();
    await kubelet.stop();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.start();
    await kubelet.prepareInTheEnd(named("p"));
  });

  test("a pod waits while the driver is not there, and starts with it", async () => {
    await machine();
    await pod("p", ["gpus gpu-0"]);
    await expect(kubelet.prepare(named("p"))).rejects.toThrow("gpu.kllama.ai");
    await driver.start();
    await kubelet.prepareInTheEnd(named("p"));
  });
});

describe("preparing", () => {
  test("must run pod if NodePrepareResources fails and then succeeds", async () => {
    await machine();
    const hardware = join(driver.stateFolder, "simulated-machine.json");
    const losses = { "gpu-0": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    await writeFile(hardware, JSON.stringify({ instances: [], losses }));
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await vi.waitFor(() => expect(kubelet.prepare(named("p"))).rejects.toThrow("device gpu-0 is lost"), soon);
    await writeFile(hardware, JSON.stringify({ instances: [], losses: {} }));
    await kubelet.prepareInTheEnd(named("p"));
  });

  test("must retry NodePrepareResources after Kubelet restart; what was prepared stays prepared", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await kubelet.stop();
    await kubelet.start();
    await kubelet.prepareInTheEnd(named("p"));
    // Kubernetes 1.36 appends the devices a second time: injecting them twice must be the same as once.
    expect(new Set((await kubelet.devices(named("p")))["c0"])).toEqual(new Set([idOf(claim)]));
    expect(await readdir(driver.cdiFolder)).toEqual([specFile(claim.metadata.uid!)]);
  });

  test("must register after registration failure: GetInfo was not answered in time", async () => {
    await machine();
    await kubelet.stop();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    driver.freeze(true);
    await kubelet.start();
    await expect(kubelet.prepare(named("p"))).rejects.toThrow("gpu.kllama.ai");
    // It gives up after a second, of which nothing tells.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    driver.freeze(false);
    await kubelet.prepareInTheEnd(named("p"));
  });

  test("each container gets the devices of the requests that it names", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["a gpu-0", "b gpu-1"], { requests: ["a", "b", undefined] });
    await kubelet.prepareInTheEnd(named("p"));
    expect(await kubelet.devices(named("p"))).toEqual({
      c0: [idOf(claim, "a")],
      c1: [idOf(claim, "b")],
      c2: [idOf(claim, "a"), idOf(claim, "b")],
    });
  });

  test("must call NodePrepareResources even if not used by any container; pods that share a claim share its devices", async () => {
    await machine();
    await driver.start();
    const claim = await pod("unused", ["gpus gpu-0"], { requests: [] });
    await pod("sharer", [], { claim });
    await kubelet.prepareInTheEnd(named("unused"));
    expect(await readdir(driver.cdiFolder)).toEqual([specFile(claim.metadata.uid!)]);
    await kubelet.prepare(named("sharer"));
    expect(await kubelet.devices(named("unused"))).toEqual({});
    expect(await kubelet.devices(named("sharer"))).toEqual({ c0: [idOf(claim)] });
    await kubelet.unprepare(named("unused"));
    expect(await readdir(driver.cdiFolder)).toHaveLength(1);
    await kubelet.unprepare(named("sharer"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });

  test("one pod's refusal keeps no other pod from starting", async () => {
    await machine();
    await driver.start();
    await pod("first", ["gpus gpu-0"]);
    await pod("rival", ["gpus gpu-0"]);
    await pod("other", ["gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("first"));
    await expect(kubelet.prepare(named("rival"))).rejects.toThrow("is in use by claim team/");
    await kubelet.prepare(named("other"));
    await kubelet.unprepare(named("first"));
    await kubelet.prepare(named("rival"));
  });

  test("DaemonSet with admin access: its pod has the device that another one uses", async () => {
    await machine();
    await driver.start();
    const used = await pod("user", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("user"));
    const looking = await pod("monitor", ["gpus gpu-0 admin", "gpus gpu-1 admin"]);
    await kubelet.prepare(named("monitor"));
    expect(await kubelet.devices(named("user"))).toEqual({ c0: [idOf(used)] });
    expect(await kubelet.devices(named("monitor"))).toEqual({ c0: [idOf(looking)] });
    const late = await pod("late", ["gpus gpu-1"]);
    await kubelet.prepare(named("late"));
    await kubelet.unprepare(named("monitor"));
    expect((await readdir(driver.cdiFolder)).toSorted()).toEqual(
      [used, late].map(({ metadata }) => specFile(metadata.uid!)).toSorted(),
    );
  });

  test("a partition is cut for its pod and goes with it, also over kill -9", async () => {
    await machine("dgx-a100-mig");
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0-mig-3g40gb-9-4"]);
    await kubelet.prepareInTheEnd(named("p"));
    expect(await kubelet.devices(named("p"))).toEqual({ c0: [idOf(claim)] });
    await driver.kill("SIGKILL");
    await driver.start();
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });
});

describe("unpreparing", () => {
  const forceDelete = async (name: string, claim: ResourceClaim): Promise<void> => {
    await admin.request("DELETE", `/api/v1/namespaces/team/pods/${named(name)}`, { body: { gracePeriodSeconds: 0 } });
    await admin.request("DELETE", `/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/${claim.metadata.name}`);
  };

  test("must call NodeUnprepareResources for deleted pod; when it fails, again until it succeeds", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await driver.kill("SIGTERM");
    await forceDelete("p", claim);
    await expect(kubelet.unprepare(named("p"))).rejects.toThrow();
    await driver.start();
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });

  test("must call NodeUnprepareResources for deleted pod after Kubelet restart", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await kubelet.stop();
    await forceDelete("p", claim);
    await kubelet.start();
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });
});

test("two plugins: what one fails or is at is asked for again, over kubelet restarts; ours gives the same answer each time", async () => {
  await machine();
  const other = await startOtherPlugin(driver.kubeletFolder);
  try {
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0"], { of: other.driver });
    const ids = [idOf(claim), `${other.driver}/claim=${claim.metadata.uid}`].toSorted();
    const called = (name: string) => other.calls.filter((call) => call === name).length;
    const given = async () => [...new Set((await kubelet.devices(named("p")))["c0"])].toSorted();
    const restart = async (): Promise<void> => {
      await kubelet.stop();
      await kubelet.start();
    };
    other.behave({ prepare: "fail" });
    await vi.waitFor(
      () => expect(kubelet.prepare(named("p"))).rejects.toThrow("the other plugin cannot prepare"),
      soon,
    );
    other.behave({ prepare: "hang" });
    const prepares = called("prepare");
    const lost = kubelet.prepare(named("p")).catch(() => undefined);
    await vi.waitFor(() => expect(called("prepare")).toBe(prepares + 1), soon);
    await restart();
    other.behave({ prepare: "answer" });
    await kubelet.prepareInTheEnd(named("p"));
    expect(await given()).toEqual(ids);
    other.behave({ unprepare: "fail" });
    await expect(kubelet.unprepare(named("p"))).rejects.toThrow("the other plugin cannot unprepare");
    other.behave({ unprepare: "hang" });
    const unprepares = called("unprepare");
    void kubelet.unprepare(named("p")).catch(() => undefined);
    await vi.waitFor(() => expect(called("unprepare")).toBe(unprepares + 1), soon);
    await restart();
    other.behave({ unprepare: "answer" });
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
    void lost;
  } finally {
    await other.close();
  }
});

describe("update of the driver", () => {
  const count = 8;
  const whole = (name: string, index: number) => pod(name, [`gpus gpu-${index + 1}-mig-7g80gb-0-0`]);

  test("rolling update: the new process registers before the old one leaves, no call fails, the slices stay", async () => {
    await machine("dgx-a100-mig");
    const [old, young] = [driver.inPod("uid-old"), driver.inPod("uid-young")];
    const told = (process: DriverProcess, name: string) =>
      process.log().some((line) => line.includes(`"claim":"team/${named(name)}"`) && line.includes('"prepared"'));
    await old.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(5), soon);
    const before = slicesOf(driver);
    const claims = [
      await pod("first", ["gpus gpu-0-mig-3g40gb-9-4"]),
      await pod("probe", ["gpus gpu-0-mig-3g40gb-9-0"]),
    ];
    const names = Array.from({ length: count - 1 }, (_, index) => `p${index}`);
    for (const [index, name] of names.entries()) claims.push(await whole(name, index));
    await kubelet.prepareInTheEnd(named("first"));
    expect(told(old, "first")).toBe(true);
    const early = names.splice(0, 3).map((name) => kubelet.prepare(named(name)));
    await young.start();
    await Promise.all(early);
    // The kubelet calls the one that came last, as soon as it is connected with it.
    await vi.waitFor(async () => {
      await kubelet.prepare(named("probe"));
      if (told(young, "probe")) return;
      await kubelet.unprepare(named("probe"));
      expect.fail("the old process still gets the calls");
    }, soon);
    await Promise.all([old.kill("SIGTERM"), ...names.map((name) => kubelet.prepare(named(name)))]);
    for (const name of names) expect(told(young, name)).toBe(true);
    const inCheckpoint = await readFile(join(driver.stateFolder, "checkpoint.json"), "utf8");
    for (const { metadata } of claims) expect(inCheckpoint).toContain(metadata.uid);
    expect((await readdir(driver.cdiFolder)).toSorted()).toEqual(
      claims.map(({ metadata }) => specFile(metadata.uid!)).toSorted(),
    );
    expect(slicesOf(driver)).toEqual(before);
    for (const name of ["first", "probe", ...Array.from({ length: count - 1 }, (_, index) => `p${index}`)]) {
      await kubelet.unprepare(named(name));
    }
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });

  test("failed update: the old process goes on, with what the new one prepared", async () => {
    await machine();
    const [old, young] = [driver.inPod("uid-old"), driver.inPod("uid-young")];
    await old.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    const before = slicesOf(driver);
    for (const [index, name] of ["p", "q", "r"].entries()) await pod(name, [`gpus gpu-${index}`]);
    await pod("rival", ["gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("p"));
    await young.start();
    await kubelet.prepare(named("q"));
    await young.kill("SIGKILL");
    await kubelet.prepareInTheEnd(named("r"));
    await expect(kubelet.prepare(named("rival"))).rejects.toThrow("is in use by claim team/");
    // The kubelet finds both again, one of which nobody listens to.
    await kubelet.stop();
    await kubelet.start();
    await kubelet.unprepareInTheEnd(named("q"));
    await kubelet.prepareInTheEnd(named("rival"));
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    expect(slicesOf(driver)[0]?.spec).toEqual(before[0]?.spec);
  });
});

describe("slices", () => {
  test("must be removed on kubelet startup, and come again", async () => {
    await machine();
    await kubelet.stop();
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    const [before] = slicesOf(driver);
    await kubelet.start();
    await vi.waitFor(() => {
      expect(slicesOf(driver)).toHaveLength(1);
      expect(slicesOf(driver)[0]?.metadata.uid).not.toBe(before?.metadata.uid);
    }, soon);
  });

  test("must not be removed if plugin restarts quickly enough", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    const [before] = slicesOf(driver);
    await driver.kill("SIGKILL");
    await driver.start();
    await kubelet.unprepareInTheEnd(named("p"));
    expect(slicesOf(driver)).toEqual([before]);
  });
});

describe("health", () => {
  test("should reflect device health changes in the Pod's status", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0", "gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("p"));
    const told = (first: string, second: string) => ({
      c0: [`claim:gpus ${idOf(claim)} ${first}`, `claim:gpus gpu.kllama.ai/${driver.name}/gpu-1 ${second}`],
    });
    await vi.waitFor(async () => expect(await kubelet.health(named("p"))).toEqual(told("Healthy", "Healthy")), soon);
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    const hardware = join(driver.stateFolder, "simulated-machine.json");
    await writeFile(hardware, JSON.stringify({ instances: [], losses }));
    await vi.waitFor(async () => expect(await kubelet.health(named("p"))).toEqual(told("Healthy", "Unhealthy")), soon);
    await writeFile(hardware, JSON.stringify({ instances: [], losses: {} }));
    await vi.waitFor(async () => expect(await kubelet.health(named("p"))).toEqual(told("Healthy", "Healthy")), soon);
  });

  test("must use one gRPC connection for all calls and for health, also when pods come all at once", async () => {
    await machine();
    await driver.start();
    const names = ["p0", "p1", "p2", "p3"];
    for (const [index, name] of names.entries()) await pod(name, [`gpus gpu-${index}`]);
    await Promise.all(names.map((name) => kubelet.prepareInTheEnd(named(name))));
    // Inodes of accepted connections: state 3 in the kernel's list.
    const connections = async (): Promise<(string | undefined)[]> =>
      (await readFile("/proc/net/unix", "utf8"))
        .split("\n")
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => fields[7] === driver.draSocket && fields[5] === "03")
        .map((fields) => fields[6]);
    const states = async () => Promise.all(names.map(async (name) => (await kubelet.health(named(name)))["c0"]?.[0]));
    const first = await connections();
    expect(first).toHaveLength(1);
    const losses = Object.fromEntries(
      names.map((_, index) => [`gpu-${index}`, { how: "taint", since: "2026-01-01T00:00:00Z" }]),
    );
    await writeFile(join(driver.stateFolder, "simulated-machine.json"), JSON.stringify({ instances: [], losses }));
    await vi.waitFor(async () => {
      for (const state of await states()) expect(state).toMatch(/ Unhealthy$/);
    }, soon);
    await Promise.all(names.map((name) => kubelet.unprepare(named(name))));
    expect(await connections()).toEqual(first);
  });

  test("should update health to Unknown when plugin stops and recover upon restart", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    const state = async () => (await kubelet.health(named("p")))["c0"]?.map((line) => line.split(" ").at(-1));
    await vi.waitFor(async () => expect(await state()).toEqual(["Healthy"]), soon);
    await driver.kill("SIGKILL");
    await vi.waitFor(async () => expect(await state()).toEqual(["Unknown"]), { timeout: 45_000, interval: 500 });
    await driver.start();
    await vi.waitFor(async () => expect(await state()).toEqual(["Healthy"]), soon);
  });
});

describe("what takes the kubelet long", () => {
  test("slices must be removed if plugin stops after registration; they come again with it", async () => {
    ({ driver, kubelet } = left);
    // The kubelet waits half a minute for the driver to come back.
    await vi.waitFor(() => expect(slicesOf(driver)).toEqual([]), { timeout: 60_000, interval: 500 });
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
  });

  test("must keep pod in pending state if NodePrepareResources times out; the call stops, and the next one succeeds", async () => {
    ({ driver, kubelet } = stuck);
    const refusal = await stuck.refusal;
    expect(refusal?.message).toContain("DeadlineExceeded");
    const before = await readdir(driver.cdiFolder);
    expect(before).toHaveLength(1);
    driver.freeze(false);
    await vi.waitFor(() => expect(driver.log().join("\n")).toContain("the call was cancelled"), soon);
    expect(await readdir(driver.cdiFolder)).toEqual(before);
    await kubelet.prepareInTheEnd(named("slow"));
    expect(await readdir(driver.cdiFolder)).toHaveLength(2);
  });
});
