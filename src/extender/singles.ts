import { gangGate } from "../api/names.ts";
import type { Placement } from "../api/placement.ts";
import type { Batch } from "../gang/batch.ts";
import { isLeft } from "../gang/left-claims.ts";
import { hasAllClaims } from "../gang/lifecycle/claims.ts";
import { tellPod } from "../gang/lifecycle/orphans.ts";
import { avoid, avoiding, expireAvoided, refusalSettlesMs } from "../gang/lifecycle/refusals.ts";
import { decideSingle, type SingleState } from "../gang/lifecycle/single.ts";
import type { Effect, Outcome } from "../gang/lifecycle/state.ts";
import { pauseAfter } from "../gang/lifecycle/step.ts";
import { budgetExceededFor, type GangRequest, singlePodGang } from "../gang/plan.ts";
import { sharingFault } from "../gang/shared-claims.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import { createClaimWatchers } from "./claim-watchers.ts";
import type { WriteEffect } from "./effects.ts";
import { podKey, type Queued } from "./pending-plans.ts";
import type { CoordinatorPorts } from "./ports.ts";

/** Pods without a Gang whose claims kllama allocates (see `decideSingle`). Owners of their effects are `pod:UID`. */
export interface Singles {
  observePod(pod: PodRecord): void;
  forget(uid: string): void;
  observeClaim(claim: ClaimRecord): void;
  observeClaimGone(claim: { namespace: string; name: string }): void;
  /** @returns whether the effect belonged to a single pod. */
  written(effect: WriteEffect, owner: string, outcome: Outcome): boolean;
  wakeRefused(): void;
  activate(): void;
  /** @returns false when time was up before everything was decided. */
  flush(): boolean;
  isDirty(): boolean;
  wakeAtMs(): number;
  /** Pods that ask for a plan. */
  waiting(): (Queued & { uid: string })[];
  planOne(uid: string, batch: Batch): void;
  /** A batch gives the pod a place, or takes it back. @returns whether the request is that of a single pod. */
  take(gang: GangRequest, placement: Placement): boolean;
  giveBack(gang: GangRequest): boolean;
}

const firstRefusedPauseMs = 250;
/** Pods that can never fit ask again whenever anything is freed: the more often in vain, the less often. */
const lastRefusedPauseMs = 8_000;
/** Gangs and kube-scheduler's calls wait no longer than this for pods that are no members. */
const sliceMs = 10;

