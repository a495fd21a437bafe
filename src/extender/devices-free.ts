import type { PlacedPod } from "../api/placement.ts";
import { onlyWaits } from "../gang/keys.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import { deviceKey } from "../topology/held.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";
import { doubtKey } from "./doubts.ts";

/** Nobody but the gang itself and the claims of this pod hold the devices of this place. */
export function devicesFree(model: ClusterModel, state: GangState, placed: PlacedPod, pod: PodRecord): boolean {
  const own = new Set([`hold:${state.key}`]);
  for (const { claimName } of pod.claims) {
    const claim = claimName === undefined ? undefined : model.claim(pod.namespace, claimName);
    if (claim === undefined) continue;
    own.add(`claim:${claim.uid}`).add(`hold:${doubtKey(claim.uid)}`);
    // Whoever shares the claim shares its devices.
    for (const { uid } of claim.reservedFor) own.add(`pod:${uid}`);
  }
  return placed.claims.every((claim) =>
    claim.devices.every(({ driver, pool, device, shareID, adminAccess }) => {
      // What kube-scheduler gives it finds free itself.
      if (adminAccess === true || !model.view.managedDrivers.has(driver)) return true;
      const holders = model.holdersOf(driver, pool, device, shareID);
      return (
        holders.every((holder) => own.has(holder) || onlyWaits(holder)) &&
        !isOverdrawn(model, placed.node, deviceKey(driver, pool, device))
      );
    }),
  );
}

/** What it takes of its board, or of its own capacity, is somebody else's too: of a partition of a GPU that is not free yet. */
function isOverdrawn(model: ClusterModel, node: string, device: string): boolean {
  const { view } = model;
  const index = view.indexOf(node);
  if (index === undefined) return false;
  const { devices, indexOf, counterCapacity } = view.inventory(index);
  const { consumed } = view.usage(index);
  const entry = devices[indexOf.get(device) ?? -1];
  if (entry === undefined) return false;
  // Of the board's devices those that somebody has, not who only waits for them.
  const taken =
    entry.counters.length === 0
      ? []
      : devices.filter(({ group, driver, pool, name }) => {
          return group === entry.group && model.holdersOf(driver, pool, name).some((holder) => !onlyWaits(holder));
        });
  const used = (of: number): number =>
    taken.reduce((sum, each) => sum + (each.counters.find(({ counter }) => counter === of)?.amount ?? 0), 0);
  if (entry.counters.some(({ counter }) => used(counter) > counterCapacity[counter]!)) return true;
  return entry.shared?.capacities.some(({ slot, limit }) => consumed[slot]! > limit) ?? false;
}
