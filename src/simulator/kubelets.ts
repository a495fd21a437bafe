import type { Hardware } from "./device-ledger.ts";
import { createHeldClaims, type HeldClaim } from "./held-claims.ts";
import type { NodeDrivers } from "./node-drivers.ts";
import { type BoundPod, type ObservedClaim, sameDevices } from "./observed.ts";
import { isCertain, type Problem, problemOf } from "./problems.ts";

/**
 * The kubelets of all simulated nodes: which pods are bound there, which claims they need, and which of these are prepared.
 * When all of a pod's claims are there, its node's driver is asked to prepare them; when their last pod is gone, to undo
 * that. A judge gives a second opinion on every answer.
 */

/**
 * What to do next with one pod. A problem that is not `final` may only mean that one watch lags behind another: ask again
 * after a consistent read.
 */
export type Decision =
  | { type: "start"; pod: BoundPod }
  | { type: "problem"; pod: BoundPod; problem: Problem; final: boolean };

/** Changes lead to decisions, for the pod itself and for pods that waited for the change. */
export interface Kubelets {
  podChanged(pod: BoundPod): void;
  /** `seenByWatch` false: a consistent read found it gone, and the watch may still repeat its past. */
  podGone(uid: string, seenByWatch: boolean): void;
  claimChanged(claim: ObservedClaim): void;
  claimGone(namespace: string, name: string): void;
  /** Pods of a node that have not started are tried again: the hardware or a fault changed. */
  nodeChanged(node: string): void;
  /** Tries once more to start the pod. Resolves with what keeps it from that, if anything does, and decides nothing else. */
  retry(podUid: string): Promise<Problem | undefined>;
  /** Pods that were judged to use a claim on a node. */
  users(node: string, claimUid: string): readonly BoundPod[];
  pod(uid: string): BoundPod | undefined;
  /** Why the pod may not start yet. */
  problem(podUid: string): Problem | undefined;
  preparedClaims(): number;
  /** Pods that may not start yet, and why. */
  waiting(): readonly Problem[];
  /** Resolves when no driver is asked for anything. */
  idle(): Promise<void>;
}

export interface KubeletsOptions {
  hardware: Hardware;
  drivers: Pick<NodeDrivers, "prepare" | "unprepare" | "leftOver">;
  /** The message with which preparation for a pod has to fail; default: what its annotation asks for. */
  failureOf?: (pod: BoundPod) => string | undefined;
  onDecision(decision: Decision): void;
}

interface KnownPod {
  pod: BoundPod;
  /** Version at which it was first seen bound. */
  boundVersion: number;
  /** Claims that were asked for on its behalf. */
  held: Set<HeldClaim>;
  started: boolean;
  /** Something changed since it was tried. */
  stale: boolean;
  trying?: Promise<Problem | undefined> | undefined;
}

