import type { PlacedPod } from "../api/placement.ts";
import { podPlace, sharedDomains } from "../gang/cost.ts";
import { assembleInventory, type NodeInventory } from "../topology/inventory.ts";
import { type ClusterModel, createClusterModel } from "../topology/model.ts";
import type { ClusterState } from "./placements.ts";

/** Names the domains that all pods of a gang share. */
export interface DomainFinder {
  /** Devices that all nodes publish together, partitions included. */
  readonly deviceCount: number;
  /** Level → path of the one domain that holds all pods, in the levels of a ClusterTopology. */
  shared(topology: string, pods: readonly PlacedPod[]): Record<string, string>;
}

export function createDomainFinder(state: Pick<ClusterState, "nodes" | "slices" | "topologies">): DomainFinder {
  const { view } = hardwareModel(state);
  return {
    deviceCount: view.nodes.reduce((sum, _, node) => sum + view.inventory(node).devices.length, 0),
    shared(topology, pods) {
      const places = pods.map((pod) => podPlace(view, pod));
      const known = places.filter((place) => place !== undefined);
      // Pods on a node that is gone share nothing with the others.
      return known.length < places.length
        ? {}
        : sharedDomains(view, view.fabric(topology) ?? view.fabric("default")!, known);
    },
  };
}

/** Nodes, what they publish, and topologies; nothing is held. */
function hardwareModel(state: Pick<ClusterState, "nodes" | "slices" | "topologies">): ClusterModel {
  const model = createClusterModel({ managedDrivers: [] });
  for (const { name, spec } of state.topologies) model.upsertTopology(name, spec);
  for (const node of state.nodes) model.upsertNode(node);
  for (const slice of state.slices) model.upsertSlice(slice);
  return model;
}

/** Node name → what it publishes. */
export function nodeInventories(state: Pick<ClusterState, "nodes" | "slices">): ReadonlyMap<string, NodeInventory> {
  const slices = Map.groupBy(state.slices, (slice) => slice.nodeName ?? "");
  return new Map(state.nodes.map((node) => [node.name, assembleInventory(node, slices.get(node.name) ?? [])]));
}
