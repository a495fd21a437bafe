import type { FreeByLevel, FreeDevices } from "../api/capacity.ts";
import { candidatesOf } from "../dra/allocator/candidates.ts";
import { type CompiledClaim, compileClaim, isClaimProblem } from "../dra/allocator/claim.ts";
import type { Fabric, NodeLevel } from "../topology/fabric.ts";
import type { DeviceEntry, NodeInventory, NodeUsage } from "../topology/inventory.ts";
import { attributeValue, changeUsage, copyUsage, emptyUsage } from "../topology/inventory.ts";
import { hostnameLabel } from "../topology/levels.ts";
import type { ModelView } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { NodeState } from "../topology/node-table.ts";

/** Devices of one class, driver and product, node by node. */
interface Kind {
  readonly deviceClass: string;
  readonly driver: string;
  readonly product: string;
  total: number;
  /** Node index → devices that could be given now, all of them together. */
  readonly free: Map<number, readonly number[]>;
}

/**
 * What nobody holds, by class and product, in plain order; by what the drivers publish, not by what pods ask for besides.
 * Nothing of who holds the rest is told.
 */
export function freeDevices(view: ModelView): FreeDevices[] {
  const kinds = new Map<string, Kind>();
  for (const [name, claim] of classClaims(view)) {
    for (const node of view.nodes) if (node) countNode(view, node, name, claim, kinds);
  }
  const fabric = view.fabric("default")!;
  return [...kinds].sort(([a], [b]) => comparePlain(a, b)).map(([, kind]) => freeOf(view, fabric, kind));
}

/** One device of each class that kllama allocates. */
function classClaims(view: ModelView): [string, CompiledClaim][] {
  return [...view.deviceClasses.keys()].flatMap((name): [string, CompiledClaim][] => {
    const requests = [{ name: "one", exactly: { deviceClassName: name } }];
    const claim = compileClaim({ devices: { requests } }, view.deviceClasses, view.managedDrivers);
    return isClaimProblem(claim) ? [] : [[name, claim]];
  });
}

function countNode(
  view: ModelView,
  { index, record }: NodeState,
  deviceClass: string,
  claim: CompiledClaim,
  kinds: Map<string, Kind>,
): void {
  const inventory = view.inventory(index);
  const { usable, withheld } = candidatesOf(inventory, claim, claim.requests[0]!.alternatives[0]!);
  if (usable.length + withheld.length === 0) return;
  const taken = new Set(withheld.map(({ device }) => device));
  const open = record.ready && !record.unschedulable;
  const all = [...usable, ...taken].map((device) => inventory.devices[device]!);
  for (const [product, devices] of Map.groupBy(all, productOf)) {
    const { driver } = devices[0]!;
    const key = JSON.stringify([deviceClass, product, driver]);
    const kind = kinds.get(key) ?? { deviceClass, driver, product, total: 0, free: new Map() };
    kinds.set(key, kind);
    kind.total += haveTogether(inventory, emptyUsage(inventory), devices).length;
    const untainted = devices.filter((device) => !taken.has(device.index));
    const free = open ? haveTogether(inventory, view.usage(index), untainted) : [];
    if (free.length > 0) kind.free.set(index, free);
  }
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

function freeOf(view: ModelView, fabric: Fabric, { free, ...kind }: Kind): FreeDevices {
  const counts = [...free.values()].map(({ length }) => length);
  const levels = fabric.nodeLevels.filter(({ nodeLabels }) => !nodeLabels.includes(hostnameLabel));
  return {
    ...kind,
    free: counts.reduce((sum, count) => sum + count, 0),
    nodesByFree: histogram(counts),
    levels: levels.flatMap((level) => freeIn(view, fabric, level, free) ?? []),
  };
}

/** Undefined: no domain of the level has any. */
function freeIn(
  view: ModelView,
  fabric: Fabric,
  level: NodeLevel,
  free: ReadonlyMap<number, readonly number[]>,
): FreeByLevel | undefined {
  const byDomain = new Map<string, number>();
  const add = (domain: string, count: number) => byDomain.set(domain, (byDomain.get(domain) ?? 0) + count);
  for (const [node, devices] of free) {
    const domain = level.domains[level.domainOf[node] ?? -1];
    if (domain) add(domain.path, devices.length);
    else if (level.inside) {
      const { attribute } = level.inside;
      for (const device of devices) {
        const value = attributeValue(view.inventory(node).devices[device]!, attribute);
        if (value !== undefined) add(`${hostPath(view, fabric, node)}/${value.slice(value.indexOf(":") + 1)}`, 1);
      }
    }
  }
  if (byDomain.size === 0) return undefined;
  const [domain, count] = [...byDomain].reduce((a, b) => (b[1] > a[1] || (b[1] === a[1] && b[0] < a[0]) ? b : a));
  return { level: level.name, domainsByFree: histogram([...byDomain.values()]), largest: { domain, free: count } };
}

function hostPath(view: ModelView, { nodeLevels }: Fabric, node: number): string {
  const level = nodeLevels.findLast(({ domainOf }) => (domainOf[node] ?? -1) >= 0);
  return level ? level.domains[level.domainOf[node]!]!.path : view.nodes[node]!.record.name;
}

function histogram(counts: readonly number[]): Record<string, number> {
  const nodes: Record<string, number> = {};
  for (const count of counts) nodes[count] = (nodes[count] ?? 0) + 1;
  return nodes;
}
