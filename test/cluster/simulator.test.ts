import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device, KubernetesObject, Node, Pod, ResourceClaim, ResourceSlice } from "../../src/api/kubernetes.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { parseFleet } from "../../src/simulator/fleet.ts";
import { type FleetHandle, startFleet } from "../../src/simulator/fleet-agent.ts";
import { nodeSlices } from "../../src/simulator/objects.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { counted } from "../support/counted.ts";
import { type Followed, follow } from "../support/follow.ts";

/** Stock kube-scheduler, no kllama: what the simulator publishes must be right by Kubernetes' own reading. */

type Event = KubernetesObject & { reason: string; note: string; regarding: { name: string } };

const namespace = "fleet";
const core = (resource: string) => ({ group: "", version: "v1", resource });
const resource = (name: string) => ({ group: "resource.k8s.io", version: "v1", resource: name });
const podPath = (name?: string) => resourcePath({ ...core("pods"), namespace, name });
const claimPath = (name?: string, subresource?: string) =>
  resourcePath({ ...resource("resourceclaims"), namespace, name, subresource });

let controlPlane: ControlPlane;
let admin: KubeClient;
let account: KubeClient;
let fleet: FleetHandle;
let publishedMs = 0;
/** Everything the simulator's account has asked to change. */
const writes: string[] = [];
/** What the simulator has logged as warnings and errors. */
const logged: string[] = [];
const followed: {
  nodes: Followed<Node>;
  slices: Followed<ResourceSlice>;
  pods: Followed<Pod>;
  claims: Followed<ResourceClaim>;
  events: Followed<Event>;
} = {} as never;

const definition = parseFleet(readFileSync("fleets/default.yaml", "utf8"), "fleets/default.yaml");

beforeAll(async () => {
  controlPlane = await startControlPlane();
  const kubectl = (...args: string[]) =>
    promisify(execFile)(controlPlane.binaries.kubectl, ["--kubeconfig", controlPlane.admin.path, ...args]);
  const manifests = ["deploy/rbac.yaml", "deploy/simulator/rbac.yaml", "deploy/device-classes.yaml"];
  await kubectl("apply", "--server-side", ...manifests.flatMap((file) => ["-f", file]));
  await kubectl("create", "namespace", namespace);
  admin = createClient(await loadConnection({ kubeconfigPath: controlPlane.admin.path }));
  followed.nodes = await follow(admin, resourcePath(core("nodes")));
  followed.slices = await follow(admin, resourcePath(resource("resourceslices")));
  followed.pods = await follow(admin, podPath());
  followed.claims = await follow(admin, claimPath());
  followed.events = await follow(admin, "/apis/events.k8s.io/v1/events");
  const { path } = await controlPlane.serviceAccountKubeconfig("kllama-system", "kllama-simulator");
  account = counted(createClient(await loadConnection({ kubeconfigPath: path }), { maxConnections: 32 }), writes);
  const startedAt = performance.now();
  fleet = await start();
  publishedMs = performance.now() - startedAt;
});

afterAll(async () => {
  await fleet?.stop();
  await Promise.all(Object.values(followed).map((collection) => collection.stop()));
  await Promise.all([account?.close(), admin?.close()]);
  await controlPlane?.stop();
});

function start(options: { deviceStatus?: boolean } = {}): Promise<FleetHandle> {
  const line = (fields: object, message: string) => void logged.push(`${message} ${JSON.stringify(fields)}`);
  return startFleet({
    client: account,
    fleet: definition,
    log: { info: () => {}, warn: line, error: line },
    ...options,
  });
}

interface Wish {
  deviceClassName?: string;
  count?: number;
  selector?: string;
  matchAttribute?: string;
}

async function createClaim(name: string, wish: Wish): Promise<void> {
  const { deviceClassName = "gpu.kllama.ai", count = 1, selector, matchAttribute } = wish;
  const selectors = selector === undefined ? [] : [{ cel: { expression: selector } }];
  const constraints = matchAttribute === undefined ? [] : [{ requests: ["gpus"], matchAttribute }];
  const requests = [{ name: "gpus", exactly: { deviceClassName, count, selectors } }];
  await admin.request("POST", claimPath(), {
    body: {
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name, namespace },
      spec: { devices: { requests, constraints } },
    },
  });
}

