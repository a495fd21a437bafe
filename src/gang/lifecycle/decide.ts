import { gangGate } from "../../api/names.ts";
import type { PlacedPod } from "../../api/placement.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { assignSlots, type MemberSlots, minCountOf, slotKey } from "../members.ts";
import {
  claimOf,
  claimReference,
  coversClaims,
  hasAllClaims,
  isGuard,
  podConsumer,
  reservationState,
  withReservation,
} from "./claims.ts";
import { lostClaimText, lostGraceMs, tellClaimless } from "./lost-claims.ts";
import { isBoundTo, isHomeless, livePods, membersOf, runningPods, unmarkedPods } from "./members.ts";
import { tellFound, tellOrphans } from "./orphans.ts";
import { expireAvoided, heed, patienceMs, type Refusal, refusalSettlesMs, refusedMember } from "./refusals.ts";
import { type Context, type Effect, type GangRecord, type GangState, memberKey, unansweredWrite } from "./state.ts";
import { type ConditionChange, nextStatus, type StatusChange, saysTheSame } from "./status.ts";

/** Members usually arrive in a burst: say "3 of 4" only when no further one came for this long. */
const settleMs = 2_000;
/** A planned member that is gone may be on its way back (a StatefulSet recreates it within milliseconds). */
const missingGraceMs = 5_000;
/** Time for the bindings of a committed gang, however little of `scheduleTimeoutSeconds` is left. */
const finishMs = 10_000;
const firstReplanMs = 1_000;
const lastReplanMs = 60_000;

interface Decision {
  effects: Effect[];
  wakeAtMs?: number;
}

/**
 * What to do next, from what is known now: equal states and contexts give equal decisions. It notes in the state when
 * it first saw something that is given time (missing and incoming members, the pause before the next plan).
 */
export function decide(state: GangState, context: Context): Decision {
  const { gang } = state;
  if (gang === undefined || gang.deleting) {
    const { effects, ...wake } = tellOrphans(state, context);
    return { effects: [...refuseAll(state, gone(state)), ...sweep(state, [], context), ...effects], ...wake };
  }
  if (expireAvoided(state.avoided, context.nowMs)) delete state.rejection;
  const claimless = tellClaimless(state, context);
  const decision = decidePhase(state, gang, context);
  const expiries = state.rejection === undefined ? [] : state.avoided.values();
  const wakeAtMs = Math.min(decision.wakeAtMs ?? Infinity, claimless.wakeAtMs ?? Infinity, ...expiries);
  const effects = [...decision.effects, ...tellFound(state, context), ...claimless.effects];
  return wakeAtMs === Infinity ? { effects } : { effects, wakeAtMs };
}

function decidePhase(state: GangState, gang: GangRecord, context: Context): Decision {
  const { phase } = gang.status;
  if (phase !== "Binding") delete state.bindingSinceMs;
  if (phase !== "Binding" && phase !== "Reserved") delete state.releasedAtMs;
  switch (phase ?? "Pending") {
    case "Pending":
      return decidePending(state, gang, context);
    case "Reserved":
      return decideReserved(state, gang, context);
    case "Binding":
      return decideBinding(state, gang, context);
    case "Scheduled":
      return decideScheduled(state, gang, context);
    case "Revoked":
      return decideRevoked(state, gang, context);
  }
}

function gone(state: GangState): string {
  return `Gang ${state.key} does not exist; create it or remove the label from the pod`;
}

// ---- Pending -------------------------------------------------------------------------------------------------------

