import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { ResourceClaim, ResourceSlice } from "../../src/api/kubernetes.ts";
import { type CdiSpec, specFile } from "../../src/dra/driver/cdi.ts";
import { type KubeletJudge, openKubeletJudge } from "../judge/kubelet/judge.ts";
import { type DriverNode, type DriverProcess, readClaim, socketsOfPod } from "../support/driver-node.ts";
import {
  cdiIdOf as idOf,
  type JudgedMachine,
  judgedVersion,
  type KubeletScene,
  openKubeletScene,
  soon,
} from "../support/kubelet-scene.ts";
import { machineGpus } from "../support/machine-gpus.ts";
import { startOtherPlugin } from "../support/other-plugin.ts";
import { startRegistrar } from "../support/registrar.ts";

/**
 * The kubelet's own code is the judge: its plugin manager finds the driver's sockets, its DRA manager prepares pods with it.
 * The cases are those of Kubernetes' `test/e2e_node/dra_test.go` and, as far as they concern a driver on its node, of
 * `test/e2e/dra/dra.go`; docs/driver.md has the whole list. `npm run kubelet` plays them on Kubernetes 1.37.
 */
const version = judgedVersion(process.env["KLLAMA_KUBELET"] ?? "1.36.3");

let scene: KubeletScene;
let driver: DriverNode;
let kubelet: KubeletJudge;
/** What takes the kubelet long begins at once, and is judged at the end. */
let left: JudgedMachine;
let stuck: JudgedMachine & { refusal: Promise<Error | undefined> };
let quick: JudgedMachine & { before: ResourceSlice[]; killedMs: number };

/** How long the kubelet waits for a driver to come back before it deletes its slices. */
const wipeMs = 30_000;
const marginMs = 5_000;

async function machine(type?: string, flags?: readonly string[]): Promise<void> {
  ({ driver, kubelet } = await scene.machine(type, flags));
}
const slicesOf = (of: DriverNode): ResourceSlice[] => scene.slicesOf(of);
const pod = (name: string, results: string[], more?: Parameters<KubeletScene["pod"]>[3]): Promise<ResourceClaim> =>
  scene.pod(driver, name, results, more);
const named = (name: string): string => `${driver.name}-${name}`;

beforeAll(async () => {
  scene = await openKubeletScene(version, ["kube-scheduler"]);
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
  await machine("h100-pcie");
  await driver.start();
  await pod("p", ["gpus gpu-0"]);
  await kubelet.prepareInTheEnd(named("p"));
  await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
  const before = slicesOf(driver);
  const killedMs = performance.now();
  await driver.kill("SIGKILL");
  await driver.start();
  quick = { driver, kubelet, before, killedMs };
});

afterEach(async () => {
  await kubelet.close();
  await driver.remove();
});

