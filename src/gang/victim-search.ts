import { createHeap } from "./heap.ts";
import type { Steps } from "./in-slices.ts";
import type { Trial } from "./preemption-trial.ts";
import { compareSets, costOf, costWith, nothing, type Priced } from "./victim-cost.ts";
import type { Victim } from "./victims.ts";

/** Sets that are thought of, most of them never tried; and so many are looked at in one step. */
const maxSets = 20_000;
const looksPerStep = 16;

/** Of more victims than this not every set is looked at. */
const many = 64;

interface Found {
  readonly victims: readonly Victim[];
  /** No other set is cheaper: proved. */
  readonly cheapest: boolean;
}

/**
 * The cheapest set of victims that makes room, as far as tries tell.
 * @param able in order of cost
 */
export function* searchSets(able: readonly Victim[], trial: Trial): Steps<Found | undefined> {
  const alone = yield* trial.fits([]);
  if (alone === true) return { victims: [], cheapest: true };
  if (able.length === 0 || (yield* isEnough(able, trial)) !== true) return undefined;
  let sure = alone !== undefined;
  for (const universe of yield* prioritySteps(able, trial)) {
    const start = yield* narrow(universe, trial);
    const exact = yield* cheapestSet(universe, start, trial);
    if (exact.sure && exact.victims !== undefined) return { victims: exact.victims, cheapest: sure };
    if (exact.victims !== undefined) return { victims: exact.victims, cheapest: false };
    sure &&= exact.sure;
  }
  return undefined;
}

/** Victims up to the lowest priority that makes room, then up to the next, …: budgets may forbid what would do. */
function* prioritySteps(able: readonly Victim[], trial: Trial): Steps<Victim[][]> {
  const levels = [...new Set(able.map(({ priority }) => priority))].sort((a, b) => a - b);
  const upTo = (level: number) => able.filter(({ priority }) => priority <= levels[level]!);
  let tooLow = -1;
  let enough = levels.length - 1;
  while (enough - tooLow > 1) {
    const middle = Math.floor((tooLow + enough) / 2);
    if ((yield* isEnough(upTo(middle), trial)) === true) enough = middle;
    else tooLow = middle;
  }
  return levels.slice(enough).map((_, i) => upTo(enough + i));
}

/** Does the unit fit when all of them are gone? Many are tried in parts: one that is large takes as long as many small ones. */
function* isEnough(victims: readonly Victim[], trial: Trial): Steps<boolean | undefined> {
  if (victims.length <= many) return yield* trial.fits(victims);
  for (const part of yield* trial.parts(victims)) {
    const fits = yield* trial.fits(part);
    if (fits === true || part.length === victims.length) return fits;
  }
  return false;
}

/** A set that fits and is allowed and that nobody can leave; the dearest are left out first. Undefined: none was found. */
function* narrow(universe: readonly Victim[], trial: Trial): Steps<readonly Victim[] | undefined> {
  const together = trial.mostAllowed(universe);
  if (together.length < universe.length && (yield* isEnough(together, trial)) !== true) return undefined;
  return yield* needed([], together.length > many ? trial.within(together) : together, trial);
}

/** Of those in question, those without whom the unit does not fit beside the `sure` ones; the last are left out first. */
function* needed(sure: readonly Victim[], question: readonly Victim[], trial: Trial): Steps<readonly Victim[]> {
  if (question.length === 0 || (yield* trial.fits(sure)) === true) return [];
  if (question.length === 1) return question;
  const middle = Math.ceil(question.length / 2);
  const [cheap, dear] = [question.slice(0, middle), question.slice(middle)];
  const fromDear = yield* needed([...sure, ...cheap], dear, trial);
  const fromCheap = yield* needed([...sure, ...fromDear], cheap, trial);
  return [...fromCheap, ...fromDear];
}

interface Open extends Priced {
  /** Number of its last member. */
  readonly last: number;
}

/**
 * Tries sets from the cheapest on, of those with a victim of the highest priority: the others are too small. Of many
 * victims each is tried alone, and sets only of those who are known to be enough.
 * `sure`: none is cheaper than the answer, or there is none.
 */
function* cheapestSet(
  universe: readonly Victim[],
  start: readonly Victim[] | undefined,
  trial: Trial,
): Steps<{ victims: readonly Victim[] | undefined; sure: boolean }> {
  const highest = costOf(universe)[0];
  const top = universe.filter(({ priority }) => priority === highest);
  const ordered = [...top, ...universe.filter(({ priority }) => priority < highest)];
  const joins = universe.length > many ? new Set(trial.within(universe)) : undefined;
  const known = start && { set: start, cost: costOf(start) };
  const open = createHeap<Open>(compareSets);
  let sets = 0;
  const offer = (set: Priced, next: number): void => {
    const victim = ordered[next]!;
    const larger = { set: [...set.set, victim], cost: costWith(set.cost, victim), last: next };
    if (known !== undefined && compareSets(larger, known) >= 0) return;
    sets++;
    open.push(larger);
  };
  const extend = (set: Open): void => {
    if (joins !== undefined && !set.set.every((victim) => joins.has(victim))) return;
    for (const [next, victim] of ordered.entries())
      if (next > set.last && joins?.has(victim) !== false) offer(set, next);
  };
  const none: Priced = { set: [], cost: nothing };
  offer(none, 0);
  for (let looked = 1; sets <= maxSets; looked++) {
    const next = open.pop();
    if (next === undefined) return { victims: start, sure: joins === undefined };
    // Those alone come in order of cost.
    if (next.set.length === 1 && next.last + 1 < top.length) offer(none, next.last + 1);
    if (looked % looksPerStep === 0) yield;
    // Whoever joins makes it no better.
    if (!trial.allowed(next.set)) continue;
    const fits = trial.mayBeEnough(next.set) ? yield* trial.fits(next.set) : false;
    if (fits === undefined) return { victims: start, sure: false };
    if (fits) return { victims: next.set, sure: joins === undefined };
    extend(next);
  }
  return { victims: start, sure: false };
}
