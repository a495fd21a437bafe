import type { Wish } from "../api/placement.ts";
import type { Given } from "../dra/allocator/claim.ts";
import type { ModelView } from "../topology/model.ts";
import { exchanges } from "./exchange.ts";
import { narrow } from "./narrow.ts";
import { type Attempts, type Found, optimize } from "./optimize.ts";
import type { PlanUnit } from "./plan.ts";
import { polish } from "./polish.ts";
import type { PreparedUnit } from "./prepare.ts";
import { buildProblem, type Decided, type Problem, type Rule, type Slot } from "./problem.ts";
import { inRankOrder } from "./rank-order.ts";
import { type SearchResult, search } from "./search.ts";
import { type Traffic, trafficOf } from "./traffic.ts";

/** Finds the best places for some slots of a unit. */
export interface Solver {
  /** Best placement of the slots; `limit`: steps at most. */
  best(slots: readonly Slot[], limit: number): Attempt;
  /** Can they be placed at all? Such questions take half of the budget at most, all together. */
  feasible(slots: readonly Slot[]): SearchResult["kind"];
  /** Can the slots be placed if spreads do not matter? What cannot, cannot with more slots either. */
  feasibleUneven(slots: readonly Slot[]): boolean;
  explored(): number;
}

/**
 * `impossible` is proved; `budget`: the search was stopped before it knew. `open`: wishes of which it was stopped before it
 * knew whether they can be had.
 */
export type Attempt =
  | { readonly kind: "found"; readonly decided: readonly Decided[]; readonly open: readonly Wish[] }
  | { readonly kind: Failure };

type Failure = "impossible" | "budget";

/** What one attempt at something that is merely wished for may spend. */
export const wishBudget = 2_000;

/** What all attempts at cheaper traffic may spend together; and those at cheaper traffic of one or two gangs. */
const trafficBudget = 3_000;
const moveBudget = 100;

type ProblemUnder = (rules: readonly Rule[]) => Problem;

/** Where places are looked for, and what that has taken so far. */
interface Task {
  readonly unit: PreparedUnit;
  readonly group: PlanUnit["placementGroup"];
  readonly effort: Effort;
  /** What claims of a slot are to get of what they ask for; slots without an entry: whatever is there. */
  readonly given: ReadonlyMap<Slot, readonly Given[]>;
  problemOf(slots: readonly Slot[], decided: readonly Decided[], rules: readonly Rule[]): Problem;
}

type Start = Omit<Task, "given" | "problemOf">;

function taskOf(view: ModelView, start: Start, given: Task["given"]): Task {
  const { pins, fabric, tableOf } = start.unit;
  return {
    ...start,
    given,
    problemOf: (slots, decided, rules) =>
      buildProblem({
        view,
        slots,
        pins,
        decided,
        rules,
        fabric,
        tableOf: (slot, alone) => tableOf(slot, alone, given.get(slot)),
      }),
  };
}

export function createSolver(
  view: ModelView,
  unit: PreparedUnit,
  group: PlanUnit["placementGroup"],
  budget: number,
): Solver {
  const effort = createEffort(budget);
  const task = taskOf(view, { unit, group, effort }, new Map());
  const { problemOf } = task;
  const required = unit.rules.filter((rule) => rule.required);
  return {
    explored: effort.explored,
    feasible: (slots) => effort.attempt(problemOf(slots, [], required), wishBudget, budget / 2).kind,
    feasibleUneven(slots) {
      const monotone = required.filter(({ kind }) => kind !== "spread");
      return effort.attempt(problemOf(slots, [], monotone), wishBudget).kind !== "impossible";
    },
    best(slots, limit) {
      const kept = keepMost(unit.rules, (rules) => problemOf(slots, [], rules), effort, limit);
      if (typeof kept === "string") return { kind: kept };
      const { found, open } = makeMost(kept.found, slots, taskOf(view, task, givenIn(kept.found)));
      const places = inRankOrder(found.problem, found.places);
      const { tables } = found.problem;
      return {
        kind: "found",
        decided: slots.map((slot, i) => ({ slot, table: tables[i]!, place: places[i]! })),
        open: [...(kept.proven ? [] : ["PreferredRules" as const]), ...open],
      };
    },
  };
}

/**
 * What traffic costs can be compared between placements that send the same. So pods keep what they were given: of several
 * alternatives the one that was taken, and where that was all devices, as many.
 */
function givenIn({ problem, places }: Found): Task["given"] {
  const given = new Map<Slot, readonly Given[]>();
  for (const [i, slot] of problem.slots.entries()) {
    if (!problem.tables[i]!.shape.open) continue;
    const numbers = places[i]!.choice.claims.map(({ devices }) =>
      Object.fromEntries(
        [...Map.groupBy(devices, ({ request }) => request)].map(([name, list]) => [name, list.length]),
      ),
    );
    given.set(slot, numbers);
  }
  return given;
}

/** Counts what the searches of one plan take together. */
interface Effort {
  /** `kept`: so much of the budget stays for others. */
  attempt(problem: Problem, limit: number, kept?: number): SearchResult;
  explored(): number;
  /** Is there budget left? */
  left(): boolean;
}

function createEffort(budget: number): Effort {
  let explored = 0;
  let spent = 0;
  return {
    attempt(problem, limit, kept = 0) {
      const result = search(problem, Math.min(limit, budget - kept - spent));
      explored += result.explored;
      spent += result.spent;
      return result;
    },
    explored: () => explored,
    left: () => spent < budget,
  };
}

