import type { NodeLevel } from "../topology/fabric.ts";
import type { ModelView } from "../topology/model.ts";
import { countSlotsInside, freeSlotsInside } from "./counting.ts";
import type { ShapeTable } from "./fit.ts";
import { contains, type GroupDomain, type GroupDomains } from "./group-domain.ts";
import { type Bundle, deviceLevelOn, type Group, type LevelRef, type Problem, valuesInside } from "./problem.ts";
import {
  compactNodes,
  compareNodes,
  comparePlaces,
  type DomainPlace,
  hostsBy,
  type LazyOrder,
  lazyOrder,
  mergeLazily,
  thenLazily,
} from "./score.ts";
import type { SpreadCount } from "./spread.ts";

/** Domains that a group may be given, tightest first, inside those of the groups it shares slots with. */
export function candidateDomains(problem: Problem, g: number, domains: GroupDomains): LazyOrder<GroupDomain> {
  const group = problem.groups[g]!;
  const { ref, fabric } = group.rule;
  const around = domains.related[g]!.flatMap((other) => domains.of(other) ?? []);
  // Pinned pods that leave the domain open are all on one host.
  const region = group.pins[0] ? [group.pins[0].node] : smallestNodes(around);
  const large = largeEnough(problem, group);
  const table = heaviestTable(problem, group);
  const compare = comparePlaces(fabric, table, ref);
  const domainPlaces: DomainPlace[] = [];
  if (ref.kind === "node") {
    const { level } = ref;
    const ids = region
      ? new Set(region.map((node) => level.domainOf[node] ?? -1))
      : level.domains.flatMap((domain) => domain?.id ?? []);
    for (const domain of ids) if (domain >= 0 && large.domain(level, domain)) domainPlaces.push({ domain });
  }
  const hasPlaces = (host: number): boolean => {
    const level = deviceLevelOn(ref, host);
    if (!level || !large.host(host) || !around.every((domain) => contains(domain, host))) return false;
    return likelyValues(problem.view, large, host, ref, level.attribute).length > 0;
  };
  const hosts = (): LazyOrder<number> => {
    if (ref.kind === "node" && !ref.level.inside) return nothing;
    const least = large.pods.find(([each]) => each === table)?.[1];
    if (region || least === undefined) {
      const all = [...(region ?? problem.view.nodes.keys())].filter(hasPlaces);
      return lazyOrder(all, (a, b) => compare({ host: a }, { host: b }));
    }
    return flatten(table.tightest(fabric, { least, first: hostsBy(ref) }), (host) => (hasPlaces(host) ? [host] : []));
  };
  const order = mergeLazily(
    lazyOrder(domainPlaces, compare),
    flatten(hosts(), (host): DomainPlace[] => [{ host }]),
    compare,
  );
  return flatten(order, ({ domain, host }): GroupDomain[] => {
    if (domain !== undefined) return ref.kind === "node" ? [{ kind: "node", level: ref.level, domain }] : [];
    const level = deviceLevelOn(ref, host)!;
    return valuesOn(problem.view, large, host, ref, level.attribute).map((value) => ({
      kind: "device",
      level,
      node: host,
      value,
    }));
  });
}

const nothing: LazyOrder<number> = { at: () => undefined };

/** Tells the domains, and the hosts, that have room for each shape of a group by itself, whatever else this unit needs. */
function largeEnough(problem: Problem, group: Group) {
  const pods = [...podsByTable(problem, group)];
  return {
    pods,
    claimless: group.slots.every((slot) => problem.tables[slot]!.shape.devices === 0),
    domain: ({ index }: NodeLevel, domain: number): boolean =>
      pods.every(([table, count]) => table.sums(group.rule.fabric, index, "slots")[domain]! >= count),
    host: (node: number): boolean =>
      group.slots.every((slot) => canHost(problem, slot, node)) &&
      pods.every(([table, count]) => table.slots[node]! >= count),
  };
}

