import type { Taint, Toleration } from "../api/kubernetes.ts";
import { matchesNodeSelector } from "../topology/node-selector.ts";
import type { NodeRecord, PodRecord } from "../topology/records.ts";

/** What of a pod decides whether a node admits it, whatever else runs there. */
export type NodeWishes = Pick<PodRecord, "nodeSelector" | "nodeAffinity" | "tolerations" | "avoidedNodes">;

/**
 * Why a node does not admit a pod, as kube-scheduler judges it (NodeUnschedulable, TaintToleration, NodeAffinity),
 * or did judge; undefined: it does. The text is the same for all nodes with the same fault, so that it can be counted.
 */
export function nodeRefusal(wishes: NodeWishes, node: NodeRecord): string | undefined {
  if (node.unschedulable && !tolerates(wishes.tolerations, unschedulableTaint)) return "are unschedulable";
  if (!node.ready && !tolerates(wishes.tolerations, notReadyTaint)) return "are not ready";
  const taint = node.taints.find((each) => each.effect !== "PreferNoSchedule" && !tolerates(wishes.tolerations, each));
  if (taint) return `have taint ${taintText(taint)}`;
  for (const key in wishes.nodeSelector) {
    if (node.labels[key] !== wishes.nodeSelector[key]) return `lack label ${key}=${wishes.nodeSelector[key]}`;
  }
  if (wishes.nodeAffinity && !matchesNodeSelector(wishes.nodeAffinity, node)) return "do not match the node affinity";
  if (wishes.avoidedNodes?.includes(node.name)) return "were refused by kube-scheduler less than 5 minutes ago";
  return undefined;
}

const unschedulableTaint: Taint = { key: "node.kubernetes.io/unschedulable", effect: "NoSchedule" };
const notReadyTaint: Taint = { key: "node.kubernetes.io/not-ready", effect: "NoSchedule" };

function taintText(taint: Taint): string {
  return `${taint.key}${taint.value ? `=${taint.value}` : ""}:${taint.effect}`;
}

function tolerates(tolerations: readonly Toleration[], taint: Taint): boolean {
  return tolerations.some((each) => {
    if (each.effect && each.effect !== taint.effect) return false;
    if (each.key && each.key !== taint.key) return false;
    if (each.operator === "Exists") return true;
    return each.key !== undefined && each.key !== "" && (each.value ?? "") === (taint.value ?? "");
  });
}