interface PodWish {
  nodeName?: string;
  annotations?: Record<string, string>;
}

async function createPod(name: string, claim: string, wish: PodWish = {}): Promise<Pod> {
  const { nodeName, annotations = {} } = wish;
  return admin.request<Pod>("POST", podPath(), {
    body: {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, namespace, annotations },
      spec: {
        ...(nodeName === undefined ? {} : { nodeName }),
        terminationGracePeriodSeconds: 0,
        resourceClaims: [{ name: "gpus", resourceClaimName: claim }],
        containers: [{ name: "main", image: "none", resources: { claims: [{ name: "gpus" }] } }],
        tolerations: ["unreachable", "not-ready"].map((key) => ({
          key: `node.kubernetes.io/${key}`,
          operator: "Exists",
          effect: "NoExecute",
          tolerationSeconds: 0,
        })),
      },
    },
  });
}

/** Writes an allocation as an allocator with the power to do wrong would. */
async function allocate(claim: string, node: string, devices: readonly string[], pod: Pod): Promise<void> {
  const results = devices.map((device) => ({ request: "gpus", driver: "gpu.kllama.ai", pool: node, device }));
  await admin.request("PATCH", claimPath(claim, "status"), {
    body: {
      status: {
        allocation: { devices: { results } },
        reservedFor: [{ resource: "pods", name: pod.metadata.name, uid: pod.metadata.uid }],
      },
    },
  });
}

/** A pod that is bound by hand to devices that are chosen by hand. */
async function force(name: string, node: string, devices: readonly string[]): Promise<void> {
  await createClaim(name, { count: devices.length });
  await allocate(name, node, devices, await createPod(name, name, { nodeName: node }));
}

const isAt =
  (ready: "True" | "Unknown") =>
  (node: Node): boolean =>
    node.status?.conditions?.find((c) => c.type === "Ready")?.status === ready;

const isReady = (pod: Pod | undefined) =>
  pod?.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True");

function ready(name: string): Promise<Pod> {
  return followed.pods.until(`pod ${name} ready`, (items) => {
    const pod = items.get(`${namespace}/${name}`);
    return isReady(pod) ? pod : undefined;
  });
}

function gone(name: string): Promise<true> {
  return followed.pods.until(`pod ${name} gone`, (items) => (items.has(`${namespace}/${name}`) ? undefined : true));
}

async function allocated(claim: string): Promise<{ node: string; devices: Device[] }> {
  const { status } = await admin.request<ResourceClaim>("GET", claimPath(claim));
  const results = status?.allocation?.devices?.results ?? [];
  const [first] = results;
  const slices = [...followed.slices.items.values()].filter((slice) => slice.spec.pool.name === first?.pool);
  const devices = results.map(({ device }) =>
    slices.flatMap((slice) => slice.spec.devices ?? []).find((candidate) => candidate.name === device),
  );
  return { node: first?.pool ?? "", devices: devices as Device[] };
}

const values = (devices: readonly Device[], attribute: string) =>
  new Set(devices.map((device) => device.attributes?.[attribute]?.string));

function slicesOf(node: string, items = followed.slices.items): ResourceSlice[] {
  return [...items.values()].filter((slice) => slice.spec.nodeName === node);
}

/** Claims linger until kube-controller-manager has deallocated them. */
async function removeClaims(...names: string[]): Promise<void> {
  for (const name of names) await admin.request("DELETE", claimPath(name));
  await followed.claims.until("claims gone", (items) =>
    names.some((name) => items.has(`${namespace}/${name}`)) ? undefined : true,
  );
}

async function remove(...names: string[]): Promise<void> {
  for (const name of names) await admin.request("DELETE", podPath(name));
  for (const name of names) await gone(name);
  await removeClaims(...names);
}

