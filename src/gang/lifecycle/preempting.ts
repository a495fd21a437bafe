import type { GangPlacement, PreemptedUnit } from "../../api/gang.ts";
import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { timeoutMs } from "./deadline.ts";
import { type Decision, refuseAll } from "./decision.ts";
import { lostClaimOf } from "./lost-claims.ts";
import { isBoundTo, membersOf } from "./members.ts";
import { evictPod } from "./preempted.ts";
import { writeReserved } from "./reservation.ts";
import { replanPauseMs } from "./revoked.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";
import { planText, write } from "./status.ts";
import { sweep } from "./sweep.ts";
import { foreignTrouble, missingTrouble, placeTrouble } from "./trouble.ts";

/** Pods may take long to end, and budgets forbid evictions for a while. Then all of it is looked at anew. */
const leastPatienceMs = 600_000;
/** Claims are deallocated a moment after their pods are gone. What is held longer is held by others. */
const vacatedGraceMs = 30_000;

/**
 * The gang has a place that others of lower priority still have. That it is in this phase, with their UIDs, is the decision
 * to preempt them: whoever is among them leaves, also when the planner dies now. Nothing is reserved before all have left.
 */
export function decidePreempting(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = gang.status.placement?.pods ?? [];
  const members = membersOf(state, gang, placed);
  const { left, evict } = context.leaving(state);
  const effects = [
    ...refuseAll(state, `gang ${state.key} waits for its place`),
    ...sweep(state, members, context),
    ...evict.filter(({ uid }) => !state.evicted.has(uid)).map(evictPod),
  ];
  const isFree = ([slot, pod]: [PlacedPod, PodRecord]): boolean =>
    isBoundTo(state, pod, slot.node) || context.devicesFree(state, slot, pod);
  const vacated = left === 0 && members.every(isFree);
  if (left > 0) delete state.vacatedSinceMs;
  else state.vacatedSinceMs ??= context.nowMs;
  const { reason, wakeAtMs } = troubleWhileWaiting(state, gang, placed, members, context);
  if (reason !== undefined) return { effects: [...effects, callOff(state, gang, reason, context)] };
  if (vacated && members.length === placed.length) {
    return { effects: [...effects, writeReserved(state, gang, { ...gang.status.placement, pods: placed }, context)] };
  }
  return { effects, wakeAtMs };
}

/** Why the place is not wanted, or cannot be had, any more. */
function troubleWhileWaiting(
  state: GangState,
  gang: GangRecord,
  placed: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): { reason: string; wakeAtMs?: never } | { reason?: never; wakeAtMs: number } {
  const misplaced = placeTrouble(state, gang, placed, members, context);
  if (misplaced !== undefined) return { reason: misplaced };
  for (const [slot, pod] of members) {
    const foreign = foreignTrouble(state, gang, slot, pod, context);
    if (foreign !== undefined) return { reason: foreign };
    const claimless = lostClaimOf(state, pod, context);
    if (claimless?.reason !== undefined) return { reason: claimless.reason };
  }
  const patienceMs = Math.max(leastPatienceMs, timeoutMs(gang));
  const deadlineMs = (gang.reservedAtMs ?? context.nowMs) + patienceMs;
  if (context.nowMs >= deadlineMs) {
    return { reason: `those of lower priority did not leave within ${patienceMs / 1000} s` };
  }
  const vacatedMs = (state.vacatedSinceMs ?? Number.POSITIVE_INFINITY) + vacatedGraceMs;
  if (context.nowMs >= vacatedMs) return { reason: "those of lower priority have left, and others hold the devices" };
  const missing = missingTrouble(state, placed, members, context);
  if (missing.reason !== undefined) return { reason: missing.reason };
  return { wakeAtMs: Math.min(deadlineMs, vacatedMs, missing.wakeAtMs ?? deadlineMs) };
}

/** Whoever is leaving already leaves; the others stay. */
function callOff(state: GangState, gang: GangRecord, why: string, context: Context): Effect {
  const reason = `preemption was called off: ${why}`;
  const attempts = (gang.status.attempts ?? 0) + 1;
  state.replanAtMs = context.nowMs + replanPauseMs(attempts);
  delete state.missingSinceMs;
  const status = write(state, gang, "Pending", context, {
    explanation: reason,
    attempts,
    conditions: [
      { type: "Planned", status: "False", reason: "Revoked", message: reason },
      { type: "Scheduled", status: "False", reason: "Revoked", message: reason },
    ],
  });
  return { ...status, transition: "PreemptionCalledOff" };
}

/** The decision, before anybody is told to leave. */
export function writePreempting(
  state: GangState,
  gang: GangRecord,
  placement: GangPlacement,
  preempting: readonly PreemptedUnit[],
  context: Context,
): Effect {
  const message = waitsText(preempting);
  return write(state, gang, "Preempting", context, {
    placement,
    preempting,
    reservedAt: context.nowIso(),
    explanation: message,
    conditions: [
      { type: "Planned", status: "True", reason: "Planned", message: planText(placement.pods) },
      { type: "Scheduled", status: "False", reason: "Preempting", message },
    ],
  });
}

/** In numbers: they may be another tenant's. */
function waitsText(preempting: readonly PreemptedUnit[]): string {
  const count = (kind: PreemptedUnit["kind"], one: string, many: string): string[] => {
    const { length } = preempting.filter((unit) => unit.kind === kind);
    return length === 0 ? [] : [`${length} ${length === 1 ? one : many}`];
  };
  const who = [...count("Gang", "gang", "gangs"), ...count("Pod", "pod", "pods")].join(" and ");
  return `has a place, and waits until ${who} of lower priority, which the planner preempts, have left it`;
}
