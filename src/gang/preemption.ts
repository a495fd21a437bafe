import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord } from "../topology/records.ts";
import { mayEvict } from "./budgets.ts";
import { fitCache } from "./fit.ts";
import type { Steps } from "./in-slices.ts";
import { type GangPlan, type PlanOptions, type PlanUnit, plan } from "./plan.ts";
import { createTrial } from "./preemption-trial.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { byCost } from "./victim-cost.ts";
import { searchSets } from "./victim-search.ts";
import { type Victim, withoutVictims } from "./victims.ts";

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
}

const defaultTries = 64;

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
export function* choosePreemption(
  model: ClusterModel,
  unit: PlanUnit,
  candidates: readonly Victim[],
  { leaving = [], budgets = [] }: { leaving?: readonly Victim[]; budgets?: readonly BudgetRecord[] },
  options: PreemptionOptions = {},
): Steps<Preemption | undefined> {
  const ceiling = preemptorPriority(unit);
  if (ceiling === undefined) return undefined;
  const able = candidates.filter(({ priority, pods }) => priority < ceiling && mayEvict(pods, budgets));
  if (able.length + leaving.length === 0) return undefined;
  const prepared = prepareUnit(model, unit);
  if (Array.isArray(prepared) || prepared.base.length === 0) return undefined;
  const matters = touching(model, prepared);
  let left = options.tries ?? defaultTries;
  const mayTry = (): boolean => left-- > 0;
  const trial = createTrial(model, unit, prepared, leaving, budgets, mayTry);
  const found = yield* searchSets(able.filter(matters).sort(byCost), trial);
  if (found === undefined) return undefined;
  yield;
  const { victims, cheapest } = found;
  const { model: other, changed } = withoutVictims(model, [...leaving, ...victims]);
  const result = fitCache(model).lend(other.view, changed, () => plan(other, unit, options));
  return "plans" in result ? { victims, plans: result.plans, cheapest } : undefined;
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
