import type { ClusterModel } from "../topology/model.ts";
import { exchanges } from "./exchange.ts";
import { type Attempts, type Found, hasRoom, noDearer, optimize } from "./optimize.ts";
import type { PlanUnit } from "./plan.ts";
import { polish } from "./polish.ts";
import type { PreparedUnit } from "./prepare.ts";
import { buildProblem, type Decided, type Place, type Problem, type Rule, type Slot } from "./problem.ts";
import { inRankOrder } from "./rank-order.ts";
import { search } from "./search.ts";
import { type Traffic, trafficOf } from "./traffic.ts";

/** Places for slots of a unit; `decided` holds every newly placed one. */
export interface Solution {
  readonly kind: "found";
  readonly decided: readonly Decided[];
  readonly explored: number;
}

/** `impossible` is proved; `budget`: the search was stopped before it knew. */
export interface NoSolution {
  readonly kind: "impossible" | "budget";
  readonly explored: number;
}

/** What one attempt at something that is merely wished for may spend. */
const wishBudget = 2_000;

/** What all attempts at cheaper traffic may spend together; and those at cheaper traffic of one or two gangs. */
const trafficBudget = 3_000;
const moveBudget = 100;

/**
 * Finds places for all base slots under all required rules, then makes the most of it: preferred rules in their order,
 * surplus, traffic that costs least, and domains no broader than they have to be.
 */
export function solveUnit(
  model: ClusterModel,
  unit: PreparedUnit,
  group: PlanUnit["placementGroup"],
  budget: number,
): Solution | NoSolution {
  const solver = createSolver(model, unit, group, budget);
  const everything = [...unit.base, ...unit.surplus.flat()];
  if (everything.length === 0) return { kind: "found", decided: [], explored: 0 };
  if (unit.surplus.length > 0) {
    const whole = solver.best(everything, [], Math.min(wishBudget, budget));
    if (whole.kind === "found") return { ...whole, explored: solver.explored() };
  }
  const most = mostSurplus(solver, unit);
  let surplus = unit.surplus.slice(most);
  let first = solver.best([...unit.base, ...unit.surplus.slice(0, most).flat()], [], budget);
  if (first.kind === "impossible" && unit.surplus.length > 0) {
    const more = withMoreThanNeeded(solver, unit, budget);
    first = more.attempt;
    surplus = unit.surplus.filter((entry) => !more.taken.includes(entry));
  }
  if (first.kind !== "found") return { kind: first.kind, explored: solver.explored() };
  const decided = addSurplus(solver, surplus, first.decided);
  return { kind: "found", decided, explored: solver.explored() };
}

type Attempt =
  | { readonly kind: "found"; readonly decided: readonly Decided[] }
  | { readonly kind: "impossible" | "budget" };

interface Solver {
  /** Best placement of the slots beside what is decided; `limit`: steps at most. */
  best(slots: readonly Slot[], decided: readonly Decided[], limit: number): Attempt;
  feasible(slots: readonly Slot[]): boolean;
  /** Can the slots be placed if spreads do not matter? What cannot, cannot with more slots either. */
  feasibleUneven(slots: readonly Slot[]): boolean;
  explored(): number;
}

