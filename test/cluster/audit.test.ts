import { afterAll, beforeAll, expect, test } from "vitest";
import { kubeconfigOf } from "../../src/cli/system/system.ts";
import { type Engine, startEngine } from "../../src/extender/engine.ts";
import { createPlannerMetrics } from "../../src/extender/metrics.ts";
import { createFence } from "../../src/extender/term.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { readHolder } from "../../src/kube/planner-term.ts";
import { systemTiming, type Timing } from "../../src/kube/timing.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isReady, useScene } from "../support/scene.ts";
import { createReplicaPod } from "../support/stack.ts";
import { claimTemplate, gang, member, type Workload, withForeignGate } from "../support/workloads.ts";

/**
 * Planners inside the test, on a real control plane with two nodes of eight GPUs: their watches lose events, their wall
 * clocks step. They take the place of the one that the scene started.
 */
const scene = useScene({ fleet: uniformFleet({ nodes: 2, nodesPerRack: 2 }) });
const { freshNamespace, apply, drop, pods, status, until } = scene;

interface Drift {
  kind: string;
  problem: string;
  object: string;
  difference: string;
}

/** A planner whose time, watches and log the test has in hand. */
interface Planner {
  engine: Engine;
  metrics: ReturnType<typeof createPlannerMetrics>;
  drift: Drift[];
  /** Methods and paths of all requests but those of election and events. */
  requests: string[];
  /** Watch lines that match are lost. */
  losing: RegExp | undefined;
  /** How far its wall clock is off. */
  offMs: number;
  lost: boolean;
  stop(): Promise<void>;
}

const silent = { info: () => undefined, warn: () => undefined };

/** An audit gives watches ten seconds to explain a difference, and looks for leftovers are a minute apart: less will do. */
const sleepOf = (delayMs: number): number => (delayMs === 10_000 || delayMs === 60_000 ? 2_000 : delayMs);

async function startPlanner(name: string): Promise<Planner> {
  const kubeconfigPath = await kubeconfigOf(
    scene.stack.plane,
    "planner",
    await createReplicaPod(scene.stack.admin, name),
  );
  const client: KubeClient = createClient(await loadConnection({ kubeconfigPath }), { userAgent: name });
  const timing: Timing = {
    ...systemTiming,
    wallClock: () => new Date(Date.now() + self.offMs),
    sleep: (delayMs, signal) => systemTiming.sleep(sleepOf(delayMs), signal),
  };
  const self: Omit<Planner, "engine"> = {
    metrics: createPlannerMetrics(),
    drift: [],
    requests: [],
    losing: undefined,
    offMs: 0,
    lost: false,
    async stop() {
      await engine.stop();
      await client.close();
    },
  };
  const engine = startEngine({
    client: {
      ...client,
      request(method, path, options) {
        if (!/leases|events/.test(path)) self.requests.push(`${method} ${path}`);
        return client.request(method, path, options);
      },
      async *lines(path, options) {
        for await (const line of client.lines(path, options)) if (self.losing?.test(line) !== true) yield line;
      },
    },
    log: {
      info: () => undefined,
      warn: (line: object) => "problem" in line && self.drift.push(line as Drift),
      fatal: () => undefined,
    } as never,
    metrics: self.metrics,
    fence: createFence({ client, holder: (await readHolder(client)).id, log: silent as never, timing }),
    identity: name,
    namespace: "kllama-system",
    auditPeriodMs: 1_000,
    onLost: () => {
      self.lost = true;
    },
    timing,
  });
  engine.elect();
  return Object.assign(self, { engine });
}

let planner: Planner;

beforeAll(async () => {
  await scene.stack.planner.kill("SIGTERM");
  planner = await startPlanner("planner-in-test-0");
  await planner.engine.active;
});

afterAll(() => planner?.stop());

const single = (name: string, template: string): Workload => ({
  ...member("none", "ranks", 0, template),
  metadata: { name },
});

