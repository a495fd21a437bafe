import type { KubernetesObject, ObjectMeta, Pod, ResourceClaim, ResourceClaimTemplate } from "../../api/kubernetes.ts";
import type { LLMCluster } from "../../api/llm-cluster.ts";
import { gangLabel, podIndexLabels } from "../../api/names.ts";
import { desired } from "../../serving/desired.ts";

/** What controllers would make of objects: the operator of an LLMCluster, those of StatefulSets and Deployments, of claims. */

export type KindedObject = KubernetesObject & { apiVersion: string; kind: string };

/** What the operator writes for an LLMCluster, as old as that. */
export function ofCluster(cluster: KindedObject): KindedObject[] {
  const { creationTimestamp } = cluster.metadata;
  const age = creationTimestamp === undefined ? {} : { creationTimestamp };
  return desired(cluster as unknown as LLMCluster).map((object) => ({
    ...(object as KindedObject),
    metadata: { ...object.metadata, ...age },
  }));
}

interface Workload extends KindedObject {
  spec: {
    replicas?: number;
    podManagementPolicy?: string;
    selector?: { matchLabels?: Record<string, string> };
    template: { metadata?: { labels?: Record<string, string> }; spec: Pod["spec"] };
  };
}

/** Does its controller create each pod only once the one before is ready? Then a gang of them is never complete. */
export function isOneByOne(object: KindedObject): boolean {
  const { kind, spec } = object as Workload;
  const inGang = spec.template.metadata?.labels?.[gangLabel] !== undefined;
  return kind === "StatefulSet" && spec.podManagementPolicy !== "Parallel" && (spec.replicas ?? 1) > 1 && inGang;
}

/**
 * The pods that a StatefulSet or a Deployment lacks. Those of a StatefulSet are numbered; of a Deployment's only the
 * number counts.
 */
export function podsOf(object: KindedObject, pods: readonly Pod[]): Pod[] {
  const { apiVersion, kind, metadata, spec } = object as Workload;
  const { name, namespace, uid, creationTimestamp } = metadata;
  const there = pods.filter((pod) => pod.metadata.namespace === namespace);
  const names = new Set(there.map((pod) => pod.metadata.name));
  const replicas = spec.replicas ?? 1;
  const labels = spec.template.metadata?.labels ?? {};
  const podOf = (podName: string, more: Record<string, string>): Pod & KindedObject => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...({ name: podName, namespace, creationTimestamp } as ObjectMeta),
      labels: { ...labels, ...more },
      ownerReferences: [{ apiVersion, kind, name, uid: uid ?? `${kind} ${namespace}/${name}`, controller: true }],
    },
    spec: spec.template.spec,
  });
  if (kind === "StatefulSet") {
    const all = Array.from({ length: replicas }, (_, i) => podOf(`${name}-${i}`, { [podIndexLabels[1]]: String(i) }));
    return all.filter((pod) => !names.has(pod.metadata.name));
  }
  const matchLabels = Object.entries(spec.selector?.matchLabels ?? labels);
  const live = there.filter(
    ({ metadata: of, status }) =>
      matchLabels.every(([key, value]) => of.labels?.[key] === value) &&
      status?.phase !== "Succeeded" &&
      status?.phase !== "Failed",
  );
  return Array.from({ length: Math.max(0, replicas - live.length) }, (_, i) => podOf(`${name}-new-${i}`, {}));
}

/** Annotation by which kube-controller-manager finds the claim that it made for a pod's reference. */
const podClaimAnnotation = "resource.kubernetes.io/pod-claim-name";

/**
 * The claims of a pod that has none yet, made from its templates as kube-controller-manager would; the pod's status names
 * them. `missing`: templates that do not exist, by index of the reference.
 */
export function claimsFor(
  pod: Pod,
  claims: readonly ResourceClaim[],
  template: (name: string) => ResourceClaimTemplate | undefined,
): { pod: Pod; made: ResourceClaim[]; missing: { index: number; template: string }[] } {
  const known = new Map((pod.status?.resourceClaimStatuses ?? []).map((each) => [each.name, each]));
  const made: ResourceClaim[] = [];
  const missing: { index: number; template: string }[] = [];
  for (const [index, reference] of (pod.spec.resourceClaims ?? []).entries()) {
    if (reference.resourceClaimTemplateName === undefined || known.has(reference.name)) continue;
    const theirs = claims.find(
      ({ metadata }) =>
        metadata.annotations?.[podClaimAnnotation] === reference.name &&
        metadata.ownerReferences?.some(({ kind, uid }) => kind === "Pod" && uid === pod.metadata.uid) === true,
    );
    if (theirs !== undefined) {
      known.set(reference.name, { name: reference.name, resourceClaimName: theirs.metadata.name });
      continue;
    }
    const from = template(reference.resourceClaimTemplateName);
    // What a running pod got nobody can know without its claim.
    if (from === undefined) missing.push({ index, template: reference.resourceClaimTemplateName });
    else if (pod.spec.nodeName === undefined) {
      const claim = claimFrom(from, pod, reference.name);
      made.push(claim);
      known.set(reference.name, { name: reference.name, resourceClaimName: claim.metadata.name });
    }
  }
  return { pod: { ...pod, status: { ...pod.status, resourceClaimStatuses: [...known.values()] } }, made, missing };
}

function claimFrom(template: ResourceClaimTemplate, pod: Pod, reference: string): ResourceClaim & KindedObject {
  const { namespace, name, uid } = pod.metadata;
  return {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaim",
    metadata: {
      ...(namespace === undefined ? {} : { namespace }),
      // Nobody else can have this name: a slash is in no name of Kubernetes.
      name: `${name}/${reference}`,
      uid: `claim ${namespace}/${name}/${reference}`,
      ownerReferences: [{ apiVersion: "v1", kind: "Pod", name, uid: uid ?? "", controller: true }],
    },
    spec: template.spec.spec,
  };
}