function createSolver(
  model: ClusterModel,
  unit: PreparedUnit,
  group: PlanUnit["placementGroup"],
  budget: number,
): Solver {
  let explored = 0;
  let spent = 0;
  const required = unit.rules.filter((rule) => rule.required);
  const preferred = unit.rules.filter((rule) => !rule.required);

  const problemOf = (slots: readonly Slot[], decided: readonly Decided[], rules: readonly Rule[]): Problem =>
    buildProblem({
      view: model.view,
      slots,
      pins: unit.pins,
      decided,
      rules,
      fabric: unit.fabric,
      tableOf: unit.tableOf,
    });
  const attempt = (problem: Problem, limit: number) => {
    const result = search(problem, Math.min(limit, budget - spent));
    explored += result.explored;
    spent += result.spent;
    return result;
  };
  /** The required rules, and of the preferred ones, in their order, each that can be kept beside those before it. */
  const keepMost = (problem: (rules: readonly Rule[]) => Problem, limit: number): Found | NoSolution["kind"] => {
    const tried = (rules: readonly Rule[], steps: number): Found | NoSolution["kind"] => {
      const made = problem(rules);
      const result = attempt(made, steps);
      return result.kind === "found" ? { rules, problem: made, places: result.places } : result.kind;
    };
    const all = preferred.length > 0 ? tried(unit.rules, Math.min(limit, wishBudget)) : tried(required, limit);
    if (typeof all !== "string" || preferred.length === 0) return all;
    let best = tried(required, limit);
    if (typeof best === "string") return best;
    for (const rule of preferred) {
      const next = tried([...best.rules, rule], wishBudget);
      if (typeof next !== "string") best = next;
    }
    return best;
  };
  /** Attempts at more than is asked for, with a budget of their own. */
  const attempts = (problem: (rules: readonly Rule[]) => Problem, allowed: number): Attempts => {
    let left = allowed;
    return {
      problemOf: problem,
      left: () => left > 0 && spent < budget,
      attempt(rules, steps = left) {
        const made = problem(rules);
        const result = attempt(made, Math.min(steps, left));
        left -= result.explored;
        return result.kind === "found" ? { rules, problem: made, places: result.places } : result.kind;
      },
    };
  };

  const cheapest = (
    start: Found,
    problem: (rules: readonly Rule[]) => Problem,
    traffic: readonly Traffic[],
    allowed: number,
  ) => optimize(start, traffic, exchanges(unit, start.problem, traffic), attempts(problem, allowed));
  /** Traffic that costs least, and domains no broader than they have to be. */
  const makeMost = (
    kept: Found,
    slots: readonly Slot[],
    decided: readonly Decided[],
    problem: (rules: readonly Rule[]) => Problem,
  ): Found => {
    const traffic = trafficOf(unit, group, kept.problem);
    /** Everything else counts as decided. */
    const move = (from: Found, gangs: ReadonlySet<number>): Found => {
      const moving = [...slots.keys()].filter((i) => gangs.has(slots[i]!.gang));
      const others = slots.flatMap((slot, i) =>
        gangs.has(slot.gang) ? [] : [{ slot, table: from.problem.tables[i]!, place: from.places[i]! }],
      );
      const part = (rules: readonly Rule[]) =>
        problemOf(
          moving.map((i) => slots[i]!),
          [...decided, ...others],
          rules,
        );
      const made = part(kept.rules);
      const start = { rules: kept.rules, problem: made, places: moving.map((i) => from.places[i]!) };
      const { places } = cheapest(start, part, trafficOf(unit, group, made), moveBudget).found;
      const to = new Map(moving.map((i, at) => [i, places[at]!]));
      return { ...kept, places: from.places.map((place, i) => to.get(i) ?? place) };
    };
    // A good start prunes: but cheaper traffic may be found outside of the domains that it keeps to.
    const compact = narrow(kept, unit, traffic, attempts(problem, wishBudget));
    const cheap = cheapest({ ...compact, rules: kept.rules }, problem, traffic, trafficBudget);
    const before = explored;
    const left = () => spent < budget && explored - before < trafficBudget;
    const polished = cheap.proven ? cheap.found : polish(cheap.found, traffic, move, left);
    return narrow(polished, unit, traffic, attempts(problem, wishBudget));
  };

  return {
    explored: () => explored,
    feasible: (slots) => attempt(problemOf(slots, [], required), wishBudget).kind === "found",
    feasibleUneven(slots) {
      const monotone = required.filter(({ kind }) => kind !== "spread");
      return attempt(problemOf(slots, [], monotone), wishBudget).kind !== "impossible";
    },
    best(slots, decided, limit) {
      const problem = (rules: readonly Rule[]) => problemOf(slots, decided, rules);
      const kept = keepMost(problem, limit);
      if (typeof kept === "string") return { kind: kept };
      const found = makeMost(kept, slots, decided, problem);
      const places = inRankOrder(found.problem, found.places);
      const { tables } = found.problem;
      return { kind: "found", decided: slots.map((slot, i) => ({ slot, table: tables[i]!, place: places[i]! })) };
    },
  };
}

