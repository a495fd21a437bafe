import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { BudgetRecord } from "../topology/records.ts";
import { mayEvict } from "./budgets.ts";
import { problemOf } from "./conflict.ts";
import { fitCache } from "./fit.ts";
import { type GangPlan, type PlanOptions, type PlanUnit, plan } from "./plan.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { search } from "./search.ts";
import type { Victim } from "./victims.ts";
import { type WhatIf, withoutLeavers } from "./what-if.ts";

/** Room for a unit that `plan` refused, and who leaves for it. */
export interface Preemption {
  /** Empty: what is leaving anyway is enough. */
  readonly victims: readonly Victim[];
  readonly plans: readonly GangPlan[];
  /** No other set is cheaper: proved. Else the search ended before it knew. */
  readonly cheapest: boolean;
}

export interface PreemptionOptions extends PlanOptions {
  /** Sets that are tried at most; each costs about one plan. Default 64. */
  tries?: number;
  /** False: time is up. */
  inTime?(): boolean;
}

const defaultTries = 64;
/** What one search may spend. */
const searchBudget = 2_000;
/** Sets that are looked at, most of them without a search. */
const maxLooked = 20_000;

/**
 * The cheapest set of victims after whose leaving the unit fits, all of them of lower priority than every gang of it.
 * Cheaper is, in this order: a lower highest priority among the victims; fewer pods evicted; fewer devices lost; fewer
 * victims; the older of two oldest victims stays. Victims are whole: nobody loses its surplus members only. A set that
 * the Eviction API would refuse now is never chosen, however much is wanted.
 *
 * Sets are tried from the cheapest on, those left out that are part of one that was too small; so the first that fits is
 * the cheapest. Before, a set that fits and of which nobody can stay is found by halves: it is the answer when the tries end.
 *
 * @param leaving victims of earlier decisions, not gone yet: they cost nothing
 * @returns undefined when no set makes room, or none was found within the tries
 */
export function choosePreemption(
  model: ClusterModel,
  unit: PlanUnit,
  candidates: readonly Victim[],
  { leaving = [], budgets = [] }: { leaving?: readonly Victim[]; budgets?: readonly BudgetRecord[] },
  options: PreemptionOptions = {},
): Preemption | undefined {
  const ceiling = preemptorPriority(unit);
  if (ceiling === undefined) return undefined;
  const able = candidates.filter(({ priority, pods }) => priority < ceiling && mayEvict(pods, budgets));
  if (able.length + leaving.length === 0) return undefined;
  const prepared = prepareUnit(model, unit);
  if (Array.isArray(prepared) || prepared.base.length === 0) return undefined;
  const matters = touching(model, prepared);
  const trial = createTrial(model, unit, leaving, budgets, options);
  const found = searchSets(able.filter(matters).sort(byCost), trial);
  return found && finish(model, unit, leaving, found, options);
}

/** The lowest priority of the unit's pods; undefined: some of them preempt nobody. */
export function preemptorPriority({ gangs }: PlanUnit): number | undefined {
  const pods = gangs.flatMap((gang) => gang.pods);
  if (pods.length === 0 || pods.some(({ neverPreempts }) => neverPreempts === true)) return undefined;
  return Math.min(...pods.map(({ priority }) => priority));
}

/** Victims that have something on a node where pods of the unit could go. */
function touching(model: ClusterModel, prepared: PreparedUnit): (victim: Victim) => boolean {
  const tables = [...new Set(prepared.base.map((slot) => prepared.tableOf(slot, [])))];
  const admits = (name: string): boolean => {
    const node = model.view.indexOf(name);
    // Devices that several nodes reach may be held from anywhere.
    return node !== undefined && (model.view.inventory(node).wide || tables.some((table) => table.admits[node] === 1));
  };
  return ({ leavers }) =>
    leavers.some(
      ({ key, pods }) =>
        pods.some(({ nodeName }) => admits(nodeName!)) ||
        (key !== undefined && model.view.heldUnder(key).some(({ placed }) => admits(placed.node))),
    );
}

interface Trial {
  /** Does the unit fit when they are gone? Undefined: nobody knows, or tries and time are over. */
  fits(victims: readonly Victim[]): boolean | undefined;
  allowed(victims: readonly Victim[]): boolean;
}