function decidePending(state: GangState, gang: GangRecord, context: Context): Decision {
  const effects = sweep(state, [], context);
  if (state.proposal !== undefined)
    return { effects: [...effects, writeReserved(state, gang, state.proposal.pods, context)] };
  // Whether it was written decides what the gang holds, so that is found out before anything else.
  const unanswered = unansweredWrite(state);
  if (unanswered !== undefined) return { effects: [...effects, unanswered] };
  const slots = assignSlots(gang.spec, livePods(state), []);
  const waiting = waitingFor(state, gang, slots, context);
  const strays = [...slots.problems, ...unmarkedPods(state)];
  // Pods that have no place stop a gang only when it is not complete without them: else anybody's could.
  if (gang.problems.length > 0 || (waiting !== undefined && slots.problems.length > 0)) {
    const said = [...gang.problems, ...strays].join("; ");
    return { effects: [...effects, ...sayPending(state, gang, "InvalidGang", said, context)] };
  }
  state.priority = lowestPriority(slots);
  effects.push(...sayStrays(state, strays));
  const running = runningPods(state);
  if (shortPodSet(gang, running) === undefined) {
    return { effects: [...effects, ...writeScheduled(state, gang, context, running)] };
  }
  if (waiting !== undefined) return settle(state, gang, [waiting, ...strays].join("; "), effects, context);
  delete state.incomplete;
  if (state.planning) return { effects };
  const { rejection } = state;
  if (rejection !== undefined) {
    const stale = rejection.capacityVersion < context.capacityVersion || rejection.members !== memberKey(state);
    if (!stale)
      return { effects: [...effects, ...sayPending(state, gang, rejection.reason, rejection.message, context)] };
  }
  if (state.replanAtMs > context.nowMs) return { effects, wakeAtMs: state.replanAtMs };
  return { effects: [...effects, { type: "plan", id: "plan" }] };
}

function lowestPriority({ slots }: MemberSlots): number {
  return Math.min(...[...slots.values()].map((pod) => pod.priority));
}

