import { type ClusterTopologySpec, clusterTopologySpec } from "../api/cluster-topology.ts";
import { gangSpec, gangStatus } from "../api/gang.ts";
import type {
  Container,
  DeviceClass,
  DeviceTaintRule,
  KubernetesObject,
  Node,
  Pod,
  PodDisruptionBudget,
  ResourceClaim,
  ResourceSlice,
} from "../api/kubernetes.ts";
import { bindMarker, gangCondition, gangLabel, memberMarker, podIndexLabels, podSetLabel } from "../api/names.ts";
import { type PlacementGroupSpec, placementGroupSpec } from "../api/placement-group.ts";
import type { GangRecord } from "../gang/lifecycle/state.ts";
import { equalJson } from "../topology/equal.ts";
import { addResources, parseMilli, parseQuantity } from "../topology/quantity.ts";
import type {
  BudgetRecord,
  ClaimRecord,
  DeviceClassRecord,
  NodeRecord,
  PodRecord,
  Resources,
  SliceRecord,
  TaintRuleRecord,
} from "../topology/records.ts";
import { defined } from "./defined.ts";
import { isPlanner } from "./field-manager.ts";

/**
 * Raw objects → the records that the planner remembers. Strict about what kllama depends on: a field it cannot read is
 * an error that names object and field, which the reflector counts and reports, and the object is left out.
 */

export interface PlacementGroupRecord {
  namespace: string;
  name: string;
  spec: PlacementGroupSpec;
}

export function projectNode(raw: Node): NodeRecord {
  return {
    name: raw.metadata.name,
    uid: raw.metadata.uid ?? "",
    labels: raw.metadata.labels ?? {},
    taints: raw.spec?.taints ?? [],
    unschedulable: raw.spec?.unschedulable ?? false,
    ready: raw.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True") ?? false,
    allocatable: parseResources(raw.status?.allocatable ?? {}, raw),
  };
}

export function projectSlice(raw: ResourceSlice): SliceRecord {
  const { spec } = raw;
  return {
    name: raw.metadata.name,
    driver: spec.driver,
    pool: spec.pool.name,
    generation: spec.pool.generation,
    resourceSliceCount: spec.pool.resourceSliceCount,
    ...(spec.nodeName === undefined ? {} : { nodeName: spec.nodeName }),
    ...(spec.nodeSelector === undefined ? {} : { nodeSelector: spec.nodeSelector }),
    ...(spec.allNodes === undefined ? {} : { allNodes: spec.allNodes }),
    ...(spec.perDeviceNodeSelection === undefined ? {} : { perDeviceNodeSelection: spec.perDeviceNodeSelection }),
    devices: spec.devices ?? [],
    sharedCounters: spec.sharedCounters ?? [],
  };
}

/** Without its status, in which the eviction controller counts. */
export function projectTaintRule({ metadata, spec }: DeviceTaintRule): TaintRuleRecord {
  const { name } = metadata;
  return { name, taint: spec.taint, ...(spec.deviceSelector === undefined ? {} : { selector: spec.deviceSelector }) };
}

export function projectDeviceClass(raw: DeviceClass): DeviceClassRecord {
  return {
    name: raw.metadata.name,
    selectors: raw.spec.selectors ?? [],
    config: raw.spec.config ?? [],
    ...(raw.spec.extendedResourceName === undefined ? {} : { extendedResourceName: raw.spec.extendedResourceName }),
  };
}

export function projectClaim(raw: ResourceClaim): ClaimRecord {
  const owner = raw.metadata.ownerReferences?.find((o) => o.controller === true && o.kind === "Pod");
  const { allocation } = raw.status ?? {};
  const { creationTimestamp } = raw.metadata;
  const bindingFailure = bindingFailureOf(raw);
  return {
    uid: raw.metadata.uid ?? "",
    namespace: raw.metadata.namespace ?? "",
    name: raw.metadata.name,
    resourceVersion: raw.metadata.resourceVersion ?? "",
    spec: raw.spec,
    ...(allocation === undefined ? {} : { allocation }),
    ...(allocation !== undefined && isAllocatedByPlanner(raw) ? { allocatedByPlanner: true } : {}),
    reservedFor: raw.status?.reservedFor ?? [],
    ...(bindingFailure === undefined ? {} : { bindingFailure }),
    finalizers: raw.metadata.finalizers ?? [],
    deleting: raw.metadata.deletionTimestamp !== undefined,
    ...(owner === undefined ? {} : { ownerPodUid: owner.uid }),
    ...(creationTimestamp === undefined ? {} : { createdAtMs: Date.parse(creationTimestamp) }),
  };
}

