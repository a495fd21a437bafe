import { describe, expect, test } from "vitest";
import type { Wish } from "../../../src/api/placement.ts";
import type { ClusterState } from "../../../src/cli/cluster-state.ts";
import { assembleOrigins, ownDeviceClasses } from "../../../src/cli/plan/read-input.ts";
import { createCoordinator } from "../../../src/extender/coordinator.ts";
import { createPlannerMetrics, planCounter } from "../../../src/extender/metrics.ts";
import { readDocuments } from "../../../src/kube/documents.ts";
import { createClusterModel } from "../../../src/topology/model.ts";
import { driver } from "../../builders.ts";
import { gang, node, plan, planFiles, pod, template } from "../cli/plan/support.ts";

/** An even number of pods each: of racks with an odd number of GPUs one stays free, which no sum tells. */
const sizes = [8, 6, 6, 4, 8, 6, 4, 6, 8, 2];

function racks(zone: string, gpus: number): string {
  const labels = (rack: string) => ({ "topology.kubernetes.io/zone": zone, "topology.kubernetes.io/rack": rack });
  return [1, 2, 3, 4].map((i) => node(`${zone}${i}`, { gpus, labels: labels(`${zone}${i}`) })).join("");
}

/** A gang with one pod set for each of the sizes, of pods that nobody takes for those of another, in one rack each. */
function gangOfSets(mode: "required" | "preferred", more: object = {}): string {
  const podSets = sizes.map((count, i) => ({ name: `s${i}`, count, ...more }));
  const constraints = podSets.map(({ name }) => ({ level: "rack", mode, podSets: [name] }));
  const pods = podSets.flatMap(({ name, count }, i) =>
    Array.from({ length: count }, (_, index) =>
      pod(`${name}-${index}`, {
        gang: "g",
        template: "one",
        labels: { "scheduling.kllama.ai/pod-set": name },
        spec: { containers: [{ name: "main", resources: { requests: { cpu: `${100 + i}m` } } }] },
      }),
    ),
  );
  return `${template("one", 1)}${gang("g", { podSets, constraints })}${pods.join("")}`;
}

/** A planner without an API server. @returns what its metric counts once it has planned */
async function counted(text: string): Promise<Record<string, number>> {
  const { objects } = readDocuments("input.yaml", text);
  const origins = [{ objects, planned: true, problems: [] }];
  const state: ClusterState = (await assembleOrigins(origins, await ownDeviceClasses(), false)).state;
  const model = createClusterModel({ managedDrivers: [driver] });
  const metrics = createPlannerMetrics();
  const coordinator = createCoordinator(model, new Set([driver]), {
    write: () => undefined,
    event: () => undefined,
    answer: () => undefined,
    nowMs: () => 1_000_000,
    nowIso: () => "2026-01-01T00:00:00Z",
    schedule: () => undefined,
    planned: planCounter(metrics),
    planRefused: () => undefined,
    mayPlan: () => true,
    bypassed: () => undefined,
    preempted: () => undefined,
  });
  for (const each of state.deviceClasses) model.upsertDeviceClass(each);
  for (const each of state.slices) model.upsertSlice(each);
  for (const each of state.nodes) coordinator.observeNode(each);
  for (const each of state.claims) coordinator.observeClaim({ ...each, resourceVersion: "1" });
  for (const each of state.gangs) coordinator.observeGang({ ...each, uid: "uid", resourceVersion: "1" });
  for (const each of state.pods) coordinator.observePod(each);
  coordinator.activate();
  coordinator.flush();
  expect(coordinator.state("default/g")?.proposal?.pods.length).toBeGreaterThan(0);
  const { values } = await metrics.budgetExceeded.get();
  return Object.fromEntries(values.map(({ labels, value }) => [labels.for, value]));
}

describe("a placement of which the budget ended before it is known whether there is something better", () => {
  const sentences: Record<Exclude<Wish, "Traffic">, string> = {
    PreferredRules: "more preferred rules can be kept",
    Surplus: "more of the surplus fits",
    Compactness: "narrower domains hold the pods",
  };
  test.for([
    ["PreferredRules", (gpus: number) => racks("a", gpus) + gangOfSets("preferred")],
    ["Surplus", (gpus: number) => racks("a", gpus) + gangOfSets("required", { minCount: 1 })],
    ["Compactness", (gpus: number) => racks("a", gpus) + racks("b", gpus) + gangOfSets("required")],
  ] as const)("says so: %s", { timeout: 120_000 }, async ([wish, world]) => {
    const { code, placements, stats } = await plan(world(15));
    expect([code, placements[0]?.budgetExceeded, stats.budgetExceeded]).toEqual([
      0,
      expect.arrayContaining([wish]),
      true,
    ]);
    const { stdout } = await planFiles({ "input.yaml": world(15) }, "-f FOLDER --explain");
    expect(stdout).toContain(`    the search used up its budget before it knew whether ${sentences[wish]}\n`);
    expect(stdout).toContain(", the search's budget was reached\n");
    expect(await counted(world(15))).toMatchObject({ [wish]: 1 });
    // One GPU more in each rack, and there is nothing better.
    const roomy = await plan(world(16));
    expect(roomy.placements[0]).not.toHaveProperty("budgetExceeded");
    expect(roomy.stats.budgetExceeded).toBe(false);
    expect(await counted(world(16))).toEqual({});
  });
});