function without(model: ClusterModel, leaving: readonly Victim[], victims: readonly Victim[]): WhatIf {
  return withoutLeavers(
    model,
    [...leaving, ...victims].flatMap(({ leavers }) => leavers),
  );
}

function createTrial(
  model: ClusterModel,
  unit: PlanUnit,
  leaving: readonly Victim[],
  budgets: readonly BudgetRecord[],
  { tries = defaultTries, inTime }: PreemptionOptions,
): Trial {
  let left = tries;
  const tooSmall: ReadonlySet<Victim>[] = [];
  const enough: (readonly Victim[])[] = [];
  const tryOut = (victims: readonly Victim[]): boolean | undefined => {
    const { model: other, changed } = without(model, leaving, victims);
    return fitCache(model).lend(other.view, changed, () => {
      const there = prepareUnit(other, unit);
      if (Array.isArray(there)) return false;
      const rules = there.rules.filter((rule) => rule.required);
      const { kind } = search(problemOf(other.view, there, there.base, rules), searchBudget);
      return kind === "budget" ? undefined : kind === "found";
    });
  };
  return {
    fits(victims) {
      const mine = new Set(victims);
      // More room never hurts.
      if (tooSmall.some((known) => victims.every((victim) => known.has(victim)))) return false;
      if (enough.some((known) => known.every((victim) => mine.has(victim)))) return true;
      if (left-- <= 0 || inTime?.() === false) return undefined;
      const fits = tryOut(victims);
      if (fits === false) tooSmall.push(mine);
      if (fits === true) enough.push(victims);
      return fits;
    },
    allowed: (victims) =>
      mayEvict(
        [...leaving, ...victims].flatMap(({ pods }) => pods),
        budgets,
      ),
  };
}

interface Found {
  readonly victims: readonly Victim[];
  readonly cheapest: boolean;
}

/** @param able in order of cost */
function searchSets(able: readonly Victim[], trial: Trial): Found | undefined {
  const alone = trial.fits([]);
  if (alone === true) return { victims: [], cheapest: true };
  if (able.length === 0 || trial.fits(able) !== true) return undefined;
  let sure = alone !== undefined;
  for (const universe of prioritySteps(able, trial)) {
    const start = narrow(universe, trial);
    const exact = cheapestSet(universe, start, trial);
    if (exact.sure && exact.victims !== undefined) return { victims: exact.victims, cheapest: sure };
    if (exact.victims !== undefined) return { victims: exact.victims, cheapest: false };
    sure &&= exact.sure;
  }
  return undefined;
}

/** Victims up to the lowest priority that makes room, then up to the next, …: budgets may forbid what would do. */
function prioritySteps(able: readonly Victim[], trial: Trial): Victim[][] {
  const levels = [...new Set(able.map(({ priority }) => priority))].sort((a, b) => a - b);
  const upTo = (level: number) => able.filter(({ priority }) => priority <= levels[level]!);
  let tooLow = -1;
  let enough = levels.length - 1;
  while (enough - tooLow > 1) {
    const middle = Math.floor((tooLow + enough) / 2);
    if (trial.fits(upTo(middle)) === true) enough = middle;
    else tooLow = middle;
  }
  return levels.slice(enough).map((_, i) => upTo(enough + i));
}

/** A set that fits and is allowed and that nobody can leave; the dearest are left out first. Undefined: none was found. */
function narrow(universe: readonly Victim[], trial: Trial): readonly Victim[] | undefined {
  const together: Victim[] = [];
  for (const victim of universe) if (trial.allowed([...together, victim])) together.push(victim);
  if (together.length < universe.length && trial.fits(together) !== true) return undefined;
  return needed([], together, trial);
}

/** Of those in question, those without whom the unit does not fit beside the `sure` ones; the last are left out first. */
function needed(sure: readonly Victim[], question: readonly Victim[], trial: Trial): readonly Victim[] {
  if (question.length === 0 || trial.fits(sure) === true) return [];
  if (question.length === 1) return question;
  const middle = Math.ceil(question.length / 2);
  const [cheap, dear] = [question.slice(0, middle), question.slice(middle)];
  const fromDear = needed([...sure, ...cheap], dear, trial);
  const fromCheap = needed([...sure, ...fromDear], cheap, trial);
  return [...fromCheap, ...fromDear];
}

