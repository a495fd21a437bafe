import type { Pod, ResourceClaim } from "../api/kubernetes.ts";
import { driverName } from "../api/names.ts";
import { createDeviceLedger, type DeviceConflict, type Hardware } from "./device-ledger.ts";
import { failPrepareAnnotation, preparedAnnotation } from "./names.ts";

/**
 * What kubelet and driver of every simulated node remember about prepared claims, and the judgement they make before a
 * pod may start. It shares no code with planner and allocator: it is an independent check that no device is used twice.
 */

/** A pod that is bound to a node and refers to claims. */
export interface BoundPod {
  uid: string;
  namespace: string;
  name: string;
  node: string;
  resourceVersion: number;
  /** Succeeded or Failed. */
  terminal: boolean;
  /** It carries the annotation that lets it start. */
  marked: boolean;
  /** Message of the annotation. */
  failPrepare?: string;
  /** `claimName` is absent while the pod's status does not name it yet. */
  claims: readonly { name: string; claimName?: string }[];
}

export interface ObservedClaim {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion: number;
  /** Absent: not allocated. Whole devices of our driver only, without those given for administration. */
  devices?: readonly { pool: string; device: string }[];
  /** UIDs of pods. */
  reservedFor: readonly string[];
}

/** Why a pod may not start. */
export interface Problem {
  kind:
    | DeviceConflict["kind"]
    | "WrongNode"
    | "AllocationChanged"
    | "NotAllocated"
    | "NotReserved"
    | "NodeDown"
    | "PrepareFailed";
  podUid: string;
  namespace: string;
  pod: string;
  node: string;
  /** Name of the claim. */
  claim?: string;
  device?: string;
  /** UIDs of the claims that use what this one wants. */
  holders: readonly string[];
  message: string;
}

/** Kinds that no correct scheduler and planner bring about. */
const violations: ReadonlySet<Problem["kind"]> = new Set([
  "DeviceInUse",
  "CounterExceeded",
  "UnknownDevice",
  "WrongNode",
  "AllocationChanged",
]);
/** Kinds that come from the simulated hardware itself, known for sure. */
const faults: ReadonlySet<Problem["kind"]> = new Set(["NodeDown", "DeviceLost", "PrepareFailed"]);

/** The problem shows that an invariant is broken. */
export function isViolation(problem: Problem): boolean {
  return violations.has(problem.kind);
}

/**
 * What to do next with one pod. A problem that is not `final` may only mean that one watch lags behind another: judge
 * again after a consistent read.
 */
export type Decision =
  | { type: "start"; pod: BoundPod; claims: readonly ObservedClaim[] }
  | { type: "problem"; pod: BoundPod; problem: Problem; final: boolean };

/** Changes return what follows, for the pod itself and for pods that waited for the change. */
export interface Preparation {
  podChanged(pod: BoundPod): Decision[];
  /** `seenByWatch` false: a consistent read found it gone, and the watch may still repeat its past. */
  podGone(uid: string, seenByWatch: boolean): Decision[];
  claimChanged(claim: ObservedClaim): Decision[];
  claimGone(namespace: string, name: string): void;
  /** Judges a pod that has not started. */
  judge(podUid: string): Decision[];
  /** Pods of a node that have not started are judged again: the hardware or a fault changed. */
  nodeChanged(node: string): Decision[];
  pod(uid: string): BoundPod | undefined;
  /** Why the pod may not start yet. */
  problem(podUid: string): Problem | undefined;
  /** A prepared claim and the pods that use it. */
  prepared(claimUid: string): { claim: ObservedClaim; users: readonly BoundPod[] } | undefined;
  preparedClaims(): number;
  /** Pods that may not start yet, and why. */
  waiting(): readonly Problem[];
}

interface KnownPod {
  pod: BoundPod;
  /** Version at which it was first seen bound. */
  boundVersion: number;
  /** UIDs of its prepared claims once it may start. */
  started?: readonly string[];
}

