import type { Fabric } from "../topology/fabric.ts";
import type { ShapeTable } from "./fit.ts";
import { createHeap } from "./heap.ts";
import { compareSurroundings, type LazyOrder } from "./score.ts";

/** Which nodes an order has, and what it looks at before it looks at the domains around them. */
export interface TightnessKey {
  /** Slots that a node must have. */
  readonly least: number;
  /**
   * Fewer slots before fewer spare devices, or the other way round; or before both, what one more pod makes of the
   * fragmentation of the node (fewer slots come next).
   */
  readonly first: "slots" | "spare" | "growth";
}

/**
 * The order of the nodes of a table by tightness, kept up to date node by node: every domain knows the tightest of its
 * nodes, so that finding the first few takes time by the number of parts of a few domains, not of nodes.
 */
export interface Tightness {
  /** As the table is now; of no use once it changes. */
  order(): LazyOrder<number>;
  changed(node: number): void;
}

/** Nodes that have a path of domains in common, in parts that go apart further down. */
interface Part {
  readonly around: Part | undefined;
  readonly parts: Part[];
  readonly nodes: number[];
  /** Tightest of all its nodes; -1: none has enough slots. */
  best: number;
  stale: boolean;
}

/** Of one structure of the fabric: a change of that needs a new one. */
export function createTightness(fabric: Fabric, table: ShapeTable, { least, first }: TightnessKey): Tightness {
  const root: Part = { around: undefined, parts: [], nodes: [], best: -1, stale: true };
  const partOf: (Part | undefined)[] = [];
  const nodes: number[] = [];
  for (let node = 0; node < table.slots.length; node++) if (fabric.rankOf(node) >= 0) nodes.push(node);
  divide(fabric, root, nodes, 0, partOf);

  const comparison = () => {
    const surroundings = compareSurroundings(fabric, table, fabric.nodeLevels.length);
    const { slots, spare, growth } = table;
    const [one, other] = first === "spare" ? [spare, slots] : [slots, spare];
    const rest = (a: number, b: number): number =>
      one[a]! - one[b]! || other[a]! - other[b]! || surroundings(a, b) || fabric.rankOf(a) - fabric.rankOf(b);
    if (first !== "growth" || growth === undefined) return rest;
    return (a: number, b: number): number => growth(a) - growth(b) || rest(a, b);
  };
  type Compare = ReturnType<typeof comparison>;
  const bestOf = (part: Part, compare: Compare): number => {
    if (!part.stale) return part.best;
    let best = -1;
    const consider = (node: number) => {
      if (node >= 0 && table.slots[node]! >= least && (best < 0 || compare(node, best) < 0)) best = node;
    };
    for (const node of part.nodes) consider(node);
    for (const inner of part.parts) consider(bestOf(inner, compare));
    part.best = best;
    part.stale = false;
    return best;
  };
  return {
    changed(node) {
      for (let part = partOf[node]; part && !part.stale; part = part.around) part.stale = true;
    },
    order() {
      const compare = comparison();
      const made: number[] = [];
      const heap = createHeap<Entry>((a, b) => compare(a.node, b.node));
      const offer = (part: Part) => {
        const node = bestOf(part, compare);
        if (node >= 0) heap.push({ node, part });
      };
      offer(root);
      return {
        at(position) {
          while (made.length <= position) {
            const entry = heap.pop();
            if (entry === undefined) return undefined;
            if (entry.part === undefined) {
              made.push(entry.node);
              continue;
            }
            for (const node of entry.part.nodes) if (table.slots[node]! >= least) heap.push({ node, part: undefined });
            for (const inner of entry.part.parts) offer(inner);
          }
          return made[position];
        },
      };
    },
  };
}

/** A node, or a part by its tightest one. */
interface Entry {
  readonly node: number;
  readonly part: Part | undefined;
}

/** Divides nodes by their domains, broad to narrow; levels that divide nothing make no part of their own. */
function divide(
  fabric: Fabric,
  part: Part,
  nodes: readonly number[],
  level: number,
  partOf: (Part | undefined)[],
): void {
  const { domainOf } = fabric.nodeLevels[level] ?? {};
  if (domainOf === undefined || nodes.length === 1) {
    for (const node of nodes) {
      part.nodes.push(node);
      partOf[node] = part;
    }
    return;
  }
  const byDomain = Map.groupBy(nodes, (node) => domainOf[node] ?? -1);
  if (byDomain.size === 1) {
    divide(fabric, part, nodes, level + 1, partOf);
    return;
  }
  for (const inside of byDomain.values()) {
    // One node alone needs no part.
    if (inside.length === 1) divide(fabric, part, inside, level + 1, partOf);
    else {
      const inner: Part = { around: part, parts: [], nodes: [], best: -1, stale: true };
      part.parts.push(inner);
      divide(fabric, inner, inside, level + 1, partOf);
    }
  }
}
