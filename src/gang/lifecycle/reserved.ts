import { gangGate } from "../../api/names.ts";
import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { claimOf, isLeft } from "./claims.ts";
import { deadlineOf, timeoutMs } from "./deadline.ts";
import type { Decision } from "./decision.ts";
import { lostClaimOf } from "./lost-claims.ts";
import { isReserved, releaseMember, reserveMember } from "./member-effects.ts";
import { isBoundTo, membersOf } from "./members.ts";
import { heed, type Refusal, refusalSettlesMs, refusedMember } from "./refusals.ts";
import { writeRevoked } from "./revoked.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";
import { write } from "./status.ts";
import { steer } from "./steering.ts";
import { sweep } from "./sweep.ts";
import { foreignTrouble, missingTrouble, placeTrouble } from "./trouble.ts";

/** The plan is written down: reserves and releases the members, and commits or revokes. */
export function decideReserved(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = gang.status.placement?.pods ?? [];
  const members = membersOf(state, gang, placed);
  const trouble = troubleBeforeCommit(state, gang, placed, members, context);
  if (trouble.reason !== undefined) {
    const heeded = trouble.refusal === undefined ? [] : [heed(state, trouble.refusal, context.nowMs)];
    return { effects: [...heeded, writeRevoked(state, gang, trouble.reason, context)] };
  }
  const reserving = sweep(state, members, context);
  for (const [slot, pod] of members) reserving.push(...reserveMember(state, gang, slot, pod, context));
  const deadline = deadlineOf(state, gang, context);
  const wakeAtMs = Math.min(deadline, trouble.wakeAtMs ?? deadline);
  if (!members.every(([slot, pod]) => isReserved(state, gang, slot, pod, context)) || members.length < placed.length) {
    return { effects: reserving, wakeAtMs };
  }
  const gated = members.some(([, pod]) => pod.gates.includes(gangGate));
  if (gated && !context.mayRelease(state, members.length)) return { effects: reserving };
  state.releasedAtMs ??= gated ? context.nowMs : (gang.reservedAtMs ?? context.nowMs);
  const releasing = members.flatMap(([slot, pod]) => releaseMember(slot, pod));
  const effects = [...reserving, ...releasing, ...steer(state, members, context)];
  if (!members.every(([slot, pod]) => atBarrier(state, slot, pod))) return { effects, wakeAtMs };
  const outlying = placed.find(context.outlying(state));
  if (outlying !== undefined) return { effects: [writeRevoked(state, gang, outlyingText(outlying), context)] };
  if (!context.groupReady(state)) return { effects, wakeAtMs };
  const squeezed = squeezedMember(state, members, context);
  if (squeezed === undefined) return { effects: [...effects, writeBinding(state, gang, placed, context)], wakeAtMs };
  if (context.nowMs < squeezed.giveUpAtMs) return { effects, wakeAtMs: Math.min(wakeAtMs, squeezed.giveUpAtMs) };
  return { effects: [writeRevoked(state, gang, squeezed.reason, context)] };
}

/** Nothing but our own release is wanting: no deadline runs. */
function waitsForRelease(
  state: GangState,
  gang: GangRecord,
  placed: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): boolean {
  if (members.length < placed.length || state.releasedAtMs !== undefined) return false;
  return members.every(([slot, pod]) => pod.gates.includes(gangGate) && isReserved(state, gang, slot, pod, context));
}

/** Why the reservation must be given up before the commit, if it must. */
function troubleBeforeCommit(
  state: GangState,
  gang: GangRecord,
  placed: readonly PlacedPod[],
  members: [PlacedPod, PodRecord][],
  context: Context,
): { reason?: string; refusal?: Refusal; wakeAtMs?: number } {
  const late = context.nowMs >= deadlineOf(state, gang, context);
  if (late && !waitsForRelease(state, gang, placed, members, context)) {
    return {
      reason: `not all members arrived within ${timeoutMs(gang) / 1000} s (spec.scheduleTimeoutSeconds)`,
    };
  }
  const misplaced = placeTrouble(state, gang, placed, members, context);
  if (misplaced !== undefined) return { reason: misplaced };
  for (const [slot, pod] of members) {
    const foreign = foreignTrouble(state, gang, slot, pod, context);
    if (foreign !== undefined) return { reason: foreign };
    const gone = lostClaimOf(state, pod, context);
    if (gone !== undefined) return gone;
    const failed = failedBinding(state, slot, pod, context);
    if (failed !== undefined) return { reason: `pod ${pod.name} cannot be bound: ${failed}` };
  }
  const { refusal, ...wake } = refusedMember(state, members, context, refusalSettlesMs);
  if (refusal !== undefined) return { reason: refusalText(refusal), refusal };
  const missing = missingTrouble(state, placed, members, context);
  if (missing.wakeAtMs === undefined) return { ...wake, ...missing };
  return { wakeAtMs: Math.min(missing.wakeAtMs, wake.wakeAtMs ?? missing.wakeAtMs) };
}

function failedBinding(state: GangState, slot: PlacedPod, pod: PodRecord, context: Context): string | undefined {
  const own = slot.claims.filter((placed) => !isLeft(placed, context));
  const claims = own.map(({ reference }) => claimOf(pod, reference, state.claims));
  return claims.find((claim) => claim?.bindingFailure !== undefined)?.bindingFailure;
}

function refusalText({ slot, pod, message }: Refusal): string {
  return `kube-scheduler refuses pod ${pod.name} on node ${slot.node}: ${message}`;
}

function atBarrier(state: GangState, slot: PlacedPod, pod: PodRecord): boolean {
  return pod.nodeName === slot.node || state.arrivals.get(pod.uid)?.node === slot.node;
}

/** Who took the room may be leaving, or have left: that is worth so long a wait. */
const squeezedGraceMs = 5_000;

/**
 * kube-scheduler found room for each member, some time ago; a pod that asks nobody (of a DaemonSet, another scheduler, a
 * person) may have taken it since, and the kubelet would refuse the member after the commit.
 */
function squeezedMember(
  state: GangState,
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): { reason: string; giveUpAtMs: number } | undefined {
  const waiting = members.filter(([slot, pod]) => !isBoundTo(state, pod, slot.node));
  const byNode = Map.groupBy(waiting, ([slot]) => slot.node);
  const taken = [...byNode].find(([node, own]) => {
    return !context.leavesRoomForAll(
      node,
      own.map(([, pod]) => pod),
    );
  });
  if (taken === undefined) {
    delete state.squeezedSinceMs;
    return undefined;
  }
  state.squeezedSinceMs ??= context.nowMs;
  const [node, own] = taken;
  const pods = own.map(([, { name }]) => name).join(", ");
  return {
    reason: `others took the room of ${pods} on node ${node} before all members arrived`,
    giveUpAtMs: state.squeezedSinceMs + squeezedGraceMs,
  };
}

function outlyingText({ pod, node }: PlacedPod): string {
  return `pod ${pod} is planned for node ${node}, and others of its PlacementGroup, which requires one domain, are elsewhere`;
}

/** The commit: whoever moves `Reserved` to `Binding` by compare-and-swap has won against every revocation. */
function writeBinding(state: GangState, gang: GangRecord, placed: PlacedPod[], context: Context): Effect {
  return write(state, gang, "Binding", context, {
    placement: gang.status.placement,
    reservedAt: gang.status.reservedAt,
    conditions: [
      { type: "Scheduled", status: "False", reason: "Binding", message: `all ${placed.length} members arrived` },
    ],
  });
}
