import { comparePlain } from "../topology/natural-order.ts";
import { type Problem, type Spread, valuesInside } from "./problem.ts";

/** Counts the pods of one spread constraint per domain, and says which domains may still get one. */
export interface SpreadCount {
  /** May one more pod go to the node? Cuts what can no longer become even enough. */
  allows(node: number): boolean;
  add(node: number, by: 1 | -1): void;
  /** Orders nodes so that consecutive ones lie in different domains, emptier domains first. */
  interleave(nodes: readonly number[], compare: (a: number, b: number) => number): number[];
}

/**
 * @param inside tells whether a node lies where the groups of the slots have to be: only such domains take part. Domains
 *   none of whose nodes admits the pods (selectors, taints) take no part either; full ones do, as in kube-scheduler.
 */
export function createSpreadCount(problem: Problem, spread: Spread, inside: (node: number) => boolean): SpreadCount {
  const { level, rule } = spread;
  const domainOf = domainNumbers(problem, spread);
  const counts = new Map<number, number>();
  const set = rule.setOf(problem.slots[spread.slots[0]!]!);
  const decided = problem.decided.flatMap(({ slot, table }) => (rule.setOf(slot) === set ? table : []));
  const tables = new Set([...spread.slots.map((slot) => problem.tables[slot]!), ...decided]);
  for (const { index } of problem.view.nodes.flatMap((node) => node ?? [])) {
    const domain = domainOf(index);
    if (domain !== none && inside(index) && [...tables].some((table) => table.admits[index] === 1))
      counts.set(domain, 0);
  }
  for (const pin of spread.pins) {
    const domain = domainOf(pin.node);
    if (domain !== none) counts.set(domain, (counts.get(domain) ?? 0) + 1);
  }
  let remaining = spread.slots.length;
  const total = remaining + [...counts.values()].reduce((sum, each) => sum + each, 0);
  const slack = (counts.size - 1) * rule.maxSkew;
  const most = Math.floor((total + slack) / Math.max(1, counts.size));
  const least = Math.ceil((total - slack) / Math.max(1, counts.size));

  const canBecomeEven = (): boolean => {
    let lacking = 0;
    let lowest = Number.POSITIVE_INFINITY;
    let highest = 0;
    for (const count of counts.values()) {
      lacking += Math.max(0, least - count);
      lowest = Math.min(lowest, count);
      highest = Math.max(highest, count);
    }
    if (remaining === 0) return highest - lowest <= rule.maxSkew;
    return lacking <= remaining && highest <= most;
  };
  const add = (node: number, by: 1 | -1) => {
    const domain = domainOf(node);
    counts.set(domain, counts.get(domain)! + by);
    remaining -= by;
  };
  return {
    add,
    allows(node) {
      if (!counts.has(domainOf(node))) return false;
      add(node, 1);
      const allowed = canBecomeEven();
      add(node, -1);
      return allowed;
    },
    interleave(nodes, compare) {
      const byDomain = new Map<number, number[]>();
      for (const node of nodes.toSorted(compare)) {
        const domain = domainOf(node);
        byDomain.set(domain, [...(byDomain.get(domain) ?? []), node]);
      }
      const key = (domain: number) =>
        level.domains[domain]?.key ?? problem.view.nodes[hostOf(domain)]?.record.name ?? "";
      const queues = [...byDomain]
        .sort(([a], [b]) => (counts.get(a) ?? 0) - (counts.get(b) ?? 0) || comparePlain(key(a), key(b)))
        .map(([, queue]) => queue);
      const order: number[] = [];
      for (let round = 0; order.length < nodes.length; round++) {
        for (const queue of queues) if (round < queue.length) order.push(queue[round]!);
      }
      return order;
    },
  };
}

const none = -1;
const hostOf = (domain: number) => -2 - domain;

/**
 * Node → number of its domain. A host that has domains of the level inside counts as one, below `none`: pods on two
 * hosts are surely apart, pods on one are not told apart.
 */
function domainNumbers({ view }: Problem, { level }: Spread): (node: number) => number {
  const { domainOf, inside } = level;
  if (!inside) return (node) => domainOf[node] ?? none;
  const hosts = new Map<number, number>();
  return (node) => {
    const known = hosts.get(node);
    if (known !== undefined) return known;
    const labelled = domainOf[node] ?? none;
    const told = () => valuesInside(view, node, inside.attribute).length > 0;
    const domain = labelled !== none || !told() ? labelled : hostOf(node);
    hosts.set(node, domain);
    return domain;
  };
}
