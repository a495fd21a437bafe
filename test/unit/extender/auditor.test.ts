import { beforeEach, describe, expect, test } from "vitest";
import type { KubernetesObject, Pod, ResourceClaim } from "../../../src/api/kubernetes.ts";
import { runAudits } from "../../../src/extender/auditor.ts";
import { type Coordinator, createCoordinator } from "../../../src/extender/coordinator.ts";
import { createPlannerMetrics, type PlannerMetrics } from "../../../src/extender/metrics.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { projectClaim, projectGang, projectPod } from "../../../src/kube/project.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { driver } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";
import { createVirtualTiming, type VirtualTiming } from "../../support/virtual-timing.ts";

const periodMs = 600_000;
/** Longer than any pause between two audits, and the time that watches get to explain. */
const onePeriodMs = 1.2 * periodMs + 20_000;

let timing: VirtualTiming;
let model: ClusterModel;
let coordinator: Coordinator;
let metrics: PlannerMetrics;
let listed: Record<string, (KubernetesObject & { spec: unknown })[]>;
let requests: { method: string; path: string; query: object }[];
let logged: { problem?: string; object?: string; difference?: string }[];
let failWith: KubeError | undefined;
let closing: AbortController;

beforeEach(() => {
  timing = createVirtualTiming();
  model = clusterOf([{ name: "n0", gpus: 2 }]);
  coordinator = createCoordinator(model, new Set([driver]), {
    write: () => undefined,
    event: () => undefined,
    answer: () => undefined,
    nowMs: timing.nowMs,
    nowIso: () => "",
    schedule: () => undefined,
    planned: () => undefined,
    mayPlan: () => true,
    planRefused: () => undefined,
    bypassed: () => undefined,
    preempted: () => undefined,
  });
  metrics = createPlannerMetrics();
  listed = { pods: [], resourceclaims: [], gangs: [] };
  requests = [];
  logged = [];
  failWith = undefined;
  closing = new AbortController();
});

/** Lists what `listed` has, two objects a page. */
const client = {
  async request(method: string, path: string, { query = {} }: { query?: Record<string, unknown> } = {}) {
    requests.push({ method, path, query });
    if (failWith !== undefined) throw failWith;
    const start = Number(query["continue"] ?? 0);
    const all = listed[path.split("/").at(-1) ?? ""] ?? [];
    const next = start + 2 < all.length ? String(start + 2) : "";
    return { metadata: { resourceVersion: "99", continue: next }, items: all.slice(start, start + 2) };
  },
} as unknown as KubeClient;

function start(): Promise<void> {
  const log = { warn: (line: object) => void logged.push(line) } as never;
  return runAudits({ client, model, coordinator, metrics, log, timing, periodMs, signal: closing.signal });
}

const meta = (name: string, resourceVersion: string, more: object = {}) => ({
  name,
  namespace: "team",
  uid: `uid-${name}`,
  resourceVersion,
  ...more,
});

function rawPod(name: string, resourceVersion: string, nodeName?: string): Pod {
  const spec = { containers: [{ name: "main" }], ...(nodeName === undefined ? {} : { nodeName }) };
  return { metadata: meta(name, resourceVersion), spec };
}

function rawClaim(name: string, resourceVersion: string, device?: string): ResourceClaim {
  const results = [{ request: "gpu", driver, pool: "n0", device: device ?? "" }];
  const status = device === undefined ? {} : { allocation: { devices: { results } } };
  return { metadata: meta(name, resourceVersion), spec: {}, status };
}

function rawGang(name: string, resourceVersion: string, count: number): KubernetesObject & { spec: unknown } {
  return {
    metadata: meta(name, resourceVersion, { generation: count }),
    spec: { podSets: [{ name: "ranks", count }] },
  };
}

/** What the watches told. */
function know(objects: { pods?: Pod[]; claims?: ResourceClaim[]; gangs?: (KubernetesObject & { spec: unknown })[] }) {
  for (const pod of objects.pods ?? []) coordinator.observePod(projectPod(pod));
  for (const claim of objects.claims ?? []) coordinator.observeClaim(projectClaim(claim));
  for (const gang of objects.gangs ?? []) coordinator.observeGang(projectGang(gang));
  coordinator.activate();
  coordinator.flush();
}

const outcomes = async () =>
  Object.fromEntries((await metrics.audits.get()).values.map(({ labels, value }) => [labels.outcome, value]));
const drift = async () =>
  (await metrics.drift.get()).values.map(({ labels, value }) => `${labels.kind} ${labels.problem} ${value}`);

