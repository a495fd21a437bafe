import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord } from "../topology/records.ts";
import { createEvictions, mayEvict } from "./budgets.ts";
import { problemOf } from "./conflict.ts";
import { fitCache } from "./fit.ts";
import type { Steps } from "./in-slices.ts";
import type { PlanUnit } from "./plan.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { search } from "./search.ts";
import { largestPods, likelyParts, mayBeEnough } from "./victim-parts.ts";
import { type Victim, withoutVictims } from "./victims.ts";

/** Tries sets of victims out, as often as it may. */
export interface Trial {
  /** Does the unit fit when they are gone? Undefined: nobody knows, or tries and time are over. */
  fits(victims: readonly Victim[]): Steps<boolean | undefined>;
  /** False: they do not even have the devices that the unit lacks. Costs no try. */
  mayBeEnough(victims: readonly Victim[]): boolean;
  /** Would the Eviction API let them all go now? */
  allowed(victims: readonly Victim[]): boolean;
  /** Those that it would let go, one after the other. */
  mostAllowed(victims: readonly Victim[]): readonly Victim[];
  /** Parts of them, from small to large, that may be enough; the last is all of them. None: not even all are. */
  parts(victims: readonly Victim[]): Steps<readonly (readonly Victim[])[]>;
  /** The fewest of them of whom it is known that they are enough; all where nothing is known. */
  within(victims: readonly Victim[]): readonly Victim[];
}

/** What one search may spend. */
const searchBudget = 2_000;

/** @param mayTry asked before each try; false: that was the last one */
export function createTrial(
  model: ClusterModel,
  unit: PlanUnit,
  prepared: PreparedUnit,
  leaving: readonly Victim[],
  budgets: readonly BudgetRecord[],
  mayTry: () => boolean,
): Trial {
  const largest = largestPods(model, prepared);
  const tooSmall: ReadonlySet<Victim>[] = [];
  const enough: (readonly Victim[])[] = [];
  const tryOut = (victims: readonly Victim[]): boolean | undefined => {
    const { model: other, changed } = withoutVictims(model, [...leaving, ...victims]);
    return fitCache(model).lend(other.view, changed, () => {
      const there = prepareUnit(other, unit);
      if (Array.isArray(there)) return false;
      const rules = there.rules.filter((rule) => rule.required);
      const { kind } = search(problemOf(other.view, there, there.base, rules), searchBudget);
      return kind === "budget" ? undefined : kind === "found";
    });
  };
  return {
    *fits(victims) {
      const mine = new Set(victims);
      // More room never hurts.
      if (tooSmall.some((known) => victims.every((victim) => known.has(victim)))) return false;
      if (enough.some((known) => known.every((victim) => mine.has(victim)))) return true;
      if (!mayTry()) return undefined;
      yield;
      const fits = tryOut(victims);
      if (fits === false) tooSmall.push(mine);
      if (fits === true) enough.push(victims);
      return fits;
    },
    mayBeEnough: (victims) => largest === undefined || leaving.length > 0 || mayBeEnough(model, largest, victims),
    allowed: (victims) =>
      mayEvict(
        [...leaving, ...victims].flatMap(({ pods }) => pods),
        budgets,
      ),
    mostAllowed(victims) {
      const evict = createEvictions(budgets);
      return evict(leaving.flatMap(({ pods }) => pods)) ? victims.filter(({ pods }) => evict(pods)) : [];
    },
    parts: (victims) => likelyParts(model, prepared, leaving, victims),
    within(victims) {
      const all = new Set(victims);
      const known = enough.filter((part) => part.every((victim) => all.has(victim)));
      return known.reduce((best, part) => (part.length < best.length ? part : best), victims);
    },
  };
}
