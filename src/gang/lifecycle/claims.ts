import type { ResourceClaimConsumer } from "../../api/kubernetes.ts";
import { schedulingGroup } from "../../api/names.ts";
import type { PlacedClaim, PlacedPod } from "../../api/placement.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { nameOf } from "../keys.ts";
import type { ClaimReference, Context, GangRecord } from "./state.ts";

/**
 * The guard: the Gang itself as a consumer of the claim. kube-controller-manager keeps consumers of unknown kinds and
 * kube-scheduler's PostFilter deallocates only what nobody else uses, so the allocation stays while the guard stands.
 */
function guardOf(gang: { name: string; uid: string }): ResourceClaimConsumer {
  return { apiGroup: schedulingGroup, resource: "gangs", name: gang.name, uid: gang.uid };
}

/** @returns whether the consumer is the guard of some Gang (of any generation of its name). */
export function isGuard(consumer: ResourceClaimConsumer): boolean {
  return consumer.apiGroup === schedulingGroup && consumer.resource === "gangs";
}

/** @returns whether it is the guard of the gang with that key (`namespace/name`), of any generation of its name. */
export function isGuardOf(key: string, consumer: ResourceClaimConsumer): boolean {
  return isGuard(consumer) && consumer.name === nameOf(key);
}

export function podConsumer(pod: { name: string; uid: string }): ResourceClaimConsumer {
  return { resource: "pods", name: pod.name, uid: pod.uid };
}

export function claimReference(claim: ClaimRecord): ClaimReference {
  const { namespace, name, uid, resourceVersion, finalizers, allocation } = claim;
  return { namespace, name, uid, resourceVersion, finalizers, allocated: allocation !== undefined };
}

/**
 * kube-scheduler allocates the claim in the cycle that ends with the bind call: the place says what was counted on, and
 * nothing of it is written, guarded or taken back here.
 */
export function isLeft({ devices }: PlacedClaim, { manages }: Pick<Context, "manages">): boolean {
  return devices.length > 0 && devices.every(({ driver }) => !manages(driver));
}

/** The live claim that a pod's reference names; undefined while kube-controller-manager has not created it. */
export function claimOf(
  pod: PodRecord,
  reference: string,
  claims: ReadonlyMap<string, ClaimRecord>,
): ClaimRecord | undefined {
  const name = pod.claims.find((claim) => claim.name === reference)?.claimName;
  return name === undefined ? undefined : claims.get(name);
}

/** @returns whether every claim of the pod exists, so that it can be planned. */
export function hasAllClaims(pod: PodRecord, claims: ReadonlyMap<string, ClaimRecord>): boolean {
  return pod.claims.every((reference) => {
    const claim = reference.claimName === undefined ? undefined : claims.get(reference.claimName);
    return claim !== undefined && !claim.deleting;
  });
}

/**
 * @returns whether a place has devices for every claim of the pod, as far as its claims exist. A place may have been
 * written for a pod whose claims were gone, and a recreated pod may ask for more than the one before.
 */
export function coversClaims(slot: PlacedPod, pod: PodRecord, claims: ReadonlyMap<string, ClaimRecord>): boolean {
  return pod.claims.every(({ name }) => {
    const placed = slot.claims.find((each) => each.reference === name);
    const claim = claimOf(pod, name, claims);
    return placed !== undefined && (claim === undefined || hasDevicesFor(claim, placed));
  });
}

function hasDevicesFor(claim: ClaimRecord, placed: PlacedClaim): boolean {
  return (claim.spec.devices?.requests ?? []).every(({ name, exactly }) => {
    const { length } = placed.devices.filter(({ request }) => request === name || request.startsWith(`${name}/`));
    if (exactly === undefined || exactly.allocationMode === "All") return length > 0;
    return length === (exactly.count ?? 1);
  });
}

export type ReservationState = "reserved" | "unreserved" | "foreign";

/**
 * Compares a claim with what the plan wants of it.
 * `foreign`: it holds other devices, or another node's, and must not be overwritten.
 */
export function reservationState(
  claim: ClaimRecord,
  placed: PlacedClaim,
  node: string,
  gang: GangRecord,
  pod: PodRecord,
): ReservationState {
  if (claim.allocation === undefined) return "unreserved";
  if (!sameDevices(claim, placed) || !boundToNode(claim, node)) return "foreign";
  const isFor = (uid: string): boolean => claim.reservedFor.some((consumer) => consumer.uid === uid);
  return isFor(gang.uid) && isFor(pod.uid) ? "reserved" : "unreserved";
}

type Granted = Pick<PlacedClaim["devices"][number], "request" | "driver" | "pool" | "device">;

function sameDevices(claim: ClaimRecord, placed: PlacedClaim): boolean {
  const results = claim.allocation?.devices?.results ?? [];
  if (results.length !== placed.devices.length) return false;
  // An allocation that we wrote has the order of the place. Every decision of a gang of thousands asks this of every member.
  if (results.every((result, index) => isSameDevice(result, placed.devices[index]!))) return true;
  const wanted = new Set(placed.devices.map((d) => `${d.request}\n${d.driver}\n${d.pool}\n${d.device}`));
  return results.every((d) => wanted.has(`${d.request}\n${d.driver}\n${d.pool}\n${d.device}`));
}

function isSameDevice(a: Granted, b: Granted): boolean {
  return a.device === b.device && a.pool === b.pool && a.driver === b.driver && a.request === b.request;
}

function boundToNode(claim: ClaimRecord, node: string): boolean {
  const terms = claim.allocation?.nodeSelector?.nodeSelectorTerms ?? [];
  return terms.length === 1 && terms[0]?.matchFields?.[0]?.values?.[0] === node;
}

/** Consumers once the gang and the pods are among them, others kept. */
export function withReservation(
  claim: ClaimRecord,
  gang: GangRecord,
  pods: readonly PodRecord[],
): ResourceClaimConsumer[] {
  const wanted = [guardOf(gang), ...pods.map(podConsumer)];
  const uids = new Set(wanted.map((consumer) => consumer.uid));
  return [...claim.reservedFor.filter((consumer) => !uids.has(consumer.uid)), ...wanted];
}
