import type { Fabric } from "../topology/fabric.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { ShapeTable } from "./fit.ts";
import type { LevelRef } from "./problem.ts";

/**
 * A list whose next best element is found when it is asked for: a search mostly needs the first, and sorting five
 * thousand candidates would cost more than the rest of the plan.
 */
export interface LazyOrder<T> {
  at(position: number): T | undefined;
}

/** Elements that are picked one by one before the rest is sorted at once. */
const pickedSingly = 8;

/** Smallest first by `compare`, which has to be total. */
export function lazyOrder<T>(items: T[], compare: (a: T, b: T) => number): LazyOrder<T> {
  let sorted = 0;
  const pick = () => {
    let best = sorted;
    for (let i = sorted + 1; i < items.length; i++) if (compare(items[i]!, items[best]!) < 0) best = i;
    const item = items[best]!;
    items[best] = items[sorted]!;
    items[sorted] = item;
    sorted++;
  };
  return {
    at(position) {
      while (sorted <= position && sorted < pickedSingly && sorted < items.length) pick();
      if (sorted <= position && sorted < items.length) {
        for (const item of items.splice(sorted).sort(compare)) items.push(item);
        sorted = items.length;
      }
      return items[position];
    },
  };
}

/** Two orders as one, smallest first; of equals the first order's. */
export function mergeLazily<T>(a: LazyOrder<T>, b: LazyOrder<T>, compare: (a: T, b: T) => number): LazyOrder<T> {
  const made: T[] = [];
  let [nextA, nextB] = [0, 0];
  return {
    at(position) {
      while (made.length <= position) {
        const [first, second] = [a.at(nextA), b.at(nextB)];
        if (first !== undefined && (second === undefined || compare(first, second) <= 0)) {
          made.push(first);
          nextA++;
        } else if (second !== undefined) {
          made.push(second);
          nextB++;
        } else return undefined;
      }
      return made[position];
    },
  };
}

/** `first` as given, then the others, made when they are needed. */
export function thenLazily<T>(first: readonly T[], others: () => LazyOrder<T>): LazyOrder<T> {
  let rest: LazyOrder<T> | undefined;
  return {
    at(position) {
      if (position < first.length) return first[position];
      rest ??= others();
      return rest.at(position - first.length);
    },
  };
}

/**
 * Tighter nodes first: fewer slots, fewer spare devices, then in domains that are fuller themselves, from the
 * narrowest level outwards, so that large free domains stay whole. Names decide at the end.
 */
export function compareNodes(fabric: Fabric, table: ShapeTable, room: (node: number) => number) {
  const surroundings = compareSurroundings(fabric, table, fabric.nodeLevels.length);
  return (a: number, b: number): number =>
    room(a) - room(b) || table.spare[a]! - table.spare[b]! || surroundings(a, b) || fabric.rankOf(a) - fabric.rankOf(b);
}

/** By how full the domains around two nodes are, from narrow to broad; levels from `below` on are left out. */
export function compareSurroundings(fabric: Fabric, table: ShapeTable, below: number) {
  const levels = fabric.nodeLevels
    .slice(0, below)
    .reverse()
    .map(({ index, domainOf }) => ({
      domainOf,
      slots: table.sums(fabric, index, "slots"),
      spare: table.sums(fabric, index, "spare"),
    }));
  return (a: number, b: number): number => {
    for (const { domainOf, slots, spare } of levels) {
      const first = domainOf[a]!;
      const second = domainOf[b]!;
      if (first === second) continue;
      const difference = (slots[first] ?? 0) - (slots[second] ?? 0) || (spare[first] ?? 0) - (spare[second] ?? 0);
      if (difference !== 0) return difference;
    }
    return 0;
  };
}

/** Tighter domains first: fewer spare devices (pods without devices: fewer slots), then within fuller surroundings. */
function compareDomains(fabric: Fabric, table: ShapeTable, level: number) {
  const { domains } = fabric.nodeLevels[level]!;
  const spare = table.sums(fabric, level, "spare");
  const slots = table.sums(fabric, level, "slots");
  const surroundings = compareSurroundings(fabric, table, level);
  return (a: number, b: number): number =>
    spare[a]! - spare[b]! ||
    slots[a]! - slots[b]! ||
    surroundings(domains[a]!.nodes[0]!, domains[b]!.nodes[0]!) ||
    comparePlain(domains[a]!.key, domains[b]!.key);
}

/** Where domains of a level are: one of node labels by its id, or a host that has some inside. */
export type DomainPlace =
  | { readonly domain: number; readonly host?: undefined }
  | { readonly host: number; readonly domain?: undefined };

/**
 * Tighter places first. Hosts among themselves as nodes, domains among themselves as domains; between the two what is
 * spare decides, then slots, then the host goes first, so that what spans hosts stays whole.
 */
export function comparePlaces(fabric: Fabric, table: ShapeTable, ref: LevelRef) {
  const hosts = compareNodes(fabric, table, (node) => table.slots[node]!);
  if (ref.kind === "device") return (a: DomainPlace, b: DomainPlace): number => hosts(a.host!, b.host!);
  const { index } = ref.level;
  const domains = compareDomains(fabric, table, index);
  const sums = { slots: table.sums(fabric, index, "slots"), spare: table.sums(fabric, index, "spare") };
  const amount = (what: "slots" | "spare", { domain, host }: DomainPlace): number =>
    domain === undefined ? table[what][host]! : sums[what][domain]!;
  return (a: DomainPlace, b: DomainPlace): number => {
    const difference = amount("spare", a) - amount("spare", b) || amount("slots", a) - amount("slots", b);
    if (difference !== 0) return difference;
    if (a.domain !== undefined && b.domain !== undefined) return domains(a.domain, b.domain);
    if (a.host !== undefined && b.host !== undefined) return hosts(a.host, b.host);
    return a.host === undefined ? 1 : -1;
  };
}