describe("the default fleet is published", () => {
  test("as 68 ready nodes and 100 slices with every field kept", async () => {
    const slices = await followed.slices.until("100 slices", (items) => (items.size === 100 ? items : undefined));
    const nodes = await followed.nodes.until("68 ready nodes", (items) =>
      items.size === 68 && [...items.values()].every(isAt("True")) ? items : undefined,
    );
    for (const node of fleet.nodes) {
      const stored = nodes.get(node.name);
      for (const slice of nodeSlices(node, { nodeUid: stored?.metadata.uid ?? "", generation: 1 })) {
        const kept = slices.get(slice.metadata.name);
        expect(kept?.spec).toEqual(slice.spec);
        expect(kept?.metadata.ownerReferences).toEqual(slice.metadata.ownerReferences);
      }
    }
    expect(publishedMs).toBeLessThan(30_000);
  });

  test("again over what is there without a single write", async () => {
    writes.length = 0;
    await (await start()).stop();
    expect(writes).toEqual([]);
  });
});

describe("stock kube-scheduler allocates, the simulator prepares, the pod is ready", () => {
  test.each<[string, Wish, number, (devices: Device[]) => void]>([
    ["one GPU", {}, 1, () => {}],
    [
      "four GPUs of one NVLink domain",
      { count: 4, matchAttribute: "gpu.kllama.ai/nvlinkDomain" },
      4,
      (devices) => expect(values(devices, "nvlinkDomain").size).toBe(1),
    ],
    [
      "a bridge pair",
      {
        count: 2,
        matchAttribute: "gpu.kllama.ai/nvlinkDomain",
        selector: "device.attributes['gpu.kllama.ai'].productName == 'NVIDIA H100 PCIe'",
      },
      2,
      (devices) => expect([...values(devices, "nvlinkDomain")]).toEqual([expect.stringMatching(/\.bridge-[01]$/)]),
    ],
    [
      "one MIG slice",
      {
        deviceClassName: "mig.kllama.ai",
        selector: "device.attributes['gpu.kllama.ai'].profile == '1g.10gb'",
      },
      1,
      (devices) => expect([...values(devices, "profile")]).toEqual(["1g.10gb"]),
    ],
    [
      "seven MIG slices of one GPU",
      {
        deviceClassName: "mig.kllama.ai",
        count: 7,
        selector: "device.attributes['gpu.kllama.ai'].profile == '1g.10gb'",
        matchAttribute: "gpu.kllama.ai/parentUUID",
      },
      7,
      (devices) => expect(values(devices, "parentUUID").size).toBe(1),
    ],
    [
      "GPUs with enough memory, by capacity and version",
      {
        count: 4,
        selector:
          "device.capacity['gpu.kllama.ai'].memory.compareTo(quantity('100Gi')) >= 0 && device.attributes['gpu.kllama.ai'].cudaComputeCapability.isGreaterThan(semver('9.0.0'))",
      },
      4,
      (devices) => expect([...values(devices, "productName")]).toEqual(["NVIDIA GB200"]),
    ],
  ])("%s", async (title, wish, count, check) => {
    // Names of their own: kube-scheduler may still see the last claim of a name when a pod of that name comes back.
    const name = title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
    await createClaim(name, wish);
    writes.length = 0;
    await createPod(name, name);
    const pod = await ready(name);
    const { node, devices } = await allocated(name);
    expect(devices).toHaveLength(count);
    check(devices);
    expect(pod.spec.nodeName).toBe(node);
    expect(pod.metadata.annotations?.["simulator.kllama.ai/prepared"]).toBe("true");
    expect(writes).toEqual([`PATCH ${podPath(name)}`]);
    // The driver's code has cut them out of simulated boards.
    expect(fleet.stats().partitions).toBe(wish.deviceClassName === "mig.kllama.ai" ? count : 0);
    await remove(name);
    await expect.poll(() => fleet.stats().partitions, { timeout: 20_000 }).toBe(0);
    expect(fleet.violations).toEqual([]);
  });

  test("more 2g slices of one GPU than it has room for are never allocated", async () => {
    await createClaim("four-2g", {
      deviceClassName: "mig.kllama.ai",
      count: 4,
      selector: "device.attributes['gpu.kllama.ai'].profile == '2g.20gb'",
      matchAttribute: "gpu.kllama.ai/parentUUID",
    });
    await createPod("four-2g", "four-2g");
    await followed.pods.until("unschedulable", (items) =>
      items
        .get(`${namespace}/four-2g`)
        ?.status?.conditions?.find((c) => c.type === "PodScheduled" && c.reason === "Unschedulable"),
    );
    await remove("four-2g");
  });
});

