import type { PlacedDevice, PlacedPod } from "../api/placement.ts";
import type { DeviceLevel, Fabric } from "../topology/fabric.ts";
import { wholeNode } from "../topology/inventory.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord } from "../topology/records.ts";
import type { GangRequest } from "./plan.ts";
import type { Rule, Slot } from "./problem.ts";

/** Consumers that a claim may have beside the guard (`k8s.io/api/resource/v1`: ResourceClaimReservedForMaxSize). */
const maxSharers = 255;

/** Why a claim that several pods name cannot be planned; undefined: it can. */
export function sharingFault(model: ClusterModel, slot: Slot, claim: ClaimRecord): string | undefined {
  const sharers = model.sharersOf(claim.namespace, claim.name);
  const stranger = sharers.find(({ gang }) => gang !== slot.pod.gang);
  if (stranger !== undefined) {
    const [mine, other] = [slot.pod, stranger].map(({ name, gang }) =>
      gang === undefined ? `pod ${name}` : `gang ${gang}`,
    );
    return `ResourceClaim ${claim.name} is shared by ${mine} and ${other}; the pods that share a claim must be members of one gang`;
  }
  if (sharers.length <= maxSharers) return undefined;
  return `ResourceClaim ${claim.name} is shared by ${sharers.length} pods; at most ${maxSharers} can, so use several claims`;
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
      if (allocation !== undefined || !isNamed(slot, name)) continue;
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
function isNamed({ pod }: Slot, claim: string): boolean {
  return pod.claims.some(({ claimName, templateName }) => claimName === claim && templateName === undefined);
}

const sameNode: DeviceLevel = { name: "host", attribute: wholeNode, link: {} };

/** Pods that share a claim have to be on one node: one rule per claim that some slot borrows. */
export function sharingRules(gang: number, request: GangRequest, slots: readonly Slot[], fabric: Fabric): Rule[] {
  const names = new Map<string, string>();
  for (const slot of slots) {
    for (const { uid, name } of slot.claims) if (slot.borrows?.has(uid)) names.set(uid, name);
  }
  return [...names.values()].map((name) => {
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
