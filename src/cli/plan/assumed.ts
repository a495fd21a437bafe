import type { Node, Pod, PodDisruptionBudget } from "../../api/kubernetes.ts";
import { selects } from "../../gang/budgets.ts";
import { projectBudget } from "../../kube/project.ts";
import type { BudgetRecord, PodRecord } from "../../topology/records.ts";

/** What files leave out, and a cluster would have added by now. */

/** What was not created yet is still to be admitted, which adds the marker of members. */
export function asAdmitted(pod: PodRecord): PodRecord {
  return pod.createdAtMs === 0 ? { ...pod, bindMarker: pod.gang !== undefined } : pod;
}

/** What was not created yet waits behind all that was. */
export function youngest<T extends { createdAtMs: number }>(record: T): T {
  return record.createdAtMs === 0 ? { ...record, createdAtMs: Number.MAX_SAFE_INTEGER } : record;
}

/** A node that says nothing of its readiness counts as ready; what it may give is all it has, unless it says so. */
export function readyNode(node: Node): Node {
  const { status } = node;
  const conditions = status?.conditions ?? [];
  const allocatable = status?.allocatable ?? status?.capacity;
  return {
    ...node,
    status: {
      ...status,
      ...(allocatable === undefined ? {} : { allocatable }),
      conditions: tellsReady(conditions) ? conditions : [...conditions, { type: "Ready", status: "True" }],
    },
  };
}

/** So does a bound pod. */
export function readyPod(pod: Pod): Pod {
  const conditions = pod.status?.conditions ?? [];
  if (pod.spec.nodeName === undefined || tellsReady(conditions)) return pod;
  return { ...pod, status: { ...pod.status, conditions: [...conditions, { type: "Ready", status: "True" }] } };
}

function tellsReady(conditions: readonly { type: string }[]): boolean {
  return conditions.some(({ type }) => type === "Ready");
}

/**
 * A PodDisruptionBudget of which no status says what it allows: counted as the disruption controller does, by its spec
 * and the pods that it covers, as if there were all that are wanted.
 * @param pods those of the input
 */
export function countedBudget(raw: PodDisruptionBudget, pods: readonly Pod[]): BudgetRecord {
  const budget = projectBudget(raw);
  if (raw.status?.disruptionsAllowed !== undefined) return budget;
  const covered = pods.filter(
    ({ metadata, status }) =>
      (metadata.namespace ?? "") === budget.namespace &&
      !["Succeeded", "Failed"].includes(status?.phase ?? "") &&
      selects(budget.selector, metadata.labels),
  );
  const healthy = covered.map(readyPod).filter(({ metadata, spec, status }) => {
    const ready = status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True");
    return spec.nodeName !== undefined && metadata.deletionTimestamp === undefined && ready === true;
  });
  const { minAvailable = 0, maxUnavailable } = raw.spec ?? {};
  const wanted =
    maxUnavailable === undefined
      ? amountOf(minAvailable, covered.length)
      : covered.length - amountOf(maxUnavailable, covered.length);
  return { ...budget, disruptionsAllowed: Math.max(0, healthy.length - wanted) };
}

/** A number, or a percentage of all, rounded up. */
function amountOf(amount: number | string, all: number): number {
  return typeof amount === "number" ? amount : Math.ceil((Number.parseInt(amount, 10) * all) / 100);
}
