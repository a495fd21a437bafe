import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { isBoundTo } from "./members.ts";
import { patienceMs } from "./refusals.ts";
import type { Context, GangState } from "./state.ts";

/**
 * While a member of a running gang is away, pods that ask nobody (ordinary ones, those of a DaemonSet) may take the CPU
 * of its node, though not its devices. kube-scheduler would refuse it there, again and again. So nothing is reserved
 * for it until there is room; its own place is worth a minute of waiting, then it is planned anew.
 * @param members those that have a place, with it
 */
export function noteCrowded(
  state: GangState,
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): { wakeAtMs?: number } {
  const crowded = new Map<string, { sinceMs: number; isOver: boolean }>();
  let wakeAtMs = Number.POSITIVE_INFINITY;
  for (const [slot, pod] of members) {
    if (isBoundTo(state, pod, slot.node) || pod.nodeName !== undefined || !context.nodeFits(slot.node)) continue;
    // kube-scheduler has found room for it.
    if (state.arrivals.get(pod.uid)?.node === slot.node || context.leavesRoom(slot.node, pod)) continue;
    const sinceMs = state.crowded.get(pod.uid)?.sinceMs ?? context.nowMs;
    const isOver = context.nowMs >= sinceMs + patienceMs;
    crowded.set(pod.uid, { sinceMs, isOver });
    if (!isOver) wakeAtMs = Math.min(wakeAtMs, sinceMs + patienceMs);
  }
  state.crowded = crowded;
  return wakeAtMs === Number.POSITIVE_INFINITY ? {} : { wakeAtMs };
}
