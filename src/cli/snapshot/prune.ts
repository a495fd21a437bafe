import type { Container, KubernetesObject, Pod } from "../../api/kubernetes.ts";
import { defined } from "../../kube/defined.ts";
import type { KindedObject } from "../plan/expand.ts";

/**
 * What a snapshot keeps of an object: what plans rest on. A pod's environment, arguments and volumes may hold secrets, as
 * may annotations and parameters for drivers; of such fields nothing is kept.
 */
export function pruned(object: KindedObject): KindedObject {
  const { apiVersion, kind, metadata, ...rest } = object as KindedObject & { spec?: unknown; status?: unknown };
  const kept = { apiVersion, kind, metadata: prunedMetadata(metadata) };
  switch (kind) {
    case "Pod":
      return { ...kept, ...prunedPod(object as unknown as Pod) };
    case "Node":
      return { ...kept, ...prunedNode(rest) };
    case "ResourceClaim":
    case "DeviceClass":
      return { ...kept, ...(withoutParameters(rest) as object) };
    case "DeviceTaintRule":
      return { ...kept, ...defined({ spec: rest.spec }) };
    default:
      return { ...kept, ...rest };
  }
}

/** Annotations by which pods and claims find each other, and pods their group. */
const keptAnnotations = ["resource.kubernetes.io/pod-claim-name", "scheduling.k8s.io/group-name", "pod-group-name"];

function prunedMetadata(metadata: KubernetesObject["metadata"]): KubernetesObject["metadata"] {
  const { name, namespace, uid, resourceVersion, generation, creationTimestamp, deletionTimestamp, labels } = metadata;
  const annotations = Object.entries(metadata.annotations ?? {}).filter(([key]) => keptAnnotations.includes(key));
  const { finalizers, ownerReferences } = metadata;
  return {
    name,
    ...defined({ namespace, uid, resourceVersion, generation, creationTimestamp, deletionTimestamp, labels }),
    ...(annotations.length === 0 ? {} : { annotations: Object.fromEntries(annotations) }),
    ...defined({ finalizers, ownerReferences }),
  };
}

function prunedPod({ spec, status }: Pod): Pick<Pod, "spec" | "status"> {
  const { nodeName, schedulerName, schedulingGates, nodeSelector, tolerations, priority, priorityClassName } = spec;
  const { overhead, resources, resourceClaims, affinity, initContainers } = spec;
  const { preemptionPolicy, schedulingGroup } = spec as { preemptionPolicy?: string; schedulingGroup?: object };
  const { phase, nominatedNodeName, conditions, resourceClaimStatuses } = status ?? {};
  return {
    spec: {
      ...defined({ nodeName, schedulerName, schedulingGates, nodeSelector, tolerations, priority, priorityClassName }),
      ...defined({ overhead, resources, resourceClaims, preemptionPolicy, schedulingGroup }),
      ...(affinity?.nodeAffinity === undefined ? {} : { affinity: { nodeAffinity: affinity.nodeAffinity } }),
      containers: spec.containers.map(prunedContainer),
      ...(initContainers === undefined ? {} : { initContainers: initContainers.map(prunedContainer) }),
    },
    status: defined({ phase, nominatedNodeName, conditions, resourceClaimStatuses }),
  };
}

function prunedContainer({ name, restartPolicy, resources }: Container): Container {
  return { name, ...defined({ restartPolicy, resources }) };
}

function prunedNode(node: { spec?: unknown; status?: unknown }): object {
  const { taints, unschedulable } = (node.spec ?? {}) as { taints?: unknown; unschedulable?: unknown };
  const { allocatable, capacity, conditions } = (node.status ?? {}) as Record<string, unknown>;
  const told = (conditions as { type: string; status: string }[] | undefined)?.map(({ type, status }) => ({
    type,
    status,
  }));
  return { spec: defined({ taints, unschedulable }), status: defined({ allocatable, capacity, conditions: told }) };
}

/** Configuration for a driver says nothing to the planner but whose it is. */
function withoutParameters(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutParameters);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([name, field]) => [
    name,
    name === "parameters" ? {} : withoutParameters(field),
  ]);
  return Object.fromEntries(entries);
}
