import type { FreeByLevel, FreeDevices } from "../api/capacity.ts";
import { candidatesOf } from "../dra/allocator/candidates.ts";
import { type CompiledClaim, compileClaim, isClaimProblem } from "../dra/allocator/claim.ts";
import type { Fabric, NodeLevel } from "../topology/fabric.ts";
import type { DeviceEntry, NodeInventory, NodeUsage } from "../topology/inventory.ts";
import { attributeValue, changeUsage, copyUsage, emptyUsage } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { NodeState } from "../topology/node-table.ts";
import type { NodeRecord } from "../topology/records.ts";
import { deviceLevelOn, type LevelRef, levelsOf } from "./problem.ts";

/** Devices of one class, driver and product on one node. */
interface NodeKind {
  /** Sorts by class, then product. */
  readonly key: string;
  readonly deviceClass: string;
  readonly driver: string;
  readonly product: string;
  readonly total: number;
  /** Indices of devices that could be given now, all of them together. */
  readonly free: readonly number[];
  /** Device attribute → value, without its type → free devices that have it. */
  readonly inside: Map<string, ReadonlyMap<string, number>>;
}

/** What was counted on a node, and of what state of it. */
interface Counted {
  readonly record: NodeRecord;
  readonly version: number;
  readonly classVersion: number;
  readonly kinds: readonly NodeKind[];
}

const known = new WeakMap<ModelView, (Counted | undefined)[]>();

/**
 * What nobody holds, by class and product, in plain order; by what the drivers publish, not by what pods ask for besides.
 * Nothing of who holds the rest is told. Only nodes that changed since the last call are looked at.
 * @param inTime false: enough for this turn. Then the answer is undefined, and the next call goes on from there.
 */
export function freeDevices(view: ModelView): FreeDevices[];
export function freeDevices(view: ModelView, inTime: () => boolean): FreeDevices[] | undefined;
export function freeDevices(view: ModelView, inTime: () => boolean = () => true): FreeDevices[] | undefined {
  const counted = known.get(view) ?? [];
  known.set(view, counted);
  const claims = classClaims(view);
  const kinds = new Map<string, Map<number, NodeKind>>();
  for (const [index, node] of view.nodes.entries()) {
    if (node === undefined) continue;
    const [version, { record }, before] = [view.nodeVersion(index), node, counted[index]];
    if (before?.version !== version || before.record !== record || before.classVersion !== view.classVersion) {
      counted[index] = { record, version, classVersion: view.classVersion, kinds: countNode(view, node, claims) };
      if (!inTime()) return undefined;
    }
    for (const kind of counted[index]!.kinds) {
      const nodes = kinds.get(kind.key);
      if (nodes === undefined) kinds.set(kind.key, new Map([[index, kind]]));
      else nodes.set(index, kind);
    }
  }
  const fabric = view.fabric("default")!;
  return [...kinds].sort(([a], [b]) => comparePlain(a, b)).map(([, nodes]) => freeOf(view, fabric, nodes));
}

/** One device of each class that kllama allocates. */
function classClaims(view: ModelView): [string, CompiledClaim][] {
  return [...view.deviceClasses.keys()].flatMap((name): [string, CompiledClaim][] => {
    const requests = [{ name: "one", exactly: { deviceClassName: name } }];
    const claim = compileClaim({ devices: { requests } }, view.deviceClasses, view.managedDrivers);
    return isClaimProblem(claim) || claim.left ? [] : [[name, claim]];
  });
}

function countNode(
  view: ModelView,
  { index, record }: NodeState,
  claims: readonly (readonly [string, CompiledClaim])[],
): NodeKind[] {
  const inventory = view.inventory(index);
  const open = record.ready && !record.unschedulable;
  return claims.flatMap(([deviceClass, claim]) => {
    const { usable, withheld } = candidatesOf(inventory, claim, claim.requests[0]!.alternatives[0]!);
    const tainted = new Set(withheld.map(({ device }) => device));
    const all = [...usable, ...tainted].map((device) => inventory.devices[device]!);
    return [...Map.groupBy(all, productOf)].map(([product, devices]): NodeKind => {
      const untainted = devices.filter((device) => !tainted.has(device.index));
      const { driver } = devices[0]!;
      return {
        key: JSON.stringify([deviceClass, product, driver]),
        deviceClass,
        driver,
        product,
        total: haveTogether(inventory, emptyUsage(inventory), devices).length,
        free: open ? haveTogether(inventory, view.usage(index), untainted) : [],
        inside: new Map(),
      };
    });
  });
}

const products = new WeakMap<DeviceEntry, string>();

function productOf(entry: DeviceEntry): string {
  let product = products.get(entry);
  if (product === undefined) {
    const texts = ["productName", "profile"].map((name) => attributeValue(entry, `${entry.driver}/${name}`));
    product = texts.flatMap((text) => text?.replace(/^string:/, "") ?? []).join(" ");
    products.set(entry, product);
  }
  return product;
}

