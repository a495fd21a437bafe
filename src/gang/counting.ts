import { allocateTogether, isAllocationFailure, matchingDevices } from "../dra/allocator/allocate.ts";
import { countShares } from "../dra/allocator/availability.ts";
import { copyUsage, devicesByValue, type NodeInventory, type NodeUsage } from "../topology/inventory.ts";
import type { NodeRecord } from "../topology/records.ts";
import { chooseDevices, optionsFor, type Shape, type Together, takeDevices } from "./shape.ts";

/**
 * As many pods of the shape as devices allow, at most `room`; never too few. Pods that choose one after the other
 * may waste devices that others could use: where that can be, more of them are tried together.
 */
export function countSlots(
  shape: Shape,
  node: NodeRecord,
  room: number,
  inventory: NodeInventory,
  usage: () => NodeUsage,
  together: readonly Together[] = [],
): number {
  if (room === 0 || shape.claims.length === 0) return room;
  const before = usage();
  const shares =
    inventory.sharedDevices > 0 && optionsFor(shape, node, together).together?.length === 0
      ? countShares(inventory, before, shape.claims)
      : undefined;
  if (shares !== undefined) return Math.min(room, shares);
  let trial = before;
  let slots = 0;
  for (; slots < room; slots++) {
    const choice = chooseDevices(shape, node, inventory, trial, together);
    if (isAllocationFailure(choice)) break;
    if (slots === 0) trial = copyUsage(trial);
    takeDevices(inventory, trial, choice, 1);
  }
  if (slots === room || wastesNothing(shape, inventory)) return slots;
  return countTogether(shape, node, slots, Math.min(room, most(shape, inventory, before)), inventory, before, together);
}

/** Do pods of the shape that choose one after the other find room for as many as can be? */
export function wastesNothing({ simple, claims }: Shape, inventory: NodeInventory): boolean {
  return simple && claims.every((claim) => matchingDevices(inventory, claim, 0).every(isWhole(inventory)));
}

/** Nobody takes a part of the device, nor is it one. */
function isWhole({ devices }: NodeInventory) {
  return (device: number): boolean => devices[device]!.counters.length === 0 && devices[device]!.shared === undefined;
}

/** Above this many pods of one node nothing is tried together: the bound alone counts. */
const maxTogether = 16;

function countTogether(
  shape: Shape,
  node: NodeRecord,
  found: number,
  limit: number,
  inventory: NodeInventory,
  usage: NodeUsage,
  together: readonly Together[],
): number {
  if (shape.admin || found === limit) return found;
  if (found >= maxTogether) return limit;
  const pod = { claims: shape.claims, options: optionsFor(shape, node, together) };
  for (let slots = found; slots < limit; slots++) {
    const pods = Array.from({ length: slots + 1 }, () => pod);
    const { choices } = allocateTogether(inventory, usage, pods);
    // Where it cannot be told within the budget, the search that puts them there will find out.
    if (isAllocationFailure(choices)) return choices.reason === "BudgetExceeded" ? limit : slots;
  }
  return limit;
}

/** A bound of the pods that devices allow, whatever is chosen. */
function most({ claims, admin }: Shape, inventory: NodeInventory, usage: NodeUsage): number {
  if (admin) return Number.POSITIVE_INFINITY;
  let bound = Number.POSITIVE_INFINITY;
  for (const claim of claims) {
    for (const [request, { alternatives }] of claim.requests.entries()) {
      const units = unitsOf(inventory, usage, matchingDevices(inventory, claim, request));
      const each = Math.min(...alternatives.map(({ count }) => Math.max(1, count)));
      bound = Math.min(bound, Math.floor(units / each));
    }
  }
  return bound;
}

/** At most so many of the devices can be held at once, beside what is held already. */
function unitsOf(inventory: NodeInventory, { used, counterUsed }: NodeUsage, devices: readonly number[]): number {
  const groups = new Map<number, number[]>();
  let units = 0;
  for (const device of devices) {
    const { counters, shared, group } = inventory.devices[device]!;
    if (shared !== undefined) return Number.POSITIVE_INFINITY;
    if (used[device] !== 0) continue;
    if (counters.length === 0) units++;
    else groups.set(group, [...(groups.get(group) ?? []), device]);
  }
  for (const members of groups.values()) {
    let bound = members.length;
    const amounts = members.map((device) => {
      return new Map(inventory.devices[device]!.counters.map(({ counter, amount }) => [counter, amount]));
    });
    for (const counter of amounts[0]!.keys()) {
      const least = Math.min(...amounts.map((each) => each.get(counter) ?? 0));
      if (least === 0) continue;
      bound = Math.min(bound, Math.floor((inventory.counterCapacity[counter]! - counterUsed[counter]!) / least));
    }
    units += Math.max(0, bound);
  }
  return units;
}

/**
 * Pods of the shape that fit on devices with one value of an attribute, at most `room`. What is free is counted before
 * anything is allocated: on most hosts that tells enough.
 */
export function countSlotsInside(
  shape: Shape,
  node: NodeRecord,
  room: number,
  inventory: NodeInventory,
  usage: NodeUsage,
  inside: Together,
): number {
  const bound = Math.min(room, freeSlotsInside(shape, inventory, usage, inside));
  return bound === 0 ? 0 : countSlots(shape, node, bound, inventory, () => usage, [inside]);
}

/** A bound. Devices that are given in parts, and administrators' access, have none. */
export function freeSlotsInside(
  { devices, admin }: Pick<Shape, "devices" | "admin">,
  inventory: NodeInventory,
  { used }: NodeUsage,
  { attribute, value }: Together,
): number {
  if (admin || devices === 0) return Number.POSITIVE_INFINITY;
  let free = 0;
  for (const device of devicesByValue(inventory, attribute).get(value) ?? []) {
    if (inventory.devices[device]!.shared !== undefined) return Number.POSITIVE_INFINITY;
    if (used[device] === 0) free++;
  }
  return Math.floor(free / devices);
}
