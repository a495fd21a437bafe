import type { Device } from "../api/kubernetes.ts";
import { comparePlain } from "./natural-order.ts";
import { matchesNodeSelector } from "./node-selector.ts";
import { nanoPerUnit, parseNano } from "./quantity.ts";
import type { NodeRecord, SliceRecord } from "./records.ts";

/** What a pool has for one node. */
export interface PoolContent {
  readonly driver: string;
  readonly pool: string;
  /** Shared counters; `set` numbers the counter sets of the pool. Amounts in a unit of each counter's own. */
  readonly counters: readonly { readonly amount: number; readonly set: number }[];
  readonly sets: number;
  readonly devices: readonly PoolDevice[];
}

interface PoolDevice {
  readonly device: Device;
  /** `counter` indexes `PoolContent.counters`. */
  readonly counters: readonly { readonly counter: number; readonly amount: number }[];
  /** The node can use it; others stand here only for the counters that they take. */
  readonly reachable: boolean;
  /** What is done with it on other nodes matters here. */
  readonly wide: boolean;
}

/** A pool of which nothing may be allocated now. */
export interface PoolProblem {
  readonly driver: string;
  readonly pool: string;
  readonly message: string;
}

interface Pool {
  readonly driver: string;
  readonly name: string;
  readonly slices: SliceRecord[];
}

/**
 * What the pools have for a node, as kube-scheduler's allocator reads them (`GatherPools` in
 * `k8s.io/dynamic-resource-allocation/structured`): of each pool the newest generation that concerns the node, when all
 * of its slices are there and do not contradict each other. `slices`: every slice of each pool that may concern the
 * node. Pools by driver and name, slices by name, devices as listed.
 */
export function readPools(
  node: NodeRecord,
  slices: readonly SliceRecord[],
): { readonly contents: PoolContent[]; readonly problems: PoolProblem[] } {
  const contents: PoolContent[] = [];
  const problems: PoolProblem[] = [];
  for (const pool of groupByPool(slices)) {
    const result = readPool(node, pool);
    if (typeof result === "string") {
      const message = `pool ${pool.driver}/${pool.name}: ${result}`;
      problems.push({ driver: pool.driver, pool: pool.name, message });
    } else if (result !== undefined) contents.push(result);
  }
  return { contents, problems };
}

function groupByPool(slices: readonly SliceRecord[]): Pool[] {
  const pools = new Map<string, Pool>();
  for (const slice of slices) {
    const key = `${slice.driver}/${slice.pool}`;
    const pool = pools.get(key);
    if (pool === undefined) pools.set(key, { driver: slice.driver, name: slice.pool, slices: [slice] });
    else pool.slices.push(slice);
  }
  const sorted = [...pools.values()].sort((a, b) => comparePlain(a.driver, b.driver) || comparePlain(a.name, b.name));
  for (const pool of sorted) pool.slices.sort((a, b) => comparePlain(a.name, b.name));
  return sorted;
}

/** The pool's content; why nothing may be allocated from it; or undefined when it has nothing to do with the node. */
function readPool(node: NodeRecord, { slices }: Pool): PoolContent | string | undefined {
  if (!slices.some((slice) => reaches(slice, node))) return undefined;
  const concerning = slices.filter((slice) => slice.sharedCounters.length > 0 || reaches(slice, node));
  const generation = Math.max(...concerning.map((slice) => slice.generation));
  const current = concerning.filter((slice) => slice.generation === generation);
  const count = current[0]!.resourceSliceCount;
  let whole = current;
  if (current.length !== count) {
    // The node's devices have moved to a generation that does not concern it.
    if (slices.some((slice) => slice.generation > generation)) return undefined;
    whole = slices.filter((slice) => slice.generation === generation);
  }
  if (whole.some((slice) => slice.resourceSliceCount !== count)) {
    return `the slices of generation ${generation} disagree about their number; nothing is allocated from it until its driver corrects it`;
  }
  if (whole.length !== count) {
    const remedy =
      whole.length < count
        ? "wait for the driver to publish the others"
        : "nothing is allocated from it until its driver corrects it";
    return `generation ${generation} is incomplete, ${whole.length} of ${count} slices seen; ${remedy}`;
  }
  try {
    return readSlices(node, { slices, current, whole });
  } catch (error) {
    return `${error instanceof Error ? error.message : String(error)}; nothing is allocated from it until its driver corrects it`;
  }
}

/** Is any device of the slice for the node? */
function reaches(slice: SliceRecord, node: NodeRecord): boolean {
  if (slice.perDeviceNodeSelection !== true || isPlaced(slice)) return isFor(slice, node);
  return slice.devices.some((device) => isFor(device, node));
}

