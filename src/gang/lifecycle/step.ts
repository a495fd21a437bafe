import type { GangPlacement } from "../../api/gang.ts";
import type { PlacedPod, Placement } from "../../api/placement.ts";
import { decide } from "./decide.ts";
import { isBoundTo, isHomeless, isOutlying, membersOf, placeOf, runningPods } from "./members.ts";
import {
  type Context,
  type Effect,
  type GangRecord,
  type GangState,
  type LifecycleEvent,
  mayHavePassed,
  memberKey,
  type Outcome,
  type StepResult,
} from "./state.ts";

const firstRetryMs = 50;
/** After any outage of the API server a gang goes on within five seconds: one such pause, and the few writes it lacks. */
const lastRetryMs = 3_000;
/** A refused gang is planned again when capacity is freed, but not more often than this. */
const refusedPauseMs = 250;

/**
 * The lifecycle of one gang: complete → plan → reserve → release → barrier → commit → scheduled.
 *
 * Level-triggered: what happens next follows from what the API server says of the gang, its pods and claims, plus the
 * bind calls held at the moment. So a restart, a lost event or an event seen twice changes timing only. The state given
 * is not changed; the caller applies the effects and reports each with a `done` event.
 *
 * @param events applied in order before one decision is made, so that a burst costs one decision
 */
export function step(before: GangState, events: readonly LifecycleEvent[], context: Context): StepResult {
  const state = observe(before, events, context);
  const decision = decide(state, context);
  const effects: Effect[] = [];
  const wakeAtMs = earliest(decision.wakeAtMs, state.pace, context.nowMs);
  for (const effect of decision.effects) {
    if (state.inFlight.has(effect.id)) continue;
    if ((state.pace.get(effect.id)?.notBeforeMs ?? 0) > context.nowMs) continue;
    if (effect.type === "plan") state.planning = true;
    if (effect.type === "answer") state.arrivals.delete(effect.podUid);
    // The rest is fire and forget.
    if (isWrite(effect)) state.inFlight.set(effect.id, effect);
    effects.push(effect);
  }
  return wakeAtMs === undefined ? { state, effects } : { state, effects, wakeAtMs };
}

/** The gang as it is known after the events. What others of its group decide depends on it, so all are observed before any decides. */
export function observe(before: GangState, events: readonly LifecycleEvent[], context: Context): GangState {
  const state: GangState = {
    ...before,
    pods: new Map(before.pods),
    claims: new Map(before.claims),
    arrivals: new Map(before.arrivals),
    bound: new Map(before.bound),
    inFlight: new Map(before.inFlight),
    pace: new Map(before.pace),
    trials: new Map(before.trials),
    evicted: new Set(before.evicted),
    avoided: new Map(before.avoided),
  };
  for (const event of events) apply(state, event, context);
  return state;
}

const told: ReadonlySet<Effect["type"]> = new Set(["answer", "event", "plan", "planRefused"]);

/** Under way until `done`. */
function isWrite(effect: Effect): boolean {
  return !told.has(effect.type);
}

/** The time that the decision asked for, or the end of a pause after a failed write. */
function earliest(wakeAtMs: number | undefined, pace: GangState["pace"], nowMs: number): number | undefined {
  let next = wakeAtMs;
  for (const { notBeforeMs } of pace.values()) {
    if (notBeforeMs > nowMs) next = Math.min(next ?? notBeforeMs, notBeforeMs);
  }
  return next;
}

function apply(state: GangState, event: LifecycleEvent, context: Context): void {
  switch (event.type) {
    case "gang":
      applyGang(state, event.gang);
      return;
    case "gangGone":
      if (state.gang?.uid !== event.uid) return;
      delete state.gang;
      forgetPlan(state);
      return;
    case "pod":
      state.pods.set(event.pod.uid, event.pod);
      if (event.pod.nodeName !== undefined) state.bound.delete(event.pod.uid);
      return;
    case "podGone":
      state.pods.delete(event.uid);
      state.bound.delete(event.uid);
      state.trials.delete(event.uid);
      state.evicted.delete(event.uid);
      state.arrivals.delete(event.uid);
      return;
    case "claim":
      state.claims.set(event.claim.name, event.claim);
      return;
    case "claimGone":
      state.claims.delete(event.name);
      return;
    case "companionMoved":
      // What a gang was refused for want of its group is worth another plan, whatever capacity there is.
      if (state.rejection?.reason === "WaitingForPlacementGroup") {
        state.rejection = { ...state.rejection, capacityVersion: -1 };
      }
      return;
    case "groupChanged":
    case "preemptionPossible":
      if (state.rejection !== undefined) state.rejection = { ...state.rejection, capacityVersion: -1 };
      return;
    case "planned":
      applyPlan(state, event.placement, context);
      if (event.preempting !== undefined) state.preempting = event.preempting;
      return;
    case "rejected":
      state.planning = false;
      state.rejection = {
        reason: event.rejection.reason,
        message: event.rejection.message,
        capacityVersion: event.capacityVersion,
        members: memberKey(state),
      };
      state.replanAtMs = context.nowMs + refusedPauseMs;
      return;
    case "outlook":
      state.outlookAtMs = context.nowMs;
      if (state.rejection !== undefined) {
        state.rejection = { ...state.rejection, counterfactuals: event.counterfactuals };
      }
      return;
    case "arrived":
      state.arrivals.set(event.podUid, { node: event.node, call: event.call });
      return;
    case "left":
      if (state.arrivals.get(event.podUid)?.call === event.call) state.arrivals.delete(event.podUid);
      return;
    case "done":
      applyOutcome(state, event.effect, event.outcome, context);
      return;
    case "tick":
      return;
  }
}

