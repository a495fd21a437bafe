import type { PlacedPod } from "../api/placement.ts";
import { createFabric, type DeviceLevel, type Fabric } from "../topology/fabric.ts";
import { assembleInventory, attributeValue, type DeviceEntry, type NodeInventory } from "../topology/inventory.ts";
import { builtInTopology } from "../topology/levels.ts";
import type { ClusterState } from "./placements.ts";

/** Names the domains that all pods of a gang share. */
export interface DomainFinder {
  /** Devices that all nodes publish together, partitions included. */
  readonly deviceCount: number;
  /** Level → path of the one domain that holds all pods, in the levels of a ClusterTopology. */
  shared(topology: string, pods: readonly PlacedPod[]): Record<string, string>;
}

export function createDomainFinder(state: Pick<ClusterState, "nodes" | "slices" | "topologies">): DomainFinder {
  const indexOf = new Map(state.nodes.map((node, index) => [node.name, index]));
  const inventories = nodeInventories(state);
  const fabrics = new Map<string, Fabric>();

  function fabricOf(topology: string): Fabric {
    const known = fabrics.get(topology);
    if (known !== undefined) return known;
    const fabric = createFabric(state.topologies.find(({ name }) => name === topology)?.spec ?? builtInTopology);
    for (const [index, node] of state.nodes.entries()) fabric.setNode(index, node);
    fabrics.set(topology, fabric);
    return fabric;
  }

  return {
    deviceCount: [...inventories.values()].reduce((sum, inventory) => sum + inventory.devices.length, 0),
    shared(topology, pods) {
      const fabric = fabricOf(topology);
      const domains: Record<string, string> = {};
      const nodes = [...new Set(pods.map((pod) => pod.node))];
      let path = nodes[0] ?? "";
      for (const level of fabric.nodeLevels) {
        const [id, ...others] = new Set(nodes.map((name) => level.domainOf[indexOf.get(name) ?? -1] ?? -1));
        if (id === undefined || others.length > 0) continue;
        const domain = level.domains[id];
        if (domain === undefined) continue;
        domains[level.name] = domain.path;
        path = domain.path;
      }
      const inventory = nodes.length === 1 ? inventories.get(nodes[0]!) : undefined;
      if (inventory === undefined) return domains;
      const devices = devicesOf(pods, inventory);
      for (const level of fabric.deviceLevels) {
        const value = sharedValue(devices, level);
        if (value !== undefined) domains[level.name] = `${path}/${value}`;
      }
      return domains;
    },
  };
}

/** Node name → what it publishes. */
export function nodeInventories(state: Pick<ClusterState, "nodes" | "slices">): ReadonlyMap<string, NodeInventory> {
  const slices = Map.groupBy(state.slices, (slice) => slice.nodeName ?? "");
  return new Map(state.nodes.map((node) => [node.name, assembleInventory(node, slices.get(node.name) ?? [])]));
}

function devicesOf(pods: readonly PlacedPod[], inventory: NodeInventory): DeviceEntry[] {
  const placed = pods.flatMap((pod) => pod.claims.flatMap((claim) => claim.devices));
  return placed.flatMap(({ driver, pool, device }) => {
    const index = inventory.indexOf.get(`${driver}/${pool}/${device}`);
    return index === undefined ? [] : [inventory.devices[index]!];
  });
}

/** The attribute's value that all devices have, without its type; undefined when they differ or one lacks it. */
function sharedValue(devices: readonly DeviceEntry[], level: DeviceLevel): string | undefined {
  const [value, ...others] = new Set(devices.map((device) => attributeValue(device, level.attribute)));
  return value === undefined || others.length > 0 ? undefined : value.slice(value.indexOf(":") + 1);
}