/** Pods of each shape that a group brings; those with a hold of their own take nothing that is free. */
function podsByTable(problem: Problem, group: Group): ReadonlyMap<ShapeTable, number> {
  const pods = new Map<ShapeTable, number>();
  for (const slot of group.slots) {
    const table = problem.tables[slot]!;
    if (!problem.slots[slot]!.own) pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  return pods;
}

function canHost(problem: Problem, slot: number, node: number): boolean {
  return problem.tables[slot]!.slots[node]! > 0 || problem.slots[slot]!.own?.node === node;
}

function heaviestTable(problem: Problem, group: Group): ShapeTable {
  let best = problem.tables[group.slots[0]!]!;
  for (const slot of group.slots) {
    const table = problem.tables[slot]!;
    if (table.shape.devices > best.shape.devices) best = table;
  }
  return best;
}

/**
 * Values on this node that may have room for a group, as far as counting devices tells; one undefined value when none
 * of its pods has devices.
 */
function likelyValues(
  view: ModelView,
  { pods, claimless }: ReturnType<typeof largeEnough>,
  node: number,
  ref: LevelRef,
  attribute: string,
): (string | undefined)[] {
  const values = valuesInside(view, node, attribute);
  if (claimless) return ref.kind === "device" || values.length > 0 ? [undefined] : [];
  if (values.length < 2) return values;
  const inventory = view.inventory(node);
  const usage = view.usage(node);
  return values.filter((value) =>
    pods.every(([{ shape }, count]) => freeSlotsInside(shape, inventory, usage, { attribute, value }) >= count),
  );
}

/** Those of them that have room by the allocator's word. */
function valuesOn(
  view: ModelView,
  large: ReturnType<typeof largeEnough>,
  node: number,
  ref: LevelRef,
  attribute: string,
): (string | undefined)[] {
  const { record } = view.nodes[node]!;
  const likely = likelyValues(view, large, node, ref, attribute);
  if (valuesInside(view, node, attribute).length < 2) return likely;
  return likely.filter(
    (value) =>
      value === undefined ||
      large.pods.every(([{ shape }, count]) => {
        const inside = { attribute, value };
        return countSlotsInside(shape, record, count, view.inventory(node), view.usage(node), inside) >= count;
      }),
  );
}

/** Every element of the outer order gives a few inner ones; made when reached. */
function flatten<A, B>(outer: LazyOrder<A>, inner: (a: A) => B[]): LazyOrder<B> {
  const made: B[] = [];
  let next = 0;
  return {
    at(position) {
      while (made.length <= position) {
        const element = outer.at(next++);
        if (element === undefined) return undefined;
        made.push(...inner(element));
      }
      return made[position];
    },
  };
}

/** Nodes of the smallest of the domains; undefined without any. */
function smallestNodes(domains: readonly GroupDomain[]): readonly number[] | undefined {
  let best: readonly number[] | undefined;
  for (const domain of domains) {
    const nodes = domain.kind === "device" ? [domain.node] : domain.level.domains[domain.domain]!.nodes;
    if (!best || nodes.length < best.length) best = nodes;
  }
  return best;
}

/** Nodes that a bundle may use; undefined: all of the cluster, of which nothing is taken yet. */
export function regionOf(
  problem: Problem,
  bundle: Bundle,
  domains: GroupDomains,
  touched: boolean,
): number[] | undefined {
  const nodes = smallestNodes(bundle.groups.flatMap((group) => domains.of(group) ?? []));
  if (nodes) return nodes.filter(domains.inside(bundle.groups));
  return touched || bundle.spreads.length > 0 ? [...problem.view.nodes.keys()] : undefined;
}

/** Does a region have room for all pods of a bundle? */
export function hasRoom(
  bundle: Bundle,
  region: readonly number[] | undefined,
  room: (node: number) => number,
): boolean {
  if (!region || bundle.own) return true;
  let total = 0;
  for (const node of region) {
    total += room(node);
    if (total >= bundle.slots.length) return true;
  }
  return false;
}

/** Nodes for the pods of a bundle: those of the compact choice first, then every other that has room. */
export function candidateNodes(
  problem: Problem,
  bundle: Bundle,
  region: readonly number[] | undefined,
  room: (node: number) => number,
  counts: readonly SpreadCount[],
): LazyOrder<number> {
  const { fabric } = problem;
  const { table, own } = bundle;
  const compare = compareNodes(fabric, table, room);
  const everywhere = () => (region ?? [...problem.view.nodes.keys()]).filter((node) => room(node) > 0);
  const [spread] = counts;
  if (spread) {
    const order = spread.interleave(everywhere(), compare);
    return thenLazily(own ? [own.node, ...order] : order, () => lazyOrder<number>([], compare));
  }
  const compact = compactNodes({ fabric, table, nodes: region, room }, bundle.slots.length);
  const ownFirst = own && (!region || region.includes(own.node)) ? [own.node] : [];
  const first = [...new Set([...ownFirst, ...compact])];
  return thenLazily(first, () => {
    const chosen = new Set(first);
    return lazyOrder(
      everywhere().filter((node) => !chosen.has(node)),
      compare,
    );
  });
}
