import { isAllocationFailure } from "../dra/allocator/allocate.ts";
import { freeParts } from "../dra/allocator/availability.ts";
import { copyUsage, emptyUsage, type NodeInventory } from "../topology/inventory.ts";
import { likeness } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import type { NodeRecord } from "../topology/records.ts";
import type { WorkloadMix } from "./fragmentation.ts";
import { chooseDevices, type Shape, takeDevices } from "./shape.ts";

/** How much pods to come will want the GPUs of a node, beside those of others. Rests on the fleet, not on what is held. */
export interface Scarcity {
  /** 1 where pods to come may go anywhere; more where those that may go to few nodes have to go. */
  price(node: number): number;
  /** Most CPU, and most groups of devices, that one node has. */
  readonly mostCpu: number;
  readonly mostGroups: number;
}

/** Nodes that look the same to all pods of the mix: how many groups of devices they have together. */
interface Class {
  readonly first: number;
  groups: number;
}

/** @param admissionOf see `Admission`: `admits` says by position in the mix whether the node admits the shape. */
export function createScarcity(
  view: ModelView,
  mix: WorkloadMix,
  admissionOf: (record: NodeRecord) => { readonly admits: Uint8Array; readonly number: number },
): Scarcity {
  const reads = [...new Set(mix.flatMap(({ shape }) => shape.reads ?? []))].sort();
  const classKey = (node: number): string | undefined => {
    const like = likeness(view.inventory(node), reads);
    return like === undefined ? undefined : `${like} ${admissionOf(view.nodes[node]!.record).number}`;
  };
  const classes = new Map<string, Class>();
  let [mostCpu, mostGroups, total] = [1, 1, 0];
  for (const node of view.nodes) {
    if (node === undefined) continue;
    const { groups } = view.inventory(node.index);
    mostCpu = Math.max(mostCpu, node.record.allocatable["cpu"] ?? 0);
    mostGroups = Math.max(mostGroups, groups);
    total += groups;
    const key = groups === 0 ? undefined : classKey(node.index);
    if (key === undefined) continue;
    const known = classes.get(key) ?? { first: node.index, groups: 0 };
    known.groups += groups;
    classes.set(key, known);
  }
  const prices = pricesOf([...classes], total, mix, (node, position) => {
    const { record } = view.nodes[node]!;
    const admitted = admissionOf(record).admits[position] === 1;
    return admitted ? partsTaken(mix[position]!.shape, record, view.inventory(node)) : 0;
  });
  return {
    price(node) {
      const key = classKey(node);
      return (key === undefined ? undefined : prices.get(key)) ?? 1;
    },
    mostCpu,
    mostGroups,
  };
}

/**
 * What is asked for is spread evenly over all that could serve it: the price of a node is how much of that it gets, by
 * what there is of it. `partsOn`: groups that one pod takes of an empty node; 0: it cannot run there.
 */
function pricesOf(
  classes: readonly (readonly [key: string, Class])[],
  total: number,
  mix: WorkloadMix,
  partsOn: (node: number, position: number) => number,
): Map<string, number> {
  const prices = new Map(classes.map(([key]) => [key, 0]));
  let wanted = 0;
  for (const [position, { weight }] of mix.entries()) {
    const parts = classes.map(([, { first }]) => partsOn(first, position));
    const able = classes.filter((_, i) => parts[i]! > 0);
    if (able.length === 0) continue;
    const demand = weight * Math.min(...parts.filter((part) => part > 0));
    const capacity = able.reduce((sum, [, { groups }]) => sum + groups, 0);
    wanted += demand;
    for (const [key] of able) prices.set(key, prices.get(key)! + (demand * total) / capacity);
  }
  for (const [key, price] of prices) prices.set(key, wanted === 0 ? 1 : price / wanted);
  return prices;
}

/** Groups of devices, in parts, that one pod takes of the node when nobody has anything of it; 0: it cannot. */
function partsTaken(shape: Shape, record: NodeRecord, inventory: NodeInventory): number {
  if (shape.claims.length === 0) return 0;
  const before = emptyUsage(inventory);
  const choice = chooseDevices(shape, record, inventory, before);
  if (isAllocationFailure(choice)) return 0;
  const after = copyUsage(before);
  takeDevices(inventory, after, choice, 1);
  return sumOf(freeParts(inventory, before)) - sumOf(freeParts(inventory, after));
}

export function sumOf(parts: Float64Array): number {
  let sum = 0;
  for (const part of parts) sum += part;
  return sum;
}
