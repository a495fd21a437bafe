import type { ClusterTopologySpec } from "../../api/cluster-topology.ts";
import type { Gang, GangConstraint } from "../../api/gang.ts";
import type { KubernetesObject, ObjectMeta, Pod } from "../../api/kubernetes.ts";
import { gangLabel, podIndexLabels, schedulingGroup, version } from "../../api/names.ts";
import { compareNatural } from "../../topology/natural-order.ts";

/**
 * PodGroups of other schedulers as Gangs: Kubernetes' own (`scheduling.k8s.io`), those of coscheduling
 * (`scheduling.x-k8s.io`), Volcano (`scheduling.volcano.sh`) and KAI (`scheduling.run.ai`). Each has a least number of
 * pods; some name a node label of which all pods share one value.
 */

/** What a PodGroup asks for, in the terms of a Gang. */
interface Asked {
  /** Undefined: its pods are scheduled one by one. */
  minCount: number | undefined;
  /** Node labels of which all pods have one value. */
  required: readonly string[];
  preferred: readonly string[];
  /** What cannot be said as a Gang. */
  lost: readonly string[];
}

interface PodGroup extends KubernetesObject {
  spec?: {
    minMember?: number;
    schedulingPolicy?: { gang?: { minCount?: number } };
    schedulingConstraints?: { topology?: { key?: string }[] };
    networkTopology?: unknown;
    topologyConstraint?: { requiredTopologyLevel?: string; preferredTopologyLevel?: string };
    subGroups?: unknown[];
  };
}

interface Flavor {
  asked(group: PodGroup): Asked;
  /** Name of the group that a pod belongs to. */
  groupOf(pod: Pod): string | undefined;
}

const nothing = { required: [], preferred: [], lost: [] };

const flavors: Readonly<Record<string, Flavor>> = {
  "scheduling.k8s.io": {
    asked: ({ spec }) => ({
      ...nothing,
      minCount: spec?.schedulingPolicy?.gang?.minCount,
      required: (spec?.schedulingConstraints?.topology ?? []).flatMap(({ key }) => key ?? []),
    }),
    groupOf: ({ spec }) => (spec as { schedulingGroup?: { podGroupName?: string } }).schedulingGroup?.podGroupName,
  },
  "scheduling.x-k8s.io": {
    asked: ({ spec }) => ({ ...nothing, minCount: spec?.minMember ?? 1 }),
    groupOf: ({ metadata }) => metadata.labels?.["scheduling.x-k8s.io/pod-group"],
  },
  "scheduling.volcano.sh": {
    asked: ({ spec }) => ({
      ...nothing,
      minCount: spec?.minMember ?? 1,
      lost: spec?.networkTopology === undefined ? [] : ["spec.networkTopology, which counts tiers of HyperNodes"],
    }),
    groupOf: ({ metadata }) => metadata.annotations?.["scheduling.k8s.io/group-name"],
  },
  "scheduling.run.ai": {
    asked: ({ spec }) => ({
      minCount: spec?.minMember ?? 1,
      required: [spec?.topologyConstraint?.requiredTopologyLevel ?? []].flat(),
      preferred: [spec?.topologyConstraint?.preferredTopologyLevel ?? []].flat(),
      lost: (spec?.subGroups ?? []).length === 0 ? [] : ["spec.subGroups"],
    }),
    groupOf: ({ metadata }) => metadata.annotations?.["pod-group-name"] ?? metadata.labels?.["pod-group-name"],
  },
};

function flavorOf({ apiVersion }: { apiVersion: string }): Flavor | undefined {
  return flavors[apiVersion.slice(0, apiVersion.indexOf("/"))];
}

export function isPodGroup(object: { apiVersion: string; kind: string }): boolean {
  return object.kind === "PodGroup" && flavorOf(object) !== undefined;
}

export interface AdaptedGroup {
  gang: Gang & { apiVersion: string; kind: string };
  /** The members, labelled for the Gang. */
  pods: Pod[];
  /** Topologies of one level, for labels that no level of topology `default` reads. */
  topologies: { name: string; spec: ClusterTopologySpec }[];
  lost: readonly string[];
}

