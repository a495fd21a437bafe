import fc from "fast-check";
import { expect, test } from "vitest";
import type { ClusterTopologySpec } from "../../src/api/cluster-topology.ts";
import type { GangConstraint } from "../../src/api/gang.ts";
import type { PlacedPod } from "../../src/api/placement.ts";
import type { PlacementGroupConstraint } from "../../src/api/placement-group.ts";
import { type PlanUnit, plan } from "../../src/gang/plan.ts";
import { clusterOf, gangIn, type NodeSketch, plansOf } from "../support/cluster.ts";
import {
  brokenRule,
  type OracleNode,
  type OraclePlace,
  type OraclePod,
  type OracleRule,
  placementExists,
} from "../support/plan-oracle.ts";

/** A cluster of at most 5 nodes and a unit of at most 6 pods, as plain data. */
interface Case {
  nodes: {
    zone: string | undefined;
    rack: string | undefined;
    island: string | undefined;
    cpu: number;
    gpus: number;
    used: number;
    tainted: boolean;
  }[];
  gangs: {
    podSets: {
      count: number;
      gpus: number;
      cpu: number;
      tolerates: boolean;
      slice: number;
      sliceLevel: Level;
      pinned: number;
    }[];
    constraints: {
      type: "colocate" | "spread";
      level: Level;
      mode: "required" | "preferred";
      maxSkew: number;
      first: boolean;
    }[];
    oneNuma: boolean;
  }[];
  groupLevel: Level | undefined;
}
type Level = OracleRule["level"];

const level = fc.constantFrom<Level>("zone", "rack", "island", "host");
const node = fc.record({
  zone: fc.option(fc.constantFrom("z1", "z2"), { nil: undefined, freq: 8 }),
  rack: fc.option(fc.constantFrom("r1", "r2"), { nil: undefined, freq: 6 }),
  island: fc.option(fc.constantFrom("i1", "i2"), { nil: undefined, freq: 1 }),
  cpu: fc.integer({ min: 1, max: 4 }),
  gpus: fc.constantFrom(0, 2, 4),
  used: fc.integer({ min: 0, max: 3 }),
  tainted: fc.boolean().map((a) => a),
});
const podSet = fc.record({
  count: fc.integer({ min: 1, max: 3 }),
  gpus: fc.integer({ min: 0, max: 3 }),
  cpu: fc.integer({ min: 1, max: 2 }),
  tolerates: fc.boolean(),
  slice: fc.constantFrom(0, 0, 1, 2, 3),
  sliceLevel: level,
  pinned: fc.constantFrom(0, 0, 0, 1),
});
const constraint = fc.record({
  type: fc.constantFrom("colocate" as const, "colocate" as const, "spread" as const),
  level,
  mode: fc.constantFrom("required" as const, "required" as const, "preferred" as const),
  maxSkew: fc.integer({ min: 1, max: 2 }),
  first: fc.boolean(),
});
const gang = fc.record({
  podSets: fc.array(podSet, { minLength: 1, maxLength: 2 }),
  constraints: fc.array(constraint, { maxLength: 2 }),
  oneNuma: fc.boolean(),
});
const cases: fc.Arbitrary<Case> = fc
  .record({
    nodes: fc.array(node, { minLength: 1, maxLength: 5 }),
    gangs: fc.array(gang, { minLength: 1, maxLength: 3 }),
    groupLevel: fc.option(level, { nil: undefined, freq: 1 }),
  })
  .filter(({ gangs }) => gangs.flatMap(({ podSets }) => podSets).reduce((sum, { count }) => sum + count, 0) <= 6);

/** The case in the planner's terms and in the oracle's. */
interface World {
  unit: PlanUnit;
  model: ReturnType<typeof clusterOf>;
  nodes: OracleNode[];
  pods: OraclePod[];
  required: OracleRule[];
  preferred: OracleRule[];
}

