import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { slotKey } from "../members.ts";
import { isBoundTo } from "./members.ts";
import type { Context, GangState } from "./state.ts";

/**
 * Notes to which places of a running gang nobody returns because a device there is gone, or has a taint that the member does not
 * tolerate: a lost board, one that an administrator drains. Whoever returned to it would wait for it in vain, be evicted again, or
 * take what kube-scheduler would not give. Pods that are bound stay: evicting them is kube-controller-manager's.
 * @param members those that have a place, with it
 */
export function noteSpoiled(
  state: GangState,
  members: readonly [PlacedPod, PodRecord][],
  { isSpoiled }: Pick<Context, "isSpoiled">,
): void {
  const waiting = members.filter(([slot, pod]) => !isBoundTo(state, pod, slot.node));
  const spoiled = waiting.filter(([slot, pod]) => isSpoiled(slot, pod));
  state.spoiled = new Set(spoiled.map(([{ podSet, index }]) => slotKey(podSet, index)));
}
