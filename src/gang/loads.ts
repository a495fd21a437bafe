import type { Fabric, NodeLevel } from "../topology/fabric.ts";
import type { ShapeTable } from "./fit.ts";
import type { Problem } from "./problem.ts";
import { wideSuffices } from "./wide-demand.ts";

/**
 * How many pods of each shape the groups assigned so far bring into each domain, and whether that can fit at all. The
 * bounds are necessary conditions, never too strict: they cut branches of the search, the nodes themselves decide.
 */
export interface DomainLoads {
  /** Adds the slots of a group to a domain and the broader ones around it; false (and unchanged): it cannot fit. */
  assign(group: number, level: NodeLevel, domain: number): boolean;
  unassign(group: number): void;
}

interface Undo {
  /** Key of a counter → pods added. */
  readonly added: [counter: Int32Array, shape: number, pods: number][];
  readonly depths: [slot: number, before: number][];
  readonly fabric: Fabric;
}

export function createDomainLoads(problem: Problem): DomainLoads {
  const tables = [...new Set(problem.tables)];
  const shapeOf = problem.tables.map((table) => tables.indexOf(table));
  const undos = new Map<number, Undo>();
  /** fabric → per slot, the narrowest level at which it is counted; -1: none */
  const depths = new Map<Fabric, Int32Array>();
  /** fabric → level → domain → pods per shape */
  const counters = new Map<Fabric, Map<number, Int32Array>[]>();
  const jointLimits = new Map<string, readonly number[]>();

  const depthsIn = (fabric: Fabric): Int32Array => {
    const known = depths.get(fabric) ?? new Int32Array(problem.slots.length).fill(-1);
    depths.set(fabric, known);
    return known;
  };
  const counterOf = (fabric: Fabric, level: number, domain: number): Int32Array => {
    const levels = counters.get(fabric) ?? fabric.nodeLevels.map(() => new Map<number, Int32Array>());
    counters.set(fabric, levels);
    const counter = levels[level]!.get(domain) ?? new Int32Array(tables.length);
    levels[level]!.set(domain, counter);
    return counter;
  };
  const fits = (fabric: Fabric, level: number, domain: number): boolean => {
    const counter = counterOf(fabric, level, domain);
    let kinds = 0;
    for (let shape = 0; shape < tables.length; shape++) {
      if (counter[shape] === 0) continue;
      kinds++;
      if (counter[shape]! > tables[shape]!.sums(fabric, level, "slots")[domain]!) return false;
    }
    if (kinds < 2) return true;
    const present = tables.map((table, shape) => (counter[shape]! > 0 ? table : undefined));
    const spare = Math.max(...tables.map((table) => table.sums(fabric, level, "spare")[domain]!));
    const key = `${[...counters.keys()].indexOf(fabric)} ${level} ${domain} ${present.map((table) => (table ? 1 : 0)).join("")}`;
    const demand = jointDemand(present, counter);
    if (demand[0]! > spare && tables.every(({ sharing }) => sharing === 0)) return false;
    let limit = jointLimits.get(key);
    if (!limit) {
      limit = jointLimit(problem, present, fabric.nodeLevels[level]!.domains[domain]!.nodes);
      jointLimits.set(key, limit);
    }
    return demand.every((amount, i) => amount <= limit[i]!);
  };
  const undo = (group: number) => {
    const record = undos.get(group);
    if (!record) return;
    undos.delete(group);
    for (const [counter, shape, pods] of record.added) counter[shape]! -= pods;
    const slotDepths = depthsIn(record.fabric);
    for (const [slot, before] of record.depths) slotDepths[slot] = before;
  };

  return {
    assign(group, level, domain) {
      const { fabric } = problem.groups[group]!.rule;
      const slotDepths = depthsIn(fabric);
      const record: Undo = { added: [], depths: [], fabric };
      undos.set(group, record);
      const around = [...fabric.nodeLevels[level.index]!.domains[domain]!.ancestors, domain];
      const reached = new Set<number>();
      for (const slot of problem.groups[group]!.slots) {
        // A slot with a hold of its own takes nothing that is free.
        if (problem.slots[slot]!.own || slotDepths[slot]! >= level.index) continue;
        for (let l = slotDepths[slot]! + 1; l <= level.index; l++) {
          if (around[l]! < 0) continue;
          const counter = counterOf(fabric, l, around[l]!);
          counter[shapeOf[slot]!]!++;
          record.added.push([counter, shapeOf[slot]!, 1]);
          reached.add(l);
        }
        record.depths.push([slot, slotDepths[slot]!]);
        slotDepths[slot] = level.index;
      }
      for (const l of reached) {
        if (fits(fabric, l, around[l]!)) continue;
        undo(group);
        return false;
      }
      return true;
    },
    unassign: undo,
  };
}

