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

/** Finds a placement under rules; undefined: there is none, or the budget does not tell. */
export interface Attempts {
  attempt(rules: readonly Rule[]): Found | undefined;
  /** The problem under the rules, not searched. */
  problemOf(rules: readonly Rule[]): Problem;
  /** Is there budget left for another attempt? */
  left(): boolean;
}

/** Milliseconds below which two placements cost the same. */
const sameCost = 1e-6;

/**
 * Makes the traffic of a placement cheaper by branch and bound: for each tensor-parallel group and each pair of gangs
 * one level whose domain all of its pods share, from narrow to broad. Without the budget ending the result is the
 * cheapest by the links' figures, if narrower levels are never slower; else the cheapest found.
 */
export function optimize(start: Found, traffic: readonly Traffic[], attempts: Attempts): Found {
  let best = priced(start, traffic);
  const open = [...traffic.keys()].filter((t) => best.carried[t]!.at > 0);
  if (open.length === 0) return start;
  const first = leastOptions(start, traffic, best.carried, attempts);
  const list = [...traffic.keys()].filter((t) => best.carried[t]!.options.length > 0);
  const leastOf = (t: number) => best.carried[t]!.options[first[t]!]!.milliseconds;
  const gap = (t: number) => optionAt(best.carried[t]!).milliseconds - leastOf(t);
  const order = inOrder(list, traffic, new Map(list.map((t) => [t, gap(t)])));
  const options = best.carried.map((each) => each.options);
  const rest: number[] = Array.from({ length: order.length + 1 }, () => 0);
  for (let k = order.length - 1; k >= 0; k--) rest[k] = rest[k + 1]! + leastOf(order[k]!);

  const tryRules = (chosen: ReadonlyMap<number, LevelRef | undefined>) => {
    const found = attempts.left() ? attempts.attempt([...start.rules, ...rulesFor(traffic, chosen)]) : undefined;
    const result = found && priced(found, traffic);
    if (result && result.cost < best.cost - sameCost) best = result;
    return result;
  };
  /** Chooses for the traffic from position `k` on; `at` keeps what is chosen so far. */
  const branch = (k: number, chosen: Map<number, LevelRef | undefined>, at: typeof best, cost: number): void => {
    if (k === order.length || cost + rest[k]! >= best.cost - sameCost) return;
    const t = order[k]!;
    const before = order[k - 1];
    const twin = before !== undefined && traffic[before]!.class === traffic[t]!.class;
    const from = twin ? options[before]!.findIndex(({ ref }) => ref?.level === chosen.get(before)?.level) : 0;
    for (let option = Math.max(first[t]!, from); option < options[t]!.length; option++) {
      const { ref, milliseconds } = options[t]![option]!;
      if (cost + milliseconds + rest[k + 1]! >= best.cost - sameCost) break;
      chosen.set(t, ref);
      const next = at.carried[t]!.at <= option ? at : tryRules(chosen);
      if (next) branch(k + 1, chosen, next, cost + milliseconds);
      chosen.delete(t);
      if (!attempts.left()) return;
    }
  };

  if (best.cost <= rest[0]! + sameCost) return start;
  const ideal = new Map(order.map((t) => [t, options[t]![first[t]!]!.ref]));
  const initial = best;
  if (tryRules(ideal)) return best.found;
  branch(0, new Map(), initial, 0);
  return best.found;
}

/** Does all traffic of the second placement cost no more than that of the first? */
export function noDearer(first: Found, second: Found, traffic: readonly Traffic[]): boolean {
  return priced(second, traffic).cost <= priced(first, traffic).cost + sameCost;
}

function priced(found: Found, traffic: readonly Traffic[]): { found: Found; carried: Carried[]; cost: number } {
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

/** Has some domain room for the pods of the rule, whatever the others need? */
export function hasRoom(problem: Problem, rule: Rule): boolean {
  const domains = createGroupDomains(problem);
  return [...problem.groups.entries()].every(
    ([g, group]) => group.rule !== rule || candidateDomains(problem, g, domains).at(0) !== undefined,
  );
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
