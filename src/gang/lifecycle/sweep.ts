import type { ResourceClaimConsumer } from "../../api/kubernetes.ts";
import type { PlacedPod } from "../../api/placement.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { claimReference, isGuardOf, podConsumer } from "./claims.ts";
import { isUnsettled } from "./member-effects.ts";
import { isBoundTo } from "./members.ts";
import type { Context, Effect, GangState } from "./state.ts";

/**
 * Guards that nothing needs any more. A claim whose pod is bound loses only the guard; one that no live pod will use
 * loses allocation and consumers in one update, because removing the guard alone would leak the allocation. One whose
 * pod is perhaps being bound at this moment is left until that is known. A bound pod that kube-scheduler took off its
 * claim, because the answer of its bind call was lost, is put back. A claim whose guard somebody took off is cleared likewise.
 * Guards of other gangs, on claims that several name, are theirs to remove.
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
  const isOwn = (consumer: ResourceClaimConsumer): boolean => isGuardOf(state.key, consumer);
  for (const claim of state.claims.values()) {
    // kube-scheduler takes no pod whose claim is being deleted: let go of it, and another one is made.
    if (keptClaims.has(claim.name) && !claim.deleting) continue;
    const members = users.get(claim.name) ?? [];
    if (!claim.reservedFor.some(isOwn) && !lostItsGuard(state, claim, members, context)) continue;
    const consumers = claim.reservedFor.filter((consumer) => !isOwn(consumer));
    if ([...consumers, ...members].some(({ uid }) => isUnsettled(state, `bind/${uid}`, context))) continue;
    const missing = members.filter(
      (pod) => isHere(state, pod) && !pod.terminal && !consumers.some((c) => c.uid === pod.uid),
    );
    const others = [...consumers, ...missing.map(podConsumer)];
    const inUse = others.some((consumer) => {
      const pod = members.find((user) => user.uid === consumer.uid);
      // A consumer we do not know is not ours to judge; a member that is not bound never started.
      return pod === undefined || isHere(state, pod);
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

function isHere(state: GangState, pod: PodRecord): boolean {
  return pod.nodeName !== undefined || state.bound.has(pod.uid);
}

/**
 * It was reserved for a member, and somebody emptied `reservedFor`. While the gang wants it the guard is put back; given up
 * it would be nobody's to give back: kube-scheduler tries the member for ever, and the API's own clean-up and the reaper wait for
 * its end. The planner allocated it, for its own drivers alone, and whoever names it, owns it or stands in it is a member of this gang
 * that waits: kube-scheduler binds none of those without asking.
 */
function lostItsGuard(
  state: GangState,
  claim: ClaimRecord,
  members: readonly PodRecord[],
  { manages, sharersOf }: Context,
): boolean {
  if (claim.allocatedByPlanner !== true || members.length === 0) return false;
  const waiting = new Set(members.filter((pod) => pod.bindMarker && !isHere(state, pod)).map(({ uid }) => uid));
  const owner = claim.ownerPodUid === undefined ? [] : [{ uid: claim.ownerPodUid }];
  return (
    [...members, ...owner, ...claim.reservedFor, ...sharersOf(claim)].every(({ uid }) => waiting.has(uid)) &&
    (claim.allocation?.devices?.results ?? []).every(({ driver }) => manages(driver))
  );
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
