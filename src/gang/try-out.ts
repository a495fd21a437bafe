import type { ClusterModel } from "../topology/model.ts";
import { problemOf } from "./conflict.ts";
import { fitCache } from "./fit.ts";
import type { PlanUnit } from "./plan.ts";
import { prepareUnit } from "./prepare.ts";
import { search } from "./search.ts";
import type { WhatIf } from "./what-if.ts";

/** What one search may spend. */
const searchBudget = 1_000;

/**
 * Would what the unit needs have its places there? No also where the search gave up.
 * @param seenBy the model as the unit sees it
 */
export function fitsIn(
  model: ClusterModel,
  unit: PlanUnit,
  { model: other, changed }: WhatIf,
  seenBy: (model: ClusterModel) => ClusterModel = (each) => each,
): boolean {
  return fitCache(model).lend(other.view, changed, () => {
    const there = prepareUnit(seenBy(other), unit);
    if (Array.isArray(there)) return false;
    const rules = there.rules.filter((rule) => rule.required);
    return search(problemOf(other.view, there, there.base, rules), searchBudget).kind === "found";
  });
}
