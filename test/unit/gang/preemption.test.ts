import { describe, expect, test } from "vitest";
import { atOnce } from "../../../src/gang/in-slices.ts";
import { plan } from "../../../src/gang/plan.ts";
import { choosePreemption } from "../../../src/gang/preemption.ts";
import { podVictim, type Victim } from "../../../src/gang/victims.ts";
import type { BudgetRecord } from "../../../src/topology/records.ts";
import { podRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf, gangIn } from "../../support/cluster.ts";

const racks = ["a", "b", "c", "d", "e"];
const perRack = 16;

interface Tenant {
  /** GPUs of each pod on the node, 4 in all. */
  sizes?: number[];
  priority?: number;
  createdAtMs?: number;
}

/** 80 nodes of 4 GPUs in five racks, all in use: two pods of 2 GPUs on each, where nothing else is said. */
function full(tenants: Readonly<Record<string, Tenant>> = {}) {
  const names = racks.flatMap((rack) => Array.from({ length: perRack }, (_, i) => `${rack}${i}`));
  const model = clusterOf(names.map((name) => ({ name, zone: "z", rack: name[0]!, gpus: 4 })));
  const victims = names.flatMap((node) => {
    const { sizes = [2, 2], priority = 1, createdAtMs = 0 } = tenants[node] ?? {};
    let first = 0;
    return sizes.map((size, i): Victim => {
      const name = `${node}-${i}`;
      const claims = [{ name: "gpu", claimName: name }];
      const labels = { node };
      const pod = podRecord(name, { nodeName: node, priority, createdAtMs, claims, labels, ready: true });
      const devices = Array.from({ length: size }, () => `gpu-${first++}`);
      model.upsertClaim(allocatedClaim(name, node, devices, [pod.uid]));
      model.upsertPod(pod);
      return podVictim(model, pod);
    });
  });
  /** Who leaves for so many pods of 4 GPUs of priority 5. */
  const leaving = (count: number, { rack = false, budgets = [] as BudgetRecord[] } = {}) => {
    const constraints = rack ? [{ type: "colocate" as const, level: "rack", mode: "required" as const }] : [];
    const gang = gangIn(model, "new", { w: { count, gpus: 4, more: { priority: 5 } } }, { constraints });
    expect(plan(model, { gangs: [gang] })).toHaveProperty("rejections");
    const found = atOnce(choosePreemption(model, { gangs: [gang] }, victims, { budgets }));
    expect(found?.plans[0]?.placement.pods.length ?? count).toBe(count);
    return found?.victims.flatMap(({ pods }) => pods.map(({ name }) => name)).sort();
  };
  return { leaving };
}

describe("of many who could leave", () => {
  test("one pod goes where one is enough", () => {
    expect(full({ d7: { sizes: [4] } }).leaving(1)).toEqual(["d7-0"]);
  });

  test("of several who are each enough the one with fewest devices goes", () => {
    expect(full({ d7: { sizes: [4] }, e3: { sizes: [3] } }).leaving(1)).toEqual(["e3-0"]);
  });

  test("those go of whom fewest have to, and nobody else", () => {
    const { leaving } = full({ c1: { sizes: [4] }, d7: { sizes: [4] }, e3: { sizes: [4] } });
    expect(leaving(3)).toEqual(["c1-0", "d7-0", "e3-0"]);
    expect(leaving(4)).toHaveLength(5);
  });

  test("those of the rack go in which fewest have to, where the gang has to share one", () => {
    const { leaving } = full({ c1: { sizes: [4] }, d7: { sizes: [4] }, d9: { sizes: [4] } });
    expect(leaving(2, { rack: true })).toEqual(["d7-0", "d9-0"]);
    expect(leaving(perRack, { rack: true })).toHaveLength(2 * perRack - 2);
  });

  test("nobody goes where even all together do not make room", () => {
    const { leaving } = full();
    expect(leaving(81)).toBeUndefined();
    expect(leaving(perRack + 1, { rack: true })).toBeUndefined();
  });

  test("those of lower priority go first, however many", () => {
    const tenants = Object.fromEntries(racks.map((rack) => [`${rack}1`, { sizes: [4], priority: 2 }]));
    const { leaving } = full({ ...tenants, b3: { sizes: [1, 1, 1, 1], priority: 0 } });
    expect(leaving(1)).toEqual(["b3-0", "b3-1", "b3-2", "b3-3"]);
    expect(leaving(2)).toHaveLength(4);
  });

  test("nobody goes whom a budget keeps", () => {
    const { leaving } = full({ d7: { sizes: [4] } });
    const selector = { matchLabels: { node: "d7" } };
    const budget = { namespace: "team", name: "keep", selector, disruptionsAllowed: 0, sparesReadyOnly: false };
    expect(leaving(1, { budgets: [budget] })).toHaveLength(2);
    expect(leaving(80, { budgets: [budget] })).toBeUndefined();
    expect(leaving(79, { budgets: [budget] })).toHaveLength(158);
  });
});
