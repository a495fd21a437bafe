import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { slotKey } from "../members.ts";
import { isBoundTo } from "./members.ts";
import type { Context, GangState } from "./state.ts";

/**
 * Notes to which places of a running gang nobody returns because a device there has a taint that the member does not tolerate: a lost
 * board, one that an administrator drains. Whoever returned to it would be evicted again, or take what kube-scheduler would not give.
 * Pods that are bound stay: evicting them is kube-controller-manager's.
 * @param members those that have a place, with it
 */
export function noteTainted(
  state: GangState,
  members: readonly [PlacedPod, PodRecord][],
  { isTainted }: Pick<Context, "isTainted">,
): void {
  const waiting = members.filter(([slot, pod]) => !isBoundTo(state, pod, slot.node));
  const tainted = waiting.filter(([slot, pod]) => isTainted(slot, pod));
  state.tainted = new Set(tainted.map(([{ podSet, index }]) => slotKey(podSet, index)));
}