/** `failureOf` gives the message with which preparation for a pod has to fail; default: what its annotation asks for. */
export function createPreparation(
  hardware: Hardware,
  failureOf: (pod: BoundPod) => string | undefined = (pod) => pod.failPrepare,
): Preparation {
  const pods = new Map<string, KnownPod>();
  const gone = new Set<string>();
  const claims = new Map<string, ObservedClaim>();
  /** `namespace/name` of a claim → UIDs of the pods that refer to it. */
  const referents = new Map<string, Set<string>>();
  const prepared = new Map<string, { claim: ObservedClaim; users: Set<string> }>();
  /** By pod. */
  const problems = new Map<string, Problem>();
  const ledger = createDeviceLedger(hardware);

  return {
    podChanged,
    podGone(uid, seenByWatch) {
      if (seenByWatch) gone.delete(uid);
      else if (pods.has(uid)) gone.add(uid);
      return forget(uid);
    },
    claimChanged(claim) {
      const key = `${claim.namespace}/${claim.name}`;
      if ((claims.get(key)?.resourceVersion ?? -1) >= claim.resourceVersion) return [];
      claims.set(key, claim);
      return [...reallocated(claim), ...judgeAll(referents.get(key) ?? [])];
    },
    claimGone: (namespace, name) => void claims.delete(`${namespace}/${name}`),
    judge,
    nodeChanged: (node) => judgeWaiting((problem) => problem.node === node),
    pod: (uid) => pods.get(uid)?.pod,
    problem: (podUid) => problems.get(podUid),
    prepared(claimUid) {
      const entry = prepared.get(claimUid);
      if (entry === undefined) return undefined;
      return { claim: entry.claim, users: [...entry.users].flatMap((uid) => pods.get(uid)?.pod ?? []) };
    },
    preparedClaims: () => prepared.size,
    waiting: () => [...problems.values()],
  };

  function podChanged(pod: BoundPod): Decision[] {
    const known = pods.get(pod.uid);
    if (gone.has(pod.uid) || (known?.pod.resourceVersion ?? -1) > pod.resourceVersion) return [];
    if (pod.terminal) return forget(pod.uid);
    if (known === undefined) pods.set(pod.uid, { pod, boundVersion: pod.resourceVersion });
    else known.pod = pod;
    for (const key of claimKeys(pod)) referents.set(key, (referents.get(key) ?? new Set()).add(pod.uid));
    return judge(pod.uid);
  }

  function judge(uid: string): Decision[] {
    const known = pods.get(uid);
    if (known === undefined || known.started !== undefined) return [];
    const wanted = claimsOf(known.pod, claims);
    const down = hardware.isDown(known.pod.node);
    const problem = down ? nodeDown(known.pod) : Array.isArray(wanted) ? conflictOf(known.pod, wanted) : wanted;
    if (problem !== undefined) {
      problems.set(uid, problem);
      return [{ type: "problem", pod: known.pod, problem, final: faults.has(problem.kind) }];
    }
    const ready = wanted as ObservedClaim[];
    problems.delete(uid);
    known.started = ready.map((claim) => claim.uid);
    for (const claim of ready) prepare(claim, known.pod);
    return [{ type: "start", pod: known.pod, claims: ready }];
  }

  function judgeAll(uids: Iterable<string>): Decision[] {
    return [...uids].flatMap(judge);
  }

  function conflictOf(pod: BoundPod, wanted: readonly ObservedClaim[]): Problem | undefined {
    const failure = failureOf(pod);
    if (failure !== undefined) return problemOf(pod, { kind: "PrepareFailed", message: failure });
    const fresh = wanted.filter((claim) => !prepared.has(claim.uid));
    for (const claim of fresh) {
      const away = claim.devices?.find(({ pool }) => pool !== pod.node);
      if (away === undefined) continue;
      const message = `claim ${claim.name} holds device ${away.pool}/${away.device}, the pod is on node ${pod.node}`;
      return problemOf(pod, { kind: "WrongNode", claim: claim.name, device: away.device, message });
    }
    const conflict = ledger.conflict(
      pod.node,
      fresh.flatMap((claim) => claim.devices?.map(({ device }) => device) ?? []),
    );
    if (conflict === undefined) return undefined;
    const owner = fresh.find((claim) => claim.devices?.some(({ device }) => device === conflict.device));
    const message = `${conflict.message}${usersText(conflict.holders)}`;
    return problemOf(pod, { ...conflict, ...(owner === undefined ? {} : { claim: owner.name }), message });
  }

  function prepare(claim: ObservedClaim, pod: BoundPod): void {
    const known = prepared.get(claim.uid);
    if (known !== undefined) {
      known.users.add(pod.uid);
      return;
    }
    prepared.set(claim.uid, { claim, users: new Set([pod.uid]) });
    ledger.enter(claim.uid, pod.node, claim.devices?.map(({ device }) => device) ?? []);
  }

  /**
   * A prepared claim has another allocation now. Written after a user was seen bound, it was changed under a running
   * pod; else the claim's watch had lagged behind the pod's, and the users are judged anew.
   */
  function reallocated(claim: ObservedClaim): Decision[] {
    const entry = prepared.get(claim.uid);
    if (entry === undefined || claim.devices === undefined || sameDevices(entry.claim, claim)) return [];
    const users = [...entry.users].flatMap((uid) => pods.get(uid) ?? []);
    const late = users.find((known) => known.boundVersion < claim.resourceVersion)?.pod;
    if (late !== undefined) {
      const message = `the allocation of claim ${claim.name} changed while it was prepared`;
      const problem = problemOf(late, { kind: "AllocationChanged", claim: claim.name, message });
      return [{ type: "problem", pod: late, problem, final: true }];
    }
    prepared.delete(claim.uid);
    ledger.leave(claim.uid);
    for (const known of users) delete known.started;
    return [...judgeAll(entry.users), ...retryHolders([claim.uid])];
  }

  /** Unprepares what only this pod used; pods that waited for it are judged again. */
  function forget(uid: string): Decision[] {
    const known = pods.get(uid);
    if (known === undefined) return [];
    pods.delete(uid);
    problems.delete(uid);
    for (const key of claimKeys(known.pod)) {
      const referring = referents.get(key);
      if (referring?.delete(uid) === true && referring.size === 0) referents.delete(key);
    }
    const freed = (known.started ?? []).filter((claimUid) => {
      const users = prepared.get(claimUid)?.users;
      return users?.delete(uid) === true && users.size === 0;
    });
    for (const claimUid of freed) {
      prepared.delete(claimUid);
      ledger.leave(claimUid);
    }
    return retryHolders(freed);
  }

  function retryHolders(freed: readonly string[]): Decision[] {
    if (freed.length === 0) return [];
    return judgeWaiting((problem) => problem.holders.some((uid) => freed.includes(uid)));
  }

  function judgeWaiting(which: (problem: Problem) => boolean): Decision[] {
    return judgeAll([...problems.values()].filter(which).map((problem) => problem.podUid));
  }

  function usersText(claimUids: readonly string[]): string {
    const texts = claimUids.map((claimUid) => {
      const entry = prepared.get(claimUid);
      const users = [...(entry?.users ?? [])].map((uid) => pods.get(uid)?.pod.name ?? uid);
      return `claim ${entry?.claim.namespace}/${entry?.claim.name} of pod ${users.join(", ")}`;
    });
    return texts.length === 0 ? "" : ` by ${texts.join(" and ")}`;
  }
}

