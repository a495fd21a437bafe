import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { claimReference, isGuard, podConsumer } from "./claims.ts";
import { isUnsettled } from "./member-effects.ts";
import { isBoundTo } from "./members.ts";
import type { Context, Effect, GangState } from "./state.ts";

/**
 * Guards that nothing needs any more. A claim whose pod is bound loses only the guard; one that no live pod will use
 * loses allocation and consumers in one update, because removing the guard alone would leak the allocation. One whose
 * pod is perhaps being bound at this moment is left until that is known. A bound pod that kube-scheduler took off its
 * claim, because the answer of its bind call was lost, is put back.
 * @param kept members whose reservation is wanted although they are not bound
 */
export function sweep(state: GangState, kept: readonly [PlacedPod, PodRecord][], context: Context): Effect[] {
  const effects: Effect[] = [];
  const keptClaims = new Set(
    kept
      .filter(([slot, pod]) => !isBoundTo(state, pod, slot.node))
      .flatMap(([, pod]) => pod.claims.map((claim) => claim.claimName)),
  );
  const users = podUidsByClaim(state);
  for (const claim of state.claims.values()) {
    // kube-scheduler takes no pod whose claim is being deleted: let go of it, and another one is made.
    if (!claim.reservedFor.some(isGuard) || (keptClaims.has(claim.name) && !claim.deleting)) continue;
    const consumers = claim.reservedFor.filter((consumer) => !isGuard(consumer));
    const members = users.get(claim.name) ?? [];
    if ([...consumers, ...members].some(({ uid }) => isUnsettled(state, `bind/${uid}`, context))) continue;
    const isHere = (pod: PodRecord): boolean => pod.nodeName !== undefined || state.bound.has(pod.uid);
    const missing = members.filter((pod) => isHere(pod) && !pod.terminal && !consumers.some((c) => c.uid === pod.uid));
    const others = [...consumers, ...missing.map(podConsumer)];
    const inUse = others.some((consumer) => {
      const pod = members.find((user) => user.uid === consumer.uid);
      // A consumer we do not know is not ours to judge; a member that is not bound never started.
      return pod === undefined || isHere(pod);
    });
    const id = `claim/${claim.name}`;
    effects.push(
      inUse
        ? { type: "dropGuard", id, claim: claimReference(claim), reservedFor: others }
        : { type: "clearClaim", id, claim: claimReference(claim) },
    );
  }
  return effects;
}

function podUidsByClaim(state: GangState): Map<string, PodRecord[]> {
  const users = new Map<string, PodRecord[]>();
  for (const pod of state.pods.values()) {
    for (const { claimName } of pod.claims) {
      if (claimName !== undefined) users.set(claimName, [...(users.get(claimName) ?? []), pod]);
    }
  }
  return users;
}
