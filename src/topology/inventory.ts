import type { Device, DeviceAttribute } from "../api/kubernetes.ts";
import { deviceKey } from "./held.ts";
import { comparePlain } from "./natural-order.ts";
import { type PoolContent, type PoolProblem, readPools } from "./pools.ts";
import { parseNano } from "./quantity.ts";
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
  /** The node can use it; others are listed only for the counters that they share with the node's devices. */
  readonly reachable: boolean;
  /** Its pool has devices for other nodes too: what they take may concern this node. */
  readonly wide: boolean;
  /** What the device takes of the node's shared counters; `counter` indexes `NodeInventory.counterCapacity`. */
  readonly counters: readonly { readonly counter: number; readonly amount: number }[];
  /** Devices that share a counter set (the partitions of one GPU) have the same group; every other device its own. */
  readonly group: number;
  /** Set when several claims may each have a part of the device (`allowMultipleAllocations`). */
  readonly shared?: SharedDevice;
}

/** A device that is given in parts. `index` is dense among such devices, `slot` among all their capacities. */
interface SharedDevice {
  readonly index: number;
  readonly capacities: readonly { readonly name: string; readonly slot: number; readonly limit: bigint }[];
}

/** What one share takes of a device's capacities, in billionths, by name as the device has it. */
export type Consumption = ReadonlyMap<string, bigint>;

/** What a node can give, out of the complete and valid pools of the newest generation. Immutable; a key for caches. */
export interface NodeInventory {
  readonly node: string;
  readonly devices: readonly DeviceEntry[];
  readonly counterCapacity: readonly number[];
  /** `driver/pool/name` → index of the device. */
  readonly indexOf: ReadonlyMap<string, number>;
  /** Number of groups; `DeviceEntry.group` is below it. */
  readonly groups: number;
  /** Number of devices that can be shared, and of all their capacities. */
  readonly sharedDevices: number;
  readonly capacitySlots: number;
  /** Some device is wide; some has a taint. */
  readonly wide: boolean;
  readonly tainted: boolean;
  /** Pools without allocations, named with the reason: incomplete or invalid. */
  readonly problems: readonly PoolProblem[];
  /** Complete and valid pools for the node, as `driver/pool`, that have no device for it. */
  readonly emptyPools: readonly string[];
}

/**
 * What is held on a node: `used[device]` counts holders of the whole device (0: none), `counterUsed[counter]` sums what
 * holders take. Of devices that can be shared, `shares` counts the shares and `consumed` sums their capacities, in
 * billionths.
 */
export interface NodeUsage {
  readonly used: Uint8Array;
  readonly counterUsed: Float64Array;
  readonly shares: Uint16Array;
  readonly consumed: bigint[];
}

const noShares = new Uint16Array(0);
const nothingConsumed: bigint[] = [];

/** Nothing is held. */
export function emptyUsage({ devices, counterCapacity, sharedDevices, capacitySlots }: NodeInventory): NodeUsage {
  return {
    used: new Uint8Array(devices.length),
    counterUsed: new Float64Array(counterCapacity.length),
    shares: sharedDevices === 0 ? noShares : new Uint16Array(sharedDevices),
    consumed: capacitySlots === 0 ? nothingConsumed : new Array<bigint>(capacitySlots).fill(0n),
  };
}

export function copyUsage({ used, counterUsed, shares, consumed }: NodeUsage): NodeUsage {
  return {
    used: used.slice(),
    counterUsed: counterUsed.slice(),
    shares: shares.length === 0 ? noShares : shares.slice(),
    consumed: consumed.length === 0 ? nothingConsumed : consumed.slice(),
  };
}

/**
 * Counts one more holder of a device (`by` 1) or one less (`by` -1): of all of it, or of a `share`. A second holder of
 * one whole device, which only a fault elsewhere can make, takes counters again, so that taking and giving back always
 * cancel out. The shares of one device take its counters once.
 */
export function changeUsage(
  inventory: NodeInventory,
  usage: NodeUsage,
  device: number,
  by: 1 | -1,
  share?: Consumption,
): void {
  const entry = inventory.devices[device];
  if (entry === undefined) throw new Error(`node ${inventory.node} has no device of index ${device}`);
  if (share !== undefined && entry.shared !== undefined) {
    const { index, capacities } = entry.shared;
    usage.shares[index]! += by;
    for (const { name, slot } of capacities) usage.consumed[slot]! += BigInt(by) * (share.get(name) ?? 0n);
    if (usage.shares[index]! !== (by === 1 ? 1 : 0)) return;
  } else usage.used[device]! += by;
  for (const { counter, amount } of entry.counters) usage.counterUsed[counter]! += by * amount;
}

/**
 * The devices of one node. `slices`: every slice of each pool that may concern it. Only complete and valid pools give
 * devices; the others are named in `problems`.
 */
export function assembleInventory(node: NodeRecord, slices: readonly SliceRecord[]): NodeInventory {
  const { contents, problems } = readPools(node, slices);
  const devices: DeviceEntry[] = [];
  const counterCapacity: number[] = [];
  const totals = { groups: 0, sharedDevices: 0, capacitySlots: 0 };
  for (const content of contents) appendPool(content, devices, counterCapacity, totals);
  const indexOf = new Map(devices.map((entry) => [entry.key, entry.index]));
  const wide = devices.some((entry) => entry.wide);
  const tainted = devices.some(({ device }) => (device.taints?.length ?? 0) > 0);
  const empty = contents.filter((content) => content.devices.length === 0);
  const emptyPools = empty.length === 0 ? noPools : empty.map(({ driver, pool }) => `${driver}/${pool}`);
  return { node: node.name, devices, counterCapacity, indexOf, ...totals, wide, tainted, problems, emptyPools };
}

