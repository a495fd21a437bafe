import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { type GangRecord, type GangState, newGangState } from "./state.ts";

/** Gangs as the lifecycle would know them when it began at this moment, by `namespace/name`. */
export function gangStates(known: {
  gangs: readonly GangRecord[];
  pods: readonly PodRecord[];
  claims: readonly ClaimRecord[];
}): ReadonlyMap<string, GangState> {
  const states = new Map<string, GangState>();
  for (const gang of known.gangs) {
    const key = `${gang.namespace}/${gang.name}`;
    states.set(key, { ...newGangState(key), gang });
  }
  const claims = new Map(known.claims.map((claim) => [`${claim.namespace}/${claim.name}`, claim]));
  for (const pod of known.pods) {
    const found = states.get(`${pod.namespace}/${pod.gang}`);
    found?.pods.set(pod.uid, pod);
    for (const { claimName } of pod.claims) {
      const claim = claims.get(`${pod.namespace}/${claimName}`);
      if (claim !== undefined) found?.claims.set(claim.name, claim);
    }
  }
  return states;
}