interface LeaseSpec {
  holderIdentity: string;
  leaseTransitions: number;
  renewTime: string;
}

const leasePath = "/apis/coordination.k8s.io/v1/namespaces/kllama-system/leases/kllama-planner";
const leaseOf = async (): Promise<LeaseSpec> =>
  (await scene.stack.admin.request<{ spec: LeaseSpec }>("GET", leasePath)).spec;

const counted = async (): Promise<string[]> =>
  (await planner.metrics.drift.get()).values.map(({ labels }) => `${labels.kind} ${labels.problem}`).sort();

test("an idle cluster is read once per audit and kind, and never written", async () => {
  await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
  await apply(claimTemplate("one", 1), single("quiet", "one"));
  await until("it is ready", () => pods().some(isReady));
  const audits = async () =>
    (await planner.metrics.audits.get()).values.find(({ labels }) => labels.outcome === "clean")?.value;
  const before = (await audits()) ?? 0;
  await expect.poll(audits, { timeout: 30_000 }).toBeGreaterThan(before);
  planner.requests.length = 0;
  const fromMs = performance.now();
  const from = (await audits()) ?? 0;
  await expect.poll(audits, { timeout: 30_000 }).toBeGreaterThanOrEqual(from + 3);
  expect(planner.drift).toEqual([]);
  const [lookups, reads] = [planner.requests.filter(isLookup), planner.requests.filter((each) => !isLookup(each))];
  expect(new Set(reads)).toEqual(
    new Set([
      "GET /apis/resource.k8s.io/v1/resourceclaims",
      "GET /api/v1/pods",
      "GET /apis/scheduling.kllama.ai/v1alpha1/gangs",
    ]),
  );
  // One audit may have begun before, one may be under way.
  expect(reads.length).toBeLessThanOrEqual(3 * (((await audits()) ?? 0) - from + 2));
  // One may have begun before.
  const passedMs = performance.now() - fromMs;
  expect(lookups.length).toBeLessThanOrEqual(2 * (Math.floor(passedMs / sleepOf(60_000)) + 2));
});

/** DeviceTaintRules, which this server does not have, are looked for in two versions once a minute, here every two seconds. */
function isLookup(request: string): boolean {
  return /^GET \/apis\/resource\.k8s\.io\/v1(beta2)?$/.test(request);
}

test("a pod of which no watch tells is placed after the next audit; one whose end no watch tells blocks its devices until then, not for ever", async () => {
  await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
  await apply(claimTemplate("eight", 8), single("ghost", "eight"), single("other", "eight"));
  await until("all sixteen GPUs are used", () => pods().filter(isReady).length === 2);
  planner.losing = /"name":"(ghost|lost)/;
  await drop(single("ghost", "eight"));
  await until("it is gone", () => pods().length === 1 && scene.claims().length === 1);
  await apply(single("lost", "eight"));
  await until("the one that nobody told of has its devices", () =>
    pods().some((each) => each.metadata.name === "lost" && isReady(each)),
  );
  planner.losing = undefined;
  expect(planner.drift).toContainEqual(
    expect.objectContaining({
      kind: "pods",
      problem: "missing",
      object: `${scene.namespace()}/lost`,
      difference: "the API server has it, here it is not known",
    }),
  );
  expect(await counted()).toEqual(expect.arrayContaining(["claims leftover", "pods leftover", "pods missing"]));
});

/** As people write one that is to outlive its pods. */
const claimOfUser = (name: string, deviceClassName = "gpu.kllama.ai"): Workload => ({
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaim",
  metadata: { name },
  spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName, count: 8 } }] } },
});

const holder = (claim: string): Workload => {
  const pod = single(`holder-of-${claim}`, "none");
  const spec = { ...(pod["spec"] as object), resourceClaims: [{ name: "gpus", resourceClaimName: claim }] };
  return { ...pod, spec };
};

