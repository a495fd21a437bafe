import { claimFinalizer } from "../api/names.ts";
import type { PlacedClaim, PlacedDevice } from "../api/placement.ts";
import { mayHavePassed, type Outcome } from "../gang/lifecycle/state.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { WriteEffect } from "./effects.ts";

/** kube-apiserver ends every request after a minute (`--request-timeout`). */
const doubtMs = 60_000;

/**
 * Reservations that may come to pass yet: they are under way, or their connection broke, and the claim is as it was.
 * When whoever asked for one gives up before that is known, its devices are held here until the claim is seen in another
 * version, which refuses the write, or its time is over.
 */
export interface Doubts {
  /** Before every write. `owner`: under this key the model holds what it reserves. */
  sent(effect: WriteEffect, owner: string): void;
  /** After every write. */
  answered(effect: WriteEffect, outcome: Outcome, nowMs: number): void;
  /** Before the model lets go of what it holds under that key. */
  releasing(owner: string): void;
  /**
   * The claim was seen in this version, or (undefined) is gone. `bare`: it has the finalizer and no allocation.
   * @returns devices that are held for it no longer
   */
  settle(claimUid: string, resourceVersion: string | undefined, bare?: boolean): readonly PlacedDevice[];
  /** @returns devices whose time is over, and that are held no longer */
  expire(nowMs: number): readonly PlacedDevice[];
  /** When the next one is over. */
  next(): number;
}

interface Attempt {
  owner: string;
  placed: PlacedClaim;
  node: string;
  /** Infinite as long as it is under way. */
  untilMs: number;
}

/** Attempts to reserve one claim, all of which rest on this version of it: at most one can come to pass. */
interface Doubt {
  namespace: string;
  resourceVersion: string;
  /** The claim lacks the finalizer, which is written first: the reservation itself rests on the version after that. */
  unprotected: boolean;
  attempts: Attempt[];
}

/** The key under which the model holds the devices; no gang's: namespaces have no colon. */
export function doubtKey(claimUid: string): string {
  return `doubt:${claimUid}`;
}

export function createDoubts(model: ClusterModel): Doubts {
  const doubts = new Map<string, Doubt>(); // by claim UID
  const claimsOf = new Map<string, Set<string>>(); // owner -> UIDs of claims under way
  const unanswered = new Set<string>(); // claim UIDs

  function hold(claimUid: string, { namespace, attempts }: Doubt): void {
    const pods = attempts.map(({ placed, node }, index) => ({
      placed: { pod: doubtKey(claimUid), podSet: "", index, node, claims: [placed] },
      requests: {},
    }));
    model.hold(doubtKey(claimUid), namespace, pods);
  }

  function forget(claimUid: string): PlacedDevice[] {
    const { attempts = [] } = doubts.get(claimUid) ?? {};
    doubts.delete(claimUid);
    unanswered.delete(claimUid);
    for (const { owner } of attempts) leave(owner, claimUid);
    model.release(doubtKey(claimUid));
    return attempts.flatMap(({ placed }) => placed.devices);
  }

  function leave(owner: string, claimUid: string): void {
    const claims = claimsOf.get(owner);
    if (claims?.delete(claimUid) === true && claims.size === 0) claimsOf.delete(owner);
  }

  function isHeld(claimUid: string): boolean {
    return model.view.heldUnder(doubtKey(claimUid)).length > 0;
  }

  function remove(claimUid: string, doubt: Doubt, gone: (attempt: Attempt) => boolean): PlacedDevice[] {
    const over = doubt.attempts.filter(gone);
    if (over.length === doubt.attempts.length) return forget(claimUid);
    doubt.attempts = doubt.attempts.filter((attempt) => !over.includes(attempt));
    for (const { owner } of over) {
      if (!doubt.attempts.some((attempt) => attempt.owner === owner)) leave(owner, claimUid);
    }
    if (isHeld(claimUid)) hold(claimUid, doubt);
    return over.flatMap(({ placed }) => placed.devices);
  }

  return {
    sent(effect, owner) {
      // What is allocated already lacks consumers only.
      if (effect.type !== "reserveClaim" || effect.claim.allocated) return;
      const { namespace, uid, resourceVersion, finalizers } = effect.claim;
      if (doubts.get(uid)?.resourceVersion !== resourceVersion) forget(uid);
      const unprotected = !finalizers.includes(claimFinalizer);
      const doubt = doubts.get(uid) ?? { namespace, resourceVersion, unprotected, attempts: [] };
      doubt.attempts.push({ owner, placed: effect.placed, node: effect.node, untilMs: Number.POSITIVE_INFINITY });
      doubts.set(uid, doubt);
      claimsOf.set(owner, (claimsOf.get(owner) ?? new Set()).add(uid));
    },
    answered(effect, outcome, nowMs) {
      if (effect.type !== "reserveClaim" || effect.claim.allocated) return;
      const { uid } = effect.claim;
      const doubt = doubts.get(uid);
      const attempt = doubt?.attempts.find(
        ({ placed, untilMs }) => placed === effect.placed && !Number.isFinite(untilMs),
      );
      if (doubt === undefined || attempt === undefined) return;
      if (!mayHavePassed(outcome)) {
        remove(uid, doubt, (each) => each === attempt);
        return;
      }
      attempt.untilMs = nowMs + doubtMs;
      unanswered.add(uid);
      hold(uid, doubt);
    },
    releasing(owner) {
      for (const uid of claimsOf.get(owner) ?? []) {
        const doubt = doubts.get(uid);
        if (doubt !== undefined) hold(uid, doubt);
      }
    },
    settle(claimUid, resourceVersion, bare = false) {
      const doubt = doubts.get(claimUid);
      if (doubt === undefined || doubt.resourceVersion === resourceVersion) return [];
      if (!bare || !doubt.unprotected || resourceVersion === undefined) return forget(claimUid);
      doubt.resourceVersion = resourceVersion;
      doubt.unprotected = false;
      return [];
    },
    expire(nowMs) {
      return [...unanswered].flatMap((uid) => {
        const doubt = doubts.get(uid);
        return doubt === undefined ? [] : remove(uid, doubt, ({ untilMs }) => untilMs <= nowMs);
      });
    },
    next() {
      let nextMs = Number.POSITIVE_INFINITY;
      for (const uid of unanswered) {
        for (const { untilMs } of doubts.get(uid)?.attempts ?? []) nextMs = Math.min(nextMs, untilMs);
      }
      return nextMs;
    },
  };
}