function applyGang(state: GangState, gang: GangRecord): void {
  const before = state.gang;
  state.gang = gang;
  if (before?.uid !== gang.uid || before.generation !== gang.generation) forgetPlan(state);
  // The status carries the proposal now: the API server holds it from here on.
  else if (gang.status.phase !== before.status.phase) {
    // A plan that was asked for is one of the phase before.
    state.planning = false;
    dropProposal(state);
  } else if (carries(gang, state.proposal)) dropProposal(state);
}

function dropProposal(state: GangState): void {
  delete state.proposal;
  delete state.preempting;
}

/** A plan beside what runs leaves the phase as it is: only the placement tells that it was written. */
function carries(gang: GangRecord, proposal: GangPlacement | undefined): boolean {
  const written = new Set((gang.status.placement?.pods ?? []).map(placeOf));
  return proposal?.pods.every((pod) => written.has(placeOf(pod))) ?? false;
}

function forgetPlan(state: GangState): void {
  state.planning = false;
  dropProposal(state);
  delete state.rejection;
}

/** Newly placed pods join the slots that are kept; a slot that was planned anew replaces its older entry. */
function applyPlan(state: GangState, placement: Placement, context: Context): void {
  state.planning = false;
  delete state.rejection;
  delete state.preempting;
  const { phase, placement: current } = state.gang?.status ?? {};
  const kept = phase === "Scheduled" ? placesThatCount(state, current?.pods ?? [], context) : runningPods(state);
  const planned = new Set(placement.pods.map((pod) => `${pod.podSet}/${pod.index}`));
  const proposal: GangPlacement = {
    pods: [...kept.filter((pod) => !planned.has(`${pod.podSet}/${pod.index}`)), ...placement.pods],
    domains: placement.domains,
    costMs: placement.cost.totalMs,
  };
  state.proposal = proposal;
}

/**
 * A place where nobody runs bound the plan to no domain if its node is gone, others of the group are elsewhere, or the member
 * that waits for it cannot go there (`keptPods`): kept beside the new places it would break rules once node and member are back.
 */
function placesThatCount(state: GangState, pods: readonly PlacedPod[], context: Context): PlacedPod[] {
  if (state.gang === undefined) return [...pods];
  const members = new Map(membersOf(state, state.gang, pods));
  return pods.filter((place) => {
    const pod = members.get(place);
    if (pod !== undefined && isBoundTo(state, pod, place.node)) return true;
    if (!context.nodeFits(place.node) || isOutlying(state, place)) return false;
    return !isHomeless(state, pod, place, context.nodeFits);
  });
}

function applyOutcome(state: GangState, effect: Effect, outcome: Outcome, context: Context): void {
  state.inFlight.delete(effect.id);
  if (outcome.ok) {
    if (effect.type === "writeStatus") delete state.unanswered;
    state.pace.delete(effect.id);
    if (effect.type === "bind") state.bound.set(effect.pod.uid, effect.node);
    if (effect.type === "evictPod") state.evicted.add(effect.pod.uid);
    if (effect.type === "writeStatus" && effect.transition === "Revoked") dropProposal(state);
    return;
  }
  if (effect.type === "writeStatus" && effect.transition === "Scheduled" && mayHavePassed(outcome)) {
    state.unanswered = effect;
  }
  const pause = pauseAfter(state.pace.get(effect.id), outcome, context.nowMs);
  state.pace.set(effect.id, { ...pause, message: outcome.message, mayHavePassed: mayHavePassed(outcome) });
}

/** When an effect that failed may be tried again. */
export function pauseAfter(
  before: { attempts: number } | undefined,
  failure: { retryAfterMs?: number },
  nowMs: number,
): { attempts: number; notBeforeMs: number } {
  const attempts = (before?.attempts ?? 0) + 1;
  const delayMs = Math.min(lastRetryMs, firstRetryMs * 2 ** (attempts - 1));
  return { attempts, notBeforeMs: nowMs + Math.max(delayMs, failure.retryAfterMs ?? 0) };
}
