import type { Gang } from "../api/gang.ts";
import type { KubernetesObject, Pod, ResourceClaimTemplate } from "../api/kubernetes.ts";
import { schedulingGroup, version } from "../api/names.ts";

/** Label on everything that belongs to one LLMCluster, pods included; its value is the LLMCluster's name. */
export const clusterLabel = "serving.ai/llm-cluster";
export const managedByLabel = "app.kubernetes.io/managed-by";
export const managedByValue = "kllama";

/** Hash of what the operator last asked for: tells a field that is no longer wanted from one that somebody else added. */
export const desiredHashAnnotation = "serving.ai/desired-hash";

/** How Kubernetes marks the pods of one template revision of a StatefulSet. */
export const revisionLabel = "controller-revision-hash";

/** The fields of a StatefulSet that the operator reads or writes, as raw JSON. */
export interface StatefulSet extends KubernetesObject {
  spec: {
    serviceName: string;
    replicas: number;
    podManagementPolicy: "Parallel";
    updateStrategy: { type: "OnDelete" };
    selector: { matchLabels: Record<string, string> };
    template: { metadata: { labels: Record<string, string> }; spec: Omit<Pod["spec"], "nodeName"> };
  };
  status?: { observedGeneration?: number; replicas?: number; updateRevision?: string };
}

interface Service extends KubernetesObject {
  spec: {
    clusterIP?: "None";
    publishNotReadyAddresses?: boolean;
    selector: Record<string, string>;
    ports: { name: string; port: number; targetPort: number; protocol: "TCP" }[];
  };
}

interface PodDisruptionBudget extends KubernetesObject {
  spec: {
    minAvailable: number;
    selector: { matchLabels: Record<string, string> };
    unhealthyPodEvictionPolicy: "AlwaysAllow";
  };
}

/** An object that the operator writes for an LLMCluster. */
export type OwnedObject = StatefulSet | Service | PodDisruptionBudget | ResourceClaimTemplate | Gang;

/** The kinds the operator writes; it deletes nothing of any other kind (pods of a rollout aside). */
export const ownedKinds = {
  Service: { group: "", version: "v1", resource: "services" },
  ResourceClaimTemplate: { group: "resource.k8s.io", version: "v1", resource: "resourceclaimtemplates" },
  Gang: { group: schedulingGroup, version, resource: "gangs" },
  PodDisruptionBudget: { group: "policy", version: "v1", resource: "poddisruptionbudgets" },
  StatefulSet: { group: "apps", version: "v1", resource: "statefulsets" },
} as const;

export type OwnedKind = keyof typeof ownedKinds;

/** `group/version`, or `version` alone for the core group. */
export function apiVersionOf(kind: OwnedKind): string {
  const { group, version } = ownedKinds[kind];
  return group === "" ? version : `${group}/${version}`;
}
