import type { GangStatus, PreemptedUnit } from "../api/gang.ts";
import type { Context, GangState, PodReference } from "../gang/lifecycle/state.ts";
import type { ClusterModel } from "../topology/model.ts";

/** Preemptions that are under way: gangs in phase Preempting, as the API server has them, and whom they list. */
export interface Preemptions {
  /** After each decision about a gang. @returns gangs whose next decision may be another one for it */
  track(state: GangState): string[];
  /** Gangs that wait for others to leave. */
  waiting(): string[];
  condemned: Context["condemned"];
  leaving: Context["leaving"];
}

/** @param gangWith the gang with that UID */
export function createPreemptions(model: ClusterModel, gangWith: (uid: string) => GangState | undefined): Preemptions {
  /** Key → those that have to leave for the gang. */
  const preemptors = new Map<string, readonly PreemptedUnit[]>();

  function gangsOf(units: readonly PreemptedUnit[]): GangState[] {
    return units.flatMap(({ kind, uid }) => (kind === "Gang" ? (gangWith(uid) ?? []) : []));
  }

  function hasLeft(unit: PreemptedUnit): boolean {
    if (unit.kind === "Pod") return model.pod(unit.uid)?.terminal ?? true;
    const gang = gangWith(unit.uid)?.gang;
    return gang === undefined || gang.deleting || !(isPlaced(gang.status, unit) || isEvicted(gang.status, unit));
  }

  return {
    track(state) {
      const { key, gang } = state;
      const preempting =
        gang?.status.phase === "Preempting" && !gang.deleting ? (gang.status.preempting ?? []) : undefined;
      const before = preemptors.get(key);
      if (preempting === undefined) preemptors.delete(key);
      else preemptors.set(key, preempting);
      const victims = preempting === before ? [] : gangsOf(preempting ?? []).map((victim) => victim.key);
      return victims;
    },
    waiting: () => [...preemptors.keys()],
    condemned({ key, gang }) {
      if (gang === undefined || preemptors.size === 0) return false;
      return [...preemptors].some(
        ([preemptor, units]) =>
          preemptor !== key && units.some((unit) => unit.uid === gang.uid && isPlaced(gang.status, unit)),
      );
    },
    leaving({ gang }) {
      const units = gang?.status.preempting ?? [];
      const evict = units.flatMap(({ kind, uid }): PodReference[] => {
        const pod = kind === "Pod" ? model.pod(uid) : undefined;
        if (pod === undefined || pod.terminal || pod.deleting) return [];
        return [{ namespace: pod.namespace, name: pod.name, uid }];
      });
      return { left: units.filter((unit) => !hasLeft(unit)).length, evict };
    },
  };
}

/** It has the place that was meant: each one that it gives up counts. */
function isPlaced({ phase, attempts = 0 }: GangStatus, unit: PreemptedUnit): boolean {
  const holds = phase === "Preempting" || phase === "Reserved" || phase === "Binding" || phase === "Scheduled";
  return holds && attempts === (unit.attempts ?? 0);
}

/** It has given up that place, and not all of its pods are gone. */
function isEvicted({ phase, attempts = 0 }: GangStatus, unit: PreemptedUnit): boolean {
  return phase === "Preempted" && attempts === (unit.attempts ?? 0) + 1;
}
