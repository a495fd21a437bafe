import { gangGate } from "../../api/names.ts";
import type { PlacedPod } from "../../api/placement.ts";
import { deviceKey } from "../../topology/held.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { claimOf, claimReference, coversClaims, isLeft, reservationState, withReservation } from "./claims.ts";
import { answer } from "./decision.ts";
import { isBoundTo, membersOf } from "./members.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";

/** Name of a claim of the member that somebody else has allocated. */
export function foreignClaim(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  context: Context,
): string | undefined {
  for (const placed of slot.claims) {
    if (isLeft(placed, context)) continue;
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim !== undefined && reservationState(claim, placed, slot.node, gang, pod) === "foreign") return claim.name;
  }
  return undefined;
}

/**
 * A recreated member waits until the claim of its predecessor has let go of the devices: the API server would accept
 * both. A reservation for the predecessor that is still under way counts as well.
 */
export function reserveMember(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  context: Context,
): Effect[] {
  if (isBoundTo(state, pod, slot.node)) return [];
  const effects: Effect[] = [];
  for (const placed of slot.claims) {
    if (isLeft(placed, context)) continue;
    const claim = claimOf(pod, placed.reference, state.claims);
    // A write that is under way is not asked for again, whatever there is to say about it.
    if (claim === undefined || claim.deleting || state.inFlight.has(`claim/${claim.name}`)) continue;
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
  // Last, as it looks at every write under way: for a gang of thousands, of most members there is nothing to write.
  if (effects.length === 0 || !context.devicesFree(state, slot, pod) || isReservingForAnother(state, slot, pod))
    return [];
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
  const wanted = new Set(
    slot.claims.flatMap((claim) => claim.devices.map((d) => deviceKey(d.driver, d.pool, d.device))),
  );
  for (const effect of state.inFlight.values()) {
    if (effect.type !== "reserveClaim" || own.has(effect.claim.name)) continue;
    if (effect.placed.devices.some((d) => wanted.has(deviceKey(d.driver, d.pool, d.device)))) return true;
  }
  return false;
}

/**
 * Whether all claims of the member hold what its place says, as far as is known for sure. Of those that are left to
 * kube-scheduler it is enough that they exist.
 */
export function isReserved(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  context: Context,
): boolean {
  if (isBoundTo(state, pod, slot.node)) return true;
  if (!coversClaims(slot, pod, state.claims)) return false;
  return slot.claims.every((placed) => {
    const claim = claimOf(pod, placed.reference, state.claims);
    if (claim === undefined || claim.deleting || isUnsettled(state, `claim/${claim.name}`, context)) return false;
    if (isLeft(placed, context)) return true;
    return reservationState(claim, placed, slot.node, gang, pod) === "reserved";
  });
}

/**
 * Whether kube-scheduler has given the member the devices that it gives: it does before it makes the bind call. Bound
 * without them the pod could not start.
 */
export function hasLeftDevices(state: GangState, slot: PlacedPod, pod: PodRecord, context: Context): boolean {
  if (isBoundTo(state, pod, slot.node) || state.arrivals.get(pod.uid)?.node === slot.node) return true;
  return slot.claims.every((placed) => {
    if (!isLeft(placed, context)) return true;
    const claim = claimOf(pod, placed.reference, state.claims);
    return claim !== undefined && reaches(claim, slot.node) && claim.reservedFor.some(({ uid }) => uid === pod.uid);
  });
}

/** As far as the allocation names nodes. */
function reaches({ allocation }: ClaimRecord, node: string): boolean {
  const named = allocation?.nodeSelector?.nodeSelectorTerms.flatMap(({ matchFields = [] }) => matchFields) ?? [];
  return allocation !== undefined && (named.length === 0 || named.some(({ values }) => values?.includes(node)));
}

/** The write is under way, or failed a moment ago: it may have happened although its answer was lost. */
export function isUnsettled(state: GangState, id: string, context: Context): boolean {
  return state.inFlight.has(id) || (state.pace.get(id)?.notBeforeMs ?? 0) > context.nowMs;
}

/** The gate goes last: once it is lifted kube-scheduler may take the pod at any time. */
export function releaseMember(slot: PlacedPod, pod: PodRecord): Effect[] {
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

/** Binds a member of a committed gang and answers its held call once it is bound. */
export function bindMember(state: GangState, slot: PlacedPod, pod: PodRecord): Effect[] {
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

export function boundElsewhere(pod: PodRecord, node: string): boolean {
  return pod.nodeName !== undefined && pod.nodeName !== node;
}
