import type { BudgetRecord, LabelSelector, PodRecord } from "../topology/records.ts";

/**
 * Would the Eviction API let go of all these pods, one after the other, if nothing else happened? It asks every
 * PodDisruptionBudget that covers a pod and takes one from what that allows, and refuses pods that two of them cover. Pods
 * that have not started count here too although it lets them go: the answer may be no where it would say yes, never the
 * other way round.
 */
export function mayEvict(pods: readonly PodRecord[], budgets: readonly BudgetRecord[]): boolean {
  return createEvictions(budgets)(pods);
}

/** Lets pods go, those of each call together or not at all, beside those that it has let go before. */
export function createEvictions(budgets: readonly BudgetRecord[]): (pods: readonly PodRecord[]) => boolean {
  const taken = new Map<BudgetRecord, number>();
  return (pods) => {
    const more = new Map<BudgetRecord, number>();
    const all = pods.every((pod) => {
      if (pod.deleting || pod.terminal) return true;
      const mine = budgets.filter(
        (budget) => budget.namespace === pod.namespace && selects(budget.selector, pod.labels),
      );
      const [budget] = mine;
      if (budget === undefined) return true;
      if (mine.length > 1) return false;
      if (budget.sparesReadyOnly && !pod.ready) return true;
      const count = (more.get(budget) ?? taken.get(budget) ?? 0) + 1;
      more.set(budget, count);
      return count <= budget.disruptionsAllowed;
    });
    if (all) for (const [budget, count] of more) taken.set(budget, count);
    return all;
  };
}

/** As `metav1.LabelSelector` means it in policy/v1: none selects nothing, an empty one everything. */
export function selects(selector: LabelSelector | undefined, labels: Readonly<Record<string, string>> = {}): boolean {
  if (selector === undefined) return false;
  const { matchLabels = {}, matchExpressions = [] } = selector;
  if (Object.entries(matchLabels).some(([key, value]) => labels[key] !== value)) return false;
  return matchExpressions.every(({ key, operator, values = [] }) => {
    const value = labels[key];
    if (operator === "Exists") return value !== undefined;
    if (operator === "DoesNotExist") return value === undefined;
    if (operator === "In") return value !== undefined && values.includes(value);
    // NotIn; one that nobody knows is taken to cover the pod.
    return operator !== "NotIn" || value === undefined || !values.includes(value);
  });
}