describe("an audit that finds nothing", () => {
  test("reads each kind once, in pages, and writes nothing", async () => {
    const pods = ["p0", "p1", "p2"].map((name) => rawPod(name, "5"));
    know({ pods, claims: [rawClaim("c", "5", "gpu-0")], gangs: [rawGang("g", "5", 2)] });
    listed = { pods, resourceclaims: [rawClaim("c", "5", "gpu-0")], gangs: [rawGang("g", "5", 2)] };
    void start();
    await timing.advance(onePeriodMs);
    expect(requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      "GET /apis/resource.k8s.io/v1/resourceclaims",
      "GET /api/v1/pods",
      "GET /api/v1/pods",
      "GET /apis/scheduling.kllama.ai/v1alpha1/gangs",
    ]);
    expect(requests[2]?.query).toEqual({ limit: 500, continue: "2" });
    expect(await outcomes()).toEqual({ clean: 1 });
    expect(logged).toEqual([]);
  });

  test("also in a replica that does not lead, which decides nothing of what it knows", async () => {
    coordinator.observeGang(projectGang(rawGang("g", "5", 2)));
    listed["gangs"] = [rawGang("g", "5", 2)];
    void start();
    await timing.advance(onePeriodMs);
    expect(await outcomes()).toEqual({ clean: 1 });
  });

  test("comes at times of its own: never at once, never twice at the same distance", async () => {
    void start();
    const times: number[] = [];
    for (let minute = 0; minute < 60; minute++) {
      const before = requests.length;
      await timing.advance(60_000);
      if (requests.length > before) times.push(minute);
    }
    expect(times.length).toBeGreaterThanOrEqual(4);
    expect(times.length).toBeLessThanOrEqual(7);
    expect(times[0]).toBeGreaterThanOrEqual(7);
    expect(new Set(times.slice(1).map((time, i) => time - times[i]!)).size).toBeGreaterThan(1);
  });

  test("ends when it is told to, also between two lists", async () => {
    listed["pods"] = [rawPod("a", "5")];
    const running = start();
    await timing.advance(onePeriodMs - 20_000);
    closing.abort();
    await running;
    const before = requests.length;
    await timing.advance(5 * periodMs);
    expect(requests).toHaveLength(before);
  });

  test("with period 0 never begins", async () => {
    const signal = closing.signal;
    await runAudits({ client, model, coordinator, metrics, log: console, timing, periodMs: 0, signal });
    expect(requests).toEqual([]);
  });
});

