import type { GangPhase, GangPlacement, GangStatus, PreemptedUnit } from "../../api/gang.ts";
import type { Condition } from "../../api/kubernetes.ts";
import type { PlacedPod } from "../../api/placement.ts";
import { livePods } from "./members.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";

/** What the kind allows for `explanation`; a condition may say more, and has no reason to. */
const maxLength = 4_096;

export interface ConditionChange {
  type: "Planned" | "Scheduled" | "Degraded";
  status: "True" | "False";
  reason: string;
  message: string;
}

export interface StatusChange {
  phase: GangPhase;
  members: string;
  conditions: ConditionChange[];
  placement?: GangPlacement | undefined;
  explanation?: string | undefined;
  reservedAt?: string | undefined;
  attempts?: number;
  preempting?: readonly PreemptedUnit[];
}

/**
 * The whole next status: what the change does not name is dropped, except conditions of other types.
 * `lastTransitionTime` moves only when a condition's `status` moves (API conventions).
 */
export function nextStatus(gang: GangRecord, change: StatusChange, context: Context): GangStatus {
  const attempts = change.attempts ?? gang.status.attempts;
  return {
    phase: change.phase,
    observedGeneration: gang.generation,
    members: change.members,
    ...(change.placement === undefined ? {} : { placement: change.placement }),
    ...(change.reservedAt === undefined ? {} : { reservedAt: change.reservedAt }),
    ...(attempts === undefined ? {} : { attempts }),
    ...(change.preempting === undefined ? {} : { preempting: [...change.preempting] }),
    ...(change.explanation === undefined ? {} : { explanation: change.explanation.slice(0, maxLength) }),
    conditions: mergeConditions(gang, change.conditions, context),
  };
}

function mergeConditions(gang: GangRecord, changes: readonly ConditionChange[], context: Context): Condition[] {
  const merged = new Map((gang.status.conditions ?? []).map((condition) => [condition.type, condition as Condition]));
  for (const change of changes) {
    const before = merged.get(change.type);
    merged.set(change.type, {
      type: change.type,
      status: change.status,
      reason: change.reason,
      message: change.message.slice(0, maxLength),
      lastTransitionTime: before?.status === change.status ? before.lastTransitionTime : context.nowIso(),
      observedGeneration: gang.generation,
    });
  }
  return [...merged.values()].sort((a, b) => (a.type < b.type ? -1 : 1));
}

/** @returns whether writing `next` would tell anybody anything new. */
export function saysTheSame(gang: GangRecord, next: GangStatus): boolean {
  const now = gang.status;
  if (now.phase !== next.phase || now.explanation !== next.explanation || now.members !== next.members) return false;
  if (now.observedGeneration !== next.observedGeneration) return false;
  const before = new Map((now.conditions ?? []).map((condition) => [condition.type, condition]));
  return (next.conditions ?? []).every((condition) => {
    const old = before.get(condition.type);
    return (
      old !== undefined &&
      old.status === condition.status &&
      old.reason === condition.reason &&
      old.message === condition.message
    );
  });
}

/** A status write that moves the gang to a phase. */
export function write(
  state: GangState,
  gang: GangRecord,
  phase: StatusChange["phase"],
  context: Context,
  change: Omit<StatusChange, "phase" | "members">,
): Effect & { type: "writeStatus" } {
  const status = nextStatus(gang, { phase, members: membersText(state, gang), ...change }, context);
  return { type: "writeStatus", id: "status", gang, status, transition: phase };
}

/** `BOUND/COUNT`, as `status.members` says it. */
export function membersText(state: GangState, gang: GangRecord): string {
  const bound = livePods(state).filter((pod) => pod.nodeName !== undefined || state.bound.has(pod.uid)).length;
  return `${bound}/${totalCount(gang)}`;
}

export function totalCount(gang: GangRecord): number {
  return gang.spec.podSets.reduce((sum, podSet) => sum + podSet.count, 0);
}

export function planText(pods: readonly PlacedPod[]): string {
  return `${pods.length} pods on ${new Set(pods.map((pod) => pod.node)).size} nodes`;
}
