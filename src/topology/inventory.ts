import type { Device } from "../api/kubernetes.ts";
import type { NodeRecord, SliceRecord } from "./records.ts";

/** One device of a node. `index` is dense within the node: pools by driver and name, slices by name, devices as listed. */
export interface DeviceEntry {
  readonly index: number;
  readonly driver: string;
  readonly pool: string;
  readonly name: string;
  /** `driver/pool/name`, unique in the cluster. */
  readonly key: string;
  readonly device: Device;
  /** What the device takes of the node's shared counters; `counter` indexes `NodeInventory.counterCapacity`. */
  readonly counters: readonly { readonly counter: number; readonly amount: number }[];
  /** Devices that share a counter set (the partitions of one GPU) have the same group; every other device its own. */
  readonly group: number;
}

/** What a node can give, out of the complete and valid pools of the newest generation. Immutable; a key for caches. */
export interface NodeInventory {
  readonly node: string;
  readonly devices: readonly DeviceEntry[];
  readonly counterCapacity: readonly number[];
  /** `driver/pool/name` → index of the device. */
  readonly indexOf: ReadonlyMap<string, number>;
  /** Number of groups; `DeviceEntry.group` is below it. */
  readonly groups: number;
  /** Pools without allocations, named with the reason: incomplete, invalid or not local to the node. */
  readonly problems: readonly PoolProblem[];
}

/** A pool of which nothing may be allocated now. */
export interface PoolProblem {
  readonly driver: string;
  readonly pool: string;
  readonly message: string;
}

/** What is held on a node: `used[device]` counts holders (0: free), `counterUsed[counter]` sums what they take. */
export interface NodeUsage {
  readonly used: Uint8Array;
  readonly counterUsed: Float64Array;
}

/** Nothing is held. */
export function emptyUsage(inventory: NodeInventory): NodeUsage {
  return {
    used: new Uint8Array(inventory.devices.length),
    counterUsed: new Float64Array(inventory.counterCapacity.length),
  };
}

/** Counts one more holder of a device (`by` 1) or one less (`by` -1). */
export function changeUsage(inventory: NodeInventory, usage: NodeUsage, device: number, by: 1 | -1): void {
  throw new Error(`not implemented: ${inventory.node} ${usage.used.length} ${device} ${by}`);
}

/**
 * The devices of one node. `slices`: every slice that may concern it (its own, and those with a node selector or for
 * all nodes).
 */
export function assembleInventory(node: NodeRecord, slices: readonly SliceRecord[]): NodeInventory {
  throw new Error(`not implemented: ${node.name} ${slices.length}`);
}

/**
 * Value of a fully qualified attribute of a device, as a string that differs between types (`string:a`, `int:1`);
 * undefined when the device lacks it. A name without a domain in the slice has the driver's name as domain.
 */
export function attributeValue(entry: DeviceEntry, attribute: string): string | undefined {
  throw new Error(`not implemented: ${entry.key} ${attribute}`);
}