/** `island` is told by a label, on hosts without it by devices. */
const topology: ClusterTopologySpec = {
  levels: [
    { name: "zone", nodeLabels: ["zone"] },
    { name: "rack", nodeLabels: ["rack"] },
    { name: "island", nodeLabels: ["island"], deviceAttribute: "resource.kubernetes.io/numaNode" },
    { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
    { name: "numa", deviceAttribute: "resource.kubernetes.io/numaNode" },
  ],
};

const taint = { key: "k", value: "v", effect: "NoSchedule" };

function worldOf(sample: Case, nodeName = (i: number) => `n${i}`, order = <T>(list: T[]) => list): World {
  const sketches = sample.nodes.map(
    ({ zone, rack, island, cpu, gpus, used, tainted }, i): NodeSketch => ({
      name: nodeName(i),
      ...(zone && { zone }),
      ...(rack && { rack }),
      gpus,
      used: Math.min(used, gpus),
      more: {
        allocatable: { cpu: cpu * 1000, pods: 110 },
        taints: tainted ? [taint] : [],
        ...(island && { labels: { island } }),
      },
    }),
  );
  const model = clusterOf(order(sketches), topology);
  const nodes = sample.nodes.map(({ zone, rack, island, cpu, gpus, used, tainted }, i): OracleNode => {
    const held = Math.min(used, gpus);
    const first = Math.max(0, gpus / 2 - held);
    return {
      name: nodeName(i),
      zone,
      rack,
      island,
      cpu,
      devices: gpus > 0,
      free: [first, gpus - held - first],
      tainted,
    };
  });
  const pods: OraclePod[] = [];
  const required: OracleRule[] = [];
  const preferred: OracleRule[] = [];
  const gangs = sample.gangs.map((each, g) => {
    const name = `g${g}`;
    const placed: PlacedPod[] = [];
    const podSets = each.podSets.map(({ count, gpus, cpu, tolerates, slice, sliceLevel, pinned }, p) => {
      const set = `s${p}`;
      for (let index = 0; index < count; index++) {
        const at = index < pinned ? nodeName(0) : undefined;
        pods.push({
          gang: name,
          podSet: set,
          index,
          gpus,
          cpu,
          tolerates,
          oneNuma: each.oneNuma,
          ...(at && { pinned: at }),
        });
        if (at) placed.push({ pod: `${name}-${set}-${index}`, podSet: set, index, node: at, claims: [] });
      }
      const size = slice > 0 && count % slice === 0 ? slice : 0;
      if (size > 0) {
        const covers = (pod: OraclePod) => pod.gang === name && pod.podSet === set;
        const part = (pod: OraclePod) => `${Math.floor(pod.index / size)}`;
        required.push({ type: "colocate", level: sliceLevel, maxSkew: 1, required: true, covers, part });
      }
      const slices = [
        ...(size > 0 ? [{ size, level: sliceLevel }] : []),
        ...(each.oneNuma ? [{ size: 1, level: "numa" }] : []),
      ];
      const tolerations = tolerates ? [{ key: "k", operator: "Exists" }] : [];
      const more = { requests: { cpu: cpu * 1000 }, tolerations };
      return [set, { count, gpus, more, ...(slices.length > 0 && { slices }) }] as const;
    });
    const constraints = each.constraints.map((one): GangConstraint => {
      const covers = (pod: OraclePod) => pod.gang === name && (!one.first || pod.podSet === "s0");
      const must = one.mode === "required";
      const rule: OracleRule = {
        type: one.type,
        level: one.level,
        maxSkew: one.maxSkew,
        required: must,
        covers,
        part: () => "",
      };
      (must ? required : preferred).push(rule);
      const { type, mode } = one;
      return {
        type,
        level: one.level,
        mode,
        ...(type === "spread" && { maxSkew: one.maxSkew }),
        ...(one.first && { podSets: ["s0"] }),
      };
    });
    return gangIn(model, name, Object.fromEntries(podSets), { constraints, role: `r${g}` }, placed);
  });
  const constraints: PlacementGroupConstraint[] = [];
  if (sample.groupLevel) {
    constraints.push({ type: "colocate", level: sample.groupLevel, mode: "required" });
    required.push({
      type: "colocate",
      level: sample.groupLevel,
      maxSkew: 1,
      required: true,
      covers: () => true,
      part: () => "",
    });
  }
  const members = gangs.map(({ spec }) => ({ role: spec.role!, minInstances: 1 }));
  const placementGroup = { namespace: "team", name: "group", spec: { members, topology: "default", constraints } };
  return { unit: { gangs: order(gangs), placementGroup }, model, nodes, pods, required, preferred };
}

/** Does the placement fit the nodes, with every device once, and of one NUMA node where asked? */
function checkFit({ nodes, pods }: World, placed: readonly PlacedPod[]): void {
  const podOf = new Map(pods.map((pod) => [`${pod.gang}-${pod.podSet}-${pod.index}`, pod]));
  const cpu = new Map(nodes.map((each) => [each.name, each.cpu]));
  const taken = new Set<string>();
  for (const { pod: name, node: nodeName, claims } of placed) {
    const pod = podOf.get(name)!;
    const target = nodes.find((each) => each.name === nodeName)!;
    expect(target.tainted && !pod.tolerates, `${name} tolerates the taint of ${nodeName}`).toBe(false);
    cpu.set(nodeName, cpu.get(nodeName)! - pod.cpu);
    const devices = claims.flatMap((claim) => claim.devices);
    expect(devices).toHaveLength(pod.gpus);
    const half = target.free;
    const numas = new Set<number>();
    for (const { pool, device } of devices) {
      expect(pool).toBe(nodeName);
      expect(taken.has(`${pool}/${device}`), `${pool}/${device} is given once`).toBe(false);
      taken.add(`${pool}/${device}`);
      numas.add(numaOf(nodeName, device, nodes));
    }
    if (pod.oneNuma) expect(numas.size).toBeLessThanOrEqual(1);
    expect(half[0] + half[1]).toBeGreaterThanOrEqual(devices.length);
  }
  for (const [name, left] of cpu) expect(left, `CPU of ${name}`).toBeGreaterThanOrEqual(0);
}

const totals = new WeakMap<readonly OracleNode[], Map<string, number>>();
function totalOf(name: string, nodes: readonly OracleNode[]): number {
  return totals.get(nodes)!.get(name)!;
}

function numaOf(node: string, device: string, nodes: readonly OracleNode[]): number {
  return Number(device.split("-")[1]) < totalOf(node, nodes) / 2 ? 0 : 1;
}

/** Where each pod of the oracle is: pinned ones have no devices. */
function oraclePlaces({ nodes, pods }: World, placed: readonly PlacedPod[]): OraclePlace[] {
  const byName = new Map(placed.map((each) => [each.pod, each]));
  return pods.map((pod) => {
    if (pod.pinned !== undefined) return { node: pod.pinned, numas: [] };
    const { node: name, claims } = byName.get(`${pod.gang}-${pod.podSet}-${pod.index}`)!;
    const devices = claims.flatMap((claim) => claim.devices);
    return { node: name, numas: devices.map(({ device }) => numaOf(name, device, nodes)) };
  });
}

const newPods = (world: World) => world.pods.filter(({ pinned }) => pinned === undefined);

test("the planner finds a placement exactly when there is one, and what it finds keeps every rule", () => {
  fc.assert(
    fc.property(cases, (sample) => {
      const world = worldOf(sample);
      totals.set(world.nodes, new Map(sample.nodes.map(({ gpus }, i) => [`n${i}`, gpus])));
      const result = plan(world.model, world.unit);
      const exists = newPods(world).length === 0 || placementExists(world.nodes, world.pods, world.required);
      expect("plans" in result, JSON.stringify("plans" in result ? "placed" : result.rejections)).toBe(exists);
      if (!("plans" in result)) {
        expect(result.budgetExceeded).toBe(false);
        return;
      }
      const placed = plansOf(result).flatMap(({ placement }) => placement.pods);
      expect(placed).toHaveLength(newPods(world).length);
      checkFit(world, placed);
      const places = oraclePlaces(world, placed);
      expect(brokenRule(world.nodes, world.pods, places, world.required)).toBeUndefined();
      // Preferred rules in order: each is kept that could be kept beside those before it.
      const kept = [...world.required];
      for (const rule of world.preferred) {
        if (placed.length === 0 || !placementExists(world.nodes, world.pods, [...kept, rule])) continue;
        kept.push(rule);
        expect(
          brokenRule(world.nodes, world.pods, places, kept),
          "a preferred rule that could be kept",
        ).toBeUndefined();
      }
    }),
    { numRuns: 400 },
  );
});

test("names and input order never change feasibility, and input order never changes the plan", () => {
  fc.assert(
    fc.property(cases, fc.boolean(), (sample, viaNames) => {
      const straight = worldOf(sample);
      const first = plan(straight.model, straight.unit);
      const other = viaNames
        ? worldOf(sample, (i) => `x${7 - i}`)
        : worldOf(sample, undefined, (list) => list.toReversed());
      const second = plan(other.model, other.unit);
      expect("plans" in second).toBe("plans" in first);
      if (viaNames) return;
      const sorted = (result: typeof first) =>
        "plans" in result
          ? result.plans.map(({ placement }) => placement).sort((a, b) => (a.gang < b.gang ? -1 : 1))
          : result.rejections.toSorted((a, b) => (a.gang < b.gang ? -1 : 1));
      expect(sorted(second)).toEqual(sorted(first));
    }),
    { numRuns: 200 },
  );
});

test("one more free node never makes a placement impossible, spreads aside", () => {
  fc.assert(
    fc.property(cases, node, (sample, more) => {
      fc.pre(sample.gangs.every(({ constraints }) => constraints.every(({ type }) => type === "colocate")));
      const before = worldOf(sample);
      if (!("plans" in plan(before.model, before.unit))) return;
      const after = worldOf({ ...sample, nodes: [...sample.nodes, more] });
      expect("plans" in plan(after.model, after.unit)).toBe(true);
    }),
    { numRuns: 200 },
  );
});
