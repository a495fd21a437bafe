import { createHash } from "node:crypto";
import type { Gang, GangConstraint } from "../api/gang.ts";
import type { DeviceRequest, ObjectMeta, OwnerReference, ResourceClaimTemplate } from "../api/kubernetes.ts";
import type { LLMCluster } from "../api/llm-cluster.ts";
import { gangLabel, podSetLabel, roleLabel, servingGroup, version } from "../api/names.ts";
import { defined } from "../kube/defined.ts";
import {
  apiVersionOf,
  clusterLabel,
  desiredHashAnnotation,
  managedByLabel,
  managedByValue,
  type OwnedKind,
  type OwnedObject,
  type StatefulSet,
} from "./owned.ts";

/** Name of the one pod set of an instance's Gang. */
const podSetName = "workers";

/** Name of the claim inside a pod, and of its only request. */
const claimName = "gpus";

const containerName = "server";
const portName = "http";

/** Port on rank 0 where the ranks find each other; PyTorch's default. */
const rendezvousPort = 29_500;

/** Loading a large model may take hours; a reservation that is not carried out must not hold devices for so long. */
const maxScheduleTimeoutSeconds = 600;

/** Labels of an LLMCluster that its pods inherit. A closed list: any other label may change without a restart. */
const inheritedLabels = ["app", "role"];

/**
 * What the API server should hold for an LLMCluster: two Services, a ResourceClaimTemplate, a Gang, a StatefulSet and,
 * unless switched off, a PodDisruptionBudget; in the order in which to write them, so that a pod's claim template and
 * Gang exist before the pod. Pure and deterministic; `cluster` has passed `readCluster` and has a namespace and a UID.
 */
export function desired(cluster: LLMCluster): OwnedObject[] {
  const template = claimTemplate(cluster);
  const objects: OwnedObject[] = [
    headlessService(cluster),
    service(cluster),
    template,
    gang(cluster),
    statefulSet(cluster, template.metadata.name),
  ];
  if (cluster.spec.podDisruptionBudget.enabled) objects.push(disruptionBudget(cluster));
  return objects.map(withHash);
}

/** Where clients reach the instance: rank 0, by the Service of the LLMCluster's name. */
export function instanceUrl(cluster: LLMCluster): string {
  return `http://${cluster.metadata.name}.${cluster.metadata.namespace}.svc.cluster.local`;
}

function headlessServiceName(cluster: LLMCluster): string {
  return `${cluster.metadata.name}-ranks`;
}

/** Gives each rank a DNS name from its start on: ranks look each other up before any of them can be ready. */
function headlessService(cluster: LLMCluster): OwnedObject {
  return {
    ...head(cluster, "Service", headlessServiceName(cluster)),
    spec: {
      clusterIP: "None",
      publishNotReadyAddresses: true,
      selector: selector(cluster),
      ports: [{ name: portName, port: cluster.spec.port, targetPort: cluster.spec.port, protocol: "TCP" }],
    },
  };
}

/** Only rank 0 answers requests; the other ranks take part in every one of them. */
function service(cluster: LLMCluster): OwnedObject {
  return {
    ...head(cluster, "Service", cluster.metadata.name),
    spec: {
      selector: { ...selector(cluster), "apps.kubernetes.io/pod-index": "0" },
      ports: [{ name: portName, port: 80, targetPort: cluster.spec.port, protocol: "TCP" }],
    },
  };
}

/**
 * One claim of `gpusPerPod` devices for each pod. A template's spec cannot change, so its name carries a hash of its
 * content: other devices are another template, hence another pod template, hence a rollout of the whole gang.
 */
