import type { Rejection } from "../api/placement.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import type { PlanResult, PlanUnit } from "../gang/plan.ts";
import { comparePlain } from "../topology/natural-order.ts";

/** Gangs that are placed all together or not at all, and the keys of those of them that have no place yet. */
export interface GangSet {
  readonly unit: PlanUnit;
  readonly keys: readonly string[];
}

/** A set that has no place, and why. */
export interface RefusedSet extends GangSet {
  readonly rejections: readonly Rejection[];
}

/** Gangs, by key, that have no place together: no set with all of them is worth a try. */
export type RuledOut = ReadonlySet<string>;

/** Of one role: gangs that wait, oldest first, and how many of them are to be chosen. */
export interface Seats {
  readonly waiting: readonly GangState[];
  readonly count: number;
}

/** So many sets of a group are planned before it is refused. */
const mostSets = 16;
/** And so many gangs are chosen in vain in search of a set that is not ruled out. */
const mostMisses = 1_000;

/**
 * The oldest gangs, as many of each role as it has seats, among which none that are ruled out come together. Who is older
 * goes before who is younger, in earlier roles before later ones.
 * @returns undefined: no such set is left
 */
export function oldestSet(seats: readonly Seats[], ruledOut: readonly RuledOut[]): Set<GangState> | undefined {
  const chosen = new Map<string, GangState>();
  let misses = 0;
  const isRuledOut = (): boolean => ruledOut.some((keys) => [...keys].every((key) => chosen.has(key)));
  const fill = (role: number, from: number, left: number): boolean => {
    const seat = seats[role];
    if (seat === undefined) return true;
    if (left === 0) return fill(role + 1, 0, seats[role + 1]?.count ?? 0);
    for (let i = from; i <= seat.waiting.length - left && misses < mostMisses; i++) {
      const gang = seat.waiting[i]!;
      chosen.set(gang.key, gang);
      if (!isRuledOut() && fill(role, i + 1, left - 1)) return true;
      chosen.delete(gang.key);
      misses++;
    }
    return false;
  };
  return fill(0, 0, seats[0]?.count ?? 0) ? new Set(chosen.values()) : undefined;
}

/**
 * Plans one set after the other until one has a place: a gang that does not fit keeps no younger one of its role waiting.
 * @param setOf the next set in order of age; undefined: there is no other
 * @param refused sets that are known to have no place; those that turn out to have none are added
 * @param inTime false: no further set is begun, but one
 * @returns the set that has a place; undefined: none has, see `refused`; `later`: not all were tried
 */
export function firstPlaced(
  setOf: (ruledOut: readonly RuledOut[]) => GangSet | undefined,
  plan: (set: GangSet) => PlanResult,
  refused: RefusedSet[] = [],
  inTime: () => boolean = () => true,
): GangSet | "later" | undefined {
  const ruledOut = refused.map(ruledOutBy);
  for (let tries = 0; refused.length < mostSets; tries++) {
    const set = setOf(ruledOut);
    if (set === undefined || ruledOut.some((keys) => [...keys].every((key) => set.keys.includes(key))))
      return undefined;
    if (tries > 0 && !inTime()) return "later";
    const result = plan(set);
    if ("plans" in result) return set;
    refused.push({ ...set, rejections: result.rejections });
    ruledOut.push(ruledOutBy(refused.at(-1)!));
  }
  return undefined;
}

/** Those of the set that have a fault of their own, alone or together; the others wait for them. */
function ruledOutBy({ keys, rejections }: RefusedSet): RuledOut {
  const atFault = rejections.filter(({ reason }) => reason !== "WaitingForPlacementGroup").map(keyOf);
  const own = keys.filter((key) => atFault.includes(key));
  return new Set(own.length > 0 ? own : keys);
}

/** Who else was tried, beside those of the set that is told of it; empty: nobody. */
export function triedText(keys: readonly string[], refused: readonly RefusedSet[]): string {
  const others = refused.flatMap((set) => set.rejections.map(keyOf).filter((key) => set.keys.includes(key)));
  const names = [...new Set(others)]
    .filter((key) => !keys.includes(key))
    .map((key) => key.slice(key.indexOf("/") + 1))
    .sort(comparePlain);
  if (names.length === 0) return "";
  const more = names.length - mostNames;
  const all = `${names.slice(0, mostNames).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
  return `; nor is there a place with ${all} in their stead`;
}

const mostNames = 8;

function keyOf({ namespace, gang }: Rejection): string {
  return `${namespace}/${gang}`;
}
