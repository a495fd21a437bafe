import type { PodRecord } from "../../topology/records.ts";
import { assignSlots, type MemberSlots, minCountOf, problemsText } from "../members.ts";
import { isRefusal, withOutlook } from "../outlook-text.ts";
import { hasAllClaims } from "./claims.ts";
import type { Decision } from "./decision.ts";
import { lostClaimOf } from "./lost-claims.ts";
import { livePods, lowestPriority, runningIn, sayStrays, straysOf } from "./members.ts";
import { writePreempting } from "./preempting.ts";
import { writeReserved } from "./reservation.ts";
import { shortPodSet, writeScheduled } from "./scheduled.ts";
import {
  type Context,
  type Effect,
  type GangRecord,
  type GangRejection,
  type GangState,
  memberKey,
  unansweredWrite,
} from "./state.ts";
import { membersText, nextStatus, saysTheSame } from "./status.ts";
import { sweep } from "./sweep.ts";

/** Members usually arrive in a burst: say "3 of 4" only when no further one came for this long. */
const settleMs = 2_000;

/** Nothing is held: says what is missing, takes note of what runs already, or asks for a plan and writes it down. */
export function decidePending(state: GangState, gang: GangRecord, context: Context): Decision {
  const effects = sweep(state, [], context);
  if (state.proposal !== undefined) {
    const { proposal, preempting } = state;
    const next =
      preempting === undefined
        ? writeReserved(state, gang, proposal, context)
        : writePreempting(state, gang, proposal, preempting, context);
    return { effects: [...effects, next] };
  }
  // Whether it was written decides what the gang holds, so that is found out before anything else.
  const unanswered = unansweredWrite(state);
  if (unanswered !== undefined) return { effects: [...effects, unanswered] };
  const slots = assignSlots(gang.spec, livePods(state), []);
  const waiting = waitingFor(state, gang, slots, context);
  const strays = straysOf(state, slots);
  const leftOut = strays.map(({ message }) => message);
  // Pods that have no place stop a gang only when it is not complete without them: else anybody's could.
  if (gang.problems.length > 0 || (waiting !== undefined && slots.problems.length > 0)) {
    const said = problemsText([...gang.problems, ...leftOut]);
    return { effects: [...effects, ...sayPending(state, gang, "InvalidGang", said, context)] };
  }
  state.priority = lowestPriority(slots.slots.values());
  effects.push(...sayStrays(state, strays));
  const running = runningIn(state, slots);
  if (shortPodSet(gang, running) === undefined) {
    return { effects: [...effects, ...writeScheduled(state, gang, context, running)] };
  }
  if (waiting !== undefined) return settle(state, gang, problemsText([waiting, ...leftOut]), effects, context);
  delete state.incomplete;
  if (state.planning) return { effects };
  const { rejection } = state;
  if (rejection !== undefined) {
    const stale = rejection.capacityVersion < context.capacityVersion || rejection.members !== memberKey(state);
    if (!stale) {
      const text = refusalText(gang, rejection);
      return { effects: [...effects, ...sayPending(state, gang, rejection.reason, text, context)] };
    }
  }
  if (state.replanAtMs > context.nowMs) return { effects, wakeAtMs: state.replanAtMs };
  return { effects: [...effects, { type: "plan", id: "plan" }] };
}

/**
 * Why the gang is refused is said at once, what would make room when it is known. Until that is known anew, what was said
 * before of the same refusal stands: it is not taken back and said again whenever something else changes.
 */
function refusalText(gang: GangRecord, { message, counterfactuals }: GangRejection): string {
  const before = gang.status.explanation ?? "";
  if (counterfactuals === undefined && isRefusal(before, message)) return before;
  return withOutlook(message, counterfactuals ?? []);
}

/** The first pod set that lacks members with claims; undefined when the gang can be planned. */
function waitingFor(state: GangState, gang: GangRecord, slots: MemberSlots, context: Context): string | undefined {
  for (const podSet of gang.spec.podSets) {
    const minCount = minCountOf(podSet);
    const pods = slotsOf(slots, podSet.name);
    const complete = pods.filter((pod) => hasAllClaims(pod, state.claims)).length;
    if (complete >= minCount) continue;
    if (pods.length >= minCount) {
      const lost = pods.flatMap((pod) => lostClaimOf(state, pod, context)?.reason ?? [])[0];
      return `pod set ${podSet.name}: ${complete} of ${minCount} pods have their ResourceClaims${lost === undefined ? "" : `; ${lost}`}`;
    }
    return `pod set ${podSet.name}: ${pods.length} of ${minCount} pods exist`;
  }
  return undefined;
}

function slotsOf(slots: MemberSlots, podSet: string): PodRecord[] {
  return [...slots.slots].filter(([slot]) => slot.startsWith(`${podSet}/`)).map(([, pod]) => pod);
}

function settle(state: GangState, gang: GangRecord, message: string, effects: Effect[], context: Context): Decision {
  const members = memberKey(state);
  if (state.incomplete?.members !== members) state.incomplete = { members, sinceMs: context.nowMs };
  const sayAtMs = state.incomplete.sinceMs + settleMs;
  if (context.nowMs < sayAtMs) return { effects, wakeAtMs: sayAtMs };
  return { effects: [...effects, ...sayPending(state, gang, "WaitingForMembers", message, context)] };
}

/** A refusal in status and one event; nothing when it was said already. */
function sayPending(state: GangState, gang: GangRecord, reason: string, message: string, context: Context): Effect[] {
  const status = nextStatus(
    gang,
    {
      phase: "Pending",
      members: membersText(state, gang),
      explanation: message,
      conditions: [
        { type: "Planned", status: "False", reason, message },
        { type: "Scheduled", status: "False", reason, message },
      ],
    },
    context,
  );
  if (saysTheSame(gang, status)) return [];
  return [{ type: "writeStatus", id: "status", gang, status, transition: reason }];
}
