import type { Device, DeviceAttribute } from "../api/kubernetes.ts";
import { comparePlain } from "./natural-order.ts";
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
interface PoolProblem {
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

/**
 * Counts one more holder of a device (`by` 1) or one less (`by` -1). A second holder of one device, which only a
 * fault elsewhere can make, takes counters again, so that taking and giving back always cancel out.
 */
export function changeUsage(inventory: NodeInventory, usage: NodeUsage, device: number, by: 1 | -1): void {
  const entry = inventory.devices[device];
  if (entry === undefined) throw new Error(`node ${inventory.node} has no device of index ${device}`);
  usage.used[device]! += by;
  for (const { counter, amount } of entry.counters) usage.counterUsed[counter]! += by * amount;
}

/**
 * The devices of one node. `slices`: every slice that may concern it (its own, and those with a node selector or for
 * all nodes). Only pools whose newest generation is complete, valid and wholly of this node give devices; the others
 * are named in `problems`. Devices that several nodes can reach would need accounts across nodes: not supported.
 */
export function assembleInventory(node: NodeRecord, slices: readonly SliceRecord[]): NodeInventory {
  const problems: PoolProblem[] = [];
  const parts: PoolPart[] = [];
  for (const pool of newestPools(slices)) {
    const part = readPool(node.name, pool);
    if (typeof part === "string") problems.push({ driver: pool.driver, pool: pool.name, message: part });
    else parts.push(part);
  }
  const devices: DeviceEntry[] = [];
  const counterCapacity: number[] = [];
  let groups = 0;
  for (const part of parts) groups = appendPool(part, devices, counterCapacity, groups);
  const indexOf = new Map(devices.map((entry) => [entry.key, entry.index]));
  return { node: node.name, devices, counterCapacity, indexOf, groups, problems };
}

interface PoolSlices {
  driver: string;
  name: string;
  slices: SliceRecord[];
}

/** A valid pool; `counter` is local to the pool, `set` the counter set's position. */
interface PoolPart {
  driver: string;
  pool: string;
  capacity: { amount: number; set: number }[];
  sets: number;
  devices: { device: Device; counters: { counter: number; amount: number }[] }[];
}

/** Slices of the highest generation per pool, pools by driver and name, slices by name. */
function newestPools(slices: readonly SliceRecord[]): PoolSlices[] {
  const pools = new Map<string, PoolSlices>();
  for (const slice of slices) {
    const key = `${slice.driver}/${slice.pool}`;
    const pool = pools.get(key);
    const generation = pool?.slices[0]?.generation ?? -1;
    if (pool === undefined || slice.generation > generation) {
      pools.set(key, { driver: slice.driver, name: slice.pool, slices: [slice] });
    } else if (slice.generation === generation) {
      pool.slices.push(slice);
    }
  }
  const sorted = [...pools.values()].sort((a, b) => comparePlain(a.driver, b.driver) || comparePlain(a.name, b.name));
  for (const pool of sorted) pool.slices.sort((a, b) => comparePlain(a.name, b.name));
  return sorted;
}

/** The pool's content, or why nothing may be allocated from it. */
function readPool(node: string, pool: PoolSlices): PoolPart | string {
  const title = `pool ${pool.driver}/${pool.name}`;
  const foreign = pool.slices.find((slice) => slice.nodeName !== node || slice.perDeviceNodeSelection === true);
  if (foreign !== undefined) {
    return `${title}: slice ${foreign.name} is not local to node ${node}; devices that several nodes can reach are not supported, publish them with spec.nodeName`;
  }
  const wanted = pool.slices[0]?.resourceSliceCount ?? 0;
  if (pool.slices.some((slice) => slice.resourceSliceCount !== wanted) || pool.slices.length !== wanted) {
    return `${title}: generation ${pool.slices[0]?.generation} is incomplete, ${pool.slices.length} of ${wanted} slices seen; wait for the driver to publish the others`;
  }
  try {
    return readSlices(pool);
  } catch (error) {
    return `${title}: ${error instanceof Error ? error.message : String(error)}; nothing is allocated from it until its driver corrects it`;
  }
}

function readSlices(pool: PoolSlices): PoolPart {
  const part: PoolPart = { driver: pool.driver, pool: pool.name, capacity: [], sets: 0, devices: [] };
  const counterOf = new Map<string, number>();
  const setNames = new Set<string>();
  for (const set of pool.slices.flatMap((slice) => slice.sharedCounters)) {
    if (setNames.has(set.name)) throw new Error(`counter set ${set.name} is defined twice`);
    setNames.add(set.name);
    for (const [name, { value }] of Object.entries(set.counters)) {
      counterOf.set(`${set.name}/${name}`, part.capacity.length);
      part.capacity.push({
        amount: counterAmount(value, `counter ${name} of counter set ${set.name}`),
        set: part.sets,
      });
    }
    part.sets += 1;
  }
  const names = new Set<string>();
  for (const device of pool.slices.flatMap((slice) => slice.devices)) {
    if (names.has(device.name)) throw new Error(`device ${device.name} is published twice`);
    names.add(device.name);
    part.devices.push({ device, counters: consumption(device, setNames, counterOf) });
  }
  return part;
}

function consumption(device: Device, sets: ReadonlySet<string>, counterOf: ReadonlyMap<string, number>) {
  const amounts = new Map<number, number>();
  for (const { counterSet, counters } of device.consumesCounters ?? []) {
    if (!sets.has(counterSet)) throw new Error(`device ${device.name} consumes unknown counter set ${counterSet}`);
    for (const [name, { value }] of Object.entries(counters)) {
      const counter = counterOf.get(`${counterSet}/${name}`);
      if (counter === undefined) {
        throw new Error(`device ${device.name} consumes unknown counter ${name} of counter set ${counterSet}`);
      }
      const amount = counterAmount(value, `counter ${name} of device ${device.name}`);
      amounts.set(counter, (amounts.get(counter) ?? 0) + amount);
    }
  }
  return [...amounts].map(([counter, amount]) => ({ counter, amount }));
}

/** Counters are added up as numbers, so they have to be whole and at most 2^53. */
function counterAmount(text: string, what: string): number {
  const nano = parseNano(text);
  const amount = Number(nano / 1_000_000_000n);
  if (nano < 0n || nano % 1_000_000_000n !== 0n || !Number.isSafeInteger(amount)) {
    throw new Error(`${what} is ${JSON.stringify(text)}, not a whole number from 0 to 2^53`);
  }
  return amount;
}

/** Moves a pool's devices into the node's dense indices; returns the next free group. */
function appendPool(part: PoolPart, devices: DeviceEntry[], counterCapacity: number[], firstGroup: number): number {
  const base = counterCapacity.length;
  const groupOfSet = joinedSets(part);
  for (const { amount } of part.capacity) counterCapacity.push(amount);
  const groupNumber = new Map<number, number>();
  let next = firstGroup;
  for (const { device, counters } of part.devices) {
    const set = counters.length === 0 ? undefined : groupOfSet[part.capacity[counters[0]!.counter]!.set];
    let group = set === undefined ? undefined : groupNumber.get(set);
    if (group === undefined) {
      group = next++;
      if (set !== undefined) groupNumber.set(set, group);
    }
    devices.push({
      index: devices.length,
      driver: part.driver,
      pool: part.pool,
      name: device.name,
      key: `${part.driver}/${part.pool}/${device.name}`,
      device,
      counters: counters.map(({ counter, amount }) => ({ counter: base + counter, amount })),
      group,
    });
  }
  return next;
}

/** Counter set → representative: sets that one device consumes from both belong together. */
function joinedSets(part: PoolPart): number[] {
  const parent = Array.from({ length: part.sets }, (_, set) => set);
  const find = (set: number): number => (parent[set] === set ? set : find(parent[set]!));
  for (const { counters } of part.devices) {
    for (const { counter } of counters) {
      parent[find(part.capacity[counter]!.set)] = find(part.capacity[counters[0]!.counter]!.set);
    }
  }
  return parent.map((_, set) => find(set));
}

/**
 * Value of a fully qualified attribute of a device, as a string that differs between types (`string:a`, `int:1`);
 * undefined when the device lacks it. A name without a domain in the slice has the driver's name as domain.
 */
export function attributeValue(entry: DeviceEntry, attribute: string): string | undefined {
  const attributes = entry.device.attributes;
  if (attributes === undefined) return undefined;
  const value = attributes[attribute] ?? attributes[localName(entry.driver, attribute) ?? ""];
  return value === undefined ? undefined : typedValue(value);
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
