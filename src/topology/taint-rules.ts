import type { Device } from "../api/kubernetes.ts";
import { comparePlain } from "./natural-order.ts";
import type { SliceRecord, TaintRuleRecord } from "./records.ts";

/** The DeviceTaintRules of a cluster by name, and what they make of slices. */
export interface TaintRules {
  get(name: string): TaintRuleRecord | undefined;
  set(rule: TaintRuleRecord): void;
  delete(name: string): void;
  /**
   * The slice with the taints of all rules behind those that its driver published, as kube-scheduler sees it
   * (`k8s.io/dynamic-resource-allocation/resourceslice/tracker`). A slice that no rule concerns is itself.
   */
  applied(slice: SliceRecord): SliceRecord;
}

export function createTaintRules(): TaintRules {
  const byName = new Map<string, TaintRuleRecord>();
  /** By name: upstream's order is that of a map, so that any will do, but plans want the same one each time. */
  let sorted: readonly TaintRuleRecord[] = [];
  /** Slices that several nodes reach are asked for once for each of them. */
  let known = new WeakMap<SliceRecord, SliceRecord>();
  const changed = () => {
    sorted = [...byName.values()].sort((a, b) => comparePlain(a.name, b.name));
    known = new WeakMap();
  };
  return {
    get: (name) => byName.get(name),
    set(rule) {
      byName.set(rule.name, rule);
      changed();
    },
    delete(name) {
      byName.delete(name);
      changed();
    },
    applied(slice) {
      if (sorted.length === 0) return slice;
      let result = known.get(slice);
      if (result === undefined) {
        result = withTaints(slice, sorted);
        known.set(slice, result);
      }
      return result;
    },
  };
}

/** Does the rule select a device of the slice? */
export function concerns(rule: TaintRuleRecord, slice: SliceRecord): boolean {
  return mayConcern(rule, slice) && slice.devices.some((device) => selects(rule, device));
}

/** By driver and pool; a field that is absent selects all, a selector that is absent nothing. */
function mayConcern({ selector }: TaintRuleRecord, { driver, pool }: SliceRecord): boolean {
  return selector !== undefined && (selector.driver ?? driver) === driver && (selector.pool ?? pool) === pool;
}

function selects({ selector }: TaintRuleRecord, { name }: Device): boolean {
  return (selector?.device ?? name) === name;
}

function withTaints(slice: SliceRecord, all: readonly TaintRuleRecord[]): SliceRecord {
  const rules = all.filter((rule) => concerns(rule, slice));
  if (rules.length === 0) return slice;
  const devices = slice.devices.map((device): Device => {
    const taints = rules.flatMap((rule) => (selects(rule, device) ? rule.taint : []));
    return taints.length === 0 ? device : { ...device, taints: [...(device.taints ?? []), ...taints] };
  });
  return { ...slice, devices };
}
