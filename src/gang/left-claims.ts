import { matchingDevices } from "../dra/allocator/allocate.ts";
import { isClaimProblem } from "../dra/allocator/claim.ts";
import { isLeftToScheduler } from "../dra/allocator/class-drivers.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord } from "../topology/records.ts";
import type { FitCache } from "./fit.ts";
import type { PlanUnit } from "./plan.ts";

/**
 * Claims on devices of drivers that kllama does not manage. kube-scheduler allocates them in the pod's own cycle, before it
 * asks for the binding; the planner chooses a node on which it can. The devices it counts on are held with the place, so
 * that no two gangs count on the same, and nobody writes them: kube-scheduler may choose others.
 */

/** Whether kube-scheduler allocates the claim and not kllama. */
export function isLeft({ view }: Pick<ClusterModel, "view">, claim: ClaimRecord): boolean {
  return isLeftToScheduler(claim, view.deviceClasses, view.managedDrivers);
}

/**
 * Do all pods that name the claim have to be on one node? Devices of a network that several nodes reach tie nobody: where
 * the others may go is kube-scheduler's to say then.
 */
export function tiesToNode(model: ClusterModel, claim: ClaimRecord, cache: FitCache): boolean {
  if (!isLeft(model, claim)) return true;
  const compiled = cache.compile(claim);
  if (isClaimProblem(compiled)) return true;
  const { view } = model;
  return !view.nodes.some((node) => {
    if (node === undefined) return false;
    const inventory = view.inventory(node.index);
    const isWide = (device: number) => inventory.devices[device]!.wide;
    return inventory.wide && compiled.requests.some((_, i) => matchingDevices(inventory, compiled, i).some(isWide));
  });
}

/**
 * The model read as if kube-scheduler had not allocated claims of the unit's pods that nobody with a node uses: such are
 * left over from a place that was given up. It deallocates them by itself where they keep a pod from the node it has to
 * go to. Undefined: there are none.
 */
export function withoutLeftovers(model: ClusterModel, { gangs }: PlanUnit): ClusterModel | undefined {
  const leftovers = new Map<string, ClaimRecord>();
  for (const { namespace, claims, nodeName } of gangs.flatMap(({ pods }) => pods)) {
    if (nodeName !== undefined) continue;
    for (const { claimName } of claims) {
      const claim = claimName === undefined ? undefined : model.claim(namespace, claimName);
      if (claim === undefined || !isLeftover(model, claim)) continue;
      const { allocation: _, ...unallocated } = claim;
      leftovers.set(`${namespace}/${claim.name}`, unallocated);
    }
  }
  if (leftovers.size === 0) return undefined;
  return {
    ...model,
    claim: (namespace, name) => leftovers.get(`${namespace}/${name}`) ?? model.claim(namespace, name),
  };
}

function isLeftover(model: ClusterModel, claim: ClaimRecord): boolean {
  if (claim.allocation === undefined || !isLeft(model, claim)) return false;
  const waits = (uid: string): boolean => {
    const pod = model.pod(uid);
    return pod !== undefined && pod.nodeName === undefined;
  };
  return claim.reservedFor.every(({ uid }) => waits(uid));
}
