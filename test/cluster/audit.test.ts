import { afterEach, expect, test } from "vitest";
import { kubeconfigOf } from "../../src/cli/system/system.ts";
import { type Engine, startEngine } from "../../src/extender/engine.ts";
import { createPlannerMetrics, type PlannerMetrics } from "../../src/extender/metrics.ts";
import { createFence } from "../../src/extender/term.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { readHolder } from "../../src/kube/planner-term.ts";
import { systemTiming } from "../../src/kube/timing.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isReady, useScene } from "../support/scene.ts";
import { claimTemplate, member, type Workload } from "../support/workloads.ts";

/**
 * A planner whose watches lose events, on a real control plane with one node of eight GPUs. It runs inside the test, in
 * the place of the one that the scene started, which comes back after each test.
 */
const scene = useScene({ fleet: uniformFleet({ nodes: 1, nodesPerRack: 1 }) });
const { freshNamespace, apply, drop, pods, until } = scene;

interface Drift {
  kind: string;
  problem: string;
  object: string;
  difference: string;
}

let engine: Engine;
let client: KubeClient;
let metrics: PlannerMetrics;
let drift: Drift[];
/** Methods and paths of all requests but those of election and events. */
let requests: string[];
/** Watch lines that match are lost. */
let losing: RegExp | undefined;

afterEach(async () => {
  losing = undefined;
  await engine.stop();
  await client.close();
  await scene.stack.planner.start();
});

const silent = { info: () => undefined, warn: () => undefined };

async function startLossyPlanner(): Promise<void> {
  await scene.stack.planner.kill("SIGTERM");
  const kubeconfigPath = await kubeconfigOf(scene.stack.plane, "planner");
  client = createClient(await loadConnection({ kubeconfigPath }), { userAgent: "lossy-planner" });
  metrics = createPlannerMetrics();
  drift = [];
  requests = [];
  engine = startEngine({
    client: {
      ...client,
      request(method, path, options) {
        if (!/leases|events/.test(path)) requests.push(`${method} ${path}`);
        return client.request(method, path, options);
      },
      async *lines(path, options) {
        for await (const line of client.lines(path, options)) if (losing?.test(line) !== true) yield line;
      },
    },
    log: {
      info: () => undefined,
      warn: (line: object) => "problem" in line && drift.push(line as Drift),
      fatal: () => undefined,
    } as never,
    metrics,
    fence: createFence({ client, holder: (await readHolder(client)).id, log: silent as never, timing: systemTiming }),
    identity: "lossy-planner",
    namespace: "kllama-system",
    auditPeriodMs: 2_000,
    onLost: () => undefined,
  });
  engine.elect();
  await engine.active;
}

const single = (name: string, template: string): Workload => ({
  ...member("none", "ranks", 0, template),
  metadata: { name },
});

const counted = async (): Promise<string[]> =>
  (await metrics.drift.get()).values.map(({ labels }) => `${labels.kind} ${labels.problem}`).sort();

test("a pod of which no watch tells is found by the next audit and placed", async () => {
  await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
  await startLossyPlanner();
  losing = /"name":"lost"/;
  await apply(claimTemplate("two", 2), single("lost", "two"));
  await until("it is ready", () => pods().some(isReady));
  expect(drift).toContainEqual(
    expect.objectContaining({
      kind: "pods",
      problem: "missing",
      object: `${scene.namespace()}/lost`,
      difference: "the API server has it, here it is not known",
    }),
  );
  expect(await counted()).toContain("pods missing");
});

test("a pod whose end no watch tells blocks its devices until the next audit, not for ever", async () => {
  await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
  await startLossyPlanner();
  await apply(claimTemplate("eight", 8), single("ghost", "eight"));
  await until("the first is ready", () => pods().some(isReady));
  losing = /"name":"ghost/;
  await drop(single("ghost", "eight"));
  await until("it is gone", () => pods().length === 0 && scene.claims().length === 0);
  await apply(single("heir", "eight"));
  await until("the heir is ready", () => pods().some(isReady));
  expect(await counted()).toEqual(["claims leftover", "pods leftover"]);
});

test("an idle cluster is read once per audit and kind, and never written", async () => {
  await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
  await startLossyPlanner();
  await apply(claimTemplate("one", 1), single("quiet", "one"));
  await until("it is ready", () => pods().some(isReady));
  const audits = async () =>
    (await metrics.audits.get()).values.find(({ labels }) => labels.outcome === "clean")?.value;
  const before = (await audits()) ?? 0;
  await expect.poll(audits, { timeout: 30_000 }).toBeGreaterThan(before);
  requests.length = 0;
  const from = (await audits()) ?? 0;
  await expect.poll(audits, { timeout: 30_000 }).toBeGreaterThanOrEqual(from + 3);
  expect(drift).toEqual([]);
  expect(new Set(requests)).toEqual(
    new Set([
      "GET /apis/resource.k8s.io/v1/resourceclaims",
      "GET /api/v1/pods",
      "GET /apis/scheduling.kllama.ai/v1alpha1/gangs",
    ]),
  );
  expect(requests.length).toBeLessThanOrEqual(3 * 5);
});