/** Keeps pods in domains no broader than they have to be, where no traffic says so. */
function narrow(start: Found, unit: PreparedUnit, traffic: readonly Traffic[], attempts: Attempts): Found {
  let best = start;
  for (const narrower of narrowings(unit, start.problem)) {
    // From narrow to broad: the first that works is the one that is wanted.
    for (const rule of narrower) {
      if (holds(rule, best.problem, unit, best.places) || !attempts.left()) break;
      const rules = [...best.rules, rule];
      const next = hasRoom(attempts.problemOf(rules), rule) ? attempts.attempt(rules) : "impossible";
      if (typeof next === "string" || !noDearer(best, next, traffic)) continue;
      best = next;
      break;
    }
  }
  return best;
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

/** The most leading entries of the surplus that fit beside the base; found by halving, since fewer pods fit if more do. */
function mostSurplus(solver: Solver, unit: PreparedUnit): number {
  let fits = 0;
  let fails = unit.surplus.length;
  while (fails - fits > 1) {
    const middle = Math.floor((fits + fails) / 2);
    if (solver.feasible([...unit.base, ...unit.surplus.slice(0, middle).flat()])) fits = middle;
    else fails = middle;
  }
  return fits;
}

/** How many numbers of surplus pods are tried before the search says that it does not know. */
const numbersTried = 256;

/**
 * The pods that are needed cannot be placed by themselves. With a spread more pods may do what fewer cannot: then all
 * numbers of pods between what is needed and what is there are tried, few before many.
 */
function withMoreThanNeeded(
  solver: Solver,
  unit: PreparedUnit,
  budget: number,
): { attempt: Attempt; taken: readonly (readonly Slot[])[] } {
  const nothing = { attempt: { kind: "impossible" }, taken: [] } as const;
  const uneven = unit.rules.some(({ kind, required }) => kind === "spread" && required);
  if (!uneven || !solver.feasibleUneven(unit.base)) return nothing;
  const podSets = [...Map.groupBy(unit.surplus, ([first]) => `${first!.gang}/${first!.podSet}`).values()];
  const seen = new Set<string>();
  let numbers = [podSets.map(() => 0)];
  for (let tried = 0; numbers.length > 0; ) {
    const next: number[][] = [];
    for (const smaller of numbers) {
      for (const [i, podSet] of podSets.entries()) {
        const number = smaller.with(i, smaller[i]! + 1);
        if (number[i]! > podSet.length || seen.has(number.join())) continue;
        seen.add(number.join());
        if (++tried > numbersTried) return { ...nothing, attempt: { kind: "budget" } };
        const taken = podSets.flatMap((entries, each) => entries.slice(0, number[each]));
        const slots = [...unit.base, ...taken.flat()];
        if (!solver.feasibleUneven(slots)) continue;
        const attempt = solver.best(slots, [], budget);
        if (attempt.kind !== "impossible") return { attempt, taken };
        next.push(number);
      }
    }
    numbers = next;
  }
  return nothing;
}

/** Adds what still fits, one entry after the other; a pod set that fails once is left alone. */
function addSurplus(
  solver: Solver,
  surplus: readonly (readonly Slot[])[],
  base: readonly Decided[],
): readonly Decided[] {
  let decided = base;
  const failed = new Set<string>();
  for (const slots of surplus) {
    const podSet = `${slots[0]!.gang}/${slots[0]!.podSet}`;
    if (failed.has(podSet)) continue;
    const more = solver.best(slots, decided, wishBudget);
    if (more.kind === "found") decided = [...decided, ...more.decided];
    else failed.add(podSet);
  }
  return decided;
}
