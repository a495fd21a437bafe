import { isAllocationFailure } from "../dra/allocator/allocate.ts";
import { freeParts, takeableDevices } from "../dra/allocator/availability.ts";
import type { CompiledClaim } from "../dra/allocator/claim.ts";
import { copyUsage, type NodeUsage } from "../topology/inventory.ts";
import { likeness, useText } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import type { NodeRecord } from "../topology/records.ts";
import { createScarcity, type Scarcity, sumOf } from "./scarcity.ts";
import { chooseDevices, roomFor, type Shape, shapeRefusal, takeDevices } from "./shape.ts";

/** What pods to come will ask for, by experience: shapes with their shares of all pods. */
export type WorkloadMix = readonly { readonly shape: Shape; readonly weight: number }[];

/**
 * Weights beside the fragmentation, chosen on the first orders of arrival of `bench -- openb`. `scarcityWeight`: a GPU that
 * pods to come want twice as much as others costs so much of a GPU more. `emptinessWeight`: so much for a whole free
 * node's CPU, and for its GPUs, so that of nodes which are nearly as good the fullest is taken.
 */
const scarcityWeight = 0.3;
const emptinessWeight = 0.02;

/** Free GPUs of a node that pods of the mix cannot use: Weng et al., *Beware of Fragmentation*, USENIX ATC '23. */
export interface Fragmentation {
  /**
   * What one pod of the shape costs pods to come on a node that takes it: how much the fragmentation grows, in GPUs
   * times the share of pods that cannot use them (it may shrink), and a little for GPUs that others need more, and for
   * what is left of the node.
   */
  growth(node: number, shape: Shape): number;
  /** How a node stands now. */
  waste(node: number): Waste;
}

/** Free GPUs of a node; parts of them count as such. */
export interface Waste {
  readonly free: number;
  /** Of those, what a pod of the mix cannot use on the average. */
  readonly fragments: number;
  /** Of those, what no pod of the mix can use. */
  readonly stranded: number;
}

/** Shapes that ask the same of devices: how much of a node they can use is found out once for all. */
interface Kind {
  readonly claim: CompiledClaim;
  readonly count: number;
  readonly weight: number;
  /** `position` in the mix. */
  readonly variants: readonly { readonly position: number; readonly shape: Shape; readonly weight: number }[];
}

export function createFragmentation(view: ModelView, mix: WorkloadMix): Fragmentation {
  const kinds = kindsOf(mix);
  const admissionOf = admissions(mix);
  /** node → version of the node, fragments as it is */
  const known = new Map<number, { version: number; fragments: number }>();

  const fragments = (node: number, usage: NodeUsage, used: Readonly<Record<string, number>>): number => {
    const { record } = view.nodes[node]!;
    const inventory = view.inventory(node);
    const free = freeParts(inventory, usage);
    const all = sumOf(free);
    if (all === 0) return 0;
    const { admits } = admissionOf(record);
    let sum = 0;
    for (const { claim, count, weight, variants } of kinds) {
      const takeable = takeableDevices(inventory, usage, claim);
      let runnable = 0;
      if (takeable.length >= count) {
        for (const { position, shape, weight: each } of variants) {
          if (admits[position] === 1 && roomFor(shape.demands, record.allocatable, used) > 0) runnable += each;
        }
      }
      const groups = new Set(takeable.map((device) => inventory.devices[device]!.group));
      let usable = 0;
      for (const group of groups) usable += free[group]!;
      sum += runnable * (all - usable) + (weight - runnable) * all;
    }
    return sum;
  };
  const fragmentsNow = (node: number): number => {
    const version = view.nodeVersion(node);
    const before = known.get(node);
    if (before?.version === version) return before.fragments;
    const now = fragments(node, view.usage(node), view.nodes[node]!.load.used);
    known.set(node, { version, fragments: now });
    return now;
  };
  const wastes = new Map<number, Waste & { version: number }>();
  const waste = (node: number): Waste => {
    const { record, load } = view.nodes[node]!;
    const inventory = view.inventory(node);
    const usage = view.usage(node);
    const free = freeParts(inventory, usage);
    const { admits } = admissionOf(record);
    const usable = new Set<number>();
    for (const { claim, count, variants } of kinds) {
      const takeable = takeableDevices(inventory, usage, claim);
      const runs = ({ position, shape }: Kind["variants"][number]): boolean =>
        admits[position] === 1 && roomFor(shape.demands, record.allocatable, load.used) > 0;
      if (takeable.length < count || !variants.some(runs)) continue;
      for (const device of takeable) usable.add(inventory.devices[device]!.group);
    }
    let stranded = 0;
    for (const [group, part] of free.entries()) if (!usable.has(group)) stranded += part;
    return { free: sumOf(free), fragments: fragmentsNow(node), stranded };
  };
  let scarcity: Scarcity | undefined;
  const stateOf = stateText(view, mix, admissionOf);
  /** shape → state of a node → growth */
  const growths = new Map<string, Map<string, number>>();
  const growth = (node: number, shape: Shape): number => {
    const { record, load } = view.nodes[node]!;
    const inventory = view.inventory(node);
    let usage = view.usage(node);
    if (shape.claims.length > 0) {
      const choice = chooseDevices(shape, record, inventory, usage);
      if (isAllocationFailure(choice)) return Number.POSITIVE_INFINITY;
      usage = copyUsage(usage);
      takeDevices(inventory, usage, choice, 1);
    }
    const used = { ...load.used };
    for (const [name, amount] of shape.demands) used[name] = (used[name] ?? 0) + amount;
    scarcity ??= createScarcity(view, mix, admissionOf);
    const { price, mostCpu, mostGroups } = scarcity;
    const left = sumOf(freeParts(inventory, usage));
    const taken = sumOf(freeParts(inventory, view.usage(node))) - left;
    const cpuLeft = (record.allocatable["cpu"] ?? 0) - (used["cpu"] ?? 0);
    const scarce = scarcityWeight * taken * price(node);
    const empty = emptinessWeight * (cpuLeft / mostCpu + left / mostGroups);
    return rounded(fragments(node, usage, used) - fragmentsNow(node) + scarce + empty);
  };
  return {
    waste(node) {
      const version = view.nodeVersion(node);
      const before = wastes.get(node);
      if (before?.version === version) return before;
      const now = { ...waste(node), version };
      wastes.set(node, now);
      return now;
    },
    growth(node, shape) {
      const state = stateOf(node, shape);
      if (state === undefined) return growth(node, shape);
      let known = growths.get(shape.key);
      if (known === undefined || known.size > maxStates) {
        known = new Map();
        if (growths.size > maxShapes) growths.clear();
        growths.set(shape.key, known);
      }
      let found = known.get(state);
      if (found === undefined) {
        found = growth(node, shape);
        known.set(state, found);
      }
      return found;
    },
  };
}

