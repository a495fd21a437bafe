import type { Conflict as Told } from "../api/placement.ts";
import type { ModelView } from "../topology/model.ts";
import type { PreparedUnit } from "./prepare.ts";
import { buildProblem, type Problem, type Rule, type Slot } from "./problem.ts";
import { type SearchResult, search } from "./search.ts";
import { partsOf, type SlotParts } from "./slot-parts.ts";

/** Pods and rules that have no place together. */
export interface Conflict {
  readonly slots: readonly Slot[];
  readonly rules: readonly Rule[];
  readonly size: ConflictSize;
}

/**
 * `smallest`: no fewer of the pods lack a place, and these have one under any fewer of the rules. `irreducible`: without
 * any one of the pods, or of the rules, the others have a place. `unknown`: the budget ended before either was found out.
 */
type ConflictSize = Told["size"];

/** What one search for a smaller conflict may spend, and what all of them may; nodes that are looked at count a part. */
const searchBudget = 1_000;
const totalEffort = 10_000;
const nodesPerValue = 16;

/** Parts that are thought of at most, and rules of which all choices are tried. */
const maxParts = 2_000;
const maxRules = 6;
/** Of more kinds of pods, parts are not tried together with all others of one kind. */
const maxKinds = 3;

/** The problem of some of a unit's pods under some of its rules. */
export function problemOf(
  view: ModelView,
  unit: PreparedUnit,
  slots: readonly Slot[],
  rules: readonly Rule[],
): Problem {
  const { pins, fabric, tableOf } = unit;
  return buildProblem({ view, slots, pins, decided: [], rules, fabric, tableOf });
}

/**
 * The smallest part of some slots of a unit that is impossible by itself: fewest pods under all required rules, then
 * fewest rules for these. Pods are left out as long as the others are impossible; then every part with one pod less is
 * tried, which is enough, since fewer pods ask for less. A spread may ask for more of fewer: there every size is tried.
 * @param slots impossible together
 * @param start a part of them that should be impossible, if one is known, and the rule that makes it so, which is kept where
 *   others would do as well
 * @returns undefined: a search cannot tell that `start` is impossible
 */
export function smallestConflict(
  view: ModelView,
  unit: PreparedUnit,
  slots: readonly Slot[],
  start?: { readonly slots: readonly Slot[]; readonly rule: Rule | undefined },
): Conflict | undefined {
  const required = unit.rules
    .filter((rule) => rule.required && concerns(rule, slots))
    .sort((a, b) => Number(b === start?.rule) - Number(a === start?.rule));
  const task: Task = { unit, outcome: createTrials(view, unit), required };
  if (start !== undefined && task.outcome(start.slots, required) !== "impossible") return undefined;
  let least = shrink(start?.slots ?? slots, task);
  let smaller = smallerPart(slots, least.slots.length, task);
  while (smaller.slots !== undefined) {
    least = shrink(smaller.slots, task);
    smaller = smallerPart(slots, least.slots.length, task);
  }
  const rules = fewestRules(least.slots, task);
  const both = [smaller.complete ? "smallest" : least.size, rules.size];
  const size = (["unknown", "irreducible"] as const).find((each) => both.includes(each)) ?? "smallest";
  return { slots: least.slots, rules: rules.rules, size };
}

interface Task {
  readonly unit: PreparedUnit;
  readonly required: readonly Rule[];
  /** Searches until the budget of all searches together has ended. */
  outcome(slots: readonly Slot[], rules: readonly Rule[]): SearchResult["kind"];
}

function createTrials(view: ModelView, unit: PreparedUnit): Task["outcome"] {
  const position = new Map(unit.base.map((slot, i) => [slot, i]));
  const known = new Map<string, SearchResult["kind"]>();
  let effort = 0;
  return (slots, rules) => {
    const key = `${slots.map((slot) => position.get(slot)).join()} ${rules.map((rule) => unit.rules.indexOf(rule)).join()}`;
    const before = known.get(key);
    if (before !== undefined) return before;
    const least = slots.length + Math.ceil(view.nodes.length / nodesPerValue);
    if (effort > 0 && effort + least > totalEffort) return "budget";
    const { kind, explored } = search(problemOf(view, unit, slots, rules), searchBudget);
    effort += explored + Math.ceil(view.nodes.length / nodesPerValue);
    known.set(key, kind);
    return kind;
  };
}

function concerns(rule: Rule, slots: readonly Slot[]): boolean {
  return slots.some((slot) => rule.setOf(slot) !== undefined);
}

function hasSpread(rules: readonly Rule[]): boolean {
  return rules.some(({ kind }) => kind === "spread");
}