afterAll(async () => {
  for (const each of [left, stuck, quick]) {
    await each?.kubelet.close();
    await each?.driver.remove();
  }
  await scene?.close();
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

  test("killed with kill -9 and back in its pod the driver is registered, each time under a name that the kubelet does not know", async () => {
    await machine();
    const inPod = driver.inPod("uid");
    await inPod.start();
    const kills = 5;
    for (let index = 0; index <= kills; index++) await pod(`p${index}`, [`gpus gpu-${index}`]);
    await kubelet.prepareInTheEnd(named("p0"));
    const socket = () => socketsOfPod(driver.kubeletFolder, "uid").registration;
    for (let index = 1; index <= kills; index++) {
      const known = socket();
      await inPod.kill("SIGKILL");
      await inPod.start();
      // What it finds under a name that it knows takes the kubelet another look.
      expect(socket()).not.toBe(known);
      await kubelet.prepareInTheEnd(named(`p${index}`));
    }
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

  test("must recover after NotifyRegistrationStatus failure; be functional when plugin starts to listen after registration, and after service reconnect", async () => {
    await machine();
    const registry = join(driver.kubeletFolder, "apart");
    const registrar = await startRegistrar(registry, driver.draSocket);
    const folders = { kubelet: registry, state: join(driver.stateFolder, "kubelet") };
    await kubelet.close();
    kubelet = await openKubeletJudge(version, scene.kubeconfig, driver.name, folders);
    try {
      registrar.refuse(true);
      await kubelet.start();
      await vi.waitFor(() => expect(registrar.notified).toContain("refused"), soon);
      await pod("p", ["gpus gpu-0"]);
      await expect(kubelet.prepare(named("p"))).rejects.toThrow("gpu.kllama.ai");
      registrar.refuse(false);
      await vi.waitFor(() => expect(registrar.notified).toContain("registered"), soon);
      await driver.start();
      await kubelet.prepareInTheEnd(named("p"));
      await driver.kill("SIGKILL");
      await driver.start();
      await kubelet.unprepareInTheEnd(named("p"));
      expect(await readdir(driver.cdiFolder)).toEqual([]);
    } finally {
      await registrar.close();
    }
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
    await scene.admin.request("DELETE", `/api/v1/namespaces/team/pods/${named(name)}`, {
      body: { gracePeriodSeconds: 0 },
    });
    await scene.admin.request(
      "DELETE",
      `/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/${claim.metadata.name}`,
    );
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
    // Until the kubelet has given up the one that is gone it may still turn to that.
    const refusal = () => expect(kubelet.prepare(named("rival"))).rejects.toThrow("is in use by claim team/");
    await vi.waitFor(refusal, soon);
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
});

describe("health", () => {
  test("should reflect device health changes in the Pod's status, with messages of its own", async () => {
    await machine();
    await driver.start();
    const claim = await pod("p", ["gpus gpu-0", "gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("p"));
    const told = (first: string, second: string) => ({
      c0: [`claim:gpus ${idOf(claim)} ${first}`, `claim:gpus gpu.kllama.ai/${driver.name}/gpu-1 ${second}`],
    });
    await vi.waitFor(async () => expect(await kubelet.health(named("p"))).toEqual(told("Healthy", "Healthy")), soon);
    const lost = "Unhealthy lost since 2026-01-01T00:00:00Z";
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    const hardware = join(driver.stateFolder, "simulated-machine.json");
    await writeFile(hardware, JSON.stringify({ instances: [], losses }));
    await vi.waitFor(async () => expect(await kubelet.health(named("p"))).toEqual(told("Healthy", lost)), soon);
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
      for (const state of await states()) expect(state).toMatch(/ Unhealthy lost since /);
    }, soon);
    await Promise.all(names.map((name) => kubelet.unprepare(named(name))));
    expect(await connections()).toEqual(first);
  });

  test("should update health to Unknown when plugin stops and recover upon restart; should automatically reconnect both", async () => {
    await machine();
    await driver.start();
    await pod("p", ["gpus gpu-0"]);
    await kubelet.prepareInTheEnd(named("p"));
    const state = async (of = "p") => (await kubelet.health(named(of)))["c0"]?.map((line) => line.split(" ")[2]);
    await vi.waitFor(async () => expect(await state()).toEqual(["Healthy"]), soon);
    await driver.kill("SIGKILL");
    await vi.waitFor(async () => expect(await state()).toEqual(["Unknown"]), { timeout: 45_000, interval: 500 });
    await driver.start();
    await vi.waitFor(async () => expect(await state()).toEqual(["Healthy"]), soon);
    await pod("q", ["gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("q"));
    await vi.waitFor(async () => expect(await state("q")).toEqual(["Healthy"]), soon);
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    await writeFile(join(driver.stateFolder, "simulated-machine.json"), JSON.stringify({ instances: [], losses }));
    await vi.waitFor(async () => expect(await state("q")).toEqual(["Unhealthy"]), soon);
    expect(await state()).toEqual(["Healthy"]);
  });
});

describe("what kube-scheduler gives by the driver's slices", () => {
  const partitions = (count: number, more: object = {}) => ({
    name: "gpus",
    exactly: {
      deviceClassName: "mig.kllama.ai",
      count,
      selectors: [{ cel: { expression: 'device.attributes["gpu.kllama.ai"].profile == "7g.80gb"' } }],
      ...more,
    },
  });
  const opened = async (type: string, flags?: readonly string[]): Promise<void> => {
    await machine(type, flags);
    await scene.openForPods(driver);
  };
  const ask = (name: string, devices: object, requests?: string[]) => scene.ask(driver, name, devices, requests);
  const placed = (name: string) => scene.until(driver, name, "Scheduled");
  const refused = (name: string) => scene.until(driver, name, "Unschedulable");

  test("must consume and free up counters", async () => {
    await opened("dgx-a100-mig");
    await driver.start();
    await ask("whole", { requests: [partitions(8)] });
    await placed("whole");
    await kubelet.prepareInTheEnd(named("whole"));
    const part = await ask("part", { requests: [{ name: "gpus", exactly: { deviceClassName: "mig.kllama.ai" } }] });
    await refused("part");
    await kubelet.unprepare(named("whole"));
    await scene.giveBack(driver, "whole");
    await placed("part");
    await kubelet.prepare(named("part"));
    expect(await kubelet.devices(named("part"))).toEqual({ c0: [idOf(part)] });
    expect(await readdir(driver.cdiFolder)).toEqual([specFile(part.metadata.uid!)]);
  });

  test("filters config correctly for multiple devices", async () => {
    await opened("dgx-h100");
    await driver.start();
    const gpus = (count: number) => ({ deviceClassName: "gpu.kllama.ai", count });
    const share = (request: string, defaultActiveThreadPercentage: number) => ({
      requests: [request],
      opaque: {
        driver: "gpu.kllama.ai",
        parameters: {
          ...{ apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig" },
          sharing: { strategy: "MPS", mpsConfig: { defaultActiveThreadPercentage } },
        },
      },
    });
    const firstAvailable = [
      { name: "many", ...gpus(20) },
      { name: "one", ...gpus(1) },
    ];
    const claim = await ask(
      "p",
      {
        requests: [
          { name: "first", firstAvailable },
          { name: "second", exactly: gpus(1) },
        ],
        config: [share("first", 10), share("first/many", 20), share("first/one", 30), share("second", 40)],
      },
      ["first", "second"],
    );
    await placed("p");
    await kubelet.prepareInTheEnd(named("p"));
    expect(await kubelet.devices(named("p"))).toEqual({ c0: [idOf(claim, "first")], c1: [idOf(claim, "second")] });
    const text = await readFile(join(driver.cdiFolder, specFile(claim.metadata.uid!)), "utf8");
    const { devices } = JSON.parse(text) as CdiSpec;
    const shares = devices.map(({ containerEdits }) => containerEdits.env.find((each) => each.includes("PERCENTAGE")));
    expect(shares).toEqual([30, 40].map((share) => `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=${share}`));
  });

  test("takes the first that match, and by their order that is one NVLink domain after the other", async () => {
    const folder = await mkdtemp(join(tmpdir(), "kllama-crossed-"));
    const fleet = join(folder, "fleet.yaml");
    // The bridges of the four boards crosswise: 0 and 2, 1 and 3.
    let slot = 0;
    const text = await readFile("fleets/default.yaml", "utf8");
    await writeFile(
      fleet,
      text.replaceAll(/bridge: \d/g, () => `bridge: ${slot++ % 2}`),
    );
    await opened("h100-pcie", ["--fleet", fleet]);
    await driver.start();
    const two = { requests: [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 2 } }] };
    const given: string[][] = [];
    for (const name of ["p", "q"]) {
      const { metadata } = await ask(name, two);
      await placed(name);
      await kubelet.prepareInTheEnd(named(name));
      const { status } = await readClaim(scene.admin, metadata.name);
      given.push((status?.allocation?.devices?.results ?? []).map(({ device }) => device).toSorted());
    }
    expect(given).toEqual([
      ["gpu-0", "gpu-2"],
      ["gpu-1", "gpu-3"],
    ]);
    await rm(folder, { recursive: true });
  });

  test("NoSchedule and NoExecute keep pods pending; who tolerates them gets what can be prepared", async () => {
    await opened("dgx-a100-mig");
    const [first] = machineGpus("dgx-a100-mig", driver.name);
    const hardware = join(driver.stateFolder, "simulated-machine.json");
    const foreign = { gpu: first!.uuid, id: 1, profileId: 0, start: 0, size: 8 };
    const losses = { "gpu-1": { how: "taint", since: "2026-01-01T00:00:00Z" } };
    await writeFile(hardware, JSON.stringify({ instances: [foreign], losses }));
    await driver.start();
    const taints = () =>
      new Set(
        slicesOf(driver)
          .flatMap(({ spec }) => spec.devices ?? [])
          .flatMap(({ taints }) => taints?.map(({ key, effect }) => `${key} ${effect}`) ?? []),
      );
    await vi.waitFor(
      () =>
        expect(taints()).toEqual(
          new Set(["gpu.kllama.ai/foreign-partition NoSchedule", "gpu.kllama.ai/gpu-lost NoExecute"]),
        ),
      soon,
    );
    await ask("all", { requests: [partitions(7)] });
    await refused("all");
    await ask("well", { requests: [partitions(6)] });
    await placed("well");
    await kubelet.prepareInTheEnd(named("well"));
    await ask("bold", { requests: [partitions(2, { tolerations: [{ operator: "Exists" }] })] });
    await placed("bold");
    await expect(kubelet.prepare(named("bold"))).rejects.toThrow("device gpu-1-mig-7g80gb-0-0 is lost");
    const repaired = async (
      change: (state: { instances: { id: number; gpu: string }[]; losses: object }) => object,
    ) => {
      await writeFile(hardware, JSON.stringify(change(JSON.parse(await readFile(hardware, "utf8")))));
    };
    await repaired((state) => ({ ...state, losses: {} }));
    await vi.waitFor(() => expect(kubelet.prepare(named("bold"))).rejects.toThrow("was not made by kllama"), soon);
    await repaired((state) => ({ ...state, instances: state.instances.filter(({ gpu }) => gpu !== first!.uuid) }));
    await kubelet.prepareInTheEnd(named("bold"));
  });
});

describe("what takes the kubelet long", () => {
  test("slices must be removed if plugin stops after registration; they come again with it, and what was prepared is unprepared", async () => {
    ({ driver, kubelet } = left);
    // The kubelet waits half a minute for the driver to come back.
    await vi.waitFor(() => expect(slicesOf(driver)).toEqual([]), { timeout: 60_000, interval: 500 });
    await driver.start();
    await vi.waitFor(() => expect(slicesOf(driver)).toHaveLength(1), soon);
    await pod("q", ["gpus gpu-1"]);
    await kubelet.prepareInTheEnd(named("q"));
    await kubelet.unprepareInTheEnd(named("p"));
    expect(await readdir(driver.cdiFolder)).toHaveLength(1);
  });

  test("slices must not be removed if plugin restarts quickly enough", async () => {
    ({ driver, kubelet } = quick);
    const leftMs = wipeMs + marginMs - (performance.now() - quick.killedMs);
    if (leftMs > 0) await new Promise((resolve) => setTimeout(resolve, leftMs));
    expect(slicesOf(driver)).toEqual(quick.before);
    await kubelet.unprepareInTheEnd(named("p"));
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
