import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { slotKey } from "../members.ts";
import { isBoundTo } from "./members.ts";
import type { Context, GangState } from "./state.ts";

/**
 * Notes to which places of a running gang nobody returns, because the others of its PlacementGroup are elsewhere now. Looked at in each
 * decision: whoever is bound on the strength of an older look could be the one that breaks the group's rule for good.
 */
export function noteOutlying(
  state: GangState,
  placed: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): void {
  const manned = new Set(members.flatMap(([slot, pod]) => (isBoundTo(state, pod, slot.node) ? [slot] : [])));
  const unmanned = placed.filter((slot) => !manned.has(slot));
  state.outlying = new Set();
  if (unmanned.length === 0) return;
  const isOutlying = context.outlying(state);
  state.outlying = new Set(unmanned.filter(isOutlying).map(({ podSet, index }) => slotKey(podSet, index)));
}