/** Leaves out gangs, pod sets and single pods as long as the others are impossible. */
function shrink(slots: readonly Slot[], task: Task): { slots: readonly Slot[]; size: ConflictSize } {
  let size: ConflictSize = hasSpread(task.required) ? "unknown" : "irreducible";
  const isImpossible = (fewer: readonly Slot[]): boolean => {
    const kind = fewer.length === 0 ? "found" : task.outcome(fewer, task.required);
    if (kind === "budget") size = "unknown";
    return kind === "impossible";
  };
  let left = slots;
  for (const nameOf of [gangName, podSetName]) {
    for (const name of new Set(left.map(nameOf))) {
      const fewer = left.filter((slot) => nameOf(slot) !== name);
      if (fewer.length < left.length && isImpossible(fewer)) left = fewer;
    }
  }
  const parts = partsIn(left, task);
  let numbers = parts.numbers;
  for (const k of numbers.keys()) {
    numbers = numbers.with(
      k,
      leastThatFails(numbers[k]!, (n) => isImpossible(parts.slotsOf(numbers.with(k, n)))),
    );
  }
  return { slots: parts.slotsOf(numbers), size };
}

/** The least number that fails, as `most` does; often it is that, or not far below. */
function leastThatFails(most: number, doesFail: (number: number) => boolean): number {
  let fails = most;
  let fits = -1;
  for (let step = 1; fails > 0; step *= 2) {
    const next = Math.max(0, fails - step);
    if (!doesFail(next)) {
      fits = next;
      break;
    }
    fails = next;
  }
  while (fails - fits > 1) {
    const middle = Math.floor((fits + fails) / 2);
    if (doesFail(middle)) fails = middle;
    else fits = middle;
  }
  return fails;
}

/** A part of fewer pods than so many that is impossible; without one, `complete` says whether every part was looked at. */
function smallerPart(
  slots: readonly Slot[],
  than: number,
  task: Task,
): { slots: readonly Slot[] | undefined; complete: boolean } {
  const parts = partsIn(slots, task);
  const spread = hasSpread(task.required);
  const fitting: (readonly number[])[] = [];
  let complete = true;
  for (const numbers of kindsOfParts(parts, spread ? 1 : Math.max(1, than - 1), than - 1)) {
    if (numbers === "too many") return { slots: undefined, complete: false };
    // Of what has a place together every part has one.
    if (!spread && fitting.some((known) => numbers.every((n, k) => n <= known[k]!))) continue;
    const more = spread ? undefined : moreThat(parts, numbers, (each) => task.outcome(each, task.required) === "found");
    if (more !== undefined) {
      fitting.push(more);
      continue;
    }
    const some = parts.slotsOf(numbers);
    const kind = task.outcome(some, task.required);
    if (kind === "impossible") return { slots: some, complete };
    if (kind === "found") fitting.push(numbers);
    else complete = false;
  }
  return { slots: undefined, complete };
}

/** Of few kinds: the part with all that there are of one kind, if that fits; it stands for many smaller ones. */
function moreThat(
  parts: SlotParts,
  numbers: readonly number[],
  fits: (slots: readonly Slot[]) => boolean,
): readonly number[] | undefined {
  if (numbers.length < 2 || numbers.length > maxKinds) return undefined;
  const more = [...numbers.keys()].reverse().map((k) => numbers.with(k, parts.numbers[k]!));
  return more.find((each) => numbers.join() !== each.join() && fits(parts.slotsOf(each)));
}

/** One part of each kind, of sizes from the one to the other. */
function* kindsOfParts(parts: SlotParts, from: number, to: number): Generator<readonly number[] | "too many"> {
  const seen = new Set<string>();
  let thoughtOf = 0;
  for (let size = from; size <= to; size++) {
    for (const numbers of parts.ofSize(size)) {
      if (++thoughtOf > maxParts) {
        yield "too many";
        return;
      }
      const key = parts.keyOf(numbers);
      if (!seen.has(key)) yield numbers;
      seen.add(key);
    }
  }
}

/** Rules under which the pods are impossible: as few as there are, where there are not too many. */
function fewestRules(slots: readonly Slot[], task: Task): { rules: readonly Rule[]; size: ConflictSize } {
  let rules = task.required.filter((rule) => concerns(rule, slots));
  let size: ConflictSize = rules.length <= maxRules ? "smallest" : hasSpread(rules) ? "unknown" : "irreducible";
  const areEnough = (fewer: readonly Rule[]): boolean => {
    const kind = task.outcome(slots, fewer);
    if (kind === "budget") size = "unknown";
    return kind === "impossible";
  };
  if (rules.length <= maxRules) {
    for (let number = 0; number < rules.length; number++) {
      const found = choices(rules, number).find(areEnough);
      if (found !== undefined) return { rules: found, size };
    }
    return { rules, size };
  }
  for (const rule of rules) {
    const fewer = rules.filter((each) => each !== rule);
    if (areEnough(fewer)) rules = fewer;
  }
  return { rules, size };
}

function partsIn(slots: readonly Slot[], { unit, required }: Task): SlotParts {
  return partsOf(slots, required, unit.pins, (slot) => unit.tableOf(slot, []).shape.key);
}

/** All choices of so many of a list, in its order. */
function choices<T>(list: readonly T[], number: number): T[][] {
  if (number === 0) return [[]];
  return list.flatMap((first, i) => choices(list.slice(i + 1), number - 1).map((rest) => [first, ...rest]));
}

function gangName({ gang }: Slot): string {
  return `${gang}`;
}

function podSetName({ gang, podSet }: Slot): string {
  return `${gang}/${podSet}`;
}
