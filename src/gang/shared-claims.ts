import type { PlacedDevice, PlacedPod } from "../api/placement.ts";
import type { DeviceLevel, Fabric } from "../topology/fabric.ts";
import { wholeNode } from "../topology/inventory.ts";
import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import { isGuard } from "./lifecycle/claims.ts";
import type { GangRequest } from "./plan.ts";
import type { Rule, Slot } from "./problem.ts";

/** Consumers that a claim may have beside the guard (`k8s.io/api/resource/v1`: ResourceClaimReservedForMaxSize). */
const maxSharers = 255;

/**
 * Why a claim that several pods name cannot be planned for a pod; undefined: it can. A claim that was made from a template
 * is its pod's. Any other is the gang's (or the single pod's) that came first: whoever names it later is refused, and
 * changes nothing for those before.
 */
export function sharingFault(model: ClusterModel, pod: PodRecord, claim: ClaimRecord): string | undefined {
  if (!isNamed(pod, claim.name)) return undefined;
  if (claim.ownerPodUid !== undefined && claim.ownerPodUid !== pod.uid) {
    return `ResourceClaim ${claim.name} was made for another pod; name a claim of your own, or a template`;
  }
  const { gang } = pod;
  const [own, others] = partition(model.sharersOf(claim.namespace, claim.name), (each) => each.gang === gang);
  const first = others.length === 0 ? undefined : firstSharer(model, claim, [...own, ...others]);
  if (first !== undefined && first.gang !== gang) {
    const [mine, other] = [pod, first].map((each) =>
      each.gang === undefined ? `pod ${each.name}` : `gang ${each.gang}`,
    );
    return `ResourceClaim ${claim.name} is shared by ${mine} and ${other}, which came first; the pods that share a claim must be members of one gang`;
  }
  if (own.length <= maxSharers) return undefined;
  return `ResourceClaim ${claim.name} is shared by ${own.length} pods; at most ${maxSharers} can, so use several claims`;
}

/** One of those who have the claim, or have places for it; else the oldest pod. */
function firstSharer(model: ClusterModel, claim: ClaimRecord, sharers: readonly PodRecord[]): PodRecord {
  const has = ({ uid, namespace, gang }: PodRecord): boolean => {
    const key = gang === undefined ? `pod:${uid}` : `${namespace}/${gang}`;
    return (
      claim.reservedFor.some((consumer) => consumer.uid === uid || (isGuard(consumer) && consumer.name === gang)) ||
      model.view.heldUnder(key).some(({ placed }) => placed.claims.some((each) => each.claim === claim.name))
    );
  };
  const rank = (pod: PodRecord): number => (has(pod) ? 0 : 1);
  return sharers.toSorted(
    (a, b) => rank(a) - rank(b) || a.createdAtMs - b.createdAtMs || comparePlain(a.name, b.name),
  )[0]!;
}

function partition<T>(all: readonly T[], belongs: (each: T) => boolean): [T[], T[]] {
  return [all.filter(belongs), all.filter((each) => !belongs(each))];
}

/**
 * Slots that share a claim without devices: the first one gets them, the others borrow. Surplus that would borrow from
 * surplus which may not be placed waits for the next plan.
 */
export function withBorrowing(
  base: readonly Slot[],
  surplus: readonly (readonly Slot[])[],
  placed: readonly PlacedPod[],
) {
  const lenders = new Map<string, { readonly group: number }>();
  const given = new Set(placed.flatMap(({ claims }) => claims.map(({ claim }) => claim)));
  const lend = (slot: Slot, group: number): Slot | undefined => {
    const borrows = new Set<string>();
    for (const { uid, name, allocation } of slot.claims) {
      if (allocation !== undefined || !isNamed(slot.pod, name)) continue;
      const lender = lenders.get(uid);
      if (lender !== undefined && lender.group !== group && lender.group >= 0) return undefined;
      if (lender !== undefined || given.has(name)) borrows.add(uid);
    }
    for (const { uid } of slot.claims) if (!borrows.has(uid) && !lenders.has(uid)) lenders.set(uid, { group });
    return borrows.size === 0 ? slot : { ...slot, borrows };
  };
  const lent = base.flatMap((slot) => lend(slot, -1) ?? []);
  const rest = surplus.map((slots, group) => {
    const found = slots.map((slot) => lend(slot, group));
    return found.flatMap((slot) => (slot !== undefined && !found.includes(undefined) ? [slot] : []));
  });
  return { base: lent, surplus: rest.filter((slots) => slots.length > 0) };
}

/** Does the pod name the claim itself, instead of having it made from a template? */
function isNamed({ claims }: PodRecord, claim: string): boolean {
  return claims.some(({ claimName, templateName }) => claimName === claim && templateName === undefined);
}

const sameNode: DeviceLevel = { name: "host", attribute: wholeNode, link: {} };

/** Pods that share a claim have to be on one node: one rule per claim that some slot borrows and that ties them to it. */
export function sharingRules(
  gang: number,
  request: GangRequest,
  slots: readonly Slot[],
  fabric: Fabric,
  tiesToNode: (claim: ClaimRecord) => boolean,
): Rule[] {
  const borrowed = new Map<string, ClaimRecord>();
  for (const slot of slots) {
    for (const claim of slot.claims) if (slot.borrows?.has(claim.uid)) borrowed.set(claim.uid, claim);
  }
  return [...borrowed.values()].filter(tiesToNode).map(({ name }) => {
    const members = new Set([
      ...slots.filter(({ claims }) => claims.some((claim) => claim.name === name)).map(placeKey),
      ...request.placed.filter(({ claims }) => claims.some(({ claim }) => claim === name)).map(placeKey),
    ]);
    return {
      kind: "colocate",
      fabric,
      ref: { kind: "device", level: sameNode },
      maxSkew: 1,
      required: true,
      setOf: (slot) => (slot.gang === gang && members.has(placeKey(slot)) ? "all" : undefined),
      title: `the pods that share ResourceClaim ${name}`,
    };
  });
}

function placeKey({ podSet, index }: { podSet: string; index: number }): string {
  return `${podSet}/${index}`;
}

/** Devices that pods of the gang, placed before or now, have for a claim that a slot borrows. */
export function lentDevices(placed: readonly PlacedPod[], claim: string): PlacedDevice[] {
  return (
    placed.flatMap(({ claims }) => claims).find((each) => each.claim === claim && each.devices.length > 0)?.devices ??
    []
  );
}
