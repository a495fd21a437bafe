import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import type { Gang } from "../api/gang.ts";
import { schedulingGroup, version } from "../api/names.ts";
import type { GangRecord } from "../gang/lifecycle/state.ts";
import type { KubeClient } from "../kube/client.ts";
import { type ResourceLocation, resourcePath } from "../kube/paths.ts";
import {
  type PlacementGroupRecord,
  projectBudget,
  projectClaim,
  projectDeviceClass,
  projectGang,
  projectNode,
  projectPlacementGroup,
  projectPod,
  projectSlice,
  projectTaintRule,
  projectTopology,
} from "../kube/project.ts";
import {
  createReflector,
  type InvalidObject,
  promptPauseMs,
  type Reflector,
  type ReflectorOptions,
} from "../kube/reflector.ts";
import { deviceTaintRules, findServed } from "../kube/served.ts";
import type { Timing } from "../kube/timing.ts";
import type { ClusterModel } from "../topology/model.ts";
import type {
  BudgetRecord,
  ClaimRecord,
  DeviceClassRecord,
  NodeRecord,
  PodRecord,
  SliceRecord,
  TaintRuleRecord,
} from "../topology/records.ts";
import type { Coordinator } from "./coordinator.ts";

export interface WatchReports {
  invalid(kind: string, object: InvalidObject): void;
  error(kind: string, error: Error, fatal: boolean): void;
}

/** Everything the planner watches; each change goes into the model or the coordinator, synchronously. */
export function createWatches(
  client: KubeClient,
  model: ClusterModel,
  coordinator: Coordinator,
  reports: WatchReports,
  timing: Timing,
  preempts: boolean,
): ReadonlyMap<string, Reflector<unknown>> {
  const watches = new Map<string, Reflector<unknown>>();

  function watch<R, T>(
    location: ResourceLocation,
    project: (raw: R) => T,
    changed: (value: T, key: string) => void,
    deleted: (previous: T, key: string) => void,
  ): void {
    watchAt(location.resource, resourcePath(location), project, changed, deleted);
  }

  function watchAt<R, T>(
    kind: string,
    path: ReflectorOptions<R, T>["path"],
    project: (raw: R) => T,
    changed: (value: T, key: string) => void,
    deleted: (previous: T, key: string) => void,
  ): void {
    const reflector = createReflector<R, T>({
      client,
      path,
      name: kind,
      longestPauseMs: promptPauseMs,
      project,
      onChange: (change) => {
        if (change.type === "deleted") deleted(change.previous, change.key);
        else if (change.type !== "replaced") changed(change.value, change.key);
      },
      onInvalid: (object) => reports.invalid(kind, object),
      onError: (error, fatal) => reports.error(kind, error, fatal),
      timing,
    });
    watches.set(kind, reflector as Reflector<unknown>);
  }

  const core = (resource: string): ResourceLocation => ({ group: "", version: "v1", resource });
  const dra = (resource: string): ResourceLocation => ({ group: "resource.k8s.io", version: "v1", resource });
  const ours = (resource: string): ResourceLocation => ({ group: schedulingGroup, version, resource });

  watch(
    core("nodes"),
    projectNode,
    (node: NodeRecord) => coordinator.observeNode(node),
    (node) => coordinator.observeNodeGone(node.name),
  );
  watch(
    dra("resourceslices"),
    projectSlice,
    inventory((slice: SliceRecord) => model.upsertSlice(slice)),
    inventory((slice) => model.removeSlice(slice.name)),
  );
  watchAt(
    deviceTaintRules.resource,
    async (signal) => {
      const location = await findServed(client, deviceTaintRules, signal);
      return location && resourcePath(location);
    },
    projectTaintRule,
    inventory((rule: TaintRuleRecord) => model.upsertTaintRule(rule)),
    inventory((rule) => model.removeTaintRule(rule.name)),
  );
  watch(
    dra("deviceclasses"),
    projectDeviceClass,
    inventory((deviceClass: DeviceClassRecord) => model.upsertDeviceClass(deviceClass)),
    inventory((deviceClass) => model.removeDeviceClass(deviceClass.name)),
  );
  watch(
    ours("clustertopologies"),
    projectTopology,
    ({ name, spec }: { name: string; spec: ClusterTopologySpec }) => {
      model.upsertTopology(name, spec);
      coordinator.observeTopology();
    },
    ({ name }) => {
      model.removeTopology(name);
      coordinator.observeTopology();
    },
  );
  watch(
    core("pods"),
    projectPod,
    (pod: PodRecord) => coordinator.observePod(pod),
    (pod) => coordinator.observePodGone(pod.uid),
  );
  watch(
    dra("resourceclaims"),
    projectClaim,
    (claim: ClaimRecord) => coordinator.observeClaim(claim),
    (claim) => coordinator.observeClaimGone(claim),
  );
  watch(
    ours("gangs"),
    (raw: Gang) => projectGang(raw, coordinator.gangs().get(raw.metadata.uid ?? "")),
    (gang: GangRecord) => coordinator.observeGang(gang),
    (gang) => coordinator.observeGangGone(gang),
  );
  watch(
    ours("placementgroups"),
    projectPlacementGroup,
    (group: PlacementGroupRecord, key) => coordinator.observeGroup(key, group),
    (_group, key) => coordinator.observeGroup(key, undefined),
  );
  if (preempts) {
    watch(
      { group: "policy", version: "v1", resource: "poddisruptionbudgets" },
      projectBudget,
      (budget: BudgetRecord, key) => coordinator.observeBudget(key, budget),
      (_budget, key) => coordinator.observeBudget(key, undefined),
    );
  }
  return watches;

  function inventory<T>(apply: (value: T) => void): (value: T) => void {
    return (value) => {
      const { version } = model;
      apply(value);
      // While pods are evicted for a rule, its status counts them.
      if (model.version !== version) coordinator.observeInventory();
    };
  }
}
