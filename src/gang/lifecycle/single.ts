import { gangGate } from "../../api/names.ts";
import type { PlacedPod } from "../../api/placement.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { claimOf, claimReference, hasAllClaims, podConsumer } from "./claims.ts";
import type { AvoidedNodes } from "./refusals.ts";
import type { Effect } from "./state.ts";

/**
 * A pod without a Gang whose claims kllama allocates, because it is the only allocator of its drivers. It needs no
 * Gang, no guard and no barrier: a single pod cannot be half placed, and kube-scheduler itself binds it.
 */
export interface SingleState {
  pod: PodRecord;
  claims: Map<string, ClaimRecord>;
  /** Planned and not yet allocated; its devices are held. */
  proposal?: PlacedPod;
  /** All claims were seen allocated as proposed. */
  reserved?: boolean;
  planning: boolean;
  inFlight: Set<string>;
  pace: Map<string, { attempts: number; notBeforeMs: number }>;
  /** The node that kube-scheduler refused last, and since when it does. */
  refused?: { node: string; sinceMs: number };
  avoided: AvoidedNodes;
  /** The last refusal, how many there were in a row, and what was said. */
  rejectedAt?: { capacityVersion: number; nextMs: number; times: number; note: string };
  /** Since when a claim that it holds is known to be deleted. */
  doomedSinceMs?: number;
  /** Whether it came past the gate has been looked at. */
  judged?: boolean;
}

export interface SingleContext {
  nowMs: number;
  capacityVersion: number;
  nodeFits(node: string): boolean;
  /** Whether kube-scheduler allocates the claim, and not kllama. A pod with no other claims is only let go. */
  isLeft(claim: ClaimRecord): boolean;
  /** A claim that it names is another's. */
  intrudes: boolean;
}

/** As long as a binding can be under way: kube-apiserver ends every request after a minute. */
const longestBindingMs = 60_000;

/** What to do next for a single pod. Pure; the caller keeps the state and applies the effects. */
export function decideSingle(state: SingleState, context: SingleContext): { effects: Effect[]; wakeAtMs?: number } {
  const { pod } = state;
  if (pod.nodeName !== undefined || pod.terminal || pod.deleting) return { effects: [] };
  const doomed = [...state.claims.values()].filter((claim) => claim.deleting && isOurs(state, claim, context));
  if (doomed.length > 0) return letGo(state, doomed, context);
  delete state.doomedSinceMs;
  // Whose claims these are is known only once they exist: a gate lifted before would send the pod past the planner.
  if (!hasAllClaims(pod, state.claims)) return { effects: [] };
  const claims = pod.claims
    .map((reference) => claimOf(pod, reference.name, state.claims))
    .filter((claim) => claim !== undefined && !context.isLeft(claim))
    .filter((claim) => claim !== undefined);
  if (claims.length === 0) return { effects: release(pod, undefined) };
  const allocated = claims.filter((claim) => claim.allocation !== undefined);
  // Let go now it would run on their devices. The plan is refused, and says why.
  if (context.intrudes) return planAnew(state, [], context);
  if (allocated.length === claims.length) {
    if (state.proposal !== undefined) state.reserved = true;
    return { effects: release(pod, state.proposal?.node) };
  }
  // Nobody knows when it may be scheduled, if ever: until then others have the devices.
  if (allocated.length === 0 && isHeldByOthers(pod)) return { effects: [] };
  // Reserved and given back by kube-scheduler: it found no room there, whatever is free by now.
  if (state.proposal === undefined || state.reserved === true || !context.nodeFits(state.proposal.node)) {
    return planAnew(state, allocated, context);
  }
  return { effects: reserve(state, state.proposal, context) };
}

/**
 * kube-scheduler takes no pod whose claim is being deleted: let go of it, and another one is made. But it may have taken
 * the pod before it saw that, and nobody asks us whether it may bind: emptied then, the claim of a bound pod would have no devices.
 */
function letGo(
  state: SingleState,
  doomed: readonly ClaimRecord[],
  context: SingleContext,
): { effects: Effect[]; wakeAtMs?: number } {
  if (!mayBeTaken(state)) return { effects: doomed.map(clear) };
  state.doomedSinceMs ??= context.nowMs;
  const wakeAtMs = state.doomedSinceMs + longestBindingMs;
  return context.nowMs < wakeAtMs ? { effects: [], wakeAtMs } : { effects: doomed.map(clear) };
}

/** By a gate that somebody else lifts. */
function isHeldByOthers({ gates }: PodRecord): boolean {
  return gates.some((gate) => gate !== gangGate);
}

/** By kube-scheduler: no gate is left, or the write that lifts it may have passed. */
function mayBeTaken({ pod, inFlight, pace }: SingleState): boolean {
  const release = `release/${pod.uid}`;
  return pod.gates.length === 0 || inFlight.has(release) || pace.has(release);
}

/** A claim allocated without its siblings (a crash in between) is given back first: the plan covers all of them. */
function planAnew(
  state: SingleState,
  allocated: readonly ClaimRecord[],
  context: SingleContext,
): { effects: Effect[]; wakeAtMs?: number } {
  const ours = allocated.filter((claim) => isOurs(state, claim, context));
  if (ours.length > 0) return { effects: ours.map(clear) };
  if (state.planning) return { effects: [] };
  const rejected = state.rejectedAt;
  if (rejected !== undefined) {
    if (rejected.capacityVersion >= context.capacityVersion) return { effects: [] };
    if (rejected.nextMs > context.nowMs) return { effects: [], wakeAtMs: rejected.nextMs };
  }
  return { effects: [{ type: "plan", id: "plan" }] };
}

/** Allocated by the planner, and nobody else uses it. */
function isOurs(state: SingleState, claim: ClaimRecord, { isLeft }: SingleContext): boolean {
  if (claim.allocation === undefined || isLeft(claim)) return false;
  return claim.reservedFor.every((consumer) => consumer.uid === state.pod.uid);
}

function clear(claim: ClaimRecord): Effect {
  return { type: "clearClaim", id: `claim/${claim.name}`, claim: claimReference(claim) };
}

function reserve(state: SingleState, placed: PlacedPod, { isLeft }: SingleContext): Effect[] {
  const effects: Effect[] = [];
  for (const wanted of placed.claims) {
    const claim = claimOf(state.pod, wanted.reference, state.claims);
    if (claim === undefined || claim.deleting || claim.allocation !== undefined || isLeft(claim)) continue;
    effects.push({
      type: "reserveClaim",
      id: `claim/${claim.name}`,
      claim: claimReference(claim),
      placed: wanted,
      node: placed.node,
      reservedFor: [...claim.reservedFor.filter((c) => c.uid !== state.pod.uid), podConsumer(state.pod)],
    });
  }
  return effects;
}

function release(pod: PodRecord, node: string | undefined): Effect[] {
  if (!pod.gates.includes(gangGate)) return [];
  return [
    {
      type: "releasePod",
      id: `release/${pod.uid}`,
      pod: { namespace: pod.namespace, name: pod.name, uid: pod.uid },
      node: node ?? "",
      nominate: node !== undefined && pod.nominatedNodeName !== node,
    },
  ];
}