/** One event for pods that carry the label and are left out, and another when they are others. */
function sayStrays(state: GangState, strays: readonly string[]): Effect[] {
  const note = strays.join("; ").slice(0, 1024);
  if (note === (state.strays ?? "")) return [];
  state.strays = note;
  if (note === "") return [];
  return [{ type: "event", id: "strays", reason: "GangPodIgnored", note, warning: true }];
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

function writeReserved(state: GangState, gang: GangRecord, pods: PlacedPod[], context: Context): Effect {
  const placement = state.proposal ?? { pods };
  return write(state, gang, "Reserved", context, {
    placement,
    reservedAt: context.nowIso(),
    conditions: [
      { type: "Planned", status: "True", reason: "Planned", message: planText(pods) },
      { type: "Scheduled", status: "False", reason: "Reserved", message: "waiting for all members at the barrier" },
    ],
  });
}

function planText(pods: readonly PlacedPod[]): string {
  return `${pods.length} pods on ${new Set(pods.map((pod) => pod.node)).size} nodes`;
}

// ---- Reserved ------------------------------------------------------------------------------------------------------

function decideReserved(state: GangState, gang: GangRecord, context: Context): Decision {
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
  const effects = [...reserving, ...members.flatMap(([slot, pod]) => releaseMember(slot, pod))];
  if (context.groupReady(state) && members.every(([slot, pod]) => atBarrier(state, slot, pod))) {
    effects.push(writeBinding(state, gang, placed, context));
  }
  return { effects, wakeAtMs };
}

/**
 * Its members have so long from their release on, which may come late: others are released first. Members that
 * kube-scheduler has tried before have no gate any more, and it may try them again only after its longest back-off.
 */
function deadlineOf(state: GangState, gang: GangRecord, context: Context): number {
  return Math.max(gang.reservedAtMs ?? context.nowMs, state.releasedAtMs ?? 0) + timeoutMs(gang);
}

function timeoutMs(gang: GangRecord): number {
  const leastMs = (gang.status.attempts ?? 0) > 0 ? refusalSettlesMs : 0;
  return Math.max(leastMs, gang.spec.scheduleTimeoutSeconds * 1000);
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
  if (gang.problems.length > 0) return { reason: gang.problems.join("; ") };
  if (gang.status.observedGeneration !== gang.generation) return { reason: "the Gang's spec changed" };
  const running = new Set(members.filter(([slot, pod]) => isBoundTo(state, pod, slot.node)).map(([slot]) => slot));
  const lost = placed.find((slot) => !context.nodeFits(slot.node) && !running.has(slot));
  if (lost !== undefined) return { reason: `node ${lost.node} no longer fits pod ${lost.pod}` };
  for (const [slot, pod] of members) {
    if (pod.nodeName !== undefined && pod.nodeName !== slot.node) {
      return { reason: `pod ${pod.name} was bound to node ${pod.nodeName} by somebody else` };
    }
    const foreign = foreignClaim(state, gang, slot, pod);
    if (foreign !== undefined) return { reason: `claim ${foreign} was allocated by somebody else` };
    const gone = lostClaimOf(state, pod, context);
    if (gone !== undefined) return gone;
    const failed = failedBinding(state, slot, pod);
    if (failed !== undefined) return { reason: `pod ${pod.name} cannot be bound: ${failed}` };
  }
  const { refusal, ...wake } = refusedMember(state, members, context, refusalSettlesMs);
  if (refusal !== undefined) return { reason: refusalText(refusal), refusal };
  if (members.length === placed.length) {
    delete state.missingSinceMs;
    return wake;
  }
  state.missingSinceMs ??= context.nowMs;
  const giveUpAtMs = state.missingSinceMs + missingGraceMs;
  if (context.nowMs < giveUpAtMs) return { wakeAtMs: Math.min(giveUpAtMs, wake.wakeAtMs ?? giveUpAtMs) };
  const present = new Set(members.map(([slot]) => slot));
  const missing = placed.find((slot) => !present.has(slot));
  return { reason: `pod ${missing?.pod} is gone` };
}

/** Nothing is said of a claim that may be made anew at this moment. */
function lostClaimOf(
  state: GangState,
  pod: PodRecord,
  context: Context,
): { reason: string } | { reason?: never; wakeAtMs: number } | undefined {
  const lost = state.claimless.get(pod.uid);
  if (lost === undefined) return undefined;
  const saidAtMs = lost.sinceMs + lostGraceMs;
  return context.nowMs < saidAtMs ? { wakeAtMs: saidAtMs } : { reason: lostClaimText(pod, lost.claim) };
}

function failedBinding(state: GangState, slot: PlacedPod, pod: PodRecord): string | undefined {
  const claims = slot.claims.map(({ reference }) => claimOf(pod, reference, state.claims));
  return claims.find((claim) => claim?.bindingFailure !== undefined)?.bindingFailure;
}

function refusalText({ slot, pod, message }: Refusal): string {
  return `kube-scheduler refuses pod ${pod.name} on node ${slot.node}: ${message}`;
}

function foreignClaim(state: GangState, gang: GangRecord, slot: PlacedPod, pod: PodRecord): string | undefined {
  for (const placed of slot.claims) {
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim !== undefined && reservationState(claim, placed, slot.node, gang, pod) === "foreign") return claim.name;
  }
  return undefined;
}

/**
 * A recreated member waits until the claim of its predecessor has let go of the devices: the API server would accept
 * both. A reservation for the predecessor that is still under way counts as well.
 */
function reserveMember(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  context: Context,
): Effect[] {
  if (isBoundTo(state, pod, slot.node)) return [];
  if (!context.devicesFree(state, slot, pod) || isReservingForAnother(state, slot, pod)) return [];
  const effects: Effect[] = [];
  for (const placed of slot.claims) {
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim === undefined || claim.deleting) continue;
    if (reservationState(claim, placed, slot.node, gang, pod) !== "unreserved") continue;
    effects.push({
      type: "reserveClaim",
      id: `claim/${claim.name}`,
      claim: claimReference(claim),
      placed,
      node: slot.node,
      reservedFor: withReservation(claim, gang, sharersOf(state, gang, claim, pod)),
    });
  }
  return effects;
}

/** A claim that several members name is reserved for all of them in one write. */
function sharersOf(state: GangState, gang: GangRecord, claim: ClaimRecord, pod: PodRecord): PodRecord[] {
  if (claim.ownerPodUid === pod.uid) return [pod];
  const members = membersOf(state, gang, gang.status.placement?.pods ?? []).map(([, member]) => member);
  return members.filter((member) => member.claims.some(({ claimName }) => claimName === claim.name));
}