export function createKubelets(options: KubeletsOptions): Kubelets {
  const { hardware, onDecision, failureOf = (pod) => pod.failPrepare } = options;
  const pods = new Map<string, KnownPod>();
  const gone = new Set<string>();
  const claims = new Map<string, ObservedClaim>();
  /** `namespace/name` of a claim → UIDs of the pods that refer to it. */
  const referents = new Map<string, Set<string>>();
  const held = createHeldClaims(options);
  /** By pod. */
  const problems = new Map<string, Problem>();
  const underWay = new Set<Promise<unknown>>();

  return {
    podChanged,
    podGone(uid, seenByWatch) {
      if (seenByWatch) gone.delete(uid);
      else if (pods.has(uid)) gone.add(uid);
      forget(uid);
    },
    claimChanged(claim) {
      const key = `${claim.namespace}/${claim.name}`;
      if ((claims.get(key)?.resourceVersion ?? -1) >= claim.resourceVersion) return;
      claims.set(key, claim);
      const uids = [...(referents.get(key) ?? [])];
      for (const node of new Set(uids.flatMap((uid) => pods.get(uid)?.pod.node ?? []))) compare(node, claim);
      for (const uid of uids) touch(uid);
    },
    claimGone: (namespace, name) => void claims.delete(`${namespace}/${name}`),
    nodeChanged: (node) => touchWaiting((problem) => problem.node === node),
    retry,
    users: (node, claimUid) => [...(held.find(node, claimUid)?.users ?? [])].flatMap((uid) => pods.get(uid)?.pod ?? []),
    pod: (uid) => pods.get(uid)?.pod,
    problem: (podUid) => problems.get(podUid),
    preparedClaims: held.preparedCount,
    waiting: () => [...problems.values()],
    async idle() {
      while (underWay.size > 0) await Promise.all(underWay);
    },
  };

  function podChanged(pod: BoundPod): void {
    const known = pods.get(pod.uid);
    if (gone.has(pod.uid) || (known?.pod.resourceVersion ?? -1) > pod.resourceVersion) return;
    if (pod.terminal) {
      forget(pod.uid);
      return;
    }
    if (known !== undefined) known.pod = pod;
    else {
      const boundVersion = pod.resourceVersion;
      pods.set(pod.uid, { pod, boundVersion, held: new Set(), started: false, stale: false });
    }
    for (const key of claimKeys(pod)) referents.set(key, (referents.get(key) ?? new Set()).add(pod.uid));
    touch(pod.uid);
  }

  /** Undoes what was prepared for this pod alone. */
  function forget(uid: string): void {
    const known = pods.get(uid);
    if (known === undefined) return;
    pods.delete(uid);
    problems.delete(uid);
    for (const key of claimKeys(known.pod)) {
      const referring = referents.get(key);
      if (referring?.delete(uid) === true && referring.size === 0) referents.delete(key);
    }
    const freed = [...known.held].filter(({ users }) => users.delete(uid) && users.size === 0);
    if (freed.length > 0) letGo(known.pod, freed);
  }

  /** A change concerns the pod: whoever tries it already does so again, else it is tried now. */
  function touch(uid: string): void {
    const known = pods.get(uid);
    if (known === undefined || known.started) return;
    if (known.trying !== undefined) {
      known.stale = true;
      return;
    }
    void retry(uid).then((problem) => {
      if (problem === undefined || pods.get(uid) !== known) return;
      onDecision({ type: "problem", pod: known.pod, problem, final: isCertain(problem) });
    });
  }

  function touchWaiting(which: (problem: Problem) => boolean): void {
    for (const problem of [...problems.values()].filter(which)) touch(problem.podUid);
  }

  function retry(uid: string): Promise<Problem | undefined> {
    const known = pods.get(uid);
    if (known === undefined || known.started) return Promise.resolve(undefined);
    known.stale = true;
    known.trying ??= tracked(attempts(known));
    return known.trying;
  }

  async function attempts(known: KnownPod): Promise<Problem | undefined> {
    let problem: Problem | undefined;
    const { uid } = known.pod;
    while (known.stale && !known.started && pods.get(uid) === known) {
      known.stale = false;
      problem = await attempt(known);
    }
    known.trying = undefined;
    if (pods.get(uid) !== known) return undefined;
    if (problem === undefined) problems.delete(uid);
    else problems.set(uid, problem);
    return problem;
  }

  async function attempt(known: KnownPod): Promise<Problem | undefined> {
    const { pod } = known;
    if (hardware.isDown(pod.node)) return problemOf(pod, "NodeDown", `node ${pod.node} does not answer`);
    const wanted = claimsOf(pod, claims);
    if (!Array.isArray(wanted)) return wanted;
    const failure = failureOf(pod);
    if (failure !== undefined) return problemOf(pod, "PrepareFailed", failure);
    const needed = wanted.map((claim) => hold(known, claim));
    await held.prepare(pod.node, needed);
    for (const claim of wanted) compare(pod.node, claims.get(nameOf(claim)) ?? claim);
    // Somebody let go of one meanwhile: the pod is gone, or the claim has another allocation.
    if (!needed.every(held.isHeld)) {
      known.stale = true;
      return undefined;
    }
    const failed = needed.find(({ prepared }) => !prepared);
    if (failed !== undefined) return problemWith(pod, failed);
    known.started = true;
    onDecision({ type: "start", pod: known.pod });
    return undefined;
  }

  function hold(known: KnownPod, claim: ObservedClaim): HeldClaim {
    const each = held.hold(known.pod.node, claim, known.pod.uid);
    known.held.add(each);
    return each;
  }

  /** Has the driver undo claims that nobody needs any more. */
  function letGo(lastUser: BoundPod, freed: readonly HeldClaim[]): void {
    const asked = held.letGo(freed);
    if (asked.length > 0) void tracked(undo(lastUser, asked));
  }

  async function undo(lastUser: BoundPod, asked: readonly ObservedClaim[]): Promise<void> {
    const { node } = lastUser;
    await held.undo(node, asked, (message, claim) => {
      const more = claim === undefined ? {} : { claim: claim.name };
      report(lastUser, problemOf(lastUser, "WronglyUndone", message, more));
    });
    const freed = asked.map(({ uid }) => uid);
    touchWaiting(
      (problem) =>
        problem.node === node && (problem.refusal !== undefined || problem.holders.some((uid) => freed.includes(uid))),
    );
  }

  /**
   * A prepared claim may have another allocation now. Written after a user was seen bound, it was changed under a running
   * pod; else the claim's watch had lagged behind the pod's, and it is prepared anew for its users.
   */
  function compare(node: string, claim: ObservedClaim): void {
    const each = held.find(node, claim.uid);
    if (each?.prepared !== true || claim.devices === undefined || sameDevices(each.claim, claim)) return;
    const users = [...each.users].flatMap((uid) => pods.get(uid) ?? []);
    const late = users.find((known) => known.boundVersion < claim.resourceVersion)?.pod;
    if (late !== undefined) {
      const message = `the allocation of claim ${claim.name} changed while it was prepared`;
      report(late, problemOf(late, "AllocationChanged", message, { claim: claim.name }));
      return;
    }
    letGo(users[0]!.pod, [each]);
    for (const known of users) {
      known.held.delete(each);
      known.started = false;
      touch(known.pod.uid);
    }
  }

  function report(pod: BoundPod, problem: Problem): void {
    onDecision({ type: "problem", pod, problem, final: true });
  }

  function problemWith(pod: BoundPod, { claim, verdict }: HeldClaim): Problem {
    const { kind, message, ...more } = verdict!;
    return problemOf(pod, kind, `${message}${usersText(pod.node, more.holders)}`, { claim: claim.name, ...more });
  }

  function usersText(node: string, claimUids: readonly string[]): string {
    const texts = claimUids.map((claimUid) => {
      const each = held.find(node, claimUid);
      const users = [...(each?.users ?? [])].map((uid) => pods.get(uid)?.pod.name ?? uid);
      return `claim ${each?.claim.namespace}/${each?.claim.name} of pod ${users.join(", ")}`;
    });
    return texts.length === 0 ? "" : ` by ${texts.join(" and ")}`;
  }

  function tracked<T>(work: Promise<T>): Promise<T> {
    const done = work.finally(() => underWay.delete(done));
    underWay.add(done);
    return done;
  }
}

/** The pod's claims, allocated and reserved for it; else what is missing. */
function claimsOf(pod: BoundPod, claims: ReadonlyMap<string, ObservedClaim>): ObservedClaim[] | Problem {
  const found: ObservedClaim[] = [];
  for (const { name, claimName } of pod.claims) {
    const claim = claimName === undefined ? undefined : claims.get(`${pod.namespace}/${claimName}`);
    const label = claimName ?? name;
    if (claim?.devices === undefined) {
      return problemOf(pod, "NotAllocated", `claim ${label} is not allocated`, { claim: label });
    }
    if (!claim.reservedFor.includes(pod.uid)) {
      return problemOf(pod, "NotReserved", `claim ${label} is not reserved for the pod`, { claim: label });
    }
    found.push(claim);
  }
  return found;
}

function nameOf({ namespace, name }: ObservedClaim): string {
  return `${namespace}/${name}`;
}

function claimKeys(pod: BoundPod): string[] {
  return pod.claims.flatMap(({ claimName }) => (claimName === undefined ? [] : [`${pod.namespace}/${claimName}`]));
}
