import type { PlacedClaim, PlacedDevice, PlacedPod } from "../../api/placement.ts";
import { deviceKey } from "../../topology/held.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { assignSlots, type LeftOut, type MemberSlots, slotKey } from "../members.ts";
import { claimOf, coversClaims } from "./claims.ts";
import { type Context, type Effect, type GangRecord, type GangState, heldPods, type PodReference } from "./state.ts";

/** Which live pod fills which place of a gang, and which places a plan must leave as they are. */

/**
 * Pods that may fill places: alive, and gated by admission at their creation, which left the marker on them. The label
 * alone can be put on anybody's pod at any time, and without the marker kube-scheduler asks nobody before it binds.
 */
export function livePods(state: GangState): PodRecord[] {
  return [...state.pods.values()].filter((pod) => !pod.terminal && !pod.deleting && pod.bindMarker);
}

/** Pods with the gang's label that came past admission. */
function unmarkedPods(state: GangState): LeftOut[] {
  return [...state.pods.values()]
    .filter((pod) => !pod.bindMarker && !pod.terminal && !pod.deleting)
    .map((pod) => ({
      pod,
      message: `pod ${pod.name} is no member: it was created without the gang's label or before kllama's policies; create it again with the label`,
    }));
}

/** Pods that carry the label and have no place, for whatever reason. */
export function straysOf(state: GangState, { leftOut }: MemberSlots): LeftOut[] {
  return [...leftOut, ...unmarkedPods(state)];
}

/** One event on the Gang for pods that are left out, and one on each of them; again when it is others, or for another reason. */
export function sayStrays(state: GangState, strays: readonly LeftOut[]): Effect[] {
  const before = state.strays ?? new Map<string, string>();
  if (strays.length === before.size && strays.every(({ pod, message }) => before.get(pod.uid) === message)) return [];
  state.strays = new Map(strays.map(({ pod, message }) => [pod.uid, message]));
  const news = strays.filter(({ pod, message }) => before.get(pod.uid) !== message);
  const tell = (id: string, text: string, more: { pod?: PodReference } = {}): Effect => {
    return { type: "event", id, reason: "GangPodIgnored", note: text.slice(0, 1024), warning: true, ...more };
  };
  const told = news.map(({ pod: { namespace, name, uid }, message }) =>
    tell(`stray/${uid}`, `Gang ${state.gang?.name} leaves the pod out: ${message}`, { pod: { namespace, name, uid } }),
  );
  if (news.length === 0) return [];
  return [tell("strays", strays.map(({ message }) => message).join("; ")), ...told];
}

/** Placed slots with the live pod that fills each; slots without a pod are left out. */
export function membersOf(state: GangState, gang: GangRecord, placed: readonly PlacedPod[]): [PlacedPod, PodRecord][] {
  return membersIn(assignSlots(gang.spec, livePods(state), placed), placed);
}

/** The same of slots that are known. */
export function membersIn({ slots }: MemberSlots, placed: readonly PlacedPod[]): [PlacedPod, PodRecord][] {
  const members: [PlacedPod, PodRecord][] = [];
  for (const slot of placed) {
    const pod = slots.get(slotKey(slot.podSet, slot.index));
    if (pod !== undefined) members.push([slot, pod]);
  }
  return members;
}

export function isBoundTo(state: GangState, pod: PodRecord, node: string): boolean {
  return pod.nodeName === node || state.bound.get(pod.uid) === node;
}

/**
 * The slots that a new plan works around: all that the gang holds, or where its members run. Those of members that cannot
 * go there are left out, so that they are placed anew.
 */
export function keptPods(state: GangState, nodeFits: Context["nodeFits"]): readonly PlacedPod[] {
  const held = heldPods(state);
  if (held.length === 0) return runningPods(state);
  if (state.gang === undefined) return held;
  const members = new Map(membersOf(state, state.gang, [...held]));
  return held.filter((slot) => !isHomeless(state, members.get(slot), slot, nodeFits));
}

/**
 * The member waits for a node that is gone, refuses it or has no room, for a place that lacks devices it asks for or has
 * spoiled ones, or for one to which nobody returns.
 */
export function isHomeless(
  state: GangState,
  pod: PodRecord | undefined,
  slot: PlacedPod,
  nodeFits: Context["nodeFits"],
): boolean {
  if (pod === undefined || isBoundTo(state, pod, slot.node)) return false;
  if (isOutlying(state, slot) || isSpoiled(state, slot)) return true;
  const isRefused = state.avoided.has(slot.node) || state.crowded.get(pod.uid)?.isOver === true;
  return isRefused || !nodeFits(slot.node) || !coversClaims(slot, pod, state.claims);
}

/** The others of its PlacementGroup are elsewhere: see `noteOutlying`. */
export function isOutlying({ outlying }: GangState, { podSet, index }: PlacedPod): boolean {
  return outlying?.has(slotKey(podSet, index)) === true;
}

/** A device there is gone, or may not be given to the member that waits for it: see `noteSpoiled`. */
export function isSpoiled({ spoiled }: GangState, { podSet, index }: PlacedPod): boolean {
  return spoiled?.has(slotKey(podSet, index)) === true;
}

/** Where members run already. A Gang that was deleted and created again finds its pods there, and holds nothing itself. */
export function runningPods(state: GangState): PlacedPod[] {
  return state.gang === undefined ? [] : runningIn(state, assignSlots(state.gang.spec, livePods(state), []));
}

/** The same of slots that are known. */
export function runningIn(state: GangState, { slots }: MemberSlots): PlacedPod[] {
  const running: PlacedPod[] = [];
  for (const [slot, pod] of slots) {
    const node = pod.nodeName ?? state.bound.get(pod.uid);
    if (node === undefined) continue;
    const podSet = slot.slice(0, slot.lastIndexOf("/"));
    const index = Number(slot.slice(podSet.length + 1));
    running.push({ pod: pod.name, podSet, index, node, claims: claimsOf(state, pod) });
  }
  return running;
}

function claimsOf(state: GangState, pod: PodRecord): PlacedClaim[] {
  return pod.claims.flatMap((reference) => {
    const claim = claimOf(pod, reference.name, state.claims);
    // Of a claim that is gone, or was emptied under a pod that runs, nothing tells where its devices are.
    if (claim?.allocation === undefined) return [];
    return [{ claim: claim.name, reference: reference.name, devices: devicesOf(claim) }];
  });
}

/** A pod that is left out counts for nothing: one of low priority would have the gang preempted. */
export function lowestPriority(members: Iterable<PodRecord>): number {
  return Math.min(...[...members].map((pod) => pod.priority));
}

/** Equal for places on one node with the same devices. */
export function placeOf({ podSet, index, node, claims }: PlacedPod): string {
  const devices = claims.flatMap((claim) => claim.devices.map((d) => deviceKey(d.driver, d.pool, d.device)));
  return [podSet, index, node, ...devices.sort()].join("\n");
}

/** What the claim has, as places name it. */
export function devicesOf({ allocation }: ClaimRecord): PlacedDevice[] {
  const results = allocation?.devices?.results ?? [];
  return results.map(({ request, driver, pool, device, adminAccess, shareID, consumedCapacity }) => ({
    request,
    driver,
    pool,
    device,
    ...(adminAccess === undefined ? {} : { adminAccess }),
    ...(shareID === undefined ? {} : { shareID }),
    ...(consumedCapacity === undefined ? {} : { consumedCapacity }),
  }));
}
