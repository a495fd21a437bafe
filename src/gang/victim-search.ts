import { createHeap } from "./heap.ts";
import type { Steps } from "./in-slices.ts";
import type { Trial } from "./preemption-trial.ts";
import { compareSets, most } from "./victim-cost.ts";
import type { Victim } from "./victims.ts";

/** Sets that are looked at, most of them without a search. */
const maxLooked = 20_000;

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
  if (able.length === 0 || (yield* trial.fits(able)) !== true) return undefined;
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
    if ((yield* trial.fits(upTo(middle))) === true) enough = middle;
    else tooLow = middle;
  }
  return levels.slice(enough).map((_, i) => upTo(enough + i));
}

/** A set that fits and is allowed and that nobody can leave; the dearest are left out first. Undefined: none was found. */
function* narrow(universe: readonly Victim[], trial: Trial): Steps<readonly Victim[] | undefined> {
  const together: Victim[] = [];
  for (const victim of universe) if (trial.allowed([...together, victim])) together.push(victim);
  if (together.length < universe.length && (yield* trial.fits(together)) !== true) return undefined;
  return yield* needed([], together, trial);
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

interface Open {
  readonly set: readonly Victim[];
  /** Number of its last member. */
  readonly last: number;
}

/**
 * Tries sets from the cheapest on, of those with a victim of the highest priority: the others are too small.
 * `sure`: none is cheaper than the answer, or there is none.
 */
function* cheapestSet(
  universe: readonly Victim[],
  start: readonly Victim[] | undefined,
  trial: Trial,
): Steps<{ victims: readonly Victim[] | undefined; sure: boolean }> {
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
    const fits = yield* trial.fits(next.set);
    if (fits === undefined) return { victims: start, sure: false };
    if (fits) return { victims: next.set, sure: true };
    extend(next);
  }
  return { victims: start, sure: false };
}