describe("double use is reported, and the second pod waits for the first", () => {
  test.each<[string, string[], string[], string]>([
    ["the same GPU", ["gpu-0"], ["gpu-0"], "DeviceInUse"],
    ["a GPU and one of its partitions", ["gpu-1"], ["gpu-1-mig-1g10gb-19-0"], "CounterExceeded"],
    ["partitions that overlap", ["gpu-2-mig-3g40gb-9-0"], ["gpu-2-mig-1g10gb-19-3"], "CounterExceeded"],
  ])("%s", async (_, first, second, kind) => {
    const before = fleet.violations.length;
    await force("first", "a100-0-00", first);
    await ready("first");
    await force("second", "a100-0-00", second);
    const event = await followed.events.until(`event ${kind}`, (items) =>
      [...items.values()].find(
        (e) => e.reason === kind && e.note.includes(second[0]!) && e.regarding.name === "second",
      ),
    );
    expect(event.note).toContain("by claim fleet/first of pod first");
    const refusal = await followed.events.until("what the driver says", (items) =>
      [...items.values()].find(
        (e) => e.reason === "FailedPrepareDynamicResources" && e.note.includes(`/${second[0]} `),
      ),
    );
    expect(refusal.note).toBe(`device a100-0-00/${second[0]} is in use by claim fleet/first`);
    expect(fleet.violations.slice(before)).toEqual([
      expect.objectContaining({ kind, pod: "second", node: "a100-0-00" }),
    ]);
    expect(isReady(followed.pods.items.get(`${namespace}/second`))).toBeFalsy();
    await remove("first");
    await ready("second");
    expect(fleet.violations).toHaveLength(before + 1);
    await remove("second");
  });

  test("a restart remembers what runs", async () => {
    await force("first", "a100-0-01", ["gpu-0"]);
    await ready("first");
    await fleet.stop();
    fleet = await start();
    expect(fleet.stats()).toMatchObject({ preparedClaims: 1, startedPods: 0, violations: 0 });
    await force("second", "a100-0-01", ["gpu-0"]);
    await followed.events.until("event", (items) =>
      [...items.values()].find((e) => e.reason === "DeviceInUse" && e.note.includes("a100-0-01/gpu-0")),
    );
    expect(fleet.violations).toHaveLength(1);
    await remove("first", "second");
  });
});

