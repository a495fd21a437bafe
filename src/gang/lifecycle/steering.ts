import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { isLeft } from "./claims.ts";
import { answer } from "./decision.ts";
import { isBoundTo } from "./members.ts";
import type { Context, Effect, GangState } from "./state.ts";

/**
 * Members are held to their nodes by claims that the planner reserved, and those without claims by `filter`. A member all
 * of whose claims are left to kube-scheduler is held by its nomination alone, which kube-scheduler drops after every
 * failed try: it is made again, and a call for another node is refused.
 *
 * A member without claims is nominated for a new place as well: kube-scheduler tries a pod that it refused only when
 * something changes that may help, and for the others that is what is written to their claims.
 */
export function steer(state: GangState, members: readonly [PlacedPod, PodRecord][], context: Context): Effect[] {
  return members.flatMap(([slot, pod]): Effect[] => {
    const roams = slot.claims.length > 0 && slot.claims.every((placed) => isLeft(placed, context));
    if (!roams && !isUntried(state, slot, pod)) return [];
    if (pod.gates.length > 0 || pod.nodeName !== undefined || isBoundTo(state, pod, slot.node)) return [];
    const arrival = state.arrivals.get(pod.uid);
    if (arrival?.node === slot.node) return [];
    const error = `gang ${state.key}: the place of pod ${pod.name} is on node ${slot.node}`;
    const refused = arrival === undefined || !roams ? [] : [{ ...answer(pod.uid, arrival.call), error }];
    if (pod.nominatedNodeName === slot.node) return refused;
    const { namespace, name, uid } = pod;
    const nominated: Effect = {
      type: "releasePod",
      id: `release/${uid}`,
      pod: { namespace, name, uid },
      node: slot.node,
      nominate: true,
    };
    return [...refused, nominated];
  });
}

/** Has no claims, and what kube-scheduler says of it is from before it had this place. */
function isUntried(state: GangState, { node, claims }: PlacedPod, pod: PodRecord): boolean {
  const trial = state.trials.get(pod.uid);
  if (claims.length > 0 || trial?.before === undefined || trial.node !== node) return false;
  return trial.refusedAtMs === undefined && pod.unschedulableMessage === trial.before;
}