function isReservingForAnother(state: GangState, slot: PlacedPod, pod: PodRecord): boolean {
  const own = new Set(pod.claims.map((claim) => claim.claimName));
  const wanted = new Set(slot.claims.flatMap((claim) => claim.devices.map((d) => `${d.driver}/${d.pool}/${d.device}`)));
  for (const effect of state.inFlight.values()) {
    if (effect.type !== "reserveClaim" || own.has(effect.claim.name)) continue;
    if (effect.placed.devices.some((d) => wanted.has(`${d.driver}/${d.pool}/${d.device}`))) return true;
  }
  return false;
}

function isReserved(state: GangState, gang: GangRecord, slot: PlacedPod, pod: PodRecord, context: Context): boolean {
  if (isBoundTo(state, pod, slot.node)) return true;
  if (!coversClaims(slot, pod, state.claims)) return false;
  return slot.claims.every((placed) => {
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim === undefined || claim.deleting || isUnsettled(state, `claim/${claim.name}`, context)) return false;
    return reservationState(claim, placed, slot.node, gang, pod) === "reserved";
  });
}

/** The write is under way, or failed a moment ago: it may have happened although its answer was lost. */
function isUnsettled(state: GangState, id: string, context: Context): boolean {
  return state.inFlight.has(id) || (state.pace.get(id)?.notBeforeMs ?? 0) > context.nowMs;
}

/** The gate goes last: once it is lifted kube-scheduler may take the pod at any time. */
function releaseMember(slot: PlacedPod, pod: PodRecord): Effect[] {
  if (pod.nodeName !== undefined) return [];
  if (!pod.gates.includes(gangGate)) return [];
  return [
    {
      type: "releasePod",
      id: `release/${pod.uid}`,
      pod: { namespace: pod.namespace, name: pod.name, uid: pod.uid },
      node: slot.node,
      nominate: pod.nominatedNodeName !== slot.node,
    },
  ];
}

function atBarrier(state: GangState, slot: PlacedPod, pod: PodRecord): boolean {
  return pod.nodeName === slot.node || state.arrivals.get(pod.uid)?.node === slot.node;
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

function writeRevoked(state: GangState, gang: GangRecord, reason: string, context: Context): Effect {
  return write(state, gang, "Revoked", context, {
    explanation: reason,
    attempts: (gang.status.attempts ?? 0) + 1,
    conditions: [
      { type: "Planned", status: "False", reason: "Revoked", message: reason },
      { type: "Scheduled", status: "False", reason: "Revoked", message: reason },
    ],
  });
}

// ---- Binding -------------------------------------------------------------------------------------------------------

function decideBinding(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = gang.status.placement?.pods ?? [];
  const members = membersOf(state, gang, placed);
  const deadlineMs = bindingDeadline(state, gang, context);
  if (context.nowMs >= deadlineMs) return giveUpBinding(state, gang, members, context);
  // A member recreated since the commit, or left without its node, joins later: see `decideScheduled`.
  const bindable = members.filter(
    ([slot, pod]) =>
      isBoundTo(state, pod, slot.node) || (context.nodeFits(slot.node) && isReserved(state, gang, slot, pod, context)),
  );
  const returning = members.filter((member) => !bindable.includes(member) && wasTakenOff(state, gang, member, context));
  const effects = [
    ...sweep(state, members, context),
    ...returning.flatMap(([slot, pod]) => reserveMember(state, gang, slot, pod, context)),
    ...bindable.flatMap(([slot, pod]) => bindMember(state, slot, pod)),
  ];
  const unbound = bindable.filter(
    ([slot, pod]) => !isBoundTo(state, pod, slot.node) && !boundElsewhere(pod, slot.node),
  );
  if (unbound.length + returning.length === 0 && members.length > 0) {
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
  context: Context,
): Decision {
  const bound = members.filter(([slot, pod]) => isBoundTo(state, pod, slot.node));
  const effects = [...sweep(state, members, context), ...bound.flatMap(([slot, pod]) => bindMember(state, slot, pod))];
  const slots = bound.map(([slot]) => slot);
  if (shortPodSet(gang, slots) === undefined) return { effects: [...effects, ...writeScheduled(state, gang, context)] };
  // A binding whose answer was lost may still come to pass: until that is known nobody can say who is bound.
  if (members.some(([, pod]) => isUnsettled(state, `bind/${pod.uid}`, context))) return { effects };
  if (bound.length > 0) return { effects: [...effects, ...bound.map(([, pod]) => disrupt(pod))] };
  return { effects: [...effects, writeRevoked(state, gang, unboundText(state, gang, members), context)] };
}

function disrupt({ namespace, name, uid }: PodRecord): Effect {
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
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim?.allocation === undefined || claim.deleting) return false;
    return reservationState(claim, placed, slot.node, gang, pod) !== "foreign";
  });
}