test("devices of a claim that outlived its pod with nobody in reservedFor are given back; other drivers' and administrators' claims stay as they are", async () => {
  await freshNamespace({
    "scheduling.kllama.ai/inject": "enabled",
    "resource.kubernetes.io/admin-access": "true",
  });
  const { admin } = scene.stack;
  const found = (name: string) => scene.claims().find(({ metadata }) => metadata.name === name);
  const write = (name: string, status: object, query = {}) => {
    const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", subresource: "status" };
    const path = resourcePath({ ...location, namespace: scene.namespace(), name });
    return admin.request("PATCH", path, { body: { status }, query });
  };
  const result = { request: "gpus", driver: "gpu.example.com", pool: "elsewhere", device: "gpu-0" };
  await apply(claimOfUser("kept"), claimOfUser("foreign"), claimOfUser("monitor"));
  // Whatever they say of who wrote them.
  const query = { fieldManager: "kllama-planner" };
  await write("foreign", { allocation: { devices: { results: [result] } } }, query);
  const watched = { ...result, driver: "gpu.kllama.ai", adminAccess: true };
  await write("monitor", { allocation: { devices: { results: [watched] } } }, query);
  // Nobody schedules the pod that is given them.
  const { spec, ...pod } = holder("kept");
  await apply({ ...pod, spec: { ...(spec as object), schedulerName: "nobody" } });
  const first = await until("it is allocated", () => found("kept")?.status?.allocation?.devices?.results?.[0]);

  // As kube-scheduler does when it gives up a pod: the consumer goes, the allocation stays. Then the pod goes.
  await write("kept", { reservedFor: null });
  await drop(holder("kept"));

  await until("its devices are given back", () => found("kept") && found("kept")?.status?.allocation === undefined);
  const told = await until("its owner is told", () =>
    scene.seen.events().find(({ reason }) => reason === "AllocationReclaimed"),
  );
  await scene.inStep();
  expect(told.regarding).toMatchObject({ kind: "ResourceClaim", name: "kept", uid: found("kept")?.metadata.uid });
  expect(told.note).toContain(`kllama gave back ${first.pool}/gpu-0, `);
  // It may be used again, and what else looked alike was left alone.
  await apply(holder("kept"));
  await until("a pod has it again", () => pods().some(isReady));
  for (const name of ["foreign", "monitor"]) expect(found(name)?.status?.allocation).toBeDefined();
  expect((await planner.metrics.reaped.get()).values).toMatchObject([{ labels: { outcome: "ok" }, value: 1 }]);
});

test("wall clocks that step by an hour move neither the Lease nor a deadline", async () => {
  await freshNamespace();
  const hourMs = 3_600_000;
  const second = await startPlanner("planner-in-test-1");
  await expect.poll(() => second.engine.backend.ready().ready, { timeout: 60_000 }).toBe(true);
  const before = await leaseOf();
  planner.offMs = -hourMs;
  await apply(claimTemplate("eight", 8), gang("held", { podSets: [{ name: "ranks", count: 2 }] }));
  await apply(member("held", "ranks", 0, "eight"), withForeignGate(member("held", "ranks", 1, "eight")));
  const reservedAt = await until("it is reserved", () => status("held")?.reservedAt);
  for (const [own, other] of [
    [hourMs, -hourMs],
    [-hourMs, hourMs],
    [0, 0],
  ] as const) {
    planner.offMs = own;
    second.offMs = other;
    // Both look at the Lease every two seconds.
    const { renewTime } = await leaseOf();
    await expect.poll(async () => (await leaseOf()).renewTime, { timeout: 60_000 }).not.toBe(renewTime);
    expect(second.engine.backend.ready().reason).toContain("standing by");
  }
  const { holderIdentity, leaseTransitions } = await leaseOf();
  expect({ holderIdentity, leaseTransitions }).toEqual({
    holderIdentity: "planner-in-test-0",
    leaseTransitions: before.leaseTransitions,
  });
  expect([planner.lost, second.lost]).toEqual([false, false]);
  expect(status("held")).toMatchObject({ phase: "Reserved", reservedAt });
  await second.stop();
});
