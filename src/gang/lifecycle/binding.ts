import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { claimOf, isLeft, reservationState } from "./claims.ts";
import { deadlineOf, timeoutMs } from "./deadline.ts";
import type { Decision } from "./decision.ts";
import {
  bindMember,
  boundElsewhere,
  hasLeftDevices,
  isReserved,
  isUnsettled,
  reserveMember,
} from "./member-effects.ts";
import { isBoundTo, membersOf } from "./members.ts";
import { writeRevoked } from "./revoked.ts";
import { shortPodSet, writeScheduled } from "./scheduled.ts";
import { type Context, type Effect, type GangRecord, type GangState, unansweredWrite } from "./state.ts";
import { steer } from "./steering.ts";
import { sweep } from "./sweep.ts";

/** Time for the bindings of a committed gang, however little of `scheduleTimeoutSeconds` is left. */
const finishMs = 10_000;

/** Committed: binds every member that can be bound, until all are, or the time is over. */
export function decideBinding(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = gang.status.placement?.pods ?? [];
  const members = membersOf(state, gang, placed);
  const deadlineMs = bindingDeadline(state, gang, context);
  // A member recreated since the commit, or left without its node, joins later: see `decideScheduled`.
  const reserved = members.filter(
    ([slot, pod]) =>
      isBoundTo(state, pod, slot.node) || (context.nodeFits(slot.node) && isReserved(state, gang, slot, pod, context)),
  );
  const bindable = reserved.filter(([slot, pod]) => hasLeftDevices(state, slot, pod, context));
  if (context.nowMs >= deadlineMs) return giveUpBinding(state, gang, members, bindable, context);
  const returning = members.filter((member) => !reserved.includes(member) && wasTakenOff(state, gang, member, context));
  const effects = [
    ...sweep(state, members, context),
    ...returning.flatMap(([slot, pod]) => reserveMember(state, gang, slot, pod, context)),
    ...bindable.flatMap(([slot, pod]) => bindMember(state, slot, pod)),
    ...steer(state, reserved, context),
  ];
  const unbound = bindable.filter(
    ([slot, pod]) => !isBoundTo(state, pod, slot.node) && !boundElsewhere(pod, slot.node),
  );
  // The rest of those that are reserved is bound when kube-scheduler has given them its devices, and calls again.
  if (unbound.length + returning.length === 0 && bindable.length === reserved.length && members.length > 0) {
    effects.push(...writeScheduled(state, gang, context));
  }
  return { effects, wakeAtMs: deadlineMs };
}

/** A planner that finds a committed gang after its time is over still gets the chance to finish it. */
function bindingDeadline(state: GangState, gang: GangRecord, context: Context): number {
  state.bindingSinceMs ??= context.nowMs;
  return Math.max(deadlineOf(state, gang, context), state.bindingSinceMs + finishMs);
}

/**
 * The time is over. Enough members are bound: the gang is scheduled, and the others join it when they can. Else it fails
 * whole (`spec.disruption`): whoever was bound is deleted, and only then is the rest given back.
 */
function giveUpBinding(
  state: GangState,
  gang: GangRecord,
  members: [PlacedPod, PodRecord][],
  bindable: readonly [PlacedPod, PodRecord][],
  context: Context,
): Decision {
  const bound = members.filter(([slot, pod]) => isBoundTo(state, pod, slot.node));
  const effects = [...sweep(state, members, context), ...bound.flatMap(([slot, pod]) => bindMember(state, slot, pod))];
  const slots = bound.map(([slot]) => slot);
  if (shortPodSet(gang, slots) === undefined) return { effects: [...effects, ...writeScheduled(state, gang, context)] };
  // It was found whole before, without a member that was deleted meanwhile, and its status may say so already.
  const writing = state.inFlight.get("status") ?? unansweredWrite(state);
  if (writing?.type === "writeStatus" && writing.status.phase === "Scheduled") {
    return { effects: [...effects, ...writeScheduled(state, gang, context)] };
  }
  // A binding whose answer was lost may have come to pass, and the watch may be late: until the API server has answered it
  // once more nobody can say who is bound.
  const unanswered = bindable.filter(([, pod]) => state.pace.get(`bind/${pod.uid}`)?.mayHavePassed === true);
  effects.push(...unanswered.flatMap(([slot, pod]) => bindMember(state, slot, pod)));
  if (unanswered.some(([slot, pod]) => !isBoundTo(state, pod, slot.node) && !boundElsewhere(pod, slot.node))) {
    return { effects };
  }
  if (members.some(([, pod]) => isUnsettled(state, `bind/${pod.uid}`, context))) return { effects };
  if (bound.length > 0) return { effects: [...effects, ...bound.map(([, pod]) => disrupt(pod))] };
  return { effects: [...effects, writeRevoked(state, gang, unboundText(state, gang, members), context)] };
}

export function disrupt({ namespace, name, uid }: PodRecord): Effect {
  return { type: "disruptPod", id: `disrupt/${uid}`, pod: { namespace, name, uid } };
}

function unboundText(state: GangState, gang: GangRecord, members: readonly [PlacedPod, PodRecord][]): string {
  const refused = members.find(([, pod]) => state.pace.has(`bind/${pod.uid}`))?.[1];
  const text = `not all members could be bound within ${timeoutMs(gang) / 1000} s (spec.scheduleTimeoutSeconds)`;
  if (refused === undefined) return text;
  return `${text}: pod ${refused.name}: ${state.pace.get(`bind/${refused.uid}`)?.message}`;
}

/**
 * When its bind call breaks off, kube-scheduler takes the pod off its claims and leaves their allocations: such a member
 * is reserved again and bound without a further call. Whoever was recreated has claims without allocation.
 */
function wasTakenOff(
  state: GangState,
  gang: GangRecord,
  [slot, pod]: [PlacedPod, PodRecord],
  context: Context,
): boolean {
  if (!context.nodeFits(slot.node) || boundElsewhere(pod, slot.node)) return false;
  return slot.claims.every((placed) => {
    if (isLeft(placed, context)) return true;
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim?.allocation === undefined || claim.deleting) return false;
    return reservationState(claim, placed, slot.node, gang, pod) !== "foreign";
  });
}