function bindMember(state: GangState, slot: PlacedPod, pod: PodRecord): Effect[] {
  const arrival = state.arrivals.get(pod.uid);
  if (isBoundTo(state, pod, slot.node)) return arrival === undefined ? [] : [answer(pod.uid, arrival.call)];
  if (boundElsewhere(pod, slot.node)) return [];
  // A gate that is still there (a crash between reserve and release) would make the API server refuse the binding.
  if (pod.gates.length > 0) return releaseMember(slot, pod);
  return [
    {
      type: "bind",
      id: `bind/${pod.uid}`,
      pod: { namespace: pod.namespace, name: pod.name, uid: pod.uid },
      node: slot.node,
    },
  ];
}

function boundElsewhere(pod: PodRecord, node: string): boolean {
  return pod.nodeName !== undefined && pod.nodeName !== node;
}

// ---- Scheduled -----------------------------------------------------------------------------------------------------

function decideScheduled(state: GangState, gang: GangRecord, context: Context): Decision {
  const placed = wantedSlots(gang);
  const members = membersOf(state, gang, placed);
  const { refusal, ...wake } = refusedMember(state, members, context, patienceMs);
  const heeded = refusal === undefined ? [] : [heed(state, refusal, context.nowMs)];
  const homeless = members.filter(([slot, pod]) => isHomeless(state, pod, slot, context.nodeFits));
  const settled = members.filter((member) => !homeless.includes(member));
  const kept = settled.filter(([slot, pod]) => foreignClaim(state, gang, slot, pod) === undefined);
  const effects: Effect[] = [...heeded, ...sweep(state, kept, context)];
  for (const [slot, pod] of settled) {
    if (isBoundTo(state, pod, slot.node)) effects.push(...bindMember(state, slot, pod));
    else if (state.proposal === undefined) effects.push(...rejoin(state, gang, slot, pod, context));
  }
  for (const [slot, pod] of homeless) {
    const arrival = state.arrivals.get(pod.uid);
    if (arrival === undefined) continue;
    const why = context.nodeFits(slot.node)
      ? `its place on node ${slot.node} lacks devices`
      : `node ${slot.node} is gone`;
    effects.push({ ...answer(pod.uid, arrival.call), error: `${why}; the pod is planned anew` });
  }
  if (state.proposal !== undefined || effects.length === 0) effects.push(...writeScheduled(state, gang, context));
  if (!state.planning && state.proposal === undefined && wantsPlan(state, gang, placed, homeless, context)) {
    if (state.replanAtMs > context.nowMs) {
      return { effects, wakeAtMs: Math.min(state.replanAtMs, wake.wakeAtMs ?? state.replanAtMs) };
    }
    effects.push({ type: "plan", id: "plan" });
  }
  return { effects, ...wake };
}

