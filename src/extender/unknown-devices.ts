import { isLeft } from "../gang/left-claims.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";

/**
 * Pods that run with devices which nothing names: an administrator emptied a claim under a running pod. This planner
 * remembers what it was, and a Gang's places name it; but after a restart, of a pod without a gang, the API tells that it
 * runs and nothing else. Until it ends, nobody gets anything that is free on its node: it may be the pod's.
 *
 * Not so of a claim that is gone, or was made under the name of one that is: a user may take away one that holds nothing of
 * ours at any time, and could keep every device of every node on which a pod of theirs runs from everybody. One that holds
 * devices of ours stays as long as it does (policy `finalizers`).
 */
export interface UnknownDevices {
  /** After every change of the pod, of one of its claims, or of what is remembered. */
  review(pod: PodRecord | undefined): void;
  /** After a change of the claim: of all who may run with it. */
  reviewUsers(claim: Pick<ClaimRecord, "namespace" | "name" | "ownerPodUid">): void;
  /** After the places of the gang (`namespace/name`) changed. */
  reviewGang(key: string): void;
  forget(podUid: string): void;
  /** Pods of which nobody has been told yet. */
  news(): readonly { readonly pod: PodRecord; readonly note: string }[];
}

export function createUnknownDevices(model: ClusterModel): UnknownDevices {
  /** Running pods of which some claim has no devices, whether or not something else tells them. */
  const suspects = new Map<string, PodRecord>();
  const told = new Set<string>();
  const untold = new Map<string, PodRecord>();

  function review(pod: PodRecord | undefined): void {
    if (pod === undefined) return;
    const lost = lostClaims(pod);
    if (lost.length === 0) {
      forget(pod.uid);
      return;
    }
    suspects.set(pod.uid, pod);
    const unknown = lost.some((reference) => !isPlaced(pod, reference));
    model.setUnknown(pod.uid, unknown ? pod.nodeName : undefined);
    if (unknown && !told.has(pod.uid)) untold.set(pod.uid, pod);
    else untold.delete(pod.uid);
  }

  /** References of the pod to claims of ours that hold nothing, and held nothing for it since this planner knows it. */
  function lostClaims(pod: PodRecord): string[] {
    if (pod.started !== true || pod.nodeName === undefined || pod.terminal) return [];
    return pod.claims.flatMap(({ name, claimName }) => {
      if (claimName === undefined || model.remembersDevices(pod.uid, claimName)) return [];
      const claim = model.claim(pod.namespace, claimName);
      if (claim === undefined || claim.allocation !== undefined || isYounger(claim, pod)) return [];
      return isLeft(model, claim) ? [] : [name];
    });
  }

  /** Its gang holds a place for it there, with the devices of that claim. */
  function isPlaced({ namespace, gang, name, nodeName }: PodRecord, reference: string): boolean {
    if (gang === undefined) return false;
    return model.view.heldUnder(`${namespace}/${gang}`).some(({ placed }) => {
      if (placed.pod !== name || placed.node !== nodeName) return false;
      return placed.claims.some((claim) => claim.reference === reference && claim.devices.length > 0);
    });
  }

  function forget(podUid: string): void {
    if (!suspects.delete(podUid)) return;
    told.delete(podUid);
    untold.delete(podUid);
    model.setUnknown(podUid, undefined);
  }

  return {
    review,
    reviewUsers({ namespace, name, ownerPodUid }) {
      if (ownerPodUid !== undefined) review(model.pod(ownerPodUid));
      for (const pod of model.sharersOf(namespace, name)) review(pod);
    },
    reviewGang(key) {
      for (const pod of [...suspects.values()]) if (`${pod.namespace}/${pod.gang}` === key) review(pod);
    },
    forget,
    news() {
      const pods = [...untold.values()];
      for (const { uid } of pods) told.add(uid);
      untold.clear();
      return pods.map((pod) => ({ pod, note: noteOf(pod) }));
    },
  };
}

/**
 * The pod was bound with another one of its name. Both times are the API server's, in whole seconds: of a claim that was made
 * in the second of the binding only one that was made for the pod, from its template, is taken for the pod's. A user can
 * make any other anew as fast as that; and where it is the pod's after all, the node agent hands no device out twice.
 */
function isYounger({ createdAtMs, ownerPodUid }: ClaimRecord, { boundAtMs, uid }: PodRecord): boolean {
  if (createdAtMs === undefined || boundAtMs === undefined) return false;
  return createdAtMs > boundAtMs || (createdAtMs === boundAtMs && ownerPodUid !== uid);
}

function noteOf({ nodeName }: PodRecord): string {
  return `the pod runs, and its ResourceClaim holds no devices (any more): until the pod ends, what is free on node ${nodeName} is given to nobody; delete the pod to have it run with a claim again`;
}