/** Devices of one kind that can be held at once beside what is held: equal partitions come in the order of their place. */
function haveTogether(inventory: NodeInventory, usage: NodeUsage, devices: readonly DeviceEntry[]): number[] {
  let trial = usage;
  const found: number[] = [];
  for (const { index, counters, shared } of devices) {
    if (usage.used[index] !== 0 || (shared !== undefined && usage.shares[shared.index] !== 0)) continue;
    const fits = ({ counter, amount }: { counter: number; amount: number }) =>
      trial.counterUsed[counter]! + amount <= inventory.counterCapacity[counter]!;
    if (!counters.every(fits)) continue;
    found.push(index);
    if (counters.length === 0) continue;
    if (trial === usage) trial = copyUsage(usage);
    changeUsage(inventory, trial, index, 1);
  }
  return found;
}

function freeOf(view: ModelView, fabric: Fabric, nodes: ReadonlyMap<number, NodeKind>): FreeDevices {
  const free = new Map([...nodes].filter(([, kind]) => kind.free.length > 0));
  const { deviceClass, driver, product } = [...nodes.values()][0]!;
  const counts = createTally();
  for (const kind of free.values()) counts.add(kind.free.length, 1);
  let total = 0;
  for (const kind of nodes.values()) total += kind.total;
  return {
    deviceClass,
    driver,
    product,
    total,
    free: counts.devices(),
    nodesByFree: counts.histogram(),
    levels: levelsOf(fabric).flatMap((ref) => freeIn(view, fabric, ref, free) ?? []),
  };
}

/** Domains of a level that are told one by one. */
const maxDomains = 64;

/** So many free devices in a domain of which a node is the first. */
interface Entry {
  readonly free: number;
  readonly node: number;
  readonly path: () => string;
}

/** Undefined: no domain of the level has any. */
function freeIn(
  view: ModelView,
  fabric: Fabric,
  ref: LevelRef,
  free: ReadonlyMap<number, NodeKind>,
): FreeByLevel | undefined {
  const entries: Entry[] = [];
  const byDomain = new Map<number, number>();
  const enterInside = (node: number, kind: NodeKind, attribute: string): void => {
    for (const [value, count] of freeInside(view.inventory(node), kind, attribute)) {
      entries.push({ free: count, node, path: () => `${hostPath(view, fabric, node)}/${value}` });
    }
  };
  for (const [node, kind] of free) {
    const domain = ref.kind === "device" ? -1 : (ref.level.domainOf[node] ?? -1);
    const inside = deviceLevelOn(ref, node);
    if (domain >= 0) byDomain.set(domain, (byDomain.get(domain) ?? 0) + kind.free.length);
    else if (inside) enterInside(node, kind, inside.attribute);
  }
  for (const [id, count] of byDomain) {
    const { nodes, path } = (ref.level as NodeLevel).domains[id]!;
    entries.push({ free: count, node: nodes[0]!, path: () => path });
  }
  if (entries.length === 0) return undefined;
  const tally = createTally();
  for (const each of entries) tally.add(each.free, 1);
  const domains = mostOf(entries, tally.histogram())
    .sort((x, y) => y.free - x.free || fabric.rankOf(x.node) - fabric.rankOf(y.node))
    .slice(0, maxDomains)
    .map((each) => ({ domain: each.path(), free: each.free }));
  return { level: ref.level.name, domainsByFree: tally.histogram(), largest: domains[0]!, domains };
}

/** Those with so many that no other can be among the first. */
function mostOf(entries: readonly Entry[], histogram: Readonly<Record<string, number>>): Entry[] {
  let least = 0;
  let taken = 0;
  for (const count of Object.keys(histogram)
    .map(Number)
    .sort((a, b) => b - a)) {
    if (taken >= maxDomains) break;
    least = count;
    taken += histogram[count]!;
  }
  return entries.filter(({ free }) => free >= least);
}

function freeInside(
  { devices }: NodeInventory,
  { free, inside }: NodeKind,
  attribute: string,
): ReadonlyMap<string, number> {
  let values = inside.get(attribute);
  if (values === undefined) {
    const found = new Map<string, number>();
    for (const device of free) {
      const text = attributeValue(devices[device]!, attribute);
      if (text === undefined) continue;
      const value = text.slice(text.indexOf(":") + 1);
      found.set(value, (found.get(value) ?? 0) + 1);
    }
    values = found;
    inside.set(attribute, values);
  }
  return values;
}

function hostPath(view: ModelView, { nodeLevels }: Fabric, node: number): string {
  const level = nodeLevels.findLast(({ domainOf }) => (domainOf[node] ?? -1) >= 0);
  return level ? level.domains[level.domainOf[node]!]!.path : view.nodes[node]!.record.name;
}

/** Places by how many devices they have. */
function createTally() {
  const places = new Map<number, number>();
  return {
    add: (devices: number, count: number) => places.set(devices, (places.get(devices) ?? 0) + count),
    devices: () => [...places].reduce((sum, [devices, count]) => sum + devices * count, 0),
    histogram: (): Record<string, number> => Object.fromEntries(places),
  };
}
