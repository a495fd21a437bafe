import { type DeviceLosses, type Gpu, lossOf } from "../dra/driver/inventory.ts";
import { parseQuantity } from "../topology/quantity.ts";
import type { CounterUse, Hardware } from "./device-ledger.ts";
import { nodeSlices, type SimulatedNode, simulatedGpus } from "./objects.ts";

/** What the simulator knows of a node besides its type. */
export interface NodeState {
  down: boolean;
  losses: DeviceLosses;
}

export interface FleetHardware extends Hardware {
  readonly node: (name: string) => SimulatedNode | undefined;
  setState(node: string, state: NodeState): void;
  /** Made anew each time. */
  gpus(node: string): Gpu[];
  losses(node: string): DeviceLosses;
  /** Number of devices (GPUs and partitions) of the whole fleet. */
  devices(): number;
}

interface TypeHardware {
  cut: ReadonlySet<string>;
  counters: ReadonlyMap<string, readonly CounterUse[]>;
  capacity: ReadonlyMap<string, number>;
}

/** The fleet's hardware: devices and counters per node type, faults per node. A node is down until its state is set. */
export function createHardware(nodes: readonly SimulatedNode[]): FleetHardware {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const states = new Map<string, NodeState>();
  const types = new Map<string, TypeHardware>();
  for (const node of nodes) {
    if (!types.has(node.type.name)) types.set(node.type.name, typeHardware(node));
  }
  const typeOf = (node: string): TypeHardware | undefined => types.get(byName.get(node)?.type.name ?? "");
  return {
    node: (name) => byName.get(name),
    setState: (node, state) => void states.set(node, state),
    gpus(name) {
      const node = byName.get(name);
      return node === undefined ? [] : simulatedGpus(node);
    },
    losses: (node) => states.get(node)?.losses ?? {},
    isDown: (node) => states.get(node)?.down ?? true,
    isLost: (node, device) => lossOf(device, states.get(node)?.losses ?? {}) !== undefined,
    isCut: (node, device) => typeOf(node)?.cut.has(device) === true,
    counters: (node, device) => typeOf(node)?.counters.get(device),
    capacity: (node, counter) => typeOf(node)?.capacity.get(counter) ?? 0,
    devices: () => nodes.reduce((total, node) => total + (typeOf(node.name)?.counters.size ?? 0), 0),
  };
}

function typeHardware(node: SimulatedNode): TypeHardware {
  const slices = nodeSlices(node, { nodeUid: "", generation: 1 });
  const amounts = (set: string, counters: Record<string, { value: string }>): CounterUse[] =>
    Object.entries(counters).map(([name, { value }]) => ({ counter: `${set}/${name}`, amount: parseQuantity(value) }));
  const devices = slices.flatMap((slice) => slice.spec.devices ?? []);
  const sets = slices.flatMap((slice) => slice.spec.sharedCounters ?? []);
  return {
    cut: new Set(devices.filter(({ attributes }) => attributes?.["type"]?.string === "mig").map(({ name }) => name)),
    counters: new Map(
      devices.map((device) => [
        device.name,
        (device.consumesCounters ?? []).flatMap(({ counterSet, counters }) => amounts(counterSet, counters)),
      ]),
    ),
    capacity: new Map(
      sets.flatMap(({ name, counters }) => amounts(name, counters)).map(({ counter, amount }) => [counter, amount]),
    ),
  };
}