/** What `comparePlaces` looks at first where places are hosts. */
export function hostsBy(ref: LevelRef): "slots" | "spare" {
  return ref.kind === "device" ? "slots" : "spare";
}

/** Where to look for the nodes of one bundle. */
export interface Region {
  readonly fabric: Fabric;
  readonly table: ShapeTable;
  /** Nodes that may be used; undefined: all of the cluster, as the table has it. */
  readonly nodes: readonly number[] | undefined;
  /** Pods that fit on a node now. */
  readonly room: (node: number) => number;
}

/**
 * Nodes for `count` pods of one shape, kept close and tight: the narrowest domain that holds them all, of those the
 * tightest; where none does, the largest parts first and the tightest part for what remains. Fewer than `count` fit:
 * all nodes that have room.
 */
export function compactNodes(region: Region, count: number): number[] {
  if (region.nodes)
    return fill(
      region,
      region.nodes.filter((node) => region.room(node) > 0),
      0,
      count,
    );
  const { fabric, table } = region;
  // Counted for all pods that go to the node it left less room for others: see bench/README.md, openb.
  const first = count === 1 && table.growth ? "growth" : "slots";
  const single = table.tightest(fabric, { least: count, first }).at(0);
  if (single !== undefined) return [single];
  for (let l = fabric.nodeLevels.length - 1; l >= 0; l--) {
    const sums = table.sums(fabric, l, "slots");
    const compare = compareDomains(fabric, table, l);
    let best = -1;
    for (let domain = 0; domain < sums.length; domain++) {
      if (sums[domain]! >= count && (best < 0 || compare(domain, best) < 0)) best = domain;
    }
    if (best >= 0) return split(region, withRoom(region, fabric.nodeLevels[l]!.domains[best]!.nodes), l + 1, count);
  }
  return split(region, withRoom(region, allNodes(table)), 0, count);
}

function allNodes(table: ShapeTable): number[] {
  const nodes: number[] = [];
  for (let node = 0; node < table.slots.length; node++) if (table.slots[node]! > 0) nodes.push(node);
  return nodes;
}

function withRoom(region: Region, nodes: readonly number[]): number[] {
  return nodes.filter((node) => region.room(node) > 0);
}

function tightestNode(region: Region, nodes: readonly number[], count: number): number | undefined {
  const tighter = compareNodes(region.fabric, region.table, region.room);
  const growth = count === 1 ? region.table.growth : undefined;
  const compare = growth ? (a: number, b: number) => growth(a) - growth(b) || tighter(a, b) : tighter;
  let best: number | undefined;
  for (const node of nodes) {
    if (region.room(node) >= count && (best === undefined || compare(node, best) < 0)) best = node;
  }
  return best;
}

/** One part of a region at some level. */
interface Part {
  readonly nodes: number[];
  slots: number;
}

function partsAt(region: Region, nodes: readonly number[], level: number): Part[] {
  const { fabric, room } = region;
  const domainOf = fabric.nodeLevels[level]?.domainOf;
  const parts = new Map<number, Part>();
  for (const node of nodes) {
    const domain = domainOf?.[node] ?? -1;
    const key = domain >= 0 ? domain : -1 - node;
    const part = parts.get(key) ?? { nodes: [], slots: 0 };
    part.nodes.push(node);
    part.slots += room(node);
    parts.set(key, part);
  }
  return [...parts.values()];
}

function firstRank(fabric: Fabric, part: Part): number {
  let first = Number.POSITIVE_INFINITY;
  for (const node of part.nodes) first = Math.min(first, fabric.rankOf(node));
  return first;
}

/** Smallest part that holds `count`; names decide between equals. */
function tightestPart(region: Region, parts: readonly Part[], count: number): Part | undefined {
  let best: Part | undefined;
  for (const part of parts) {
    if (part.slots < count) continue;
    if (!best || part.slots < best.slots) best = part;
    else if (part.slots === best.slots && firstRank(region.fabric, part) < firstRank(region.fabric, best)) best = part;
  }
  return best;
}

function fill(region: Region, nodes: readonly number[], level: number, count: number): number[] {
  const single = tightestNode(region, nodes, count);
  if (single !== undefined) return [single];
  for (let l = region.fabric.nodeLevels.length - 1; l >= level; l--) {
    const best = tightestPart(region, partsAt(region, nodes, l), count);
    if (best) return split(region, best.nodes, l + 1, count);
  }
  return split(region, nodes, level, count);
}

/** No part at `level` or below holds `count` alone: largest parts first, the tightest one for the remainder. */
function split(region: Region, nodes: readonly number[], level: number, count: number): number[] {
  const { fabric } = region;
  const parts = partsAt(region, nodes, level);
  if (parts.length === 1 && level < fabric.nodeLevels.length) return split(region, nodes, level + 1, count);
  parts.sort((a, b) => b.slots - a.slots || firstRank(fabric, a) - firstRank(fabric, b));
  const chosen: number[] = [];
  let missing = count;
  while (missing > 0 && parts.length > 0) {
    const last = tightestPart(region, parts, missing);
    if (last) return [...chosen, ...fill(region, last.nodes, level + 1, missing)];
    const largest = parts.shift()!;
    chosen.push(...largest.nodes.toSorted((a, b) => fabric.rankOf(a) - fabric.rankOf(b)));
    missing -= largest.slots;
  }
  return chosen;
}
