import type { GangPhase } from "../api/gang.ts";
import type { Steps } from "../gang/in-slices.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import { gangVictim, podVictim, podVictimId, type Victim } from "../gang/victims.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";

/** Who could leave for somebody, and who is leaving already because of an earlier decision. */
export interface Preemptible {
  candidates: Victim[];
  leaving: Victim[];
}

const holding: ReadonlySet<GangPhase> = new Set(["Preempting", "Reserved", "Scheduled"]);

interface Question {
  /** Gangs for which room is wanted, which are no victims, nor is their group. */
  readonly keys: ReadonlySet<string>;
  /** Victims have a lower priority. */
  readonly below: number;
  /** Does somebody with that UID (and, of a Gang, `status.attempts`) leave by an earlier decision? Default: nobody does. */
  isDoomed?(uid: string, attempts?: number): boolean;
  /** Of others it need not be known whether they could leave, by their `Victim.id`. Default: of everybody. */
  mayLeave?(id: string): boolean;
}

/** So many units are looked at in one step. */
const unitsPerStep = 512;

/**
 * Everybody of lower priority that kllama placed: gangs whole, the gangs of a PlacementGroup together, because none is of use
 * without the others, and pods without a gang. Gangs that are being bound are left alone until they are.
 */
export function* preemptibleIn(
  model: ClusterModel,
  states: Iterable<GangState>,
  groupOf: (state: GangState) => PlacementGroupRecord | undefined,
  { keys, below, isDoomed = () => false, mayLeave = () => true }: Question,
): Steps<Preemptible> {
  const result: Preemptible = { candidates: [], leaving: [] };
  const leaves = (state: GangState): boolean =>
    phaseOf(state) === "Preempted" || isDoomed(state.gang?.uid ?? "", state.gang?.status.attempts);
  let looked = 0;
  for (const [id, all] of unitsOf(states, groupOf)) {
    if (++looked % unitsPerStep === 0) yield;
    for (const state of all) {
      if (leaves(state) && isBelow(state, below)) result.leaving.push(gangVictim(model, state.key, [state]));
    }
    if (!mayLeave(id) || all.some((state) => keys.has(state.key) || phaseOf(state) === "Binding")) continue;
    const there = all.filter((state) => holding.has(phaseOf(state)) && !leaves(state));
    if (there.length === 0 || there.some((state) => !isBelow(state, below))) continue;
    result.candidates.push(gangVictim(model, id, there));
  }
  for (const pod of model.pods.values()) {
    if (++looked % unitsPerStep === 0) yield;
    if (pod.priority >= below || !isPlacedAlone(model, pod)) continue;
    if (pod.deleting || isDoomed(pod.uid)) result.leaving.push(podVictim(model, pod));
    else if (mayLeave(podVictimId(pod))) result.candidates.push(podVictim(model, pod));
  }
  return result;
}

/** What leaves together, by what the victim is called. */
function unitsOf(
  states: Iterable<GangState>,
  groupOf: (state: GangState) => PlacementGroupRecord | undefined,
): Map<string, GangState[]> {
  const units = new Map<string, GangState[]>();
  for (const state of states) {
    if (state.gang === undefined || state.gang.deleting) continue;
    const group = groupOf(state);
    const id = group === undefined ? state.key : `group:${group.namespace}/${group.name}`;
    const unit = units.get(id);
    if (unit === undefined) units.set(id, [state]);
    else unit.push(state);
  }
  return units;
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
