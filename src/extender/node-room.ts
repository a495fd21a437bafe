import { demandsOf, roomFor } from "../gang/shape.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord, Resources } from "../topology/records.ts";

/**
 * Whether what runs on the node leaves room for the pod, as kube-scheduler sees it: pods of lower priority would have to
 * leave. What is held there for others does not count: kube-scheduler takes whoever comes first.
 */
export function leavesRoom(model: ClusterModel, node: string, pod: PodRecord): boolean {
  return haveRoom(model, node, [pod], (other) => (other?.priority ?? pod.priority) >= pod.priority);
}

/** Whether it leaves room for all of them now, as the kubelet will see it: nobody leaves for them any more. */
export function leavesRoomForAll(model: ClusterModel, node: string, pods: readonly PodRecord[]): boolean {
  return haveRoom(model, node, pods, () => true);
}

function haveRoom(
  { view, pod: podWith }: ClusterModel,
  node: string,
  pods: readonly PodRecord[],
  counts: (other: PodRecord | undefined) => boolean,
): boolean {
  const found = view.nodes[view.indexOf(node) ?? -1];
  if (found === undefined) return false;
  const used: Record<string, number> = {};
  const add = (requests: Resources): void => {
    used["pods"] = (used["pods"] ?? 0) + 1;
    for (const [name, amount] of Object.entries(requests)) if (name !== "pods") used[name] = (used[name] ?? 0) + amount;
  };
  for (const [uid, requests] of found.load.running()) if (counts(podWith(uid))) add(requests);
  return pods.every((pod) => {
    const fits = roomFor(demandsOf(pod), found.record.allocatable, used) > 0;
    add(pod.requests);
    return fits;
  });
}