export function createSingles(
  model: ClusterModel,
  ports: CoordinatorPorts,
  touch: () => void,
  /** Told before the model lets go of what it holds under a key. */
  releasing: (owner: string) => void = () => undefined,
): Singles {
  const states = new Map<string, SingleState>();
  const podsOfClaim = createClaimWatchers();
  const dirty = new Set<string>();
  const wakes = new Map<string, number>();
  const wantsPlan = new Set<string>();

  function mark(uid: string): void {
    dirty.add(uid);
    touch();
  }

  /** Pods without claims, and those that run, are none of our business. */
  function concerns(pod: PodRecord): boolean {
    if (pod.terminal) return false;
    if (pod.gangCondition === "False") return true;
    return pod.nodeName === undefined && (pod.claims.length > 0 || pod.gates.includes(gangGate));
  }

  function forget(uid: string): void {
    if (!states.delete(uid)) return;
    podsOfClaim.forget(uid);
    wantsPlan.delete(uid);
    wakes.delete(uid);
    dirty.delete(uid);
    release(`pod:${uid}`);
  }

  function release(owner: string): void {
    releasing(owner);
    model.release(owner);
  }

  function observePod(pod: PodRecord): void {
    if (!concerns(pod)) {
      forget(pod.uid);
      return;
    }
    const state = states.get(pod.uid) ?? {
      pod,
      claims: new Map(),
      planning: false,
      avoided: new Map(),
      inFlight: new Set(),
      pace: new Map(),
    };
    state.pod = pod;
    states.set(pod.uid, state);
    for (const { claimName } of pod.claims) {
      if (claimName === undefined) continue;
      podsOfClaim.add(`${pod.namespace}/${claimName}`, pod.uid);
      const claim = model.claim(pod.namespace, claimName);
      if (claim !== undefined) state.claims.set(claimName, claim);
    }
    mark(pod.uid);
  }

  function observeClaim(claim: ClaimRecord): void {
    for (const uid of podsOfClaim.of(`${claim.namespace}/${claim.name}`)) {
      const state = states.get(uid);
      if (state === undefined) continue;
      state.claims.set(claim.name, claim);
      mark(uid);
    }
  }

  function observeClaimGone(claim: { namespace: string; name: string }): void {
    for (const uid of podsOfClaim.of(`${claim.namespace}/${claim.name}`)) {
      const state = states.get(uid);
      if (state === undefined) continue;
      // It may be created again under its name, and ask for something else.
      state.claims.delete(claim.name);
      delete state.rejectedAt;
      mark(uid);
    }
  }

  /** A pod without a gate costs kube-scheduler a cycle and an event each time it tries, until it is answered. */
  function ungatedFirst(uids: readonly string[]): string[] {
    const gated = (uid: string): number => (states.get(uid)?.pod.gates.includes(gangGate) === true ? 1 : 0);
    return uids.toSorted((a, b) => gated(a) - gated(b));
  }

  function countBypass(state: SingleState, managed: boolean): void {
    if (state.judged === true || !hasAllClaims(state.pod, state.claims)) return;
    state.judged = true;
    if (managed && !state.pod.gates.includes(gangGate)) ports.bypassed("ungated");
  }

  function isManaged(state: SingleState): boolean {
    return [...state.claims.values()].some((claim) => !isLeft(model, claim));
  }

  function decide(uid: string, state: SingleState): void {
    wantsPlan.delete(uid);
    const nowMs = ports.nowMs();
    if (expireAvoided(state.avoided, nowMs)) delete state.rejectedAt;
    countBypass(state, isManaged(state));
    const { effects, wakeAtMs } = decideSingle(state, {
      nowMs,
      capacityVersion: model.capacityVersion,
      nodeFits: (name) => model.node(name)?.ready === true && model.node(name)?.unschedulable === false,
      isLeft: (claim) => isLeft(model, claim),
      intrudes: [...state.claims.values()].some(
        (claim) => !isLeft(model, claim) && sharingFault(model, state.pod, claim) !== undefined,
      ),
    });
    const expiresAtMs = state.rejectedAt === undefined ? [] : state.avoided.values();
    const nextMs = Math.min(wakeAtMs ?? Number.POSITIVE_INFINITY, ...expiresAtMs);
    if (nextMs === Number.POSITIVE_INFINITY) wakes.delete(uid);
    else wakes.set(uid, nextMs);
    // It was told that it waits for a Gang, and has left it since.
    if (state.pod.gangCondition === "False") {
      effects.push(tellPod(state.pod, "Released", "the pod waits for no Gang any more", ports.nowIso()));
    }
    for (const effect of effects) perform(uid, state, effect, nowMs);
  }

  function perform(uid: string, state: SingleState, effect: Effect, nowMs: number): void {
    if (effect.type === "plan") {
      wantsPlan.add(uid);
      return;
    }
    if (
      effect.type === "answer" ||
      effect.type === "event" ||
      effect.type === "planRefused" ||
      effect.type === "writeStatus"
    )
      return;
    const notBeforeMs = state.pace.get(effect.id)?.notBeforeMs ?? 0;
    if (state.inFlight.has(effect.id)) return;
    if (notBeforeMs > nowMs) {
      wakes.set(uid, notBeforeMs);
      return;
    }
    state.inFlight.add(effect.id);
    ports.write(effect, `pod:${uid}`);
  }

  function planOne(uid: string, batch: Batch): void {
    wantsPlan.delete(uid);
    const state = states.get(uid);
    if (state === undefined) return;
    // Its own former place is free for it too.
    if (state.proposal !== undefined) release(`pod:${uid}`);
    heedScheduler(state);
    delete state.proposal;
    delete state.reserved;
    const startMs = ports.nowMs();
    const result = batch.plan({ gangs: [requestOf(avoiding(state.pod, state.avoided))] });
    const milliseconds = ports.nowMs() - startMs;
    if ("plans" in result) {
      ports.planned("placed", milliseconds, result.explored, "", budgetExceededFor(result.plans));
      return;
    }
    const rejection = result.rejections[0];
    ports.planned("rejected", milliseconds, result.explored, rejection?.reason ?? "");
    const times = (state.rejectedAt?.times ?? 0) + 1;
    const pauseMs = Math.min(lastRefusedPauseMs, firstRefusedPauseMs * 2 ** (times - 1));
    const note = rejection?.message ?? "";
    const said = state.rejectedAt?.note === note;
    state.rejectedAt = { capacityVersion: model.capacityVersion, nextMs: startMs + pauseMs, times, note };
    const { namespace, name } = state.pod;
    if (said) return;
    ports.event({ kind: "Pod", namespace, name, uid }, { reason: `Pod${rejection?.reason}`, note, warning: true });
  }

  /**
   * Its reservation was given back while kube-scheduler says that the pod fits nowhere. It gives
   * back at once whatever the reason; for some time that may be a cache that lags.
   */
  function heedScheduler(state: SingleState): void {
    const { proposal, reserved, pod, avoided } = state;
    const message = pod.unschedulableMessage;
    if (proposal === undefined || reserved !== true || message === undefined) return;
    const nowMs = ports.nowMs();
    if (state.refused?.node !== proposal.node) state.refused = { node: proposal.node, sinceMs: nowMs };
    if (nowMs < state.refused.sinceMs + refusalSettlesMs) return;
    delete state.refused;
    avoid(avoided, proposal.node, nowMs);
    ports.planRefused({ pod: pod.name, node: proposal.node, message });
  }

  /** Members of gangs are labelled with them. */
  function stateOf(gang: GangRequest): SingleState | undefined {
    const [pod] = gang.pods;
    return pod?.gang === undefined ? states.get(pod?.uid ?? "") : undefined;
  }

  return {
    observePod,
    forget,
    observeClaim,
    observeClaimGone,
    written(effect, owner, outcome) {
      if (!owner.startsWith("pod:")) return false;
      const uid = owner.slice(4);
      const state = states.get(uid);
      if (state === undefined) return true;
      state.inFlight.delete(effect.id);
      if (outcome.ok) {
        state.pace.delete(effect.id);
      } else {
        state.pace.set(effect.id, pauseAfter(state.pace.get(effect.id), outcome, ports.nowMs()));
      }
      mark(uid);
      return true;
    },
    wakeRefused() {
      for (const [uid, state] of states) if (state.rejectedAt !== undefined) dirty.add(uid);
    },
    activate() {
      for (const uid of states.keys()) dirty.add(uid);
    },
    flush() {
      const nowMs = ports.nowMs();
      for (const [uid, atMs] of wakes) if (atMs <= nowMs) dirty.add(uid);
      // What a decision marks (a plan that was made) is decided in the same call, and is a round of its own.
      for (let round = 0; dirty.size > 0 && round < 3; round++) {
        for (const uid of ungatedFirst([...dirty])) {
          if (ports.nowMs() - nowMs > sliceMs) return false;
          dirty.delete(uid);
          const state = states.get(uid);
          if (state !== undefined) decide(uid, state);
        }
      }
      return true;
    },
    isDirty: () => dirty.size > 0,
    waiting: () =>
      [...wantsPlan].map((uid) => {
        const { pod } = states.get(uid)!;
        const { priority, createdAtMs } = pod;
        const bypasses = pod.gates.includes(gangGate) ? {} : { bypasses: true as const };
        return { key: podKey(pod), priority, createdAtMs, uid, ...bypasses };
      }),
    planOne,
    take(gang, placement) {
      const state = stateOf(gang);
      const placed = placement.pods[0];
      if (state === undefined || placed === undefined) return false;
      const { uid, namespace, requests } = state.pod;
      delete state.rejectedAt;
      state.proposal = placed;
      model.hold(`pod:${uid}`, namespace, [{ placed, requests, podUid: uid }]);
      mark(uid);
      return true;
    },
    giveBack(gang) {
      const state = stateOf(gang);
      if (state === undefined) return false;
      delete state.proposal;
      model.release(`pod:${state.pod.uid}`);
      return true;
    },
    wakeAtMs() {
      let next = dirty.size > 0 ? 0 : Number.POSITIVE_INFINITY;
      for (const atMs of wakes.values()) next = Math.min(next, atMs);
      return next;
    },
  };
}

/** The pod as a gang of its own; index labels of whoever owns it mean nothing in it. */
function requestOf(pod: PodRecord): GangRequest {
  const { podSet: _, ...member } = pod;
  const { namespace, name, priority, createdAtMs } = pod;
  return {
    namespace,
    name,
    spec: singlePodGang({ ...member, index: 0 }),
    priority,
    createdAtMs,
    pods: [{ ...member, index: 0 }],
    placed: [],
  };
}