function isAllocatedByPlanner({ metadata }: ResourceClaim): boolean {
  const owners = (metadata.managedFields ?? []).filter(
    ({ subresource, fieldsV1 }) => subresource === "status" && fieldsV1?.["f:status"]?.["f:allocation"] !== undefined,
  );
  return owners.length > 0 && owners.every(({ manager }) => isPlanner(manager));
}

/** As kube-scheduler judges it: one failure condition that is true is enough (KEP-5007). */
function bindingFailureOf({ status }: ResourceClaim): string | undefined {
  for (const { driver, pool, device, bindingFailureConditions = [] } of status?.allocation?.devices?.results ?? []) {
    if (bindingFailureConditions.length === 0) continue;
    const told = status?.devices?.find(
      (each) => each.driver === driver && each.pool === pool && each.device === device,
    );
    const failed = told?.conditions?.find((c) => bindingFailureConditions.includes(c.type) && c.status === "True");
    if (failed !== undefined) return `device ${pool}/${device}: ${failed.type}: ${failed.message || failed.reason}`;
  }
  return undefined;
}

export function projectPod(raw: Pod): PodRecord {
  const labels = raw.metadata.labels ?? {};
  const { spec, status } = raw;
  const optional = {
    resourceVersion: raw.metadata.resourceVersion,
    gang: labels[gangLabel],
    podSet: labels[podSetLabel],
    index: indexOf(labels),
    nodeName: spec.nodeName,
    nominatedNodeName: status?.nominatedNodeName,
    nodeAffinity: spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution,
    gangCondition: gangConditionOf(raw),
    unschedulableMessage: unschedulableMessage(raw),
    owner: ownerOf(raw),
    neverPreempts: spec.preemptionPolicy === "Never" ? (true as const) : undefined,
    started: status?.phase === "Running" && spec.resourceClaims !== undefined ? (true as const) : undefined,
    boundAtMs: spec.resourceClaims === undefined ? undefined : boundAtMs(raw),
    labels: labels[gangLabel] === undefined && spec.resourceClaims === undefined ? undefined : labels,
  };
  return {
    uid: raw.metadata.uid ?? "",
    namespace: raw.metadata.namespace ?? "",
    name: raw.metadata.name,
    createdAtMs: Date.parse(raw.metadata.creationTimestamp ?? "") || 0,
    priority: spec.priority ?? 0,
    schedulerName: spec.schedulerName ?? "default-scheduler",
    gates: (spec.schedulingGates ?? []).map((gate) => gate.name),
    bindMarker: [...spec.containers, ...(spec.initContainers ?? [])].some(
      (container) => container.resources?.requests?.[bindMarker] !== undefined,
    ),
    terminal: status?.phase === "Succeeded" || status?.phase === "Failed",
    deleting: raw.metadata.deletionTimestamp !== undefined,
    ready: status?.conditions?.some((c) => c.type === "Ready" && c.status === "True") ?? false,
    requests: podRequests(raw),
    claims: claimReferences(raw),
    nodeSelector: spec.nodeSelector ?? {},
    tolerations: spec.tolerations ?? [],
    ...defined(optional),
  };
}

/** @param known the Gang as it was read before, if it was: what is the same in it is not read anew, which for a gang of thousands takes long */
export function projectGang(
  raw: KubernetesObject & { spec: unknown; status?: unknown },
  known?: Pick<GangRecord, "spec" | "status">,
): GangRecord {
  const spec = known !== undefined && equalJson(raw.spec, known.spec) ? known.spec : gangSpec.parse(raw.spec);
  const status =
    known !== undefined && equalJson(raw.status, known.status) ? known.status : gangStatus.parse(raw.status ?? {});
  const { metadata } = raw;
  return {
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    uid: metadata.uid ?? "",
    generation: metadata.generation ?? 0,
    resourceVersion: metadata.resourceVersion ?? "",
    deleting: metadata.deletionTimestamp !== undefined,
    createdAtMs: Date.parse(metadata.creationTimestamp ?? "") || 0,
    labels: metadata.labels ?? {},
    spec,
    problems: [],
    status,
    ...(status.reservedAt === undefined ? {} : { reservedAtMs: Date.parse(status.reservedAt) }),
  };
}

export function projectPlacementGroup(raw: KubernetesObject & { spec: unknown }): PlacementGroupRecord {
  return {
    namespace: raw.metadata.namespace ?? "",
    name: raw.metadata.name,
    spec: placementGroupSpec.parse(raw.spec),
  };
}

/** As the Eviction API reads it: what a status says that is older than the spec counts for nothing. */
export function projectBudget(raw: PodDisruptionBudget): BudgetRecord {
  const { metadata, spec, status } = raw;
  const current = (status?.observedGeneration ?? 0) >= (metadata.generation ?? 0);
  return {
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    ...(spec?.selector === undefined || spec.selector === null ? {} : { selector: spec.selector }),
    disruptionsAllowed: current ? (status?.disruptionsAllowed ?? 0) : 0,
    sparesReadyOnly: spec?.unhealthyPodEvictionPolicy === "AlwaysAllow",
  };
}

