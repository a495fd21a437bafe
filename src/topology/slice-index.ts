import type { SliceRecord, TaintRuleRecord } from "./records.ts";
import { concerns, createTaintRules } from "./taint-rules.ts";

/**
 * Slices by name and by pool, with the nodes that each pool concerns, and the DeviceTaintRules over them. What changes
 * something returns the nodes whose devices may differ now; undefined: those of any node.
 */
export interface SliceIndex {
  get(name: string): SliceRecord | undefined;
  set(slice: SliceRecord): Iterable<string> | undefined;
  remove(slice: SliceRecord): Iterable<string> | undefined;
  rule(name: string): TaintRuleRecord | undefined;
  setRule(rule: TaintRuleRecord): Iterable<string> | undefined;
  removeRule(rule: TaintRuleRecord): Iterable<string> | undefined;
  /** Every slice of each pool that may concern the node, with the taints of the rules. */
  of(node: string): SliceRecord[];
}

interface Pool {
  readonly key: string;
  readonly slices: Map<string, SliceRecord>;
  /** Node → slices of the pool that are its alone. */
  readonly nodes: Map<string, number>;
  /** Slices that any node may use. */
  open: number;
}

export function createSliceIndex(): SliceIndex {
  const byName = new Map<string, SliceRecord>();
  const pools = new Map<string, Pool>();
  /** Node → pools with slices of its own. */
  const byNode = new Map<string, Set<Pool>>();
  /** Pools with slices that any node may use. */
  const open = new Set<Pool>();
  const rules = createTaintRules();

  const count = (pool: Pool, { nodeName = "" }: SliceRecord, by: 1 | -1) => {
    if (nodeName === "") {
      pool.open += by;
      if (pool.open > 0) open.add(pool);
      else open.delete(pool);
      return;
    }
    const slices = (pool.nodes.get(nodeName) ?? 0) + by;
    const ofNode = byNode.get(nodeName) ?? new Set<Pool>();
    if (slices > 0) {
      pool.nodes.set(nodeName, slices);
      byNode.set(nodeName, ofNode.add(pool));
      return;
    }
    pool.nodes.delete(nodeName);
    ofNode.delete(pool);
    if (ofNode.size === 0) byNode.delete(nodeName);
  };
  const concerned = (pool: Pool): Iterable<string> | undefined => (pool.open > 0 ? undefined : [...pool.nodes.keys()]);
  const selected = (rule: TaintRuleRecord): Iterable<string> | undefined => {
    const nodes = new Set<string>();
    for (const pool of pools.values()) {
      if (![...pool.slices.values()].some((slice) => concerns(rule, slice))) continue;
      if (pool.open > 0) return undefined;
      for (const node of pool.nodes.keys()) nodes.add(node);
    }
    return nodes;
  };
  return {
    get: (name) => byName.get(name),
    set(slice) {
      const key = `${slice.driver}/${slice.pool}`;
      const pool = pools.get(key) ?? { key, slices: new Map(), nodes: new Map(), open: 0 };
      pools.set(key, pool);
      byName.set(slice.name, slice);
      pool.slices.set(slice.name, slice);
      count(pool, slice, 1);
      return concerned(pool);
    },
    remove(slice) {
      const pool = pools.get(`${slice.driver}/${slice.pool}`)!;
      const before = concerned(pool);
      byName.delete(slice.name);
      pool.slices.delete(slice.name);
      count(pool, slice, -1);
      if (pool.slices.size === 0) pools.delete(pool.key);
      return before;
    },
    rule: rules.get,
    setRule(rule) {
      rules.set(rule);
      return selected(rule);
    },
    removeRule(rule) {
      rules.delete(rule.name);
      return selected(rule);
    },
    of(node) {
      const own = byNode.get(node) ?? [];
      return [...new Set([...own, ...open])].flatMap((pool) => [...pool.slices.values()].map(rules.applied));
    },
  };
}
