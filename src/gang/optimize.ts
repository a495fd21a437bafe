import { candidateDomains } from "./candidates.ts";
import { createGroupDomains } from "./group-domain.ts";
import type { LevelRef, Place, Problem, Rule } from "./problem.ts";
import { type Carried, carry, type Option, podsOf, type Traffic } from "./traffic.ts";

/** A placement under rules: those that it has to keep, and those that it was found to be able to keep. */
export interface Found {
  readonly rules: readonly Rule[];
  readonly problem: Problem;
  readonly places: readonly Place[];
}

/** Finds placements under rules. */
export interface Attempts {
  /** In at most so many steps; `budget`: they did not tell. */
  attempt(rules: readonly Rule[], steps?: number): Found | "impossible" | "budget";
  /** The problem under the rules, not searched. */
  problemOf(rules: readonly Rule[]): Problem;
  /** Is there budget left for another attempt? */
  left(): boolean;
}

/** What each attempt may spend in the first round; four times as much in each further one. */
const firstSteps = 100;

/** Milliseconds below which two placements cost the same. */
const sameCost = 1e-6;

/**
 * Makes the traffic of a placement cheaper by branch and bound: for each tensor-parallel group and each pair of gangs
 * one level whose domain all of its pods share, from narrow to broad. Without the budget ending the result is the
 * cheapest by the links' figures, if narrower levels are never slower; else the cheapest found.
 * @param alike ways of exchanging the traffic that change neither what is possible nor what it costs; itself first
 */
export function optimize(
  start: Found,
  traffic: readonly Traffic[],
  alike: readonly (readonly number[])[],
  attempts: Attempts,
): { readonly found: Found; readonly proven: boolean } {
  const initial = priced(start, traffic);
  if (initial.carried.every(({ at }) => at <= 0)) return { found: start, proven: true };
  const run = createRun(initial, traffic, alike, attempts);
  // One hard question must not take the steps of all others: each may take a few, then more.
  for (let steps = firstSteps; run.isOpen(); steps *= 4) run.round(steps);
  return { found: run.best(), proven: run.isProven() };
}

/** Per traffic the position of the option that it is to have; others are free. */
type Choice = ReadonlyMap<number, number>;

function createRun(
  initial: Priced,
  traffic: readonly Traffic[],
  alike: readonly (readonly number[])[],
  attempts: Attempts,
) {
  const start = initial.found;
  const options = initial.carried.map((each) => each.options);
  const first = leastOptions(start, traffic, initial.carried, attempts);
  const list = [...traffic.keys()].filter((t) => options[t]!.length > 0);
  const leastOf = (t: number) => options[t]![first[t]!]!.milliseconds;
  const gap = (t: number) => optionAt(initial.carried[t]!).milliseconds - leastOf(t);
  const order = inOrder(list, traffic, new Map(list.map((t) => [t, gap(t)])));
  const rest: number[] = Array.from({ length: order.length + 1 }, () => 0);
  for (let k = order.length - 1; k >= 0; k--) rest[k] = rest[k + 1]! + leastOf(order[k]!);
  const ideal: Choice = new Map(order.map((t) => [t, first[t]!]));
  const impossible = new Set<string>();
  const seen = new Set<string>();
  let best = initial;
  let unsure = true;

  const attempt = (chosen: Choice, key: string, steps: number): Priced | undefined => {
    if (impossible.has(key) || !attempts.left()) return undefined;
    const refs = new Map([...chosen].map(([t, option]) => [t, options[t]![option]!.ref]));
    const found = attempts.attempt([...start.rules, ...rulesFor(traffic, refs)], steps);
    if (found === "impossible") impossible.add(key);
    if (found === "budget") unsure = true;
    if (typeof found === "string") return undefined;
    const result = priced(found, traffic);
    if (isCheaper(result, best)) best = result;
    return result;
  };
  /** Chooses for the traffic from position `k` on; `at` keeps what is chosen so far. */
  const branch = (k: number, chosen: Map<number, number>, at: Priced, cost: number, steps: number): void => {
    if (k === order.length || cost + rest[k]! >= best.cost - sameCost) return;
    const t = order[k]!;
    const before = order[k - 1];
    const twin = before !== undefined && traffic[before]!.class === traffic[t]!.class;
    for (let option = Math.max(first[t]!, twin ? chosen.get(before)! : 0); option < options[t]!.length; option++) {
      const { milliseconds } = options[t]![option]!;
      if (cost + milliseconds + rest[k + 1]! >= best.cost - sameCost) break;
      chosen.set(t, option);
      const key = keyOf(chosen, alike);
      if (!seen.has(key)) {
        seen.add(key);
        const next = at.carried[t]!.at <= option ? at : attempt(chosen, key, steps);
        if (next) branch(k + 1, chosen, next, cost + milliseconds, steps);
      }
      chosen.delete(t);
      if (!attempts.left()) {
        unsure = true;
        return;
      }
    }
  };
  /** There is nothing cheaper: no question was left for want of steps, or nothing can cost less. */
  const isProven = () => !unsure || best.cost <= rest[0]! + sameCost;
  return {
    best: () => best.found,
    isProven,
    isOpen: () => !isProven() && attempts.left(),
    round(steps: number) {
      unsure = false;
      seen.clear();
      if (!attempt(ideal, keyOf(ideal, alike), steps)) branch(0, new Map(), initial, 0, steps);
    },
  };
}