describe("drift is explained, counted and put right:", () => {
  test("a pod whose creation no watch told", async () => {
    know({});
    listed["pods"] = [rawPod("lost", "7", "n0")];
    void start();
    await timing.advance(onePeriodMs);
    expect(model.pod("uid-lost")?.nodeName).toBe("n0");
    expect(await drift()).toEqual(["pods missing 1"]);
    expect(logged).toMatchObject([
      { kind: "pods", problem: "missing", object: "team/lost", difference: expect.stringContaining("not known") },
    ]);
    expect(await outcomes()).toEqual({ drift: 1 });
  });

  test("a pod whose deletion no watch told", async () => {
    know({ pods: [rawPod("ghost", "5", "n0")] });
    void start();
    await timing.advance(onePeriodMs);
    expect(model.pod("uid-ghost")).toBeUndefined();
    expect(await drift()).toEqual(["pods leftover 1"]);
  });

  test("a claim whose allocation no watch told: its device is held", async () => {
    know({ claims: [rawClaim("c", "5")] });
    listed["resourceclaims"] = [rawClaim("c", "9", "gpu-1")];
    void start();
    await timing.advance(onePeriodMs);
    expect(model.holdersOf(driver, "n0", "gpu-1")).toEqual(["claim:uid-c"]);
    expect(await drift()).toEqual(["claims differs 1"]);
    expect(logged[0]?.difference).toContain("allocation is {");
  });

  test("a claim that is gone lets go of its device; its successor of the same name stays", async () => {
    know({ claims: [rawClaim("c", "5", "gpu-0")] });
    const successor = { ...rawClaim("c", "9", "gpu-1"), metadata: { ...meta("c", "9"), uid: "uid-successor" } };
    listed["resourceclaims"] = [successor];
    void start();
    await timing.advance(onePeriodMs);
    expect(model.holdersOf(driver, "n0", "gpu-0")).toEqual([]);
    expect(model.holdersOf(driver, "n0", "gpu-1")).toEqual(["claim:uid-successor"]);
    expect(model.claim("team", "c")?.uid).toBe("uid-successor");
  });

  test("an allocation that the ledger forgot", async () => {
    const claim = rawClaim("c", "5", "gpu-0");
    know({ claims: [claim] });
    // As a fault of the ledger would leave it: the record is there, its holding is not.
    const record = model.claims.get("uid-c")!;
    model.removeClaim("uid-c");
    (model.claims as Map<string, unknown>).set("uid-c", record);
    listed["resourceclaims"] = [claim];
    void start();
    await timing.advance(onePeriodMs);
    expect(model.holdersOf(driver, "n0", "gpu-0")).toEqual(["claim:uid-c"]);
    expect(logged[0]?.difference).toBe(`the ledger has devices [] for it, its allocation [${driver}/n0/gpu-0]`);
  });

  test("a Gang that changed, one that came and one that went unseen", async () => {
    know({ gangs: [rawGang("changed", "5", 2), rawGang("gone", "5", 2)] });
    listed["gangs"] = [rawGang("changed", "8", 3), rawGang("new", "9", 1)];
    void start();
    await timing.advance(onePeriodMs);
    coordinator.flush();
    expect([...coordinator.gangs().values()].map(({ name, spec }) => `${name} ${spec.podSets[0]?.count}`)).toEqual([
      "changed 3",
      "new 1",
    ]);
    expect((await drift()).sort()).toEqual(["gangs differs 1", "gangs leftover 1", "gangs missing 1"]);
  });

  test("what an etcd restored from a backup has is believed, though it is older", async () => {
    know({ pods: [rawPod("p", "500", "n0")], claims: [rawClaim("c", "500", "gpu-0")] });
    listed = { pods: [rawPod("p", "20")], resourceclaims: [rawClaim("c", "20")], gangs: [] };
    void start();
    await timing.advance(onePeriodMs);
    expect(model.pod("uid-p")?.nodeName).toBeUndefined();
    expect(model.holdersOf(driver, "n0", "gpu-0")).toEqual([]);
  });

  test("hundreds at a time fill no log: twenty lines and their number", async () => {
    know({});
    listed["pods"] = Array.from({ length: 300 }, (_, index) => rawPod(`p${index}`, "5"));
    void start();
    await timing.advance(onePeriodMs);
    expect(await drift()).toEqual(["pods missing 300"]);
    expect(logged).toHaveLength(21);
    expect(logged[20]).toEqual({ kind: "pods", objects: 300, shown: 20 });
  });
});

