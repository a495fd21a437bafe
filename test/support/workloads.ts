import type { KubernetesObject } from "../../src/api/kubernetes.ts";
import { gangLabel, podIndexLabels, podSetLabel, schedulingGroup, version } from "../../src/api/names.ts";
import { isAlreadyExists, isNotFound, type KubeClient } from "../../src/kube/client.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { resourcePath } from "../../src/kube/paths.ts";

/** What a person would apply, as builders; and the calls that apply it. */

export interface Workload {
  apiVersion: string;
  kind: string;
  metadata: KubernetesObject["metadata"];
  [field: string]: unknown;
}

const plurals: Record<string, string> = {
  Namespace: "namespaces",
  ServiceAccount: "serviceaccounts",
  Pod: "pods",
  StatefulSet: "statefulsets",
  ResourceClaim: "resourceclaims",
  ResourceClaimTemplate: "resourceclaimtemplates",
  Gang: "gangs",
  PlacementGroup: "placementgroups",
  LLMCluster: "llmclusters",
  PodDisruptionBudget: "poddisruptionbudgets",
};

export function claimTemplate(name: string, count: number, deviceClassName = "gpu.kllama.ai"): Workload {
  return {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name },
    spec: { spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName, count } }] } } },
  };
}

export function gang(name: string, spec: object): Workload {
  return { apiVersion: `${schedulingGroup}/${version}`, kind: "Gang", metadata: { name }, spec };
}

/** A pod template's body; without `template` it asks for CPU only. */
function podSpec(template?: string): object {
  const resources = { requests: { cpu: "100m" }, ...(template === undefined ? {} : { claims: [{ name: "gpus" }] }) };
  return {
    terminationGracePeriodSeconds: 0,
    containers: [{ name: "main", image: "registry.k8s.io/pause:3.10", resources }],
    ...(template === undefined ? {} : { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: template }] }),
  };
}

/** A pod, or a StatefulSet with its pods, of a PriorityClass. */
export function withPriority(workload: Workload, priorityClassName: string): Workload {
  const spec = workload["spec"] as { template?: { spec: object } };
  const { template } = spec;
  if (template === undefined) return { ...workload, spec: { ...spec, priorityClassName } };
  return { ...workload, spec: { ...spec, template: { ...template, spec: { ...template.spec, priorityClassName } } } };
}

export function member(gangName: string, podSet: string, index: number, template?: string): Workload {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `${gangName}-${podSet}-${index}`,
      labels: { [gangLabel]: gangName, [podSetLabel]: podSet, [podIndexLabels[0]]: String(index) },
    },
    spec: podSpec(template),
  };
}

/** A gate of somebody else's: as long as it stands, the pod's gang cannot be whole at the barrier. */
export const foreignGate = "example.com/wait";

export function withForeignGate(pod: Workload): Workload {
  return { ...pod, spec: { ...(pod["spec"] as object), schedulingGates: [{ name: foreignGate }] } };
}

export function statefulSet(name: string, replicas: number, template: string, gangName = name): Workload {
  const labels = { app: name, [gangLabel]: gangName, [podSetLabel]: "ranks" };
  return {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: { name },
    spec: {
      replicas,
      serviceName: name,
      podManagementPolicy: "Parallel",
      selector: { matchLabels: { app: name } },
      template: { metadata: { labels }, spec: podSpec(template) },
    },
  };
}

function pathOf(object: Pick<Workload, "apiVersion" | "kind">, namespace?: string, name?: string): string {
  const [group, apiVersion] = object.apiVersion.includes("/") ? object.apiVersion.split("/") : ["", object.apiVersion];
  const resource = plurals[object.kind];
  if (resource === undefined) throw new Error(`no plural known for ${object.kind}`);
  return resourcePath({ group: group ?? "", version: apiVersion ?? "", resource, namespace, name });
}

export async function create(client: KubeClient, namespace: string, ...objects: Workload[]): Promise<void> {
  for (const object of objects) await client.request("POST", pathOf(object, namespace), { body: object });
}

/**
 * Pods may be created in it at once: kube-controller-manager makes the account that they run under a moment later, and the
 * API server waits a second for that, which is not enough on a busy machine.
 */
export async function createNamespace(
  client: KubeClient,
  name: string,
  labels: Record<string, string> = {},
): Promise<void> {
  const namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name, labels } };
  await client.request("POST", pathOf(namespace), { body: namespace });
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default" } };
  try {
    await create(client, name, account);
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
}

/** Makes a PriorityClass, and waits until pods may name it: admission hears of it by a watch. */
export async function createPriorityClass(
  client: KubeClient,
  name: string,
  value: number,
  preemptionPolicy: "Never" | "PreemptLowerPriority" = "PreemptLowerPriority",
): Promise<void> {
  const kind = { apiVersion: "scheduling.k8s.io/v1", kind: "PriorityClass" };
  const classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
  await client.request("POST", classes, { body: { ...kind, metadata: { name }, value, preemptionPolicy } });
  const body = withPriority(member("none", "ranks", 0), name);
  const path = resourcePath({ group: "", version: "v1", resource: "pods", namespace: "kllama-system" });
  const refusal = (): Promise<string | undefined> =>
    client.request("POST", path, { body, query: { dryRun: "All" } }).then(
      () => undefined,
      (error: Error) => error.message,
    );
  await eventually(`pods may name PriorityClass ${name}`, refusal, { timeoutMs: 60_000 });
}

export async function remove(client: KubeClient, namespace: string, object: Workload): Promise<void> {
  await removeAt(client, pathOf(object, namespace, object.metadata.name));
}

/** `path`: of an object, or of all of its kind. */
async function removeAt(client: KubeClient, path: string): Promise<void> {
  try {
    await client.request("DELETE", path, {
      body: { apiVersion: "v1", kind: "DeleteOptions", propagationPolicy: "Background" },
    });
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}

/** Deletes what tests create in a namespace, as somebody would who keeps the namespace. */
export async function removeAll(client: KubeClient, namespace: string): Promise<void> {
  for (const [apiVersion, kind] of [
    ["apps/v1", "StatefulSet"],
    [`${schedulingGroup}/${version}`, "PlacementGroup"],
    [`${schedulingGroup}/${version}`, "Gang"],
    ["v1", "Pod"],
    ["resource.k8s.io/v1", "ResourceClaim"],
  ] as const) {
    await removeAt(client, pathOf({ apiVersion, kind }, namespace));
  }
}
