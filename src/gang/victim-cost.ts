import { comparePlain } from "../topology/natural-order.ts";
import type { Victim } from "./victims.ts";

/** Cheaper first; a set costs more than each of its parts. */
export function compareSets(a: readonly Victim[], b: readonly Victim[]): number {
  return (
    most(a, ({ priority }) => priority) - most(b, ({ priority }) => priority) ||
    sum(a, ({ pods }) => pods.length) - sum(b, ({ pods }) => pods.length) ||
    sum(a, ({ devices }) => devices) - sum(b, ({ devices }) => devices) ||
    a.length - b.length ||
    most(a, ({ createdAtMs }) => -createdAtMs) - most(b, ({ createdAtMs }) => -createdAtMs) ||
    comparePlain(idsOf(a), idsOf(b))
  );
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

export function most(victims: readonly Victim[], of: (victim: Victim) => number): number {
  return victims.reduce((highest, victim) => Math.max(highest, of(victim)), -Number.MAX_VALUE);
}

function sum(victims: readonly Victim[], of: (victim: Victim) => number): number {
  return victims.reduce((total, victim) => total + of(victim), 0);
}

function idsOf(victims: readonly Victim[]): string {
  return victims
    .map(({ id }) => id)
    .sort(comparePlain)
    .join("\n");
}