/** Equal for choices that differ in which of some gangs that are alike is which. */
function keyOf(chosen: Choice, alike: readonly (readonly number[])[]): string {
  let least: number[] | undefined;
  for (const becomes of alike) {
    const key = becomes.map(() => 0);
    for (const [t, option] of chosen) key[becomes[t]!] = option + 1;
    if (least === undefined || isLess(key, least)) least = key;
  }
  return least!.join();
}

function isLess(a: readonly number[], b: readonly number[]): boolean {
  for (const [i, each] of a.entries()) if (each !== b[i]) return each < b[i]!;
  return false;
}

export function isCheaper(first: Priced, second: Priced): boolean {
  return first.cost < second.cost - sameCost;
}

/** Does all traffic of the second placement cost no more than that of the first? */
export function noDearer(first: Found, second: Found, traffic: readonly Traffic[]): boolean {
  return !isCheaper(priced(first, traffic), priced(second, traffic));
}

/** A placement, how it carries the traffic, and the milliseconds of all. */
export interface Priced {
  readonly found: Found;
  readonly carried: readonly Carried[];
  readonly cost: number;
}

export function priced(found: Found, traffic: readonly Traffic[]): Priced {
  const { problem, places } = found;
  const carried = traffic.map((each) => carry(problem.view, each, podsOf(problem, places, each)));
  return { found, carried, cost: carried.reduce((sum, { options, at }) => sum + (options[at]?.milliseconds ?? 0), 0) };
}

function optionAt({ options, at }: Carried): Option {
  return options[at] ?? { ref: undefined, milliseconds: 0 };
}

/** What can gain most goes first; traffic of one class together, so that twins are told apart by nothing but order. */
function inOrder(list: readonly number[], traffic: readonly Traffic[], gaps: ReadonlyMap<number, number>): number[] {
  const gapOf = new Map<string, number>();
  for (const t of list) {
    const { class: name } = traffic[t]!;
    gapOf.set(name, Math.max(gapOf.get(name) ?? 0, gaps.get(t)!));
  }
  const position = new Map([...gapOf.keys()].map((name, i) => [name, i]));
  return list.toSorted((a, b) => {
    const [first, second] = [traffic[a]!.class, traffic[b]!.class];
    return gapOf.get(second)! - gapOf.get(first)! || position.get(first)! - position.get(second)! || a - b;
  });
}

/** Per traffic, the narrowest level of which some domain has room for its pods by themselves. */
function leastOptions(
  start: Found,
  traffic: readonly Traffic[],
  carried: readonly Carried[],
  { problemOf }: Attempts,
): number[] {
  const known = new Map<string, number>();
  return traffic.map((each, t) => {
    const { options, at } = carried[t]!;
    if (at <= 0) return 0;
    const pinned = each.pins.length > 0;
    const key = `${each.class} ${at}`;
    if (!pinned && known.has(key)) return known.get(key)!;
    let option = 0;
    for (; option < at; option++) {
      const { ref } = options[option]!;
      const [rule] = ref ? rulesFor(traffic, new Map([[t, ref]])) : [];
      if (!rule || hasRoom(problemOf([...start.rules, rule]), rule)) break;
    }
    known.set(key, option);
    return option;
  });
}

/** Has some domain room for the pods of the rule together, whatever the others need? */
export function hasRoom(problem: Problem, rule: Rule): boolean {
  const domains = createGroupDomains(problem);
  const hasOne = (g: number): boolean => {
    const candidates = candidateDomains(problem, g, domains);
    for (let i = 0; ; i++) {
      const domain = candidates.at(i);
      if (domain === undefined) return false;
      if (!domains.assign(g, domain)) continue;
      domains.unassign(g);
      return true;
    }
  };
  return [...problem.groups.entries()].every(([g, group]) => group.rule !== rule || hasOne(g));
}

/** One rule per level and class of traffic, so that twins at one level can trade places. */
function rulesFor(traffic: readonly Traffic[], chosen: ReadonlyMap<number, LevelRef | undefined>): Rule[] {
  const lists = Map.groupBy(
    [...chosen].filter(([, ref]) => ref !== undefined),
    ([t, ref]) => `${traffic[t]!.class} ${ref!.level.name}`,
  );
  return [...lists.values()].map((list): Rule => {
    const [first, ref] = list[0]!;
    const { fabric, keyOf, class: name } = traffic[first]!;
    const keys = new Set(list.map(([t]) => traffic[t]!.key));
    return {
      kind: "colocate",
      fabric,
      ref: ref!,
      maxSkew: 1,
      required: false,
      setOf: (slot) => {
        const key = keyOf(slot);
        return key !== undefined && keys.has(key) ? key : undefined;
      },
      title: "",
      surroundings: () => name,
    };
  });
}