function isPlaced({ nodeName, nodeSelector, allNodes }: SliceRecord): boolean {
  return (nodeName ?? "") !== "" || allNodes === true || nodeSelector !== undefined;
}

function isFor(
  { nodeName, nodeSelector, allNodes }: Pick<Device, "nodeName" | "nodeSelector" | "allNodes">,
  node: NodeRecord,
): boolean {
  if ((nodeName ?? "") !== "") return nodeName === node.name;
  return allNodes === true || (nodeSelector !== undefined && matchesNodeSelector(nodeSelector, node));
}

/** Slices of a pool: all of them, those of the generation that concern the node, and those of which it is whole. */
interface Slices {
  readonly slices: readonly SliceRecord[];
  readonly current: readonly SliceRecord[];
  readonly whole: readonly SliceRecord[];
}

function readSlices(node: NodeRecord, { slices, current, whole }: Slices): PoolContent {
  const { counters, counterOf, sets, units } = readCounters(current, whole);
  // Also of slices that contradict: a device of one name is one device, whatever nodes publish it.
  const wide = slices.some((slice) => slice.devices.length > 0 && slice.nodeName !== node.name);
  const own = current.filter((slice) => reaches(slice, node));
  const names = new Set<string>();
  const devices: PoolDevice[] = [];
  for (const slice of own) {
    for (const device of slice.devices) {
      if (names.has(device.name)) throw new Error(`device ${device.name} is published twice`);
      names.add(device.name);
      const reachable = slice.perDeviceNodeSelection !== true || isFor(device, node);
      const taken = consumption(device, counterOf, units);
      if (reachable || taken.length > 0) devices.push({ device, counters: taken, reachable, wide });
    }
  }
  for (const slice of whole) {
    if (own.includes(slice)) continue;
    for (const device of slice.devices) {
      const taken = consumption(device, counterOf, units);
      if (taken.length > 0 && !names.has(device.name))
        devices.push({ device, counters: taken, reachable: false, wide });
    }
  }
  const { driver, pool } = current[0]!;
  return { driver, pool, counters, sets, devices };
}

function readCounters(current: readonly SliceRecord[], whole: readonly SliceRecord[]) {
  const counters: { amount: number; set: number }[] = [];
  const counterOf = new Map<string, Map<string, number>>();
  const consumers = whole.flatMap((slice) => slice.devices.flatMap((device) => device.consumesCounters ?? []));
  const units: bigint[] = [];
  for (const set of current.flatMap((slice) => slice.sharedCounters)) {
    if (counterOf.has(set.name)) throw new Error(`counter set ${set.name} is defined twice`);
    const numbers = new Map<string, number>();
    for (const [name, { value }] of Object.entries(set.counters)) {
      const taken = consumers.flatMap((each) =>
        each.counterSet === set.name ? (each.counters[name]?.value ?? []) : [],
      );
      const unit = unitOf([value, ...taken]);
      numbers.set(name, counters.length);
      counters.push({
        amount: inUnits(value, unit, `counter ${name} of counter set ${set.name}`),
        set: counterOf.size,
      });
      units.push(unit);
    }
    counterOf.set(set.name, numbers);
  }
  return { counters, counterOf, sets: counterOf.size, units };
}

function consumption(
  device: Device,
  counterOf: ReadonlyMap<string, ReadonlyMap<string, number>>,
  units: readonly bigint[],
) {
  const amounts = new Map<number, number>();
  for (const { counterSet, counters } of device.consumesCounters ?? []) {
    const known = counterOf.get(counterSet);
    if (known === undefined) throw new Error(`device ${device.name} consumes unknown counter set ${counterSet}`);
    for (const [name, { value }] of Object.entries(counters)) {
      const counter = known.get(name);
      if (counter === undefined) {
        throw new Error(`device ${device.name} consumes unknown counter ${name} of counter set ${counterSet}`);
      }
      const amount = inUnits(value, units[counter]!, `counter ${name} of device ${device.name}`);
      amounts.set(counter, (amounts.get(counter) ?? 0) + amount);
    }
  }
  return [...amounts].map(([counter, amount]) => ({ counter, amount }));
}

/** The coarsest unit, in billionths, in which all the quantities are whole; counters are added up as whole numbers. */
function unitOf(texts: readonly string[]): bigint {
  const amounts = texts.map(parseNano);
  return [nanoPerUnit, 1_000_000n].find((unit) => amounts.every((amount) => amount % unit === 0n)) ?? 1n;
}

function inUnits(text: string, unit: bigint, what: string): number {
  const nano = parseNano(text);
  const amount = Number(nano / unit);
  if (nano < 0n || nano % unit !== 0n || !Number.isSafeInteger(amount)) {
    throw new Error(`${what} is ${JSON.stringify(text)}, too large, too fine or negative`);
  }
  return amount;
}
