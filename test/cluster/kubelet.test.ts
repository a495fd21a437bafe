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

/**
 * The kubelet's own code is the judge: its plugin manager finds the driver's sockets, its DRA manager prepares pods with it.
 * The cases are those of Kubernetes' `test/e2e_node/dra_test.go` and, for updates of the driver, of `test/e2e/dra/dra.go`;
 * docs/driver.md has the whole list. `npm run kubelet` plays them with both versions of Kubernetes, the slow ones as well.
 */
const wanted = process.env["KLLAMA_KUBELET"];
const version = wanted === "1.37.1" ? wanted : "1.36.3";

let plane: ControlPlane;
let admin: KubeClient;
let slices: Followed<ResourceSlice>;
let driver: DriverNode;
let kubelet: KubeletJudge;
let number = 0;

const soon = { timeout: 10_000, interval: 50 };
const slicesOf = ({ name }: DriverNode): ResourceSlice[] =>
  [...slices.items.values()].filter(({ spec }) => spec.nodeName === name);
const idOf = (claim: ResourceClaim, request = "gpus"): string => `gpu.kllama.ai/claim=${claim.metadata.uid}-${request}`;

/** A Node with the driver's folders and a kubelet that runs. */
async function machine(type = "dgx-h100"): Promise<void> {
  driver = await createDriverNode(plane, admin, `judged-${++number}`, type);
  const folders = { kubelet: driver.kubeletFolder, state: join(driver.stateFolder, "kubelet") };
  kubelet = await openKubeletJudge(version, plane.admin.path, driver.name, folders);
  await kubelet.start();
}

/** A pod on the node, with one claim on these devices, reserved for it. */
async function pod(
  name: string,
  results: string[],
  more: { requests?: (string | undefined)[] } = {},
): Promise<ResourceClaim> {
  const claim = await allocateClaim(admin, driver.name, `${driver.name}-${name}`, results);
  const { requests = [undefined] } = more;
  await reserveFor(admin, claim, `${driver.name}-${name}`, {
    nodeName: driver.name,
    resourceClaims: [{ name: "gpus", resourceClaimName: claim.metadata.name }],
    containers: requests.map((request, index) => ({
      name: `c${index}`,
      image: "registry.k8s.io/pause:3.10",
      resources: { claims: [{ name: "gpus", ...(request === undefined ? {} : { request }) }] },
    })),
  });
  return claim;
}
const named = (name: string): string => `${driver.name}-${name}`;

beforeAll(async () => {
  plane = await startControlPlane({ components: [], version });
  admin = createClient(await loadConnection({ kubeconfigPath: plane.admin.path }));
  await installManifests(admin, ["deploy/rbac.yaml", "deploy/device-classes.yaml"]);
  await admin.request("POST", "/api/v1/namespaces", { body: { metadata: { name: "team" } } });
  await admin.request("POST", "/api/v1/namespaces/team/serviceaccounts", { body: { metadata: { name: "default" } } });
  slices = await follow(admin, "/apis/resource.k8s.io/v1/resourceslices");
});

afterEach(async () => {
  await kubelet.close();
  await driver.remove();
});

afterAll(async () => {
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
  test("must run pod if NodeUnprepareResources fails and then succeeds", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await driver.kill("SIGTERM");
    await expect(kubelet.unprepare(named("p"))).rejects.toThrow();
    await driver.start();
    await kubelet.unprepareInTheEnd(named("p"));
  });

  test("must call NodeUnprepareResources for deleted pod after Kubelet restart", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await kubelet.stop();
    await admin.request("DELETE", `/api/v1/namespaces/team/pods/${named("p")}`, { body: { gracePeriodSeconds: 0 } });
    await admin.request("DELETE", `/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/${claim.metadata.name}`);
    await kubelet.start();
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toEqual([]);
  });
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

  test("must be removed if plugin stops after registration", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    await driver.kill("SIGTERM");
    // The kubelet waits half a minute for the driver to come back.
    await vi.waitFor(() => expect(slicesOf(driver)).toEqual([]), { timeout: 60_000, interval: 500 });
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
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