/** A recreated member takes its own place again: same node, same devices, once the old claim has let go of them. */
function rejoin(state: GangState, gang: GangRecord, slot: PlacedPod, pod: PodRecord, context: Context): Effect[] {
  if (!isReserved(state, gang, slot, pod, context)) {
    return reserveMember(state, gang, slot, pod, context);
  }
  if (pod.gates.length > 0) return releaseMember(slot, pod);
  // The gang is committed, so its barrier is open.
  return state.arrivals.get(pod.uid)?.node === slot.node ? bindMember(state, slot, pod) : [];
}

/** Surplus members without a slot, and members whose node is gone, need a plan beside what runs. */
function wantsPlan(
  state: GangState,
  gang: GangRecord,
  placed: readonly PlacedPod[],
  homeless: readonly [PlacedPod, PodRecord][],
  context: Context,
): boolean {
  const slots = assignSlots(gang.spec, livePods(state), placed);
  const taken = new Set(placed.map((slot) => slotKey(slot.podSet, slot.index)));
  const surplus = [...slots.slots].some(
    ([slot, pod]) => !taken.has(slot) && pod.nodeName === undefined && hasAllClaims(pod, state.claims),
  );
  if (homeless.some(([, pod]) => holdsDevices(state, pod))) return false;
  if (!surplus && !homeless.some(([, pod]) => hasAllClaims(pod, state.claims))) return false;
  const { rejection } = state;
  if (rejection === undefined) return true;
  return rejection.capacityVersion < context.capacityVersion || rejection.members !== memberKey(state);
}

/** What the member holds on its former node is given back before it is planned anew. */
function holdsDevices(state: GangState, pod: PodRecord): boolean {
  return pod.claims.some(({ claimName }) => state.claims.get(claimName ?? "")?.allocation !== undefined);
}

/** Slots that the spec still wants: a smaller `count` lets go of the highest indices. */
function wantedSlots(gang: GangRecord): PlacedPod[] {
  const counts = new Map(gang.spec.podSets.map((podSet) => [podSet.name, podSet.count]));
  return (gang.status.placement?.pods ?? []).filter((slot) => slot.index < (counts.get(slot.podSet) ?? 0));
}

