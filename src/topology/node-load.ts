import type { Resources } from "./records.ts";

/**
 * What the pods of one node ask of it: bound pods, and holds for pods that are still to come. A hold and the bound pod
 * of the same name are one consumer, so the pod counts and the hold does not.
 */
export interface NodeLoad {
  /** Resource name → sum of requests; `pods` counts one per consumer. */
  readonly used: Readonly<Record<string, number>>;
  /** `pod`: `namespace/name`. Absent `requests` removes the entry. Tells whether something became free, or was taken. */
  setPod(pod: string, uid: string, requests: Resources | undefined): LoadChange;
  setHold(pod: string, slot: string, requests: Resources | undefined): LoadChange;
  /** What a hold adds to `used` now: nothing while its pod is bound. */
  heldBy(pod: string, slot: string): Resources | undefined;
  /** Pods that run there, by UID, with what they ask for. */
  running(): Iterable<readonly [uid: string, requests: Resources]>;
  readonly empty: boolean;
}

export interface LoadChange {
  changed: boolean;
  freed: boolean;
}

interface Consumer {
  readonly pods: Map<string, Resources>;
  readonly holds: Map<string, Resources>;
}

export function createNodeLoad(): NodeLoad {
  const used: Record<string, number> = {};
  const consumers = new Map<string, Consumer>();

  const count = (requests: Resources, by: 1 | -1) => {
    for (const name in requests) {
      // Requests may name the pod itself, which is counted below.
      if (name === "pods") continue;
      const amount = (used[name] ?? 0) + by * requests[name]!;
      if (amount === 0) delete used[name];
      else used[name] = amount;
    }
    used["pods"] = (used["pods"] ?? 0) + by;
    if (used["pods"] === 0) delete used["pods"];
  };
  const change = (pod: string, kind: "pods" | "holds", id: string, requests: Resources | undefined): LoadChange => {
    const consumer = consumers.get(pod) ?? { pods: new Map(), holds: new Map() };
    if (consumer[kind].get(id) === requests) return { changed: false, freed: false };
    const before = effective(consumer);
    if (requests) consumer[kind].set(id, requests);
    else consumer[kind].delete(id);
    const after = effective(consumer);
    if (consumer.pods.size + consumer.holds.size === 0) consumers.delete(pod);
    else consumers.set(pod, consumer);
    const freed = isLess(after, before);
    for (const each of before) count(each, -1);
    for (const each of after) count(each, 1);
    return { changed: true, freed };
  };
  return {
    used,
    setPod: (pod, uid, requests) => change(pod, "pods", uid, requests),
    setHold: (pod, slot, requests) => change(pod, "holds", slot, requests),
    heldBy(pod, slot) {
      const consumer = consumers.get(pod);
      return consumer && consumer.pods.size === 0 ? consumer.holds.get(slot) : undefined;
    },
    *running() {
      for (const { pods } of consumers.values()) yield* pods;
    },
    get empty() {
      return consumers.size === 0;
    },
  };
}

/** What one consumer counts for: its pods, or its holds while it has no pod. */
function effective(consumer: Consumer): Resources[] {
  return [...(consumer.pods.size > 0 ? consumer.pods : consumer.holds).values()];
}

function isLess(after: readonly Resources[], before: readonly Resources[]): boolean {
  if (after.length < before.length) return true;
  const sums: Record<string, number> = {};
  for (const each of after) for (const name in each) sums[name] = (sums[name] ?? 0) + each[name]!;
  for (const each of before) for (const name in each) sums[name] = (sums[name] ?? 0) - each[name]!;
  return Object.values(sums).some((difference) => difference < 0);
}