const maxShapes = 1024;
const maxStates = 10_000;

interface Admission {
  /** Per shape of the mix: 1 where the node admits it. */
  readonly admits: Uint8Array;
  /** Equal for nodes that admit the same. */
  readonly number: number;
}

function admissions(mix: WorkloadMix): (record: NodeRecord) => Admission {
  const known = new WeakMap<NodeRecord, Admission>();
  const numbers = new Map<string, number>();
  return (record) => {
    let admission = known.get(record);
    if (admission === undefined) {
      const admits = Uint8Array.from(mix, ({ shape }) => (shapeRefusal(shape, record) === undefined ? 1 : 0));
      const text = admits.join("");
      const number = numbers.get(text) ?? numbers.size;
      numbers.set(text, number);
      admission = { admits, number };
      known.set(record, admission);
    }
    return admission;
  };
}

/** Everything about a node on which the growth depends, as a text; undefined: it is like no other. */
function stateText(view: ModelView, mix: WorkloadMix, admissionOf: (record: NodeRecord) => Admission) {
  const names = [...new Set(["cpu", ...mix.flatMap(({ shape }) => shape.demands.map(([name]) => name))])].sort();
  const reads = [...new Set(mix.flatMap(({ shape }) => shape.reads ?? []))];
  const tellable = mix.every(({ shape }) => shape.claims.length === 0 || shape.reads !== undefined);
  return (node: number, shape: Shape): string | undefined => {
    const { record, load } = view.nodes[node]!;
    if (!tellable || (shape.claims.length > 0 && shape.reads === undefined)) return undefined;
    const values = [...new Set([...reads, ...(shape.reads ?? [])])].sort();
    const like = likeness(view.inventory(node), values);
    const use = useText(view.usage(node));
    if (like === undefined || use === undefined) return undefined;
    const free = names.map((name) => (record.allocatable[name] ?? "") + (load.used[name] ? `-${load.used[name]}` : ""));
    return `${like} ${use} ${free.join()} ${admissionOf(record).number} ${shape.bindingOn(record)}`;
  };
}

function kindsOf(mix: WorkloadMix): Kind[] {
  const positioned = mix.map((each, position) => ({ ...each, position }));
  const byDevices = Map.groupBy(
    positioned.filter(({ shape }) => shape.claims.some(({ left }) => !left)),
    ({ shape }) => shape.deviceKey,
  );
  return [...byDevices.values()].map((variants) => {
    const { claims, devices } = variants[0]!.shape;
    const weight = variants.reduce((sum, each) => sum + each.weight, 0);
    return { claim: claims.find(({ left }) => !left)!, count: devices, weight, variants };
  });
}

/** Sums of the same parts in another order are equal. */
function rounded(value: number): number {
  return Math.round(value * 1e9) / 1e9;
}
