import type { Gang } from "../../../src/api/gang.ts";
import type { Pod } from "../../../src/api/kubernetes.ts";
import { type LLMCluster, type LLMClusterStatus, llmClusterSpec } from "../../../src/api/llm-cluster.ts";
import { revisionLabel, type StatefulSet } from "../../../src/serving/owned.ts";

/** Llama-3-70B, TP-8 as 2 pods × 4 GPUs, unless told otherwise; defaults filled as the API server fills them. */
export function llmCluster(spec: Record<string, unknown> = {}, metadata: Partial<LLMCluster["metadata"]> = {}) {
  const cluster: LLMCluster = {
    apiVersion: "serving.ai/v1alpha1",
    kind: "LLMCluster",
    metadata: {
      name: "llama-3-70b-a",
      namespace: "serving",
      uid: "11111111-2222-3333-4444-555555555555",
      generation: 1,
      ...metadata,
    },
    spec: llmClusterSpec.parse({ image: "vllm:v1", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4, ...spec }),
  };
  return cluster;
}

const statefulSetUid = "set-uid";

/** A StatefulSet whose newest template has been seen by its controller under the revision `new`. */
export function statefulSet(status: StatefulSet["status"] = {}, generation = 1): StatefulSet {
  return {
    metadata: { name: "llama-3-70b-a", namespace: "serving", uid: statefulSetUid, generation },
    spec: {
      serviceName: "llama-3-70b-a-ranks",
      replicas: 2,
      podManagementPolicy: "Parallel",
      updateStrategy: { type: "OnDelete" },
      selector: { matchLabels: {} },
      template: { metadata: { labels: {} }, spec: { containers: [] } },
    },
    status: { observedGeneration: generation, updateRevision: "new", ...status },
  };
}

export interface PodState {
  ready?: boolean;
  node?: string;
  revision?: string;
  deleting?: boolean;
  setUid?: string;
  template?: string;
}

/** The pod of a rank; without further words it is ready on a node, of the newest revision. */
export function pod(rank: number, state: PodState = {}): Pod {
  const { ready = true, node = ready ? "node-1" : undefined, revision = "new", deleting = false } = state;
  return {
    metadata: {
      name: `llama-3-70b-a-${rank}`,
      namespace: "serving",
      uid: `pod-${rank}`,
      labels: { [revisionLabel]: revision },
      ownerReferences: [
        {
          apiVersion: "apps/v1",
          kind: "StatefulSet",
          name: "llama-3-70b-a",
          uid: state.setUid ?? statefulSetUid,
          controller: true,
        },
      ],
      ...(deleting ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
    },
    spec: {
      ...(node === undefined ? {} : { nodeName: node }),
      containers: [],
      resourceClaims: [{ name: "gpus", resourceClaimTemplateName: state.template ?? "llama-3-70b-a-gpus-1" }],
    },
    status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
}

export function gang(explanation: string): Gang {
  return {
    metadata: { name: "llama-3-70b-a", namespace: "serving" },
    spec: { podSets: [], topology: "default", scheduleTimeoutSeconds: 600, disruption: "All" },
    status: { explanation },
  };
}

/** `Ready=True/AllMembersReady`, one line for each condition. */
export function summary(conditions: LLMClusterStatus["conditions"]): string[] {
  return (conditions ?? []).map(({ type, status, reason }) => `${type}=${status}/${reason}`);
}
