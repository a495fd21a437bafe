import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import { driverName } from "../api/names.ts";
import { type GangRecord, type GangState, heldPods } from "../gang/lifecycle/state.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import { assembleInventory, type NodeInventory } from "../topology/inventory.ts";
import { type ClusterModel, createClusterModel, type HeldPod } from "../topology/model.ts";
import type {
  BudgetRecord,
  ClaimRecord,
  DeviceClassRecord,
  NodeRecord,
  PodRecord,
  SliceRecord,
  TaintRuleRecord,
} from "../topology/records.ts";
import { createSliceIndex } from "../topology/slice-index.ts";

/** The cluster at one moment, as records. */
export interface ClusterState {
  gangs: readonly GangRecord[];
  groups: readonly PlacementGroupRecord[];
  pods: readonly PodRecord[];
  budgets: readonly BudgetRecord[];
  claims: readonly ClaimRecord[];
  nodes: readonly NodeRecord[];
  slices: readonly SliceRecord[];
  taintRules: readonly TaintRuleRecord[];
  deviceClasses: readonly DeviceClassRecord[];
  topologies: readonly { name: string; spec: ClusterTopologySpec }[];
}

/** The planner's model of the cluster: what is free, and what pods, claims and gangs hold. */
export function modelOf(
  state: ClusterState,
  gangs: ReadonlyMap<string, GangState>,
  managedDrivers: readonly string[] = [driverName],
): ClusterModel {
  const model = createClusterModel({ managedDrivers });
  for (const { name, spec } of state.topologies) model.upsertTopology(name, spec);
  for (const deviceClass of state.deviceClasses) model.upsertDeviceClass(deviceClass);
  for (const node of state.nodes) model.upsertNode(node);
  for (const slice of state.slices) model.upsertSlice(slice);
  for (const rule of state.taintRules) model.upsertTaintRule(rule);
  for (const pod of state.pods) model.upsertPod(pod);
  for (const claim of state.claims) model.upsertClaim(claim);
  for (const gang of gangs.values()) holdGang(model, gang);
  return model;
}

/** What a gang holds by its status, or by a plan that is on its way into it. */
export function holdGang(model: ClusterModel, gang: GangState): void {
  const live = new Map([...gang.pods.values()].map((pod) => [pod.name, pod]));
  const held = heldPods(gang).map((placed): HeldPod => {
    const pod = live.get(placed.pod);
    return pod === undefined ? { placed, requests: {} } : { placed, requests: pod.requests, podUid: pod.uid };
  });
  model.hold(gang.key, gang.gang?.namespace ?? "", held);
}

/** Node name → the devices that it can use, of its own slices and of those that several nodes reach. */
export function nodeInventories(
  state: Pick<ClusterState, "nodes" | "slices"> & Partial<Pick<ClusterState, "taintRules">>,
): ReadonlyMap<string, NodeInventory> {
  const slices = createSliceIndex();
  for (const slice of state.slices) slices.set(slice);
  for (const rule of state.taintRules ?? []) slices.setRule(rule);
  return new Map(state.nodes.map((node) => [node.name, assembleInventory(node, slices.of(node.name))]));
}