function claimTemplate(cluster: LLMCluster): ResourceClaimTemplate {
  const { devices, gpusPerPod } = cluster.spec;
  const request: DeviceRequest = {
    name: claimName,
    exactly: {
      deviceClassName: devices.deviceClassName,
      allocationMode: "ExactCount",
      count: gpusPerPod,
      ...(devices.selectors === undefined
        ? {}
        : { selectors: devices.selectors.map((expression) => ({ cel: { expression } })) }),
    },
  };
  const spec: ResourceClaimTemplate["spec"] = {
    metadata: { labels: { ...selector(cluster), [gangLabel]: cluster.metadata.name } },
    spec: {
      devices: {
        requests: [request],
        ...(devices.matchAttribute === undefined
          ? {}
          : { constraints: [{ requests: [claimName], matchAttribute: devices.matchAttribute }] }),
      },
    },
  };
  return {
    ...head(cluster, "ResourceClaimTemplate", `${cluster.metadata.name}-${claimName}-${hash(spec).slice(0, 8)}`),
    spec,
  };
}

/**
 * The whole instance is one TP group and one pod set, so a constraint over the pod set keeps the group together; slices
 * would say the same a second time.
 */
function gang(cluster: LLMCluster): Gang {
  const { placement, replicas, startupTimeoutSeconds } = cluster.spec;
  const { name, labels } = cluster.metadata;
  const role = roleOf(cluster);
  const object = head(cluster, "Gang", name);
  return {
    ...object,
    // A PlacementGroup may select gangs by label, so the Gang carries all labels of its LLMCluster.
    metadata: { ...object.metadata, labels: { ...labels, ...object.metadata.labels } },
    spec: {
      podSets: [{ name: podSetName, count: replicas, minCount: replicas }],
      ...(placement.constraints === undefined ? {} : { constraints: placement.constraints as GangConstraint[] }),
      topology: placement.topology,
      ...(placement.placementGroup === undefined ? {} : { placementGroup: placement.placementGroup }),
      ...(role === undefined ? {} : { role }),
      scheduleTimeoutSeconds: Math.min(startupTimeoutSeconds, maxScheduleTimeoutSeconds),
      disruption: "All",
    },
  };
}

/** All pods at once (`Parallel`), replaced only when the operator deletes them, all together (`OnDelete`). */
function statefulSet(cluster: LLMCluster, templateName: string): StatefulSet {
  const { spec } = cluster;
  return {
    ...head(cluster, "StatefulSet", cluster.metadata.name),
    spec: {
      serviceName: headlessServiceName(cluster),
      replicas: spec.replicas,
      podManagementPolicy: "Parallel",
      updateStrategy: { type: "OnDelete" },
      selector: { matchLabels: selector(cluster) },
      template: {
        metadata: { labels: podLabels(cluster) },
        spec: {
          ...(spec.nodeSelector === undefined ? {} : { nodeSelector: spec.nodeSelector }),
          ...(spec.tolerations === undefined ? {} : { tolerations: spec.tolerations.map(defined) }),
          ...(spec.priorityClassName === undefined ? {} : { priorityClassName: spec.priorityClassName }),
          containers: [container(cluster)],
          resourceClaims: [{ name: claimName, resourceClaimTemplateName: templateName }],
        },
      },
    },
  };
}

/** No probes: what readiness means is the image's affair. */
function container(cluster: LLMCluster) {
  const { spec } = cluster;
  return {
    name: containerName,
    image: spec.image,
    ...(spec.args === undefined ? {} : { args: spec.args }),
    env: environment(cluster),
    // Without a name: server-side apply tells ports apart by number, and could not heal two of the same name.
    ports: [{ containerPort: spec.port, protocol: "TCP" }],
    resources: { ...defined(spec.resources ?? {}), claims: [{ name: claimName }] },
  };
}

type EnvironmentVariable =
  | { name: string; value: string }
  | { name: string; valueFrom: { fieldRef: { apiVersion: "v1"; fieldPath: string } } };

/**
 * What each rank is told: `RANK` is the pod's ordinal of `WORLD_SIZE` pods, so that pod 0 holds the first `gpusPerPod`
 * GPUs of the `TENSOR_PARALLEL_SIZE`, pod 1 the next. A variable of the same name in `spec.env` wins; ours come first,
 * so that `$(RANK)` works in `spec.env` and `spec.args`.
 */
