import type { PlacedPod } from "../api/placement.ts";
import { namespaceOf } from "../gang/keys.ts";
import { type GangState, heldPods, placesGivenUp } from "../gang/lifecycle/state.ts";
import type { ClusterModel, HeldPod } from "../topology/model.ts";
import type { Resources } from "../topology/records.ts";
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
  /** Gangs that hold places on the node. */
  onNode(node: string): string[];
}

export function createGangHolds(model: ClusterModel, places: HeldPlaces, doubts: Doubts): GangHolds {
  /** By identity: what is held anew is a new list. */
  const settled = new Map<string, readonly PlacedPod[]>();

  function hold(state: GangState, pods: readonly PlacedPod[]): void {
    const { key } = state;
    places.set(key, pods.length);
    const held = pods.map((placed) => toHeldPod(state, placed));
    model.hold(key, namespaceOf(key), [...held, ...placesGivenUp(state, pods).map(toHeldDevices)]);
  }

  return {
    settle(state) {
      const held = heldPods(state);
      const before = settled.get(state.key);
      if (held === before || (held.length === 0 && before === undefined)) return;
      if (before !== undefined) doubts.releasing(state.key);
      if (held.length === 0) settled.delete(state.key);
      else settled.set(state.key, held);
      hold(state, held);
    },
    tryOut(state, pods) {
      doubts.releasing(state.key);
      hold(state, pods);
    },
    restore(state) {
      hold(state, settled.get(state.key) ?? []);
    },
    onNode(node) {
      return [...settled].flatMap(([key, held]) => (held.some((placed) => placed.node === node) ? [key] : []));
    },
  };
}

/** Nobody will run there, so it takes nothing else of the node; a slot of its own beside that of the new place. */
function toHeldDevices(place: PlacedPod): HeldPod {
  return { placed: { ...place, pod: "", podSet: `${place.podSet} (given up)` }, requests: {} };
}

function toHeldPod(state: GangState, placed: PlacedPod): HeldPod {
  for (const pod of state.pods.values()) {
    if (pod.name === placed.pod) return { placed, requests: pod.requests, podUid: pod.uid };
  }
  const nothing: Resources = {};
  return { placed, requests: nothing };
}
