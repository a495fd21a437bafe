import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { foreignClaim } from "./member-effects.ts";
import { isBoundTo } from "./members.ts";
import type { Context, GangRecord, GangState } from "./state.ts";

/** A planned member that is gone may be on its way back (a StatefulSet recreates it within milliseconds). */
const missingGraceMs = 5_000;

/** Why places that nobody has committed to must be given up, as far as the Gang and the nodes say. */
export function placeTrouble(
  state: GangState,
  gang: GangRecord,
  placed: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): string | undefined {
  if (gang.problems.length > 0) return gang.problems.join("; ");
  if (gang.status.observedGeneration !== gang.generation) return "the Gang's spec changed";
  const running = new Set(members.filter(([slot, pod]) => isBoundTo(state, pod, slot.node)).map(([slot]) => slot));
  const lost = placed.find((slot) => !context.nodeFits(slot.node) && !running.has(slot));
  return lost === undefined ? undefined : `node ${lost.node} no longer fits pod ${lost.pod}`;
}

/** What somebody else did with the member or its claims. */
export function foreignTrouble(
  state: GangState,
  gang: GangRecord,
  slot: PlacedPod,
  pod: PodRecord,
  context: Context,
): string | undefined {
  if (pod.nodeName !== undefined && pod.nodeName !== slot.node) {
    return `pod ${pod.name} was bound to node ${pod.nodeName} by somebody else`;
  }
  const foreign = foreignClaim(state, gang, slot, pod, context);
  return foreign === undefined ? undefined : `claim ${foreign} was allocated by somebody else`;
}

/** `wakeAtMs`: a member is missing, and has until then to come back. */
export function missingTrouble(
  state: GangState,
  placed: readonly PlacedPod[],
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
): { reason?: string; wakeAtMs?: number } {
  if (members.length === placed.length) {
    delete state.missingSinceMs;
    return {};
  }
  state.missingSinceMs ??= context.nowMs;
  const giveUpAtMs = state.missingSinceMs + missingGraceMs;
  if (context.nowMs < giveUpAtMs) return { wakeAtMs: giveUpAtMs };
  const present = new Set(members.map(([slot]) => slot));
  return { reason: `pod ${placed.find((slot) => !present.has(slot))?.pod} is gone` };
}