describe("the ledger's entries are compared with what they follow from:", () => {
  const grant = (device: string) => ({ request: "gpu", driver, pool: "n0", device });
  /** A pod that runs with the only device of its claim, in a Gang's place. */
  const placed = (device: string) => {
    const status = { resourceClaimStatuses: [{ name: "gpu", resourceClaimName: "c" }] };
    const pod = rawPod("p", "5", "n0");
    const claims = [{ claim: "c", reference: "gpu", devices: [grant(device)] }];
    const placement = { pods: [{ pod: "p", podSet: "ranks", index: 0, node: "n0", claims }], domains: {}, costMs: 0 };
    const reservedFor = [{ resource: "pods", name: "p", uid: "uid-p" }];
    const claim = rawClaim("c", "5", device);
    return {
      pods: [
        { ...pod, spec: { ...pod.spec, resourceClaims: [{ name: "gpu", resourceClaimName: "c" }] }, status } as Pod,
      ],
      claims: [{ ...claim, status: { ...claim.status, reservedFor } }],
      gangs: [{ ...rawGang("g", "5", 2), status: { phase: "Scheduled", observedGeneration: 2, placement } }],
    };
  };
  const holders = ["claim:uid-c", "hold:team/g", "pod:uid-p"];
  const holdersOf = (device: string) => model.holdersOf(driver, "n0", device);
  const heldAs = (pod: string, device: string) => {
    const claims = [{ claim: "x", reference: "gpu", devices: [grant(device)] }];
    return [{ placed: { pod, podSet: "ranks", index: 0, node: "n0", claims }, requests: {} }];
  };

  beforeEach(() => {
    const { pods, claims, gangs } = placed("gpu-0");
    know({ pods, claims, gangs });
    listed = { pods, resourceclaims: claims, gangs };
    expect(holdersOf("gpu-0")).toEqual(holders);
  });

  async function audited(): Promise<(string | undefined)[]> {
    void start();
    await timing.advance(onePeriodMs);
    coordinator.flush();
    expect(await outcomes()).toEqual(logged.length === 0 ? { clean: 1 } : { drift: 1 });
    return logged.map(({ difference }) => difference);
  }

  test("all agree", async () => {
    expect(await audited()).toEqual([]);
  });

  test("a running pod's devices that the ledger forgot", async () => {
    const record = model.pods.get("uid-p")!;
    model.removePod("uid-p");
    (model.pods as Map<string, unknown>).set("uid-p", record);
    expect(holdersOf("gpu-0")).toEqual(["claim:uid-c", "hold:team/g"]);
    expect(await audited()).toEqual([`the ledger has devices [] for it, its claims [${driver}/n0/gpu-0]`]);
    expect(await drift()).toEqual(["pods differs 1"]);
    expect(holdersOf("gpu-0")).toEqual(holders);
  });

  test("devices that it kept for a pod that has ended", async () => {
    const record = model.pods.get("uid-p")!;
    (model.pods as Map<string, unknown>).set("uid-p", { ...record, terminal: true });
    listed["pods"] = [
      { ...listed["pods"]![0]!, status: { ...placed("gpu-0").pods[0]!.status, phase: "Succeeded" } } as never,
    ];
    expect(await audited()).toEqual([`the ledger has devices [${driver}/n0/gpu-0] for it, it does not run and has []`]);
    expect(holdersOf("gpu-0")).toEqual(["claim:uid-c", "hold:team/g"]);
  });

  test("not the devices that a running pod keeps of a claim that was emptied", async () => {
    const emptied = rawClaim("c", "9");
    know({ claims: [emptied] });
    listed["resourceclaims"] = [emptied];
    expect(await audited()).toEqual([]);
    expect(holdersOf("gpu-0")).toEqual(["hold:team/g", "pod:uid-p"]);
  });

  test("a Gang's place that is not held", async () => {
    model.release("team/g");
    expect(await audited()).toEqual([`the ledger has devices [] for it, its places [${driver}/n0/gpu-0]`]);
    expect(await drift()).toEqual(["gangs differs 1"]);
    expect(holdersOf("gpu-0")).toEqual(holders);
  });

  test("a place held for a Gang that does not have it", async () => {
    model.hold("team/g", "team", heldAs("p", "gpu-1"));
    expect(await audited()).toEqual([
      `the ledger has devices [${driver}/n0/gpu-1] for it, its places [${driver}/n0/gpu-0]`,
    ]);
    expect([holdersOf("gpu-0"), holdersOf("gpu-1")]).toEqual([holders, []]);
  });

  test("entries of a claim, a pod and a Gang that are not there; those of a room and of a write in doubt stay", async () => {
    for (const key of ["team/ghost", "pod:uid-ghost"]) model.hold(key, "team", heldAs("ghost", "gpu-1"));
    for (const key of ["drain:team/w", "doubt:uid-w"]) model.hold(key, "", heldAs("w", "gpu-1"));
    const ghost = projectClaim(rawClaim("ghost", "5", "gpu-1"));
    model.upsertClaim(ghost);
    (model.claims as Map<string, unknown>).delete(ghost.uid);
    expect(holdersOf("gpu-1")).toHaveLength(5);
    expect(await audited()).toHaveLength(3);
    expect((await drift()).sort()).toEqual(["claims leftover 1", "gangs leftover 1", "pods leftover 1"]);
    expect(holdersOf("gpu-1")).toEqual(["hold:doubt:uid-w", "hold:drain:team/w"]);
    expect(model.view.heldUnder("team/ghost")).toEqual([]);
  });
});

describe("no drift is", () => {
  test("what the watch tells within ten seconds", async () => {
    know({});
    listed["pods"] = [rawPod("late", "7")];
    void start();
    // The list has come; the watch is late.
    while (requests.length < 2) await timing.advance(1_000);
    know({ pods: [rawPod("late", "7")] });
    await timing.advance(20_000);
    expect(await drift()).toEqual([]);
    expect(await outcomes()).toEqual({ clean: 1 });
  });

  test("an object that cannot be read", async () => {
    know({ gangs: [rawGang("odd", "5", 2)] });
    listed["gangs"] = [{ ...rawGang("odd", "6", 2), spec: { podSets: "none" } }];
    void start();
    await timing.advance(onePeriodMs);
    expect(await drift()).toEqual([]);
    expect([...coordinator.gangs().values()].map(({ name }) => name)).toEqual(["odd"]);
  });
});

test("an audit that fails says so, changes nothing, and is not repeated before its time", async () => {
  know({ pods: [rawPod("p", "5", "n0")] });
  failWith = new KubeError("the API server is down", { status: 0, reason: "Unreachable" });
  void start();
  await timing.advance(onePeriodMs);
  expect(requests).toHaveLength(1);
  expect(await outcomes()).toEqual({ failed: 1 });
  expect(model.pod("uid-p")?.nodeName).toBe("n0");
});
