import { demandsOf, roomFor } from "../gang/shape.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";

/**
 * Whether what runs on the node leaves room for the pod, as kube-scheduler sees it: pods of lower priority would have to
 * leave. What is held there for others does not count: kube-scheduler takes whoever comes first.
 */
export function leavesRoom({ view, pod: podWith }: ClusterModel, node: string, pod: PodRecord): boolean {
  const found = view.nodes[view.indexOf(node) ?? -1];
  if (found === undefined) return false;
  const used: Record<string, number> = {};
  for (const [uid, requests] of found.load.running()) {
    if ((podWith(uid)?.priority ?? pod.priority) < pod.priority) continue;
    used["pods"] = (used["pods"] ?? 0) + 1;
    for (const [name, amount] of Object.entries(requests)) if (name !== "pods") used[name] = (used[name] ?? 0) + amount;
  }
  return roomFor(demandsOf(pod), found.record.allocatable, used) > 0;
}
