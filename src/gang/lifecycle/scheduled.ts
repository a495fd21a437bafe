import { gangGate } from "../../api/names.ts";
import type { PlacedClaim, PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { assignSlots, type MemberSlots, minCountOf, slotKey } from "../members.ts";
import { claimOf, hasAllClaims, isLeft } from "./claims.ts";
import { noteCrowded } from "./crowded.ts";
import { answer, type Decision } from "./decision.ts";
import { bindMember, foreignClaim, isReserved, releaseMember, reserveMember } from "./member-effects.ts";
import {
  devicesOf,
  isBoundTo,
  isHomeless,
  isOutlying,
  isSpoiled,
  livePods,
  lowestPriority,
  membersIn,
  membersOf,
  placeOf,
  sayStrays,
  straysOf,
} from "./members.ts";
import { noteOutlying } from "./outlying.ts";
import { heed, patienceMs, refusedMember } from "./refusals.ts";
import { noteSpoiled } from "./spoiled.ts";
import { type Context, type Effect, type GangRecord, type GangState, memberKey, releasedPods } from "./state.ts";
import { type ConditionChange, nextStatus, planText, saysTheSame, totalCount } from "./status.ts";
import { steer } from "./steering.ts";
import { sweep } from "./sweep.ts";

/** The gang runs: members that are recreated return to their places, others get a plan beside what runs. */
export function decideScheduled(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = wantedSlots(gang);
  const slots = assignSlots(gang.spec, livePods(state), placed);
  const members = membersIn(slots, placed);
  state.priority = lowestPriority(slots.slots.values());
  noteOutlying(state, placed, members, context);
  noteSpoiled(state, members, context);
  const crowd = noteCrowded(state, members, context);
  const { refusal, ...refused } = refusedMember(state, members, context, patienceMs);
  const wake = sooner(crowd, refused);
  const heeded = refusal === undefined ? [] : [heed(state, refusal, context.nowMs)];
  const homeless = members.filter(([slot, pod]) => isHomeless(state, pod, slot, context.nodeFits));
  const settled = members.filter((member) => !homeless.includes(member));
  const kept = settled.filter(([slot, pod]) => foreignClaim(state, gang, slot, pod, context) === undefined);
  const effects: Effect[] = [...heeded, ...sweep(state, kept, context), ...steer(state, settled, context)];
  const mayReturn = mayReleaseReturning(state, gang, settled, context);
  for (const [slot, pod] of settled) {
    if (isBoundTo(state, pod, slot.node)) effects.push(...bindMember(state, slot, pod));
    else if (state.proposal === undefined) effects.push(...rejoin(state, gang, slot, pod, mayReturn, context));
  }
  for (const [slot, pod] of homeless) {
    const arrival = state.arrivals.get(pod.uid);
    if (arrival === undefined) continue;
    const error = `${whyHomeless(state, slot, context)}; the pod is planned anew`;
    effects.push({ ...answer(pod.uid, arrival.call), error });
  }
  if (state.proposal !== undefined || effects.length === 0) effects.push(...writeScheduled(state, gang, context));
  effects.push(...sayStrays(state, straysOf(state, slots)));
  if (!state.planning && state.proposal === undefined && wantsPlan(state, slots, placed, homeless, context)) {
    if (state.replanAtMs > context.nowMs) {
      return { effects, ...sooner(wake, { wakeAtMs: state.replanAtMs }) };
    }
    effects.push({ type: "plan", id: "plan" });
  }
  return { effects, ...wake };
}

function whyHomeless(state: GangState, slot: PlacedPod, context: Context): string {
  if (!context.nodeFits(slot.node)) return `node ${slot.node} is gone`;
  if (isOutlying(state, slot)) return `the others of its PlacementGroup are elsewhere than node ${slot.node}`;
  if (isSpoiled(state, slot))
    return `devices of its place on node ${slot.node} are gone, or have taints that it does not tolerate`;
  return `its place on node ${slot.node} lacks devices`;
}

function sooner(a: { wakeAtMs?: number }, b: { wakeAtMs?: number }): { wakeAtMs?: number } {
  return (a.wakeAtMs ?? Infinity) <= (b.wakeAtMs ?? Infinity) ? a : b;
}

/** Members that have their places again are let go when there is room for all of them among those that are being bound. */
function mayReleaseReturning(
  state: GangState,
  gang: GangRecord,
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): boolean {
  if (state.proposal !== undefined) return false;
  const returning = members.filter(([slot, pod]) => {
    if (!pod.gates.includes(gangGate) || state.inFlight.has(`release/${pod.uid}`)) return false;
    return !state.crowded.has(pod.uid) && isReserved(state, gang, slot, pod, context);
  });
  return returning.length > 0 && context.mayRelease(state, releasedPods(state) + returning.length);
}

/** A recreated member takes its own place again: same node, same devices, once the old claim has let go of them. */
function rejoin(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  mayReturn: boolean,
  context: Context,
): Effect[] {
  if (state.crowded.has(pod.uid)) return [];
  if (!isReserved(state, gang, slot, pod, context)) {
    return reserveMember(state, gang, slot, pod, context);
  }
  if (pod.gates.length > 0) return mayReturn ? releaseMember(slot, pod) : [];
  // The gang is committed, so its barrier is open.
  return state.arrivals.get(pod.uid)?.node === slot.node ? bindMember(state, slot, pod) : [];
}

/** Surplus members without a slot, and members whose node is gone, need a plan beside what runs. */
function wantsPlan(
  state: GangState,
  slots: MemberSlots,
  placed: readonly PlacedPod[],
  homeless: readonly [PlacedPod, PodRecord][],
  context: Context,
): boolean {
  const taken = new Set(placed.map((slot) => slotKey(slot.podSet, slot.index)));
  const surplus = [...slots.slots].some(
    ([slot, pod]) => !taken.has(slot) && pod.nodeName === undefined && hasAllClaims(pod, state.claims),
  );
  if (homeless.some(([slot, pod]) => holdsDevices(state, slot, pod, context))) return false;
  if (!surplus && !homeless.some(([, pod]) => hasAllClaims(pod, state.claims))) return false;
  const { rejection } = state;
  if (rejection === undefined) return true;
  return rejection.capacityVersion < context.capacityVersion || rejection.members !== memberKey(state);
}

/** What the member holds on its former node is given back before it is planned anew. */
function holdsDevices(state: GangState, slot: PlacedPod, pod: PodRecord, context: Context): boolean {
  const left = new Set(slot.claims.flatMap((placed) => (isLeft(placed, context) ? placed.reference : [])));
  const own = pod.claims.filter(({ name }) => !left.has(name));
  return own.some(({ claimName }) => state.claims.get(claimName ?? "")?.allocation !== undefined);
}

/** Slots that the spec still wants: a smaller `count` lets go of the highest indices. */
function wantedSlots(gang: GangRecord): PlacedPod[] {
  const counts = new Map(gang.spec.podSets.map((podSet) => [podSet.name, podSet.count]));
  return (gang.status.placement?.pods ?? []).filter((slot) => slot.index < (counts.get(slot.podSet) ?? 0));
}

/** @param running where members of a gang run that was never planned */
export function writeScheduled(state: GangState, gang: GangRecord, context: Context, running?: PlacedPod[]): Effect[] {
  const current = gang.status.phase === "Scheduled" ? wantedSlots(gang) : (gang.status.placement?.pods ?? []);
  const pods = state.proposal?.pods ?? running ?? current;
  const members = membersOf(state, gang, pods);
  const bound = members.filter(([slot, pod]) => isBoundTo(state, pod, slot.node));
  const short = shortPodSet(
    gang,
    bound.map(([slot]) => slot),
  );
  const degraded: ConditionChange =
    short === undefined
      ? { type: "Degraded", status: "False", reason: "AllMembersBound", message: "every needed member is bound" }
      : { type: "Degraded", status: "True", reason: "MembersMissing", message: short };
  const placement = { ...gang.status.placement, ...state.proposal, pods: withLiveNames(pods, members, state, context) };
  const status = nextStatus(
    gang,
    {
      phase: "Scheduled",
      members: `${bound.length}/${totalCount(gang)}`,
      placement,
      reservedAt: gang.status.reservedAt,
      conditions: [
        { type: "Planned", status: "True", reason: "Planned", message: planText(pods) },
        { type: "Scheduled", status: "True", reason: "Scheduled", message: planText(pods) },
        degraded,
      ],
    },
    context,
  );
  const given = placement.pods.some((pod, i) => pod.claims !== pods[i]!.claims && placeOf(pod) !== placeOf(pods[i]!));
  const moved = state.proposal !== undefined || given || pods.length !== gang.status.placement?.pods.length;
  if (!moved && saysTheSame(gang, status)) return [];
  return [
    {
      type: "writeStatus",
      id: "status",
      gang,
      status,
      transition: gang.status.phase === "Scheduled" ? "" : "Scheduled",
    },
  ];
}

/**
 * Members of controllers other than StatefulSets come back under new names: the slot keeps the live one. What was counted
 * on of other drivers gives way to what kube-scheduler gave; not in a plan, which is known by its devices.
 */
function withLiveNames(
  pods: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  state: GangState,
  context: Context,
): PlacedPod[] {
  const live = new Map(members);
  return pods.map((slot) => {
    const pod = live.get(slot);
    if (pod === undefined) return slot;
    const given = state.proposal === undefined && isBoundTo(state, pod, slot.node);
    const some = given && slot.claims.some((placed) => isLeft(placed, context));
    const claims = some ? slot.claims.map((placed) => asGiven(state, placed, pod, context)) : slot.claims;
    return { ...slot, pod: pod.name, claims };
  });
}

function asGiven(state: GangState, placed: PlacedClaim, pod: PodRecord, context: Context): PlacedClaim {
  if (!isLeft(placed, context)) return placed;
  const claim = claimOf(pod, placed.reference, state.claims);
  return claim?.allocation === undefined ? placed : { ...placed, claim: claim.name, devices: devicesOf(claim) };
}

/** What is wanting for `minCount`, if anything is. */
export function shortPodSet(gang: GangRecord, bound: readonly PlacedPod[]): string | undefined {
  for (const podSet of gang.spec.podSets) {
    const minCount = minCountOf(podSet);
    const present = bound.filter((slot) => slot.podSet === podSet.name).length;
    if (present < minCount) return `pod set ${podSet.name}: ${present} of ${minCount} members are bound`;
  }
  return undefined;
}
