import type { DeviceRequestAllocationResult } from "../../api/kubernetes.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";

/** What a claim is judged by. */
export interface LeftoverContext {
  pods: ReadonlyMap<string, PodRecord>;
  managedDrivers: ReadonlySet<string>;
}

/**
 * Claims that hold devices for nobody: the planner allocated them, nobody stands in `reservedFor`, and no pod that has
 * not ended names them. What a Gang holds it holds by itself: its places need no claim. Kubernetes takes an allocation away when the last
 * consumer goes and never again: when somebody else emptied `reservedFor` (kube-scheduler whose bind call broke off, a
 * person) before the pod went, the devices of a claim that outlives its pod would be lost until somebody looks.
 *
 * One moment proves nothing: kube-scheduler may be between two tries, and a pod's record under way. Guards are no
 * leftovers, they are the lifecycle's to remove; a claim that is being deleted is kube-controller-manager's.
 */
export function leftoverClaims(claims: ReadonlyMap<string, ClaimRecord>, context: LeftoverContext): ClaimRecord[] {
  const unused = [...claims.values()].filter((claim) => isUnused(claim, context));
  if (unused.length === 0) return [];
  const named = namedClaims(context.pods);
  return unused.filter(
    ({ namespace, name, ownerPodUid }) =>
      !named.has(`${namespace}/${name}`) && !isAlive(context.pods.get(ownerPodUid ?? "")),
  );
}

function isUnused(claim: ClaimRecord, { managedDrivers }: LeftoverContext): boolean {
  if (claim.allocatedByPlanner !== true || claim.deleting || claim.reservedFor.length > 0) return false;
  const results = claim.allocation?.devices?.results ?? [];
  const isOurs = ({ driver, adminAccess }: DeviceRequestAllocationResult): boolean =>
    managedDrivers.has(driver) && adminAccess !== true;
  return results.length > 0 && results.every(isOurs);
}

/** Claims of pods that have not ended, as `namespace/name`. */
function namedClaims(pods: ReadonlyMap<string, PodRecord>): Set<string> {
  const named = new Set<string>();
  for (const pod of pods.values()) {
    if (!isAlive(pod)) continue;
    for (const { claimName } of pod.claims) if (claimName !== undefined) named.add(`${pod.namespace}/${claimName}`);
  }
  return named;
}

function isAlive(pod: PodRecord | undefined): boolean {
  return pod !== undefined && !pod.terminal;
}