/** Can the whole cluster hold all slots, domains left aside? A necessary condition. */
export function clusterFits(problem: Problem): boolean {
  const tables = [...new Set(problem.tables)];
  const pods = new Int32Array(tables.length);
  for (const [i, table] of problem.tables.entries()) if (!problem.slots[i]!.own) pods[tables.indexOf(table)]!++;
  let pressure = 0;
  for (const [i, table] of tables.entries()) {
    if (pods[i]! > table.total) return false;
    if (pods[i]! > 0) pressure += pods[i]! / table.total;
  }
  const everywhere = () => [...problem.view.nodes.keys()];
  if (
    !wideSuffices(
      problem,
      [...tables.entries()].map(([i, table]) => [table, pods[i]!] as const),
      everywhere,
    )
  )
    return false;
  // Far from full, shapes do not get in each other's way; summing up every node would only take time.
  if (tables.length < 2 || pressure <= 0.5) return true;
  const limit = jointLimit(problem, tables, [...problem.view.nodes.keys()]);
  return jointDemand(tables, pods).every((amount, i) => amount <= limit[i]!);
}

/** Resources that the shapes share, devices first; parallel in demand and limit. */
function dimensions(tables: readonly (ShapeTable | undefined)[]): string[] {
  return [...new Set(tables.flatMap((table) => table?.shape.demands.map(([name]) => name) ?? []))].sort();
}

function jointDemand(tables: readonly (ShapeTable | undefined)[], pods: Int32Array): number[] {
  const names = dimensions(tables);
  const demand = new Array<number>(names.length + 1).fill(0);
  for (const [i, table] of tables.entries()) {
    if (!table) continue;
    demand[0]! += pods[i]! * held(table.shape);
    for (const [name, amount] of table.shape.demands) demand[names.indexOf(name) + 1]! += pods[i]! * amount;
  }
  return demand;
}

/**
 * The most that pods of these shapes can use together of each dimension. A node gives no more than it has free, no more
 * than each shape alone could use, and of devices only multiples of the shapes' common divisor.
 */
function jointLimit(problem: Problem, tables: readonly (ShapeTable | undefined)[], nodes: readonly number[]): number[] {
  const names = dimensions(tables);
  const present = tables.filter((table) => table !== undefined);
  const amounts = present.map(({ shape }) => names.map((name) => amountOf(shape.demands, name)));
  const limit = new Array<number>(names.length + 1).fill(0);
  for (const node of nodes) {
    let step = 0;
    let devices = 0;
    let spare = 0;
    for (const { shape, slots, spare: free } of present) {
      if (slots[node]! === 0) continue;
      step = gcd(step, held(shape));
      devices += held(shape) * slots[node]!;
      spare = Math.max(spare, free[node]!);
    }
    // One device may serve any number of pods where it is given in parts.
    const parts = step > 0 && problem.view.inventory(node).sharedDevices > 0;
    if (parts) limit[0] = Number.POSITIVE_INFINITY;
    else if (step > 0) limit[0]! += Math.min(devices, Math.floor(spare / step) * step);
    const state = problem.view.nodes[node];
    if (!state) continue;
    for (let i = 0; i < names.length; i++) {
      let wanted = 0;
      for (let t = 0; t < present.length; t++) wanted += amounts[t]![i]! * present[t]!.slots[node]!;
      if (wanted === 0) continue;
      const total = state.record.allocatable[names[i]!] ?? wanted;
      limit[i + 1]! += Math.min(wanted, total - (state.load.used[names[i]!] ?? 0));
    }
  }
  return limit;
}

/** Devices that a pod takes away from others, at least. */
function held({ admin, devices }: ShapeTable["shape"]): number {
  return admin ? 0 : devices;
}

function amountOf(demands: readonly (readonly [string, number])[], name: string): number {
  return demands.find(([each]) => each === name)?.[1] ?? 0;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}