describe("faults", () => {
  test("preparation fails by annotation, until it is removed", async () => {
    await createClaim("unlucky", {});
    await createPod("unlucky", "unlucky", { annotations: { "simulator.kllama.ai/fail-prepare": "no CDI" } });
    await followed.events.until("event", (items) =>
      [...items.values()].find((e) => e.reason === "FailedPrepareDynamicResources" && e.note === "no CDI"),
    );
    expect(isReady(followed.pods.items.get(`${namespace}/unlucky`))).toBeFalsy();
    const annotations = { "simulator.kllama.ai/fail-prepare": null };
    await admin.request("PATCH", podPath("unlucky"), { body: { metadata: { annotations } } });
    await ready("unlucky");
    await remove("unlucky");
  });

  test("preparation fails through the handle, until it is taken back", async () => {
    fleet.failPrepare(namespace, "cursed", "hung");
    await createClaim("cursed", {});
    await createPod("cursed", "cursed");
    await followed.events.until("event", (items) => [...items.values()].find((e) => e.note === "hung"));
    fleet.failPrepare(namespace, "cursed", undefined);
    await ready("cursed");
    await remove("cursed");
  });

  test("a pod without an allocation waits and says so", async () => {
    await createClaim("early", {});
    const pod = await createPod("early", "early", { nodeName: "h100-0-00" });
    await followed.events.until("event", (items) =>
      [...items.values()].find((e) => e.reason === "FailedPrepareDynamicResources" && e.regarding.name === "early"),
    );
    expect(fleet.waiting()).toMatchObject([{ kind: "NotAllocated", pod: "early" }]);
    await allocate("early", "h100-0-00", ["gpu-3"], pod);
    await ready("early");
    await remove("early");
  });

  test("a lost device is tainted in the same generation, its pod evicted, and nothing new placed on it", async () => {
    await force("holder", "h100-0-00", ["gpu-5"]);
    await ready("holder");
    await fleet.loseDevice("h100-0-00", "gpu-5");
    await gone("holder");
    const slice = await followed.slices.until("the device is tainted", (items) =>
      slicesOf("h100-0-00", items).find(({ spec }) => spec.devices?.[5]?.taints?.[0]?.key === "gpu.kllama.ai/gpu-lost"),
    );
    expect(slice.spec.pool.generation).toBe(1);
    writes.length = 0;
    await (await start()).stop();
    expect(writes).toEqual([]);
    await fleet.restoreDevice("h100-0-00", "gpu-5");
    const restored = await admin.request<ResourceSlice>(
      "GET",
      resourcePath({ ...resource("resourceslices"), name: slice.metadata.name }),
    );
    expect(restored.spec.devices?.[5]?.taints).toBeUndefined();
    await removeClaims("holder");
  });

  test("a vanished MIG GPU brings a complete new generation", async () => {
    await fleet.loseDevice("a100-1-03", "gpu-0", "remove");
    const slices = await followed.slices.until("generation 2", (items) => {
      const found = slicesOf("a100-1-03", items);
      const isWhole = found.length === found[0]?.spec.pool.resourceSliceCount;
      return isWhole && found.every((slice) => slice.spec.pool.generation === 2) ? found : undefined;
    });
    const names = slices.flatMap((slice) => slice.spec.devices ?? []).map((device) => device.name);
    expect(names).toHaveLength(7 * 26);
    expect(names.filter((name) => /^gpu-0(-|$)/.test(name))).toEqual([]);
    await fleet.restoreDevice("a100-1-03", "gpu-0");
    await followed.slices.until("generation 3", (items) =>
      slicesOf("a100-1-03", items).every((slice) => slice.spec.pool.generation === 3) ? true : undefined,
    );
    await expect(fleet.loseDevice("a100-1-03", "gpu-8")).rejects.toThrow(/node a100-1-03 has no device "gpu-8"/);
    await expect(fleet.loseNode("a100-9")).rejects.toThrow(/fleet default has no node "a100-9"/);
  });

  test("a silent node is tainted, its pods are evicted and none start there until it is back", async () => {
    await force("stranded", "pcie-0-00", ["gpu-0"]);
    await ready("stranded");
    await fleet.loseNode("pcie-0-00");
    await gone("stranded");
    const node = await followed.nodes.until("not ready", (items) => {
      const known = items.get("pcie-0-00");
      return known !== undefined && isAt("Unknown")(known) ? known : undefined;
    });
    expect(node.spec?.taints?.map((taint) => `${taint.key}:${taint.effect}`)).toEqual([
      "node.kubernetes.io/unreachable:NoSchedule",
      "node.kubernetes.io/unreachable:NoExecute",
    ]);
    await fleet.restoreNode("pcie-0-00");
    await followed.nodes.until("ready", (items) => {
      const known = items.get("pcie-0-00");
      return known !== undefined && isAt("True")(known) && known.spec?.taints === undefined ? known : undefined;
    });
    await removeClaims("stranded");
    await force("returned", "pcie-0-00", ["gpu-0"]);
    await ready("returned");
    await remove("returned");
  });

  test("a deleted node takes its slices along and returns as another machine of the same name", async () => {
    const before = followed.nodes.items.get("pcie-1-00")?.metadata.uid;
    await fleet.loseNode("pcie-1-00", "delete");
    await followed.slices.until("no slices", (items) => (slicesOf("pcie-1-00", items).length === 0 ? true : undefined));
    await fleet.restoreNode("pcie-1-00");
    const [slice] = await followed.slices.until("slices", (items) => {
      const found = slicesOf("pcie-1-00", items);
      return found.length === 1 ? found : undefined;
    });
    const uid = slice?.metadata.ownerReferences?.[0]?.uid;
    expect(uid).toBe(
      (await admin.request<Node>("GET", resourcePath({ ...core("nodes"), name: "pcie-1-00" }))).metadata.uid,
    );
    expect(uid).not.toBe(before);
    await force("newcomer", "pcie-1-00", ["gpu-1"]);
    await ready("newcomer");
    await remove("newcomer");
  });
});

