import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord } from "../topology/records.ts";
import { mayEvict } from "./budgets.ts";
import { problemOf } from "./conflict.ts";
import { fitCache } from "./fit.ts";
import type { Steps } from "./in-slices.ts";
import type { PlanUnit } from "./plan.ts";
import { prepareUnit } from "./prepare.ts";
import { search } from "./search.ts";
import type { Victim } from "./victims.ts";
import { type WhatIf, withoutLeavers } from "./what-if.ts";

/** Tries sets of victims out, as often as it may. */
export interface Trial {
  /** Does the unit fit when they are gone? Undefined: nobody knows, or tries and time are over. */
  fits(victims: readonly Victim[]): Steps<boolean | undefined>;
  /** Would the Eviction API let them all go now? */
  allowed(victims: readonly Victim[]): boolean;
}

/** What one search may spend. */
const searchBudget = 2_000;

/** The cluster as if they were gone, and those who leave anyway. */
export function without(model: ClusterModel, leaving: readonly Victim[], victims: readonly Victim[]): WhatIf {
  return withoutLeavers(
    model,
    [...leaving, ...victims].flatMap(({ leavers }) => leavers),
  );
}

/** @param mayTry asked before each try; false: that was the last one */
export function createTrial(
  model: ClusterModel,
  unit: PlanUnit,
  leaving: readonly Victim[],
  budgets: readonly BudgetRecord[],
  mayTry: () => boolean,
): Trial {
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
    allowed: (victims) =>
      mayEvict(
        [...leaving, ...victims].flatMap(({ pods }) => pods),
        budgets,
      ),
  };
}
