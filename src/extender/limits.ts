import type { GangPlacement } from "../api/gang.ts";
import type { Blocking, Placement, RejectionReason } from "../api/placement.ts";
import { namespaceOf } from "../gang/keys.ts";
import type { GangState } from "../gang/lifecycle/state.ts";

/** What one gang, one namespace and all gangs together may take of the control plane. */
export interface PlannerLimits {
  /** Pods that are released and not yet bound at a time; one larger gang may be released alone. */
  releasedPods: number;
  /** Pods that a gang may have, all pod sets together. */
  gangPods: number;
  /** Pods that the gangs of one namespace may hold places for. */
  namespacePods: number;
  /** After so long without room the first gang of the queue has others kept off the places it waits for; 0: never. */
  drainAfterMs: number;
}

export const defaultLimits: PlannerLimits = {
  releasedPods: 64,
  gangPods: 2_000,
  namespacePods: 10_000,
  drainAfterMs: 300_000,
};

/**
 * Bytes of a placement as JSON. etcd takes 1.5 MiB per request by default, and what else a Gang consists of (spec, managed
 * fields, conditions) needs some of it.
 */
const maxPlacementBytes = 1024 * 1024;

interface LimitFault {
  reason: Extract<RejectionReason, "GangTooLarge" | "NamespaceLimit">;
  message: string;
  /** Left out: nothing is short, the gang itself has to be corrected. */
  blocking?: readonly Blocking[];
}

/** Places that gangs hold, by namespace. Keys are `namespace/name`. */
export interface HeldPlaces {
  set(key: string, places: number): void;
  /** What the gangs of the namespace hold but for those named. */
  others(namespace: string, keys: readonly string[]): number;
}

export function createHeldPlaces(): HeldPlaces {
  const byGang = new Map<string, number>();
  const byNamespace = new Map<string, number>();
  return {
    set(key, places) {
      const namespace = namespaceOf(key);
      const total = (byNamespace.get(namespace) ?? 0) + places - (byGang.get(key) ?? 0);
      keep(byGang, key, places);
      keep(byNamespace, namespace, total);
    },
    others(namespace, keys) {
      return keys.reduce((sum, key) => sum - (byGang.get(key) ?? 0), byNamespace.get(namespace) ?? 0);
    },
  };
}

function keep(counts: Map<string, number>, key: string, count: number): void {
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}

/** @returns for each of the gangs, which are planned together in one namespace, what is wrong with it */
export function limitFaults(
  states: readonly GangState[],
  held: HeldPlaces,
  limits: PlannerLimits,
): (LimitFault | undefined)[] {
  const keys = states.map(({ key }) => key);
  let others = held.others(namespaceOf(keys[0] ?? ""), keys);
  return states.map((state) => {
    const fault = limitFault(state, others, limits);
    others += podsOf(state);
    return fault;
  });
}

function podsOf({ gang }: GangState): number {
  return (gang?.spec.podSets ?? []).reduce((sum, podSet) => sum + podSet.count, 0);
}

function limitFault(state: GangState, others: number, limits: PlannerLimits): LimitFault | undefined {
  const { gang } = state;
  if (gang === undefined) return undefined;
  const pods = podsOf(state);
  if (pods > limits.gangPods) {
    return {
      reason: "GangTooLarge",
      message: `spec.podSets ask for ${pods} pods together, and a gang may have ${limits.gangPods}; lower their counts or split the gang`,
    };
  }
  if (others + pods <= limits.namespacePods) return undefined;
  return {
    reason: "NamespaceLimit",
    message: `gangs of namespace ${gang.namespace} hold places for ${others} other pods, and ${pods} more exceed the ${limits.namespacePods} that a namespace may have; make room or ask for a higher limit`,
    blocking: [
      { level: "namespace", resource: "pods", needed: pods, available: Math.max(0, limits.namespacePods - others) },
    ],
  };
}

/** A placement that the Gang's status cannot hold. */
export function placementFault(state: GangState, placement: Placement): LimitFault | undefined {
  const kept: GangPlacement["pods"] = state.gang?.status.placement?.pods ?? [];
  const pods = kept.length + placement.pods.length;
  const bytes = JSON.stringify(placement.pods).length + (kept.length === 0 ? 0 : JSON.stringify(kept).length);
  if (bytes <= maxPlacementBytes) return undefined;
  return {
    reason: "GangTooLarge",
    message: `the places of ${pods} pods take ${bytes} bytes, and the Gang's status holds ${maxPlacementBytes}; split the gang, ask for fewer devices per pod, or shorten names`,
  };
}