export function projectTopology(raw: KubernetesObject & { spec: unknown }): {
  name: string;
  spec: ClusterTopologySpec;
} {
  return { name: raw.metadata.name, spec: clusterTopologySpec.parse(raw.spec) };
}

function indexOf(labels: Record<string, string>): number | undefined {
  for (const label of podIndexLabels) {
    const text = labels[label];
    if (text !== undefined && /^\d{1,6}$/.test(text)) return Number(text);
  }
  return undefined;
}

function ownerOf(raw: Pod): PodRecord["owner"] {
  const owner = raw.metadata.ownerReferences?.find((reference) => reference.controller === true);
  return owner === undefined ? undefined : { kind: owner.kind, name: owner.name, uid: owner.uid };
}

function gangConditionOf(raw: Pod): PodRecord["gangCondition"] {
  const found = raw.status?.conditions?.find(({ type }) => type === gangCondition)?.status;
  return found === "True" || found === "False" ? found : undefined;
}

function unschedulableMessage(raw: Pod): string | undefined {
  const condition = raw.status?.conditions?.find((c) => c.type === "PodScheduled" && c.status === "False");
  return condition?.reason === "Unschedulable" ? (condition.message ?? "") : undefined;
}

/** The API server says so itself when it binds a pod, and the kubelet keeps it. */
function boundAtMs(raw: Pod): number | undefined {
  const bound = raw.status?.conditions?.find(({ type, status }) => type === "PodScheduled" && status === "True");
  return bound?.lastTransitionTime === undefined ? undefined : Date.parse(bound.lastTransitionTime);
}

/** `resourceClaimName: null` in the status means that no claim is needed for the reference. */
function claimReferences(raw: Pod): PodRecord["claims"] {
  const statuses = new Map((raw.status?.resourceClaimStatuses ?? []).map((s) => [s.name, s.resourceClaimName]));
  return (raw.spec.resourceClaims ?? []).map((claim) => {
    const claimName = claim.resourceClaimName ?? statuses.get(claim.name);
    return {
      name: claim.name,
      ...(claimName === undefined ? {} : { claimName }),
      ...(claim.resourceClaimTemplateName === undefined ? {} : { templateName: claim.resourceClaimTemplateName }),
    };
  });
}

/**
 * What the pod takes of a node, as kube-scheduler counts it: the sum over containers and restartable init containers,
 * or the largest ordinary init container beside the restartable ones before it, whichever is more, plus overhead.
 */
function podRequests(raw: Pod): Resources {
  const running: Record<string, number> = {};
  const peak: Record<string, number> = {};
  for (const container of raw.spec.initContainers ?? []) {
    const requests = containerRequests(container, raw);
    if (container.restartPolicy === "Always") add(running, requests);
    raise(peak, addResources(running, container.restartPolicy === "Always" ? {} : requests));
  }
  for (const container of raw.spec.containers) add(running, containerRequests(container, raw));
  raise(running, peak);
  // Resources of the whole pod, where it requests them, stand in for those of its containers; its limits where those request none.
  const { limits = {}, requests = {} } = raw.spec.resources ?? {};
  Object.assign(running, { ...parseResources(limits, raw), ...running, ...parseResources(requests, raw) });
  add(running, parseResources(raw.spec.overhead ?? {}, raw));
  running["pods"] = 1;
  return running;
}

/** A resource that has a limit and no request requests its limit. Marker resources are ignored by the scheduler. */
function containerRequests(container: Container, raw: Pod): Resources {
  const merged = { ...container.resources?.limits, ...container.resources?.requests };
  delete merged[bindMarker];
  delete merged[memberMarker];
  return parseResources(merged, raw);
}

function parseResources(quantities: Record<string, string>, raw: KubernetesObject): Resources {
  const resources: Record<string, number> = {};
  for (const [name, quantity] of Object.entries(quantities)) {
    try {
      resources[name] = name === "cpu" ? parseMilli(quantity) : parseQuantity(quantity);
    } catch (error) {
      throw new Error(`${raw.metadata.namespace ?? ""}/${raw.metadata.name}: resource ${name}: ${String(error)}`);
    }
  }
  return resources;
}

function add(total: Record<string, number>, more: Resources): void {
  for (const [name, amount] of Object.entries(more)) total[name] = (total[name] ?? 0) + amount;
}

function raise(total: Record<string, number>, floor: Resources): void {
  for (const [name, amount] of Object.entries(floor)) total[name] = Math.max(total[name] ?? 0, amount);
}
