import { comparePlain } from "../topology/natural-order.ts";
import type { Victim } from "./victims.ts";

/** What a set of victims costs, in the order in which it counts: less is cheaper. */
export type Cost = readonly [
  highestPriority: number,
  pods: number,
  devices: number,
  victims: number,
  /** Of the oldest, negative: the younger leave. */
  age: number,
];

export const nothing: Cost = [-Number.MAX_VALUE, 0, 0, 0, -Number.MAX_VALUE];

/** Of a set and one more. */
export function costWith(cost: Cost, { priority, pods, devices, createdAtMs }: Victim): Cost {
  return [
    Math.max(cost[0], priority),
    cost[1] + pods.length,
    cost[2] + devices,
    cost[3] + 1,
    Math.max(cost[4], -createdAtMs),
  ];
}

export function costOf(victims: readonly Victim[]): Cost {
  return victims.reduce(costWith, nothing);
}

/** A set of victims with what it costs. */
export interface Priced {
  readonly set: readonly Victim[];
  readonly cost: Cost;
}

/** Cheaper first; a set costs more than each of its parts. Names decide between equals. */
export function compareSets(a: Priced, b: Priced): number {
  for (let i = 0; i < a.cost.length; i++) {
    const difference = a.cost[i]! - b.cost[i]!;
    if (difference !== 0) return difference;
  }
  return comparePlain(idsOf(a.set), idsOf(b.set));
}

/** The same for two of whom each is a set of its own. */
export function byCost(a: Victim, b: Victim): number {
  return (
    a.priority - b.priority ||
    a.pods.length - b.pods.length ||
    a.devices - b.devices ||
    b.createdAtMs - a.createdAtMs ||
    comparePlain(a.id, b.id)
  );
}

function idsOf(victims: readonly Victim[]): string {
  return victims
    .map(({ id }) => id)
    .sort(comparePlain)
    .join("\n");
}