/**
 * The required rules, and of the preferred ones, in their order, each that can be kept beside those before it; then of the
 * spreads that cannot, each with the least skew that can be: dropped altogether, they would have their pods put close together.
 */
function keepMost(
  wanted: readonly Rule[],
  problem: ProblemUnder,
  effort: Effort,
  limit: number,
): { readonly found: Found; readonly proven: boolean } | Failure {
  const required = wanted.filter((rule) => rule.required);
  const preferred = wanted.filter((rule) => !rule.required);
  const tried = (rules: readonly Rule[], steps: number): Found | Failure => {
    const made = problem(rules);
    const result = effort.attempt(made, steps);
    return result.kind === "found" ? { rules, problem: made, places: result.places } : result.kind;
  };
  const all = preferred.length > 0 ? tried(wanted, Math.min(limit, wishBudget)) : tried(required, limit);
  if (typeof all !== "string") return { found: all, proven: true };
  let best = preferred.length === 0 ? all : tried(required, limit);
  if (typeof best === "string") return best;
  let proven = true;
  const wished = (rules: readonly Rule[]): Found | Failure => {
    const next = tried(rules, wishBudget);
    if (next === "budget") proven = false;
    return next;
  };
  for (const rule of preferred) {
    const next = wished([...best.rules, rule]);
    if (typeof next !== "string") best = next;
  }
  for (const rule of preferred) {
    if (rule.kind === "spread" && !best.rules.includes(rule)) best = leastSkew(best, rule, wished);
  }
  return { found: best, proven };
}

/** Keeps a spread with the least skew with which it can be kept; where even the largest does not help, it is left out. */
function leastSkew(best: Found, rule: Rule, tried: (rules: readonly Rule[]) => Found | Failure): Found {
  const { slots, pins } = best.problem;
  const withSkew = (maxSkew: number) => tried([...best.rules, { ...rule, maxSkew }]);
  let [fails, holds] = [rule.maxSkew, slots.length + pins.length];
  const loosest = holds > fails ? withSkew(holds) : "impossible";
  if (typeof loosest === "string") return best;
  let found = loosest;
  while (holds - fails > 1) {
    const middle = Math.floor((fails + holds) / 2);
    const next = withSkew(middle);
    if (typeof next === "string") fails = middle;
    else [holds, found] = [middle, next];
  }
  return found;
}

/** Attempts at more than is asked for, with a budget of their own. */
function attemptsAt(problem: ProblemUnder, effort: Effort, allowed: number): Attempts {
  let left = allowed;
  return {
    problemOf: problem,
    left: () => left > 0 && effort.left(),
    attempt(rules, steps = left) {
      const made = problem(rules);
      const result = effort.attempt(made, Math.min(steps, left));
      left -= result.explored;
      return result.kind === "found" ? { rules, problem: made, places: result.places } : result.kind;
    },
  };
}

/** Traffic that costs least, and domains no broader than they have to be. */
function makeMost(
  kept: Found,
  slots: readonly Slot[],
  task: Task,
): { readonly found: Found; readonly open: readonly Wish[] } {
  const { unit, group, effort } = task;
  const problem: ProblemUnder = (rules) => task.problemOf(slots, [], rules);
  const traffic = trafficOf(unit, group, kept.problem);
  // A good start prunes: but cheaper traffic may be found outside of the domains that it keeps to.
  const compact = narrow(kept, unit, traffic, attemptsAt(problem, effort, wishBudget));
  const start = { ...compact.found, rules: kept.rules };
  const cheap = cheapest(start, problem, traffic, trafficBudget, task);
  const before = effort.explored();
  const left = () => effort.left() && effort.explored() - before < trafficBudget;
  const move = (from: Found, gangs: ReadonlySet<number>) => moveGangs(from, gangs, kept, slots, task);
  const polished = cheap.proven ? cheap.found : polish(cheap.found, traffic, move, left);
  const last = narrow(polished, unit, traffic, attemptsAt(problem, effort, wishBudget));
  const traffics = cheap.proven ? [] : ["Traffic" as const];
  return { found: last.found, open: [...traffics, ...(last.proven ? [] : ["Compactness" as const])] };
}

function cheapest(
  start: Found,
  problem: ProblemUnder,
  traffic: readonly Traffic[],
  allowed: number,
  { unit, effort, given }: Task,
) {
  return optimize(start, traffic, exchanges(unit, start.problem, traffic, given), attemptsAt(problem, effort, allowed));
}

/** Makes traffic of some gangs cheaper by other places for them alone: everything else counts as decided. */
function moveGangs(from: Found, gangs: ReadonlySet<number>, kept: Found, slots: readonly Slot[], task: Task): Found {
  const moving = [...slots.keys()].filter((i) => gangs.has(slots[i]!.gang));
  const others = slots.flatMap((slot, i) =>
    gangs.has(slot.gang) ? [] : [{ slot, table: from.problem.tables[i]!, place: from.places[i]! }],
  );
  const movingSlots = moving.map((i) => slots[i]!);
  const part: ProblemUnder = (under) => task.problemOf(movingSlots, others, under);
  const made = part(kept.rules);
  const start = { rules: kept.rules, problem: made, places: moving.map((i) => from.places[i]!) };
  const { places } = cheapest(start, part, trafficOf(task.unit, task.group, made), moveBudget, task).found;
  const to = new Map(moving.map((i, at) => [i, places[at]!]));
  return { ...kept, places: from.places.map((place, i) => to.get(i) ?? place) };
}