/**
 * The Gang that a PodGroup stands for; undefined when its pods need not be placed together.
 * @param levels levels of the topology `default`
 */
export function adaptPodGroup(
  object: KubernetesObject & { apiVersion: string; kind: string },
  allPods: readonly Pod[],
  levels: ClusterTopologySpec["levels"],
): AdaptedGroup | undefined {
  const flavor = flavorOf(object)!;
  const { minCount, required, preferred, lost } = flavor.asked(object as PodGroup);
  if (minCount === undefined) return undefined;
  const { name, namespace } = object.metadata;
  const pods = podsOfGroup(object, allPods);
  const wanted = [
    ...required.map((label) => ({ label, mode: "required" as const })),
    ...preferred.map((label) => ({ label, mode: "preferred" as const })),
  ];
  const { topology, topologies, levelOf } = topologyFor(
    wanted.map(({ label }) => label),
    levels,
    name,
  );
  const constraints = wanted.map(
    ({ label, mode }): GangConstraint => ({ type: "colocate", level: levelOf(label), mode }),
  );
  const { uid, creationTimestamp, labels } = object.metadata;
  const metadata: ObjectMeta = {
    name,
    ...(namespace === undefined ? {} : { namespace }),
    ...(uid === undefined ? {} : { uid }),
    ...(creationTimestamp === undefined ? {} : { creationTimestamp }),
    ...(labels === undefined ? {} : { labels }),
  };
  return {
    gang: {
      apiVersion: `${schedulingGroup}/${version}`,
      kind: "Gang",
      metadata,
      spec: {
        podSets: [{ name: "pods", count: Math.max(1, minCount, pods.length), minCount }],
        ...(constraints.length === 0 ? {} : { constraints }),
        topology,
        scheduleTimeoutSeconds: 600,
        disruption: "All",
      },
    },
    pods,
    topologies,
    lost,
  };
}

/** The pods of a PodGroup that are not over, labelled for the Gang that stands for it. */
export function podsOfGroup(object: KubernetesObject & { apiVersion: string; kind: string }, allPods: readonly Pod[]) {
  const flavor = flavorOf(object)!;
  const { name, namespace } = object.metadata;
  return allPods
    .filter((pod) => flavor.groupOf(pod) === name && pod.metadata.namespace === namespace)
    .filter(({ status, metadata }) => !isOver(status?.phase) && metadata.labels?.[gangLabel] === undefined)
    .toSorted((a, b) => compareNatural(a.metadata.name, b.metadata.name))
    .map((pod, index) => labelled(pod, name, index));
}

function isOver(phase: string | undefined): boolean {
  return phase === "Succeeded" || phase === "Failed";
}

/**
 * Other schedulers number pods per replica, if at all: in a PodGroup the order of names counts. And its pods may be those
 * of several controllers, unlike those of a pod set.
 */
function labelled(pod: Pod, gang: string, index: number): Pod {
  const labels = { ...pod.metadata.labels, [gangLabel]: gang, [podIndexLabels[0]]: String(index) };
  const { ownerReferences: _, ...metadata } = pod.metadata;
  return { ...pod, metadata: { ...metadata, labels } };
}

/** The topology `default` where its levels read all labels, else one whose levels are the labels. */
function topologyFor(labels: readonly string[], levels: ClusterTopologySpec["levels"], group: string) {
  const inDefault = (label: string) => levels.find(({ nodeLabels }) => nodeLabels?.includes(label))?.name;
  if (labels.every((label) => inDefault(label) !== undefined)) {
    return { topology: "default", topologies: [], levelOf: (label: string) => inDefault(label)! };
  }
  const distinct = [...new Set(labels)];
  const levelOf = (label: string) => `level-${distinct.indexOf(label)}`;
  const name = `pod-group-${group}`;
  const spec = { levels: distinct.map((label) => ({ name: levelOf(label), nodeLabels: [label] })) };
  return { topology: name, topologies: [{ name, spec }], levelOf };
}