test("a pod that comes under the name of one that was deleted stays, however late kwok hears of that", async () => {
  const kwok = controlPlane.component("kwok");
  for (const name of ["heir", "marker"]) await createClaim(name, {});
  await createPod("heir", "heir");
  await ready("heir");
  await kwok.kill("SIGSTOP");
  await admin.request("DELETE", podPath("heir"));
  await gone("heir");
  await createClaim("late", {});
  const { metadata } = await createPod("heir", "late");
  await kwok.kill("SIGCONT");
  await ready("heir");
  await createPod("marker", "marker");
  await ready("marker");
  expect((await admin.request<Pod>("GET", podPath("heir"))).metadata.uid).toBe(metadata.uid);
  for (const name of ["heir", "marker"]) {
    await admin.request("DELETE", podPath(name));
    await gone(name);
  }
  await removeClaims("heir", "marker", "late");
});

test("a pod that the API server marked as deleted and did not remove, as nobody waited for it any more, is removed", async () => {
  await fleet.stop();
  const names = Array.from({ length: 8 }, (_, index) => `left-${index}`);
  const body = (name: string) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace },
    spec: {
      nodeName: "pcie-1-00",
      terminationGracePeriodSeconds: 0,
      containers: [{ name: "main", image: "registry.k8s.io/pause:3.10" }],
    },
  });
  const mine = (items: Iterable<Pod>): Pod[] => [...items].filter(({ metadata }) => names.includes(metadata.name));
  const left = (): Pod[] => mine(followed.pods.items.values());
  const there = async (): Promise<Pod[]> => mine((await admin.request<{ items: Pod[] }>("GET", podPath())).items);
  const isMarked = ({ metadata }: Pod): boolean => metadata.deletionTimestamp !== undefined;
  let marked: Pod[] = [];
  // How far the API server comes with the others until one is gone is its own affair.
  for (let round = 0; round < 100 && marked.length === 0; round++) {
    await Promise.all(names.map((name) => admin.request("POST", podPath(), { body: body(name) })));
    await Promise.all(names.map(ready));
    const caller = new AbortController();
    const calls = names.map((name) => admin.request("DELETE", podPath(name), { signal: caller.signal }));
    await Promise.any(calls);
    caller.abort("enough");
    await Promise.allSettled(calls);
    // Some calls may go on all the same.
    const untouched = (await there()).filter((each) => !isMarked(each));
    await Promise.allSettled(untouched.map(({ metadata }) => admin.request("DELETE", podPath(metadata.name))));
    await followed.pods.until("the others are gone", () => (left().every(isMarked) ? true : undefined));
    marked = await there();
  }
  expect(marked).not.toEqual([]);
  fleet = await start();
  await followed.pods.until("none is left", () => (left().length === 0 ? true : undefined));
});

test("device status is written on request", async () => {
  await fleet.stop();
  fleet = await start({ deviceStatus: true });
  await force("detailed", "h100-1-00", ["gpu-0", "gpu-1"]);
  await ready("detailed");
  const { status } = await followed.claims.until("status of both devices", (items) => {
    const claim = items.get(`${namespace}/detailed`);
    return claim?.status?.devices?.length === 2 ? claim : undefined;
  });
  expect(status?.devices).toMatchObject(
    ["gpu-0", "gpu-1"].map((device) => ({
      device,
      pool: "h100-1-00",
      conditions: [{ type: "Ready", status: "True" }],
      data: { uuid: expect.stringMatching(/^GPU-/), pciBusID: expect.stringMatching(/^0000:/) },
    })),
  );
  await remove("detailed");
});
