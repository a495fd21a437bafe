import type { NodeLevel } from "../topology/fabric.ts";
import { attributeValue } from "../topology/inventory.ts";
import type { ShapeTable } from "./fit.ts";
import { contains, type GroupDomain, type GroupDomains } from "./group-domain.ts";
import type { Bundle, Group, Problem } from "./problem.ts";
import { compactNodes, compareDomains, compareNodes, type LazyOrder, lazyOrder, thenLazily } from "./score.ts";
import type { SpreadCount } from "./spread.ts";

/** Domains that a group may be given, tightest first, inside those of the groups it shares slots with. */
export function candidateDomains(problem: Problem, g: number, domains: GroupDomains): LazyOrder<GroupDomain> {
  const group = problem.groups[g]!;
  const { ref, fabric } = group.rule;
  const table = heaviestTable(problem, group);
  const around = domains.related[g]!.flatMap((other) => domains.of(other) ?? []);
  const nodes = smallestNodes(around);
  if (ref.kind === "node") {
    const { level } = ref;
    const ids = nodes
      ? [...new Set(nodes.map((node) => level.domainOf[node] ?? -1))].filter((id) => id >= 0)
      : level.domains.flatMap((domain) => domain?.id ?? []);
    const large = largeEnough(problem, group, level);
    const order = lazyOrder(ids.filter(large), compareDomains(fabric, table, level.index));
    return {
      at(position) {
        const domain = order.at(position);
        return domain === undefined ? undefined : { kind: "node", level, domain };
      },
    };
  }
  const hosts = (nodes ?? [...problem.view.nodes.keys()]).filter(
    (node) =>
      around.every((domain) => contains(domain, node)) && group.slots.every((slot) => canHost(problem, slot, node)),
  );
  const order = lazyOrder(
    hosts,
    compareNodes(fabric, table, (node) => table.slots[node]!),
  );
  return flatten(order, (node) =>
    valuesOn(problem, group, node, ref.level.attribute).map((value) => ({
      kind: "device",
      level: ref.level,
      node,
      value,
    })),
  );
}

/** Tells the domains that have room for each shape of a group by itself, whatever else this unit needs. */
function largeEnough(problem: Problem, group: Group, level: NodeLevel): (domain: number) => boolean {
  const pods = new Map<ShapeTable, number>();
  for (const slot of group.slots) {
    const table = problem.tables[slot]!;
    if (!problem.slots[slot]!.own) pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  const bounds = [...pods].map(([table, count]) => ({
    count,
    slots: table.sums(group.rule.fabric, level.index, "slots"),
  }));
  return (domain) => bounds.every(({ count, slots }) => slots[domain]! >= count);
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

/** Values that a group on this node could share; one undefined value when none of its pods has devices. */
function valuesOn(problem: Problem, group: Group, node: number, attribute: string): (string | undefined)[] {
  if (group.slots.every((slot) => problem.tables[slot]!.shape.claims.length === 0)) return [undefined];
  const { devices } = problem.view.inventory(node);
  return [...new Set(devices.flatMap((entry) => attributeValue(entry, attribute) ?? []))].sort();
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