interface Open {
  readonly set: readonly Victim[];
  /** Number of its last member. */
  readonly last: number;
}

/**
 * Tries sets from the cheapest on, of those with a victim of the highest priority: the others are too small.
 * `sure`: none is cheaper than the answer, or there is none.
 */
function cheapestSet(
  universe: readonly Victim[],
  start: readonly Victim[] | undefined,
  trial: Trial,
): { victims: readonly Victim[] | undefined; sure: boolean } {
  const highest = most(universe, ({ priority }) => priority);
  const top = universe.filter(({ priority }) => priority === highest);
  const ordered = [...top, ...universe.filter(({ priority }) => priority < highest)];
  const open = createHeap<Open>((a, b) => compareSets(a.set, b.set));
  const extend = ({ set, last }: Open, end = ordered.length): void => {
    for (let next = last + 1; next < end; next++) open.push({ set: [...set, ordered[next]!], last: next });
  };
  extend({ set: [], last: -1 }, top.length);
  for (let looked = 0; looked < maxLooked; looked++) {
    const next = open.pop();
    if (next === undefined || (start !== undefined && compareSets(next.set, start) >= 0)) {
      return { victims: start, sure: true };
    }
    // Whoever joins makes it no better.
    if (!trial.allowed(next.set)) continue;
    const fits = trial.fits(next.set);
    if (fits === undefined) return { victims: start, sure: false };
    if (fits) return { victims: next.set, sure: true };
    extend(next);
  }
  return { victims: start, sure: false };
}

/** Cheaper first; a set costs more than each of its parts. */
function compareSets(a: readonly Victim[], b: readonly Victim[]): number {
  return (
    most(a, ({ priority }) => priority) - most(b, ({ priority }) => priority) ||
    sum(a, ({ pods }) => pods.length) - sum(b, ({ pods }) => pods.length) ||
    sum(a, ({ devices }) => devices) - sum(b, ({ devices }) => devices) ||
    a.length - b.length ||
    most(a, ({ createdAtMs }) => -createdAtMs) - most(b, ({ createdAtMs }) => -createdAtMs) ||
    comparePlain(idsOf(a), idsOf(b))
  );
}

function byCost(a: Victim, b: Victim): number {
  return compareSets([a], [b]);
}

function most(victims: readonly Victim[], of: (victim: Victim) => number): number {
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

/** The places that the unit gets. */
function finish(
  model: ClusterModel,
  unit: PlanUnit,
  leaving: readonly Victim[],
  { victims, cheapest }: Found,
  options: PreemptionOptions,
): Preemption | undefined {
  const { model: other, changed } = without(model, leaving, victims);
  const result = fitCache(model).lend(other.view, changed, () => plan(other, unit, options));
  return "plans" in result ? { victims, plans: result.plans, cheapest } : undefined;
}

interface Heap<T> {
  push(item: T): void;
  pop(): T | undefined;
}

function createHeap<T>(compare: (a: T, b: T) => number): Heap<T> {
  const items: T[] = [];
  const swap = (i: number, j: number): void => {
    [items[i], items[j]] = [items[j]!, items[i]!];
  };
  return {
    push(item) {
      items.push(item);
      for (let i = items.length - 1; i > 0; ) {
        const parent = (i - 1) >> 1;
        if (compare(items[i]!, items[parent]!) >= 0) break;
        swap(i, parent);
        i = parent;
      }
    },
    pop() {
      const [first] = items;
      const last = items.pop();
      if (last === undefined || items.length === 0) return first;
      items[0] = last;
      for (let i = 0; ; ) {
        const [left, right] = [2 * i + 1, 2 * i + 2];
        let least = i;
        if (left < items.length && compare(items[left]!, items[least]!) < 0) least = left;
        if (right < items.length && compare(items[right]!, items[least]!) < 0) least = right;
        if (least === i) return first;
        swap(i, least);
        i = least;
      }
    },
  };
}