/** The pod's claims, allocated and reserved for it; else what is missing. */
function claimsOf(pod: BoundPod, claims: ReadonlyMap<string, ObservedClaim>): ObservedClaim[] | Problem {
  const found: ObservedClaim[] = [];
  for (const { name, claimName } of pod.claims) {
    const claim = claimName === undefined ? undefined : claims.get(`${pod.namespace}/${claimName}`);
    const label = claimName ?? name;
    if (claim?.devices === undefined) {
      return problemOf(pod, { kind: "NotAllocated", claim: label, message: `claim ${label} is not allocated` });
    }
    if (!claim.reservedFor.includes(pod.uid)) {
      return problemOf(pod, {
        kind: "NotReserved",
        claim: label,
        message: `claim ${label} is not reserved for the pod`,
      });
    }
    found.push(claim);
  }
  return found;
}

function nodeDown(pod: BoundPod): Problem {
  return problemOf(pod, { kind: "NodeDown", message: `node ${pod.node} does not answer` });
}

function problemOf(
  pod: BoundPod,
  fields: Pick<Problem, "kind" | "message"> & Partial<Pick<Problem, "claim" | "device" | "holders">>,
): Problem {
  return { podUid: pod.uid, namespace: pod.namespace, pod: pod.name, node: pod.node, holders: [], ...fields };
}

/** Raw Pod → what preparation reads of it; undefined for pods that are not bound or refer to no claim. */
export function boundPod(raw: Pod): BoundPod | undefined {
  const { metadata, spec, status } = raw;
  if (spec.nodeName === undefined || (spec.resourceClaims ?? []).length === 0) return undefined;
  const generated = new Map((status?.resourceClaimStatuses ?? []).map((entry) => [entry.name, entry]));
  const failPrepare = metadata.annotations?.[failPrepareAnnotation];
  return {
    uid: metadata.uid ?? "",
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    node: spec.nodeName,
    resourceVersion: Number(metadata.resourceVersion ?? 0),
    terminal: status?.phase === "Succeeded" || status?.phase === "Failed",
    marked: metadata.annotations?.[preparedAnnotation] === "true",
    ...(failPrepare === undefined ? {} : { failPrepare }),
    claims: (spec.resourceClaims ?? []).flatMap(({ name, resourceClaimName }) => {
      const entry = generated.get(name);
      const claimName = resourceClaimName ?? entry?.resourceClaimName ?? undefined;
      // An entry without a name says that the template needed no claim.
      if (claimName === undefined && entry !== undefined) return [];
      return [{ name, ...(claimName === undefined ? {} : { claimName }) }];
    }),
  };
}

/** Raw ResourceClaim → what preparation reads of it. */
export function observedClaim(raw: ResourceClaim): ObservedClaim {
  const { metadata, status } = raw;
  const results = status?.allocation?.devices?.results ?? [];
  // Simulated hardware has no device that is given in parts: those belong to somebody outside the node.
  const devices = results.filter(
    ({ driver, adminAccess, shareID }) => driver === driverName && adminAccess !== true && shareID === undefined,
  );
  return {
    uid: metadata.uid ?? "",
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    resourceVersion: Number(metadata.resourceVersion ?? 0),
    ...(status?.allocation === undefined ? {} : { devices: devices.map(({ pool, device }) => ({ pool, device })) }),
    reservedFor: (status?.reservedFor ?? []).filter((c) => c.resource === "pods").map((consumer) => consumer.uid),
  };
}

function claimKeys(pod: BoundPod): string[] {
  return pod.claims.flatMap(({ claimName }) => (claimName === undefined ? [] : [`${pod.namespace}/${claimName}`]));
}

function sameDevices(left: ObservedClaim, right: ObservedClaim): boolean {
  return deviceNames(left) === deviceNames(right);
}

function deviceNames(claim: ObservedClaim): string {
  return (claim.devices ?? [])
    .map(({ pool, device }) => `${pool}/${device}`)
    .toSorted()
    .join(" ");
}
