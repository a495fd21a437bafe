import type { GangPhase } from "../api/gang.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import { gangVictim, podVictim, type Victim } from "../gang/victims.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";

/** Who could leave for somebody, and who is leaving already because of an earlier decision. */
export interface Preemptible {
  candidates: Victim[];
  leaving: Victim[];
}

const holding: ReadonlySet<GangPhase> = new Set(["Preempting", "Reserved", "Scheduled"]);

/**
 * Everybody of lower priority that kllama placed: gangs whole, the gangs of a PlacementGroup together, because none is of use
 * without the others, and pods without a gang. Gangs that are being bound are left alone until they are.
 * @param keys gangs for which room is wanted, which are no victims, nor is their group
 * @param below victims have a lower priority
 * @param isDoomed whether somebody with that UID (and, of a Gang, `status.attempts`) leaves by an earlier decision
 */
export function preemptibleIn(
  model: ClusterModel,
  states: Iterable<GangState>,
  groupOf: (state: GangState) => PlacementGroupRecord | undefined,
  keys: ReadonlySet<string>,
  below: number,
  isDoomed: (uid: string, attempts?: number) => boolean = () => false,
): Preemptible {
  const units = new Map<string, GangState[]>();
  for (const state of states) {
    if (state.gang === undefined || state.gang.deleting) continue;
    const group = groupOf(state);
    const id = group === undefined ? state.key : `group:${group.namespace}/${group.name}`;
    units.set(id, [...(units.get(id) ?? []), state]);
  }
  const result: Preemptible = { candidates: [], leaving: [] };
  for (const [id, all] of units) {
    for (const state of all) {
      const leaves = phaseOf(state) === "Preempted" || isDoomed(state.gang?.uid ?? "", state.gang?.status.attempts);
      if (leaves && isBelow(state, below)) {
        result.leaving.push(gangVictim(model, state.key, [state]));
      }
    }
    if (all.some(({ key }) => keys.has(key)) || all.some((state) => phaseOf(state) === "Binding")) continue;
    const there = all.filter(
      (state) => holding.has(phaseOf(state)) && !isDoomed(state.gang?.uid ?? "", state.gang?.status.attempts),
    );
    if (there.length === 0 || there.some((state) => !isBelow(state, below))) continue;
    result.candidates.push(gangVictim(model, id, there));
  }
  for (const pod of model.pods.values()) {
    if (pod.priority >= below || !isPlacedAlone(model, pod)) continue;
    result[pod.deleting || isDoomed(pod.uid) ? "leaving" : "candidates"].push(podVictim(model, pod));
  }
  return result;
}

function phaseOf({ gang }: GangState): GangPhase {
  return gang?.status.phase ?? "Pending";
}

/** Of a gang whose pods are all on their way back nobody knows the priority: it keeps its places. */
function isBelow({ pods }: GangState, below: number): boolean {
  const live = [...pods.values()].filter(({ terminal }) => !terminal);
  return live.length > 0 && live.every(({ priority }) => priority < below);
}

/** A pod of its own that runs on devices which the planner gave it. */
function isPlacedAlone(model: ClusterModel, { gang, nodeName, terminal, namespace, claims }: PodRecord): boolean {
  if (gang !== undefined || nodeName === undefined || terminal || claims.length === 0) return false;
  return claims.every(
    ({ claimName }) => claimName !== undefined && model.claim(namespace, claimName)?.allocatedByPlanner === true,
  );
}