/** @param running where members of a gang run that was never planned */
function writeScheduled(state: GangState, gang: GangRecord, context: Context, running?: PlacedPod[]): Effect[] {
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
  const placement = { ...gang.status.placement, ...state.proposal, pods: withLiveNames(pods, members) };
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
  const moved = state.proposal !== undefined || pods.length !== gang.status.placement?.pods.length;
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

/** Members of controllers other than StatefulSets come back under new names: the slot keeps the live one. */
function withLiveNames(pods: readonly PlacedPod[], members: readonly [PlacedPod, PodRecord][]): PlacedPod[] {
  const live = new Map(members.map(([slot, pod]) => [slot, pod.name]));
  return pods.map((slot) => ({ ...slot, pod: live.get(slot) ?? slot.pod }));
}

function shortPodSet(gang: GangRecord, bound: readonly PlacedPod[]): string | undefined {
  for (const podSet of gang.spec.podSets) {
    const minCount = minCountOf(podSet);
    const present = bound.filter((slot) => slot.podSet === podSet.name).length;
    if (present < minCount) return `pod set ${podSet.name}: ${present} of ${minCount} members are bound`;
  }
  return undefined;
}

// ---- Revoked -------------------------------------------------------------------------------------------------------

function decideRevoked(state: GangState, gang: GangRecord, context: Context): Decision {
  const reason = gang.status.explanation ?? "revoked";
  const clearing = sweep(state, [], context);
  delete state.missingSinceMs;
  state.trials.clear();
  const effects = [...refuseAll(state, `gang ${state.key} was revoked: ${reason}`), ...clearing];
  if (clearing.length > 0 || holdsAnything(state)) return { effects };
  const attempts = gang.status.attempts ?? 1;
  state.replanAtMs = context.nowMs + Math.min(lastReplanMs, firstReplanMs * 2 ** (attempts - 1));
  effects.push(write(state, gang, "Pending", context, { explanation: reason, conditions: [] }));
  return { effects, wakeAtMs: state.replanAtMs };
}

function holdsAnything(state: GangState): boolean {
  return [...state.claims.values()].some((claim) => claim.reservedFor.some(isGuard));
}

// ---- shared --------------------------------------------------------------------------------------------------------

/**
 * Guards that nothing needs any more. A claim whose pod is bound loses only the guard; one that no live pod will use
 * loses allocation and consumers in one update, because removing the guard alone would leak the allocation. One whose
 * pod is perhaps being bound at this moment is left until that is known. A bound pod that kube-scheduler took off its
 * claim, because the answer of its bind call was lost, is put back.
 * @param kept members whose reservation is wanted although they are not bound
 */
function sweep(state: GangState, kept: readonly [PlacedPod, PodRecord][], context: Context): Effect[] {
  const effects: Effect[] = [];
  const keptClaims = new Set(
    kept
      .filter(([slot, pod]) => !isBoundTo(state, pod, slot.node))
      .flatMap(([, pod]) => pod.claims.map((claim) => claim.claimName)),
  );
  const users = podUidsByClaim(state);
  for (const claim of state.claims.values()) {
    // kube-scheduler takes no pod whose claim is being deleted: let go of it, and another one is made.
    if (!claim.reservedFor.some(isGuard) || (keptClaims.has(claim.name) && !claim.deleting)) continue;
    const consumers = claim.reservedFor.filter((consumer) => !isGuard(consumer));
    const members = users.get(claim.name) ?? [];
    if ([...consumers, ...members].some(({ uid }) => isUnsettled(state, `bind/${uid}`, context))) continue;
    const isHere = (pod: PodRecord): boolean => pod.nodeName !== undefined || state.bound.has(pod.uid);
    const missing = members.filter((pod) => isHere(pod) && !pod.terminal && !consumers.some((c) => c.uid === pod.uid));
    const others = [...consumers, ...missing.map(podConsumer)];
    const inUse = others.some((consumer) => {
      const pod = members.find((user) => user.uid === consumer.uid);
      // A consumer we do not know is not ours to judge; a member that is not bound never started.
      return pod === undefined || isHere(pod);
    });
    const id = `claim/${claim.name}`;
    effects.push(
      inUse
        ? { type: "dropGuard", id, claim: claimReference(claim), reservedFor: others }
        : { type: "clearClaim", id, claim: claimReference(claim) },
    );
  }
  return effects;
}

function podUidsByClaim(state: GangState): Map<string, PodRecord[]> {
  const users = new Map<string, PodRecord[]>();
  for (const pod of state.pods.values()) {
    for (const { claimName } of pod.claims) {
      if (claimName !== undefined) users.set(claimName, [...(users.get(claimName) ?? []), pod]);
    }
  }
  return users;
}

function refuseAll(state: GangState, error: string): Effect[] {
  return [...state.arrivals].map(([podUid, arrival]) => ({ ...answer(podUid, arrival.call), error }));
}

function answer(podUid: string, call: number): Effect & { type: "answer" } {
  return { type: "answer", id: `answer/${podUid}`, podUid, call };
}

function write(
  state: GangState,
  gang: GangRecord,
  phase: StatusChange["phase"],
  context: Context,
  change: Omit<StatusChange, "phase" | "members">,
): Effect {
  const status = nextStatus(gang, { phase, members: membersText(state, gang), ...change }, context);
  return { type: "writeStatus", id: "status", gang, status, transition: phase };
}

function slotsOf(slots: MemberSlots, podSet: string): PodRecord[] {
  return [...slots.slots].filter(([slot]) => slot.startsWith(`${podSet}/`)).map(([, pod]) => pod);
}

function totalCount(gang: GangRecord): number {
  return gang.spec.podSets.reduce((sum, podSet) => sum + podSet.count, 0);
}

function membersText(state: GangState, gang: GangRecord): string {
  const bound = livePods(state).filter((pod) => pod.nodeName !== undefined || state.bound.has(pod.uid)).length;
  return `${bound}/${totalCount(gang)}`;
}