const noPools: readonly string[] = [];

/**
 * Does the pool tell what it has for the node, and the device is not among it? Of a pool that nobody publishes, or that is incomplete
 * or invalid, nobody knows.
 */
export function isGone(
  { devices, indexOf, emptyPools }: NodeInventory,
  { driver, pool, device }: { driver: string; pool: string; device: string },
): boolean {
  const entry = devices[indexOf.get(deviceKey(driver, pool, device)) ?? -1];
  if (entry !== undefined) return !entry.reachable;
  return emptyPools.includes(`${driver}/${pool}`) || devices.some((one) => one.driver === driver && one.pool === pool);
}

interface Totals {
  groups: number;
  sharedDevices: number;
  capacitySlots: number;
}

/** Moves a pool's devices into the node's dense indices. */
function appendPool(content: PoolContent, devices: DeviceEntry[], counterCapacity: number[], totals: Totals): void {
  const base = counterCapacity.length;
  const groupOfSet = joinedSets(content);
  for (const { amount } of content.counters) counterCapacity.push(amount);
  const groupNumber = new Map<number, number>();
  const { driver, pool } = content;
  for (const { device, counters, reachable, wide } of content.devices) {
    const set = counters.length === 0 ? undefined : groupOfSet[content.counters[counters[0]!.counter]!.set];
    const group = groupNumber.get(set ?? -1) ?? totals.groups++;
    if (set !== undefined) groupNumber.set(set, group);
    const shared = device.allowMultipleAllocations === true ? sharedDevice(device, totals) : undefined;
    devices.push({
      index: devices.length,
      driver,
      pool,
      name: device.name,
      key: deviceKey(driver, pool, device.name),
      device,
      reachable,
      wide,
      counters: counters.map(({ counter, amount }) => ({ counter: base + counter, amount })),
      group,
      ...(shared === undefined ? {} : { shared }),
    });
  }
}

function sharedDevice({ capacity = {} }: Device, totals: Totals): SharedDevice {
  const capacities = Object.entries(capacity).map(([name, { value }]) => {
    return { name, slot: totals.capacitySlots++, limit: parseNano(value) };
  });
  return { index: totals.sharedDevices++, capacities };
}

/** Counter set → representative: sets that one device consumes from both belong together. */
function joinedSets({ sets, counters: capacity, devices }: PoolContent): number[] {
  const parent = Array.from({ length: sets }, (_, set) => set);
  const find = (set: number): number => (parent[set] === set ? set : find(parent[set]!));
  for (const { counters } of devices) {
    for (const { counter } of counters) {
      parent[find(capacity[counter]!.set)] = find(capacity[counters[0]!.counter]!.set);
    }
  }
  return parent.map((_, set) => find(set));
}

/** Not published by anybody: every device of a node has it with one value, so that sharing it means sharing the node. */
export const wholeNode = "scheduling.kllama.ai/whole-node";

/**
 * Value of a fully qualified attribute of a device, as a string that differs between types (`string:a`, `int:1`);
 * undefined when the device lacks it. A name without a domain in the slice has the driver's name as domain.
 */
export function attributeValue(entry: DeviceEntry, attribute: string): string | undefined {
  if (attribute === wholeNode) return "string:node";
  const attributes = entry.device.attributes;
  if (attributes === undefined) return undefined;
  const value = attributes[attribute] ?? attributes[localName(entry.driver, attribute) ?? ""];
  return value === undefined ? undefined : typedValue(value);
}

const indexed = new WeakMap<NodeInventory, Map<string, ReadonlyMap<string, readonly number[]>>>();

/** Value of an attribute → indices of the devices that have it; values sorted. Made once per inventory. */
export function devicesByValue(inventory: NodeInventory, attribute: string): ReadonlyMap<string, readonly number[]> {
  const known = indexed.get(inventory) ?? new Map<string, ReadonlyMap<string, readonly number[]>>();
  indexed.set(inventory, known);
  let found = known.get(attribute);
  if (found === undefined) {
    const byValue = Map.groupBy(inventory.devices, (entry) => attributeValue(entry, attribute) ?? "");
    byValue.delete("");
    found = new Map(
      [...byValue]
        .sort(([a], [b]) => comparePlain(a, b))
        .map(([value, entries]) => [value, entries.map(({ index }) => index)]),
    );
    known.set(attribute, found);
  }
  return found;
}

function localName(driver: string, attribute: string): string | undefined {
  return attribute.startsWith(`${driver}/`) ? attribute.slice(driver.length + 1) : undefined;
}

function typedValue(value: DeviceAttribute): string | undefined {
  if (value.string !== undefined) return `string:${value.string}`;
  if (value.int !== undefined) return `int:${value.int}`;
  if (value.bool !== undefined) return `bool:${value.bool}`;
  return value.version === undefined ? undefined : `version:${value.version}`;
}
