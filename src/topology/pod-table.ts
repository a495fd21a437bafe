import type { ChangeClock } from "./clock.ts";
import { equalJson } from "./equal.ts";
import { type Held, heldBy } from "./held.ts";
import type { Ledger } from "./ledger.ts";
import type { NodeTable } from "./node-table.ts";
import type { ClaimRecord, PodRecord } from "./records.ts";

/** Pods and claims: what they use of nodes and which devices they hold. */
export interface PodTable {
  upsertPod(pod: PodRecord): void;
  removePod(uid: string): void;
  upsertClaim(claim: ClaimRecord): void;
  removeClaim(uid: string): void;
  claim(namespace: string, name: string): ClaimRecord | undefined;
  pod(uid: string): PodRecord | undefined;
  /** By UID. */
  readonly pods: ReadonlyMap<string, PodRecord>;
  readonly claims: ReadonlyMap<string, ClaimRecord>;
  /** Pods that are not terminal and name the claim themselves, instead of having one made from a template. */
  sharersOf(namespace: string, claim: string): readonly PodRecord[];
  /** The ledger knows which devices the running pod had of the claim, whatever became of the claim. */
  remembersDevices(podUid: string, claimName: string): boolean;
  /** Makes anew what `claim:UID` or `pod:UID` holds; what a running pod had of a claim that was emptied it keeps. */
  restore(holder: string): void;
}

function allocatedDevices(claim: ClaimRecord): Held[] {
  return heldBy(claim.allocation?.devices?.results ?? []);
}

/** Does the pod use node resources and devices? */
function runs(pod: PodRecord): boolean {
  return pod.nodeName !== undefined && !pod.terminal;
}

export function createPodTable(clock: ChangeClock, nodes: NodeTable, ledger: Ledger): PodTable {
  const pods = new Map<string, PodRecord>();
  const claims = new Map<string, ClaimRecord>();
  /** `namespace/name` → UID of the claim that was seen last */
  const claimUids = new Map<string, string>();
  /** `namespace/claim name` → UIDs of running pods that refer to it */
  const users = new Map<string, Set<string>>();
  /** UID of a running pod → names of claims whose devices it holds */
  const remembered = new Map<string, Set<string>>();
  /** `namespace/claim name` → UIDs of pods that name the claim themselves */
  const sharers = new Map<string, Set<string>>();

  /** @returns whether any pod names one of the claims now. */
  const changeSharers = (pod: PodRecord, by: 1 | -1): boolean => {
    let shared = false;
    for (const { claimName, templateName } of pod.claims) {
      if (claimName === undefined || templateName !== undefined) continue;
      const key = `${pod.namespace}/${claimName}`;
      const set = sharers.get(key) ?? new Set();
      if (by === 1) sharers.set(key, set.add(pod.uid));
      else if (set.delete(pod.uid) && set.size === 0) sharers.delete(key);
      shared ||= set.size > 0;
    }
    return shared;
  };
  /**
   * A running pod holds the devices of its claims, and keeps them when an allocation is cleared or the claim is gone:
   * its containers still have them open.
   */
  const holdClaim = (pod: PodRecord, claim: ClaimRecord | undefined) => {
    if (!claim?.reservedFor.some(({ uid }) => uid === pod.uid)) return;
    const holder = `pod:${pod.uid}`;
    const devices = allocatedDevices(claim);
    ledger.set(holder, [...ledger.heldBy(holder), ...devices]);
    if (claim.allocation !== undefined) {
      remembered.set(pod.uid, (remembered.get(pod.uid) ?? new Set()).add(claim.name));
    }
  };
  const letGo = (uid: string) => {
    ledger.set(`pod:${uid}`, []);
    remembered.delete(uid);
  };
  const claimOf = (namespace: string, name: string) => claims.get(claimUids.get(`${namespace}/${name}`) ?? "");
  const start = (pod: PodRecord) => {
    nodes.changeLoad(pod.nodeName!, (load) => load.setPod(`${pod.namespace}/${pod.name}`, pod.uid, pod.requests));
    for (const { claimName } of pod.claims) {
      if (claimName === undefined) continue;
      const key = `${pod.namespace}/${claimName}`;
      users.set(key, (users.get(key) ?? new Set()).add(pod.uid));
      holdClaim(pod, claimOf(pod.namespace, claimName));
    }
  };
  const stop = (pod: PodRecord) => {
    nodes.changeLoad(pod.nodeName!, (load) => load.setPod(`${pod.namespace}/${pod.name}`, pod.uid, undefined));
    for (const { claimName } of pod.claims) {
      const key = `${pod.namespace}/${claimName}`;
      const set = users.get(key);
      if (set?.delete(pod.uid) && set.size === 0) users.delete(key);
    }
  };
  return {
    upsertPod(pod) {
      const before = pods.get(pod.uid);
      if (before && equalJson(before, pod)) return;
      pods.set(pod.uid, pod);
      const left = before !== undefined && changeSharers(before, -1) && pod.terminal;
      if (!pod.terminal) changeSharers(pod, 1);
      // Whoever was refused for the others that share its claim is worth another try.
      if (left && !before.terminal) clock.tick(true);
      // What stays the same is not taken away for a moment: that would look as if something had become free.
      const unchanged =
        before &&
        runs(before) &&
        runs(pod) &&
        before.nodeName === pod.nodeName &&
        equalJson(before.requests, pod.requests) &&
        equalJson(before.claims, pod.claims);
      if (unchanged) return;
      if (before && runs(before)) stop(before);
      if (runs(pod)) start(pod);
      else letGo(pod.uid);
      clock.tick(false);
    },
    removePod(uid) {
      const pod = pods.get(uid);
      if (!pod) return;
      pods.delete(uid);
      const shared = changeSharers(pod, -1);
      if (runs(pod)) stop(pod);
      letGo(uid);
      clock.tick(shared);
    },
    upsertClaim(claim) {
      if (equalJson(claims.get(claim.uid), claim)) return;
      const key = `${claim.namespace}/${claim.name}`;
      claims.set(claim.uid, claim);
      claimUids.set(key, claim.uid);
      for (const uid of users.get(key) ?? []) holdClaim(pods.get(uid)!, claim);
      ledger.set(`claim:${claim.uid}`, allocatedDevices(claim));
      clock.tick(false);
    },
    removeClaim(uid) {
      const claim = claims.get(uid);
      if (!claim) return;
      claims.delete(uid);
      const key = `${claim.namespace}/${claim.name}`;
      if (claimUids.get(key) === uid) claimUids.delete(key);
      ledger.set(`claim:${uid}`, []);
      clock.tick(false);
    },
    restore(holder) {
      const uid = holder.slice(holder.indexOf(":") + 1);
      const [claim, pod] = [claims.get(uid), pods.get(uid)];
      if (holder.startsWith("claim:")) ledger.set(holder, claim === undefined ? [] : allocatedDevices(claim));
      else if (pod === undefined || !runs(pod)) letGo(uid);
      else for (const { claimName } of pod.claims) holdClaim(pod, claimOf(pod.namespace, claimName ?? ""));
      clock.tick(false);
    },
    remembersDevices: (podUid, claimName) => remembered.get(podUid)?.has(claimName) === true,
    claim: claimOf,
    pod: (uid) => pods.get(uid),
    pods,
    claims,
    sharersOf: (namespace, claim) =>
      [...(sharers.get(`${namespace}/${claim}`) ?? [])].sort().map((uid) => pods.get(uid)!),
  };
}
