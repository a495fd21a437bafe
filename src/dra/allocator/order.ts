import { type Consumption, changeUsage, type NodeInventory, type NodeUsage } from "../../topology/inventory.ts";
import type { AttributeColumn } from "./candidates.ts";

/** What the order of trials depends on; it decides the quality of the first answer, never whether there is one. */
export interface OrderContext {
  readonly inventory: NodeInventory;
  /** Attributes that split the devices into islands, broad to narrow. */
  readonly islands: readonly AttributeColumn[];
  /** Devices that this pod or its gang already has here: new ones are best beside them. */
  readonly near: readonly number[];
}

/**
 * Orders whole GPUs so that the first `wanted` are the best to take: best fit, level by level. At each level they come
 * from the smallest island that holds them all, so that larger ones stay whole; when none does, from as few as
 * possible. Within the narrowest island neighbours are preferred: `neighbours` lists all devices of the kind.
 */
export function orderWhole(
  devices: readonly number[],
  wanted: number,
  neighbours: readonly number[],
  context: OrderContext,
): readonly number[] {
  if (devices.length <= 1) return devices;
  return arrange(devices, wanted, 0, runNumbers(devices, neighbours), context);
}

function arrange(
  devices: readonly number[],
  wanted: number,
  level: number,
  runs: ReadonlyMap<number, number>,
  context: OrderContext,
): readonly number[] {
  if (devices.length === 1 || level > context.islands.length) return devices;
  const values = context.islands[level]?.values;
  const islandOf = (device: number): number => (values === undefined ? (runs.get(device) ?? -1) : values[device]!);
  const islands = split(devices, islandOf);
  if (islands.length === 1) return arrange(devices, wanted, level + 1, runs, context);
  const near = new Set(context.near.map(islandOf));
  const ordered: number[] = [];
  let missing = wanted;
  while (islands.length > 0) {
    const [island] = islands.splice(best(islands, missing, near), 1);
    ordered.push(...arrange(island!.devices, Math.min(missing, island!.devices.length), level + 1, runs, context));
    missing = Math.max(0, missing - island!.devices.length);
  }
  return ordered;
}

interface Island {
  value: number;
  devices: number[];
}

function split(devices: readonly number[], islandOf: (device: number) => number): Island[] {
  const islands = new Map<number, Island>();
  for (const device of devices) {
    const value = islandOf(device);
    const island = islands.get(value);
    if (island === undefined) islands.set(value, { value, devices: [device] });
    else island.devices.push(device);
  }
  return [...islands.values()];
}

/** Position of the island to take next: one that holds all that is missing, near ones first, then the smallest. */
function best(islands: readonly Island[], missing: number, near: ReadonlySet<number>): number {
  let chosen = 0;
  for (const [position, island] of islands.entries()) {
    if (position > 0 && better(island, islands[chosen]!, missing, near)) chosen = position;
  }
  return chosen;
}

function better(island: Island, than: Island, missing: number, near: ReadonlySet<number>): boolean {
  const fits = island.devices.length >= missing;
  if (fits !== than.devices.length >= missing) return fits;
  if (near.has(island.value) !== near.has(than.value)) return near.has(island.value);
  if (island.devices.length === than.devices.length) return false;
  return fits === island.devices.length < than.devices.length;
}

/** Device → number of the row of neighbours it stands in; a device that is not free parts two rows. */
function runNumbers(devices: readonly number[], neighbours: readonly number[]): ReadonlyMap<number, number> {
  const free = new Set(devices);
  const runs = new Map<number, number>();
  let run = 0;
  for (const device of neighbours) {
    if (free.has(device)) runs.set(device, run);
    else run += 1;
  }
  return runs;
}

/** What is held at this point of the search. */
export interface PartitionState extends NodeUsage {
  /** Holders per group. */
  readonly groupHeld: Int32Array;
}

/**
 * Orders partitions: on GPUs already cut before untouched ones, on the fullest first, and there the placement that
 * leaves the most room for others. Returns segments, one per GPU; `orderPlacements` orders one when it is reached.
 */
export function orderPartitions(
  devices: readonly number[],
  inventory: NodeInventory,
  state: PartitionState,
): readonly (readonly number[])[] {
  const groups = split(devices, (device) => inventory.devices[device]!.group);
  const keyed = groups.map((group) => ({
    group,
    cut: state.groupHeld[group.value]! > 0,
    room: roomOf(inventory, anatomyOf(inventory).members[group.value]!, state),
  }));
  keyed.sort((a, b) => Number(b.cut) - Number(a.cut) || a.room - b.room || a.group.value - b.group.value);
  return keyed.map(({ group }) => group.devices);
}

/** Orders placements on one GPU by the room that they leave, most first. */
export function orderPlacements(devices: readonly number[], inventory: NodeInventory, state: PartitionState): number[] {
  if (devices.length <= 1) return [...devices];
  const members = anatomyOf(inventory).members[inventory.devices[devices[0]!]!.group]!;
  const keyed = devices.map((device) => {
    take(inventory, device, state, 1);
    const room = roomOf(inventory, members, state);
    take(inventory, device, state, -1);
    return { device, room };
  });
  keyed.sort((a, b) => b.room - a.room || a.device - b.device);
  return keyed.map(({ device }) => device);
}

/** Weights of the devices of a group that could still be given, each by its share of the group's counters. */
function roomOf(inventory: NodeInventory, members: readonly Member[], state: PartitionState): number {
  let room = 0;
  for (const { device, weight } of members) {
    if (state.used[device] === 0 && countersFit(inventory, device, state.counterUsed)) room += weight;
  }
  return room;
}

/** Do the shared counters still hold what the device takes? */
export function countersFit(inventory: NodeInventory, device: number, counterUsed: Float64Array): boolean {
  for (const { counter, amount } of inventory.devices[device]!.counters) {
    if (counterUsed[counter]! + amount > inventory.counterCapacity[counter]!) return false;
  }
  return true;
}

/** Marks a device, or a share of it, as held, or as free again. */
export function take(
  inventory: NodeInventory,
  device: number,
  state: PartitionState,
  by: 1 | -1,
  share?: Consumption,
): void {
  changeUsage(inventory, state, device, by, share);
  state.groupHeld[inventory.devices[device]!.group]! += by;
}

interface Member {
  device: number;
  weight: number;
}

/** Constant facts of an inventory that the order needs. */
interface Anatomy {
  /** Device → share of its group's counters that it takes, 0 to 1; 1 for a device without counters. */
  readonly shares: Float64Array;
  readonly members: readonly (readonly Member[])[];
}

const anatomies = new WeakMap<NodeInventory, Anatomy>();

export function anatomyOf(inventory: NodeInventory): Anatomy {
  const known = anatomies.get(inventory);
  if (known !== undefined) return known;
  const countersOf: Set<number>[] = Array.from({ length: inventory.groups }, () => new Set());
  for (const { group, counters } of inventory.devices) {
    for (const { counter } of counters) countersOf[group]!.add(counter);
  }
  const shares = new Float64Array(inventory.devices.length).fill(1);
  const members: Member[][] = Array.from({ length: inventory.groups }, () => []);
  for (const { index, group, counters } of inventory.devices) {
    if (counters.length > 0) {
      const taken = counters.map(({ counter, amount }) => amount / Math.max(1, inventory.counterCapacity[counter]!));
      shares[index] = taken.reduce((sum, share) => sum + share, 0) / countersOf[group]!.size;
    }
    members[group]!.push({ device: index, weight: shares[index]! });
  }
  const anatomy = { shares, members };
  anatomies.set(inventory, anatomy);
  return anatomy;
}
