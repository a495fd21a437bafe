import { expect, test } from "vitest";
import { sumSeries } from "../../../src/cli/system/metrics.ts";
import { capacityFigures } from "../../../src/extender/capacity-figures.ts";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { showCapacity } from "../../../src/extender/planner.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { allocatedClaim, clusterOf, gangIn } from "../../support/cluster.ts";

/** Two racks: nodes with 4 and 8 free GPUs, and one with 8. `mix`: GPUs of the pods that the cluster knows. */
function cluster(mix: readonly number[]): ClusterModel {
  const model = clusterOf([
    { name: "a0", zone: "z", rack: "a", gpus: 8, used: 4 },
    { name: "a1", zone: "z", rack: "a", gpus: 8 },
    { name: "b0", zone: "z", rack: "b", gpus: 8 },
  ]);
  for (const [i, gpus] of mix.entries()) {
    for (const pod of gangIn(model, `g${i}`, { w: { count: 1, gpus } }).pods) model.upsertPod(pod);
  }
  return model;
}

const clock = () => {
  let nowMs = 0;
  return () => (nowMs += 1);
};

test.for([
  [[8], 4 / 20, 4],
  [[4], 0, 0],
  [[8, 4], 2 / 20, 0],
] as const)(
  "for pods of %j GPUs a share of %d of 20 free ones is of no use, and %d to nobody",
  async ([mix, share, stranded]) => {
    const figures = await capacityFigures(cluster(mix), clock());
    expect(figures!.waste!.free).toBe(20);
    expect(figures!.waste!.fragments / 20).toBeCloseTo(share, 9);
    expect(figures!.waste!.stranded).toBe(stranded);
  },
);

test("changes are counted, however little time a turn has", async () => {
  const model = cluster([8]);
  let nowMs = 0;
  const slow = () => (nowMs += 1_000);
  expect((await capacityFigures(model, slow))!.free[0]).toMatchObject({ free: 20, nodesByFree: { 4: 1, 8: 2 } });
  model.upsertClaim(allocatedClaim("more", "b0", ["gpu-0", "gpu-1"], []));
  const { free, waste } = (await capacityFigures(model, slow))!;
  expect(free[0]).toMatchObject({ free: 18, nodesByFree: { 4: 1, 6: 1, 8: 1 } });
  expect(free[0]!.levels).toContainEqual({
    level: "rack",
    domainsByFree: { 6: 1, 12: 1 },
    largest: { domain: "z/a", free: 12 },
    domains: [
      { domain: "z/a", free: 12 },
      { domain: "z/b", free: 6 },
    ],
  });
  // Each of the two NUMA nodes of a host has half of its GPUs.
  const inside = free[0]!.levels.slice(-2);
  expect(inside.map(({ level }) => level)).toEqual(["host", "numa"]);
  expect(inside[1]).toMatchObject({ domainsByFree: { 2: 1, 4: 4 }, largest: { free: 4 } });
  expect(waste).toMatchObject({ free: 18, stranded: 10 });
  model.upsertNode({ ...model.node("a1")!, ready: false });
  expect((await capacityFigures(model, slow))!.free[0]).toMatchObject({ total: 24, free: 10 });
});

test("gauges show it, and show nothing that is not known", async () => {
  const metrics = createPlannerMetrics();
  showCapacity(metrics, await capacityFigures(cluster([8]), clock()));
  const text = await metrics.registry.metrics();
  expect(sumSeries(text, "kllama_free_devices")).toBe(20);
  expect(sumSeries(text, "kllama_largest_free_domain_devices", 'level="rack"')).toBe(12);
  expect(sumSeries(text, "kllama_largest_free_domain_devices", 'level="host"')).toBe(8);
  expect(sumSeries(text, "kllama_largest_free_domain_devices", 'level="numa"')).toBe(4);
  expect(sumSeries(text, "kllama_stranded_devices")).toBe(4);
  expect(sumSeries(text, "kllama_fragmentation_ratio")).toBeCloseTo(0.2, 9);
  showCapacity(metrics, undefined);
  expect(await metrics.registry.metrics()).not.toMatch(/^kllama_(free|largest_free|stranded|fragmentation)/m);
});
