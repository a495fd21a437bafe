import type { Pod } from "../api/kubernetes.ts";
import type { LLMCluster } from "../api/llm-cluster.ts";
import { revisionLabel, type StatefulSet } from "./owned.ts";

interface PodsOfSet {
  statefulSet?: StatefulSet;
  /** The StatefulSet as observed carries the template we want; not so while somebody's edit of it is being undone. */
  templateSettled: boolean;
  pods: readonly Pod[];
}

/** The pod of each rank, or undefined where there is none. Pods of an earlier StatefulSet of the same name do not count. */
export function members(cluster: LLMCluster, observed: Pick<PodsOfSet, "statefulSet" | "pods">): (Pod | undefined)[] {
  const byName = new Map(ownPods(observed).map((pod) => [pod.metadata.name, pod]));
  return Array.from({ length: cluster.spec.replicas }, (_, rank) => byName.get(`${cluster.metadata.name}-${rank}`));
}

/** Members made from an earlier pod template and not on their way out. */
export function staleMembers(cluster: LLMCluster, observed: PodsOfSet): Pod[] {
  const { statefulSet, templateSettled } = observed;
  if (!templateSettled) return [];
  const updateRevision = statefulSet?.status?.updateRevision;
  // Until the controller has seen the newest template, its revision is not the one to compare with.
  if (statefulSet?.status?.observedGeneration !== statefulSet?.metadata.generation) return [];
  if (updateRevision === undefined || updateRevision === "") return [];
  return members(cluster, observed).filter(
    (pod): pod is Pod => pod !== undefined && isStaying(pod) && pod.metadata.labels?.[revisionLabel] !== updateRevision,
  );
}

/**
 * Pods to delete so that the instance runs its newest template: none while every member has it, else all members at
 * once, whatever their revision. Old and new ranks cannot work together, and a new rank that met an old one must meet
 * the others anew; the Gang's hold keeps nodes and devices for the pods that follow. It happens once for each template:
 * the StatefulSet makes the replacements from the newest one, and pods on their way out no longer count.
 */
export function podsToReplace(cluster: LLMCluster, observed: PodsOfSet): Pod[] {
  if (staleMembers(cluster, observed).length === 0) return [];
  return members(cluster, observed).filter((pod): pod is Pod => pod !== undefined && isStaying(pod));
}

/** Names of the claim templates that these pods refer to, those on their way out included. */
export function templatesInUse(pods: readonly Pod[]): Set<string> {
  const names = pods.flatMap((pod) => pod.spec.resourceClaims ?? []).map((c) => c.resourceClaimTemplateName);
  return new Set(names.filter((name) => name !== undefined));
}

function ownPods({ statefulSet, pods }: Pick<PodsOfSet, "statefulSet" | "pods">): Pod[] {
  const uid = statefulSet?.metadata.uid;
  if (uid === undefined) return [];
  return pods.filter((pod) => pod.metadata.ownerReferences?.some((owner) => owner.controller && owner.uid === uid));
}

function isStaying(pod: Pod): boolean {
  return pod.metadata.deletionTimestamp === undefined;
}
