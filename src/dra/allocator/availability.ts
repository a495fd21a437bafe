import type { Consumption, NodeInventory, NodeUsage } from "../../topology/inventory.ts";
import { candidatesOf } from "./candidates.ts";
import type { CompiledClaim } from "./claim.ts";
import { countersFit } from "./order.ts";

/**
 * Devices that the first alternative of the claim's first request could take now, each by itself: indices, ascending.
 * Constraints are left out; for estimates.
 */
export function takeableDevices(inventory: NodeInventory, usage: NodeUsage, claim: CompiledClaim): number[] {
  const alternative = claim.requests[0]?.alternatives[0];
  if (alternative === undefined) return [];
  const { usable, shares } = candidatesOf(inventory, claim, alternative);
  return usable.filter((device) => {
    if (usage.used[device] !== 0) return false;
    const share = shares.get(device);
    if (share !== undefined && sharesLeft(inventory, usage, device, share) === 0) return false;
    const begun = share !== undefined && usage.shares[inventory.devices[device]!.shared!.index]! > 0;
    return begun || countersFit(inventory, device, usage.counterUsed);
  });
}

/**
 * Pods with one claim, one request in it, that devices given in parts have room for; undefined: other kinds of devices,
 * or several of them, are concerned, and only trying tells. The pods may have no constraints.
 */
export function countShares(
  inventory: NodeInventory,
  usage: NodeUsage,
  claims: readonly CompiledClaim[],
): number | undefined {
  const [claim] = claims;
  const alternative = claim?.requests[0]?.alternatives[0];
  if (claims.length !== 1 || alternative === undefined || claim!.constraints.length > 0) return undefined;
  if (claim!.requests.length > 1 || claim!.requests[0]!.alternatives.length > 1) return undefined;
  if (alternative.mode !== "ExactCount" || alternative.adminAccess) return undefined;
  const { usable, shares } = candidatesOf(inventory, claim!, alternative);
  let slots = 0;
  for (const device of usable) {
    const share = shares.get(device);
    if (share === undefined || inventory.devices[device]!.counters.length > 0) return undefined;
    if (usage.used[device] !== 0) continue;
    const left = sharesLeft(inventory, usage, device, share);
    // Several shares of one device do not make several devices for one pod.
    if (alternative.count > 1 && left > 1) return undefined;
    slots += left;
  }
  return Math.floor(slots / alternative.count);
}

/** How often the share fits beside what is consumed of the device; infinite where it takes nothing. */
function sharesLeft(inventory: NodeInventory, { consumed }: NodeUsage, device: number, share: Consumption): number {
  let left = Number.POSITIVE_INFINITY;
  for (const { name, slot, limit } of inventory.devices[device]!.shared!.capacities) {
    const amount = share.get(name) ?? 0n;
    if (amount > 0n) left = Math.min(left, Number((limit - consumed[slot]!) / amount));
  }
  return Math.max(0, left);
}

/** Largest share of any of its capacities that is taken of a device given in parts: 0 to 1. */
export function consumedPart({ devices }: NodeInventory, { consumed }: NodeUsage, device: number): number {
  let most = 0;
  for (const { slot, limit } of devices[device]!.shared?.capacities ?? []) {
    if (limit > 0n && consumed[slot]! > 0n) most = Math.max(most, Number(consumed[slot]!) / Number(limit));
  }
  return most;
}

/** Per group of devices (a GPU with its partitions, or a device of its own): how much of it nobody has, 0 to 1. */
export function freeParts(inventory: NodeInventory, usage: NodeUsage): Float64Array {
  const free = new Float64Array(inventory.groups).fill(1);
  for (const { index, group, counters, shared } of inventory.devices) {
    let taken = usage.used[index]! > 0 && counters.length === 0 ? 1 : 0;
    if (shared !== undefined && taken === 0) taken = consumedPart(inventory, usage, index);
    for (const { counter } of counters) {
      taken = Math.max(taken, usage.counterUsed[counter]! / Math.max(1, inventory.counterCapacity[counter]!));
    }
    free[group] = Math.min(free[group]!, 1 - taken);
  }
  return free;
}
