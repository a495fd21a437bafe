import { type Attempts, type Found, hasRoom, noDearer } from "./optimize.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Place, Problem, Rule } from "./problem.ts";
import type { Traffic } from "./traffic.ts";

/**
 * Keeps pods in domains no broader than they have to be, where no traffic says so.
 * @returns `proven`: the budget did not end before
 */
export function narrow(
  start: Found,
  unit: PreparedUnit,
  traffic: readonly Traffic[],
  attempts: Attempts,
): { readonly found: Found; readonly proven: boolean } {
  let best = start;
  let proven = true;
  for (const narrower of narrowings(unit, start.problem)) {
    // From narrow to broad: the first that works is the one that is wanted.
    for (const rule of narrower) {
      if (holds(rule, best.problem, unit, best.places)) break;
      if (!attempts.left()) {
        proven = false;
        break;
      }
      const rules = [...best.rules, rule];
      const next = hasRoom(attempts.problemOf(rules), rule) ? attempts.attempt(rules) : "impossible";
      if (next === "budget") proven = false;
      if (typeof next === "string" || !noDearer(best, next, traffic)) continue;
      best = next;
      break;
    }
  }
  return { found: best, proven };
}

/**
 * Domains that nobody asked for but that keep pods close: for each gang of several kinds of pods, and for several gangs
 * together, one rule per level, narrow to broad. Pods of one kind are kept close by the search itself.
 */
function* narrowings(unit: PreparedUnit, problem: Problem): Generator<Rule[]> {
  for (const [i, { fabric }] of unit.gangs.entries()) {
    const kinds = problem.bundles.filter(({ slots }) => problem.slots[slots[0]!]!.gang === i);
    const pinned = unit.pins.some(({ gang }) => gang === i);
    if (kinds.length > 1 || (pinned && kinds.length > 0)) yield compactRules(fabric, (gang) => gang === i);
  }
  if (unit.gangs.length > 1) yield compactRules(unit.fabric, () => true);
}

function compactRules(fabric: PreparedUnit["fabric"], covers: (gang: number) => boolean): Rule[] {
  return fabric.nodeLevels.toReversed().map((level) => ({
    kind: "colocate",
    fabric,
    ref: { kind: "node", level },
    maxSkew: 1,
    required: false,
    setOf: ({ gang }) => (covers(gang) ? "all" : undefined),
    title: "",
  }));
}

/** Is the rule met by what was found already? */
function holds(rule: Rule, problem: Problem, unit: PreparedUnit, places: readonly Place[]): boolean {
  if (rule.ref.kind !== "node") return false;
  const { domainOf } = rule.ref.level;
  const nodes = [
    ...problem.slots.flatMap((slot, i) => (rule.setOf(slot) === undefined ? [] : places[i]!.node)),
    ...unit.pins.flatMap((pin) => (rule.setOf(pin) === undefined ? [] : pin.node)),
  ];
  return nodes.every((node) => domainOf[node]! >= 0 && domainOf[node] === domainOf[nodes[0]!]);
}
