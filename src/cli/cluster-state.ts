import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import { driverName } from "../api/names.ts";
import { type GangRecord, type GangState, heldPods, newGangState } from "../gang/lifecycle/state.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import { assembleInventory, type NodeInventory } from "../topology/inventory.ts";
import { type ClusterModel, createClusterModel, type HeldPod } from "../topology/model.ts";
import type { ClaimRecord, DeviceClassRecord, NodeRecord, PodRecord, SliceRecord } from "../topology/records.ts";

/** The cluster at one moment, as records. */
export interface ClusterState {
  gangs: readonly GangRecord[];
  groups: readonly PlacementGroupRecord[];
  pods: readonly PodRecord[];
  claims: readonly ClaimRecord[];
  nodes: readonly NodeRecord[];
  slices: readonly SliceRecord[];
  deviceClasses: readonly DeviceClassRecord[];
  topologies: readonly { name: string; spec: ClusterTopologySpec }[];
}

/** Gangs as the lifecycle would know them when it began at this moment, by `namespace/name`. */
export function gangStates(state: ClusterState): ReadonlyMap<string, GangState> {
  const states = new Map<string, GangState>();
  for (const gang of state.gangs) {
    const key = `${gang.namespace}/${gang.name}`;
    states.set(key, { ...newGangState(key), gang });
  }
  const claims = new Map(state.claims.map((claim) => [`${claim.namespace}/${claim.name}`, claim]));
  for (const pod of state.pods) {
    const found = states.get(`${pod.namespace}/${pod.gang}`);
    found?.pods.set(pod.uid, pod);
    for (const { claimName } of pod.claims) {
      const claim = claims.get(`${pod.namespace}/${claimName}`);
      if (claim !== undefined) found?.claims.set(claim.name, claim);
    }
  }
  return states;
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

/** Node name → what it publishes. */
export function nodeInventories(state: Pick<ClusterState, "nodes" | "slices">): ReadonlyMap<string, NodeInventory> {
  const slices = Map.groupBy(state.slices, (slice) => slice.nodeName ?? "");
  return new Map(state.nodes.map((node) => [node.name, assembleInventory(node, slices.get(node.name) ?? [])]));
}