function environment(cluster: LLMCluster): EnvironmentVariable[] {
  const { metadata, spec } = cluster;
  const own: EnvironmentVariable[] = [
    {
      name: "RANK",
      valueFrom: { fieldRef: { apiVersion: "v1", fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']" } },
    },
    { name: "WORLD_SIZE", value: String(spec.replicas) },
    { name: "MASTER_ADDR", value: `${metadata.name}-0.${headlessServiceName(cluster)}.${metadata.namespace}.svc` },
    { name: "MASTER_PORT", value: String(rendezvousPort) },
    { name: "TENSOR_PARALLEL_SIZE", value: String(spec.tensorParallelSize) },
    { name: "GPUS_PER_POD", value: String(spec.gpusPerPod) },
    ...(spec.model === undefined ? [] : [{ name: "MODEL", value: spec.model }]),
  ];
  const theirs = spec.env ?? [];
  const overridden = new Set(theirs.map((variable) => variable.name));
  return [...own.filter((variable) => !overridden.has(variable.name)), ...theirs];
}

/**
 * As the user asked. A TP instance serves with all its members or not at all, so a budget below `replicas` bounds
 * evictions but keeps no capacity; and an instance that is not ready serves nothing, so its pods may always be evicted.
 */
function disruptionBudget(cluster: LLMCluster): OwnedObject {
  return {
    ...head(cluster, "PodDisruptionBudget", cluster.metadata.name),
    spec: {
      minAvailable: cluster.spec.podDisruptionBudget.minAvailable,
      selector: { matchLabels: selector(cluster) },
      unhealthyPodEvictionPolicy: "AlwaysAllow",
    },
  };
}

/** `spec.placement.role`, else the plain label `role` that prefill and decode instances carry. */
function roleOf(cluster: LLMCluster): string | undefined {
  return cluster.spec.placement.role ?? cluster.metadata.labels?.["role"];
}

function selector(cluster: LLMCluster): Record<string, string> {
  return { [clusterLabel]: cluster.metadata.name };
}

function podLabels(cluster: LLMCluster): Record<string, string> {
  const { metadata } = cluster;
  const inherited = inheritedLabels.flatMap((key) => {
    const value = metadata.labels?.[key];
    return value === undefined ? [] : [[key, value] as const];
  });
  const role = roleOf(cluster);
  return {
    ...Object.fromEntries(inherited),
    ...ownLabels(cluster),
    [gangLabel]: metadata.name,
    [podSetLabel]: podSetName,
    ...(role === undefined ? {} : { [roleLabel]: role }),
  };
}

function ownLabels(cluster: LLMCluster): Record<string, string> {
  return {
    "app.kubernetes.io/name": "llm-cluster",
    "app.kubernetes.io/instance": cluster.metadata.name,
    [managedByLabel]: managedByValue,
    ...selector(cluster),
  };
}

function head(cluster: LLMCluster, kind: OwnedKind, name: string) {
  const { namespace } = cluster.metadata;
  const metadata: ObjectMeta = {
    name,
    ...(namespace === undefined ? {} : { namespace }),
    labels: ownLabels(cluster),
    ownerReferences: [ownerReference(cluster)],
  };
  return { apiVersion: apiVersionOf(kind), kind, metadata };
}

function ownerReference(cluster: LLMCluster): OwnerReference {
  const { name, uid } = cluster.metadata;
  return { apiVersion: `${servingGroup}/${version}`, kind: "LLMCluster", name, uid: uid ?? "", controller: true };
}

function withHash(object: OwnedObject): OwnedObject {
  const annotations = { [desiredHashAnnotation]: hash(object).slice(0, 16) };
  return { ...object, metadata: { ...object.metadata, annotations } };
}

function hash(value: unknown): string {
  return createHash("sha256").update(canonical(value)).digest("hex");
}

/** JSON with sorted keys: a map that the API server returns in another order is the same map. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).filter(([, field]) => field !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, field]) => `${JSON.stringify(key)}:${canonical(field)}`).join(",")}}`;
}
