import type { ClusterModel } from "../topology/model.ts";
import { fitCache, type ShapeTable } from "./fit.ts";
import type { Steps } from "./in-slices.ts";
import type { PreparedUnit } from "./prepare.ts";
import { sharedLevels } from "./shared-levels.ts";
import { type Victim, withoutVictims } from "./victims.ts";
import { nodesOf } from "./what-if.ts";

export interface LargestPods {
  readonly table: ShapeTable;
  readonly count: number;
}

/** The largest pods of a unit that take something free, and how many there are. */
export function largestPods(model: ClusterModel, { base, tableOf }: PreparedUnit): LargestPods | undefined {
  const pods = new Map<ShapeTable, number>();
  for (const slot of base) {
    if (slot.own !== undefined) continue;
    const table = fitCache(model).table(tableOf(slot, []).shape);
    pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  const [largest] = [...pods].sort(([a], [b]) => b.shape.devices - a.shape.devices);
  return largest && { table: largest[0], count: largest[1] };
}

/**
 * What largest pods lack they need new places for, with devices that are free or become free on the nodes of the victims.
 * False: there are too few of those, whatever the rules say.
 */
export function mayBeEnough(model: ClusterModel, { table, count }: LargestPods, victims: readonly Victim[]): boolean {
  // Devices that are given in parts, or to administrators, are not used up.
  if (count <= table.total || table.sharing > 0 || table.shape.admin) return true;
  const nodes = new Set(victims.flatMap(({ leavers }) => leavers.flatMap((leaver) => nodesOf(model.view, leaver))));
  let devices = victims.reduce((sum, victim) => sum + victim.devices, 0);
  for (const node of nodes) {
    if (model.view.inventory(node).wide) return true;
    devices += table.spare[node]!;
  }
  return devices >= (count - table.total) * table.shape.devices;
}

/** A node that its victims would leave. */
interface Offer {
  readonly node: number;
  /** Of the largest pods, so many would fit. */
  readonly slots: number;
  /** Pods that would have to go. */
  readonly pods: number;
}

/** So many nodes are looked at in one step. */
const nodesPerStep = 128;

/**
 * Parts of many victims, from small to large, one of which may be enough: first those on the nodes that cost fewest pods for
 * each pod that fits there, near one another where the unit has to be. The last part is all of them. None: not even
 * without all of them there are enough places, whatever the rules say.
 */
export function* likelyParts(
  model: ClusterModel,
  prepared: PreparedUnit,
  leaving: readonly Victim[],
  victims: readonly Victim[],
): Steps<(readonly Victim[])[]> {
  const largest = largestPods(model, prepared);
  const places = victims.map(({ leavers }) => new Set(leavers.flatMap((leaver) => nodesOf(model.view, leaver))));
  const isWide = (node: number) => model.view.nodes[node] !== undefined && model.view.inventory(node).wide;
  if (largest === undefined || places.some((nodes) => [...nodes].some(isWide))) return [victims];
  const offers = yield* offersOf(model, largest.table, leaving, victims, places);
  const gain = offers.reduce((sum, { node, slots }) => sum + slots - largest.table.slots[node]!, 0);
  if (largest.table.total + gain < largest.count) return [];
  const order = inOrder(offers, prepared, largest.count);
  const parts: (readonly Victim[])[] = [];
  for (let size = enoughOf(order, largest.count); size < order.length; size *= 2) {
    const nodes = new Set(order.slice(0, size).map(({ node }) => node));
    parts.push(victims.filter((_, i) => [...places[i]!].some((node) => nodes.has(node))));
  }
  return [...parts, victims];
}

function* offersOf(
  model: ClusterModel,
  table: ShapeTable,
  leaving: readonly Victim[],
  victims: readonly Victim[],
  places: readonly ReadonlySet<number>[],
): Steps<Offer[]> {
  const onNode = new Map<number, Victim[]>();
  for (const [i, victim] of victims.entries()) {
    for (const node of places[i]!) {
      const here = onNode.get(node);
      if (here === undefined) onNode.set(node, [victim]);
      else here.push(victim);
    }
  }
  const offers: Offer[] = [];
  const nodes = [...onNode.keys()];
  for (let first = 0; first < nodes.length; first += nodesPerStep) {
    yield;
    const some = nodes.slice(first, first + nodesPerStep);
    const { model: other } = withoutVictims(model, [...leaving, ...new Set(some.flatMap((node) => onNode.get(node)!))]);
    for (const node of some) {
      const slots = fitCache(model).slotsIn(other.view, table, node);
      const pods = onNode.get(node)!.reduce((sum, victim) => sum + victim.pods.length, 0);
      if (slots > 0) offers.push({ node, slots, pods });
    }
  }
  return offers;
}

/** Cheapest first; where pods have to share a domain, domain by domain. */
function inOrder(offers: readonly Offer[], prepared: PreparedUnit, count: number): Offer[] {
  const { fabric } = prepared;
  const sorted = offers.toSorted(
    (a, b) => a.pods / a.slots - b.pods / b.slots || fabric.rankOf(a.node) - fabric.rankOf(b.node),
  );
  const [level] = sharedLevels(prepared);
  if (level === undefined) return sorted;
  const domains = [...Map.groupBy(sorted, ({ node }) => level.domainOf[node] ?? -1).values()];
  const price = (domain: readonly Offer[]): number => {
    const enough = domain.slice(0, enoughOf(domain, count));
    const slots = enough.reduce((sum, offer) => sum + offer.slots, 0);
    // One that has not enough for all is worth less.
    const missing = Math.max(0, count - slots);
    return enough.reduce((sum, offer) => sum + offer.pods, 0) + missing * count;
  };
  return domains
    .map((domain) => ({ domain, price: price(domain) }))
    .sort((a, b) => a.price - b.price || fabric.rankOf(a.domain[0]!.node) - fabric.rankOf(b.domain[0]!.node))
    .flatMap(({ domain }) => domain);
}

/** So many leading offers have room for the pods; all where they have not. */
function enoughOf(offers: readonly Offer[], count: number): number {
  let slots = 0;
  for (const [i, offer] of offers.entries()) {
    slots += offer.slots;
    if (slots >= count) return i + 1;
  }
  return Math.max(1, offers.length);
}
