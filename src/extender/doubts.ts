import type { PlacedDevice } from "../api/placement.ts";
import { mayHavePassed, type Outcome } from "../gang/lifecycle/state.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { WriteEffect } from "./effects.ts";

/** kube-apiserver ends every request after a minute (`--request-timeout`). */
const doubtMs = 60_000;

/**
 * Reservations that may come to pass yet: their connection broke, and the claim is as it was. Whoever asked for one may
 * have given up by then, so its devices are held here until the claim changes, which refuses the write, or its time is over.
 */
export interface Doubts {
  /** After every write: only one without an answer leaves a doubt. */
  note(effect: WriteEffect, outcome: Outcome, nowMs: number): void;
  /** The claim was seen in this version, or (undefined) is gone. @returns devices that are held for it no longer */
  settle(claimUid: string, resourceVersion: string | undefined): readonly PlacedDevice[];
  /** @returns devices whose time is over, and that are held no longer */
  expire(nowMs: number): readonly PlacedDevice[];
  /** When the next one is over. */
  next(): number;
}

/** The key under which the model holds the devices. */
export function doubtKey(claimUid: string): string {
  return `doubt/${claimUid}`;
}

export function createDoubts(model: ClusterModel): Doubts {
  /** claim UID → the version that the write rests on, its devices, its end */
  const known = new Map<string, { resourceVersion: string; devices: readonly PlacedDevice[]; untilMs: number }>();

  function forget(claimUid: string): readonly PlacedDevice[] {
    const { devices = [] } = known.get(claimUid) ?? {};
    if (known.delete(claimUid)) model.release(doubtKey(claimUid));
    return devices;
  }

  return {
    note(effect, outcome, nowMs) {
      if (effect.type !== "reserveClaim" || effect.claim.allocated || !mayHavePassed(outcome)) return;
      const { namespace, name, uid, resourceVersion } = effect.claim;
      const now = model.claim(namespace, name);
      if (now?.uid !== uid || now.resourceVersion !== resourceVersion) return;
      const { devices } = effect.placed;
      known.set(uid, { resourceVersion, devices, untilMs: nowMs + doubtMs });
      const placed = { pod: doubtKey(uid), podSet: "", index: 0, node: effect.node, claims: [effect.placed] };
      model.hold(doubtKey(uid), namespace, [{ placed, requests: {} }]);
    },
    settle(claimUid, resourceVersion) {
      return known.get(claimUid)?.resourceVersion === resourceVersion ? [] : forget(claimUid);
    },
    expire(nowMs) {
      const over = [...known].filter(([, { untilMs }]) => untilMs <= nowMs);
      return over.flatMap(([claimUid]) => forget(claimUid));
    },
    next: () => [...known.values()].reduce((first, { untilMs }) => Math.min(first, untilMs), Number.POSITIVE_INFINITY),
  };
}
