import type { PlacedPod } from "../api/placement.ts";
import { namespaceOf } from "../gang/keys.ts";
import { type GangState, heldPods, placesGivenUp } from "../gang/lifecycle/state.ts";
import type { ClusterModel, HeldPod } from "../topology/model.ts";
import type { PodRecord, Resources } from "../topology/records.ts";
import type { Doubts } from "./doubts.ts";
import type { HeldPlaces } from "./limits.ts";

/** What the model holds for gangs: what their states say, and within a batch of plans what these try out. */
export interface GangHolds {
  /** As the gang's state says; a no-op when that is what is held. */
  settle(state: GangState): void;
  /** Other places for as long as the batch lasts, or until `settle`. */
  tryOut(state: GangState, pods: readonly PlacedPod[]): void;
  /** What its state said when it was settled. */
  restore(state: GangState): void;
  /** As the gang's state says, whatever is held. */
  renew(state: GangState): void;
  /** Gangs that hold places on the node. */
  onNode(node: string): string[];
}

export function createGangHolds(model: ClusterModel, places: HeldPlaces, doubts: Doubts): GangHolds {
  /** Places by identity: what is held anew is a new list. And the members of them that are missing. */
  const settled = new Map<string, { held: readonly PlacedPod[]; missing: string }>();

  function hold(state: GangState, pods: readonly PlacedPod[]): void {
    const { key } = state;
    places.set(key, pods.length);
    model.hold(key, namespaceOf(key), [
      ...toHeldPods(pods, podsByName(state)),
      ...placesGivenUp(state, pods).map(toHeldDevices),
    ]);
  }

  function settle(state: GangState): void {
    const held = heldPods(state);
    const before = settled.get(state.key);
    if (held.length === 0 && before === undefined) return;
    const missing = missingOf(held, podsByName(state));
    if (held === before?.held && missing === before.missing) return;
    if (before !== undefined && held !== before.held) doubts.releasing(state.key);
    if (held.length === 0) settled.delete(state.key);
    else settled.set(state.key, { held, missing });
    hold(state, held);
  }

  return {
    settle,
    renew(state) {
      model.restore(`hold:${state.key}`);
      places.set(state.key, 0);
      settled.delete(state.key);
      settle(state);
    },
    tryOut(state, pods) {
      doubts.releasing(state.key);
      hold(state, pods);
    },
    restore(state) {
      hold(state, settled.get(state.key)?.held ?? []);
    },
    onNode(node) {
      return [...settled].flatMap(([key, { held }]) => (held.some((placed) => placed.node === node) ? [key] : []));
    },
  };
}

/** Nobody will run there, so it takes nothing else of the node; a slot of its own beside that of the new place. */
function toHeldDevices(place: PlacedPod): HeldPod {
  return { placed: { ...place, pod: "", podSet: `${place.podSet} (given up)` }, requests: {} };
}

/**
 * What a member that is missing asks of its node stands nowhere; until it is created again its place is held with what the
 * first of its pod set asks. Nothing is remembered: a planner that starts now has to hold the same.
 */
function toHeldPods(places: readonly PlacedPod[], pods: ReadonlyMap<string, PodRecord>): HeldPod[] {
  const siblings = new Map<string, Resources>();
  for (const { podSet, pod } of places.toSorted((a, b) => a.index - b.index)) {
    const requests = pods.get(pod)?.requests;
    if (requests !== undefined && !siblings.has(podSet)) siblings.set(podSet, requests);
  }
  return places.map((placed) => {
    const pod = pods.get(placed.pod);
    if (pod === undefined) return { placed, requests: siblings.get(placed.podSet) ?? {} };
    return { placed, requests: pod.requests, podUid: pod.uid };
  });
}

function podsByName({ pods }: GangState): Map<string, PodRecord> {
  const byName = new Map<string, PodRecord>();
  for (const pod of pods.values()) if (!byName.has(pod.name)) byName.set(pod.name, pod);
  return byName;
}

function missingOf(places: readonly PlacedPod[], pods: ReadonlyMap<string, PodRecord>): string {
  return places.flatMap(({ pod }) => (pods.has(pod) ? [] : pod)).join();
}
