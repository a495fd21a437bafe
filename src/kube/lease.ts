import { isAlreadyExists, isConflict, isNotFound, type KubeClient } from "./client.ts";
import { resourcePath } from "./paths.ts";
import { microTime, systemTiming, type Timing } from "./timing.ts";

export interface ElectorOptions {
  client: KubeClient;
  namespace: string;
  /** Name of the Lease. */
  name: string;
  /** No two running processes may share it. Who restarts under its old name keeps the Lease, and its old epoch. */
  identity: string;
  /** `epoch` is the Lease's `leaseTransitions`. It starts anew at 0 when somebody deletes the Lease, so fencing needs more. */
  onStartedLeading: (epoch: number) => void;
  /** Called at most once, before anybody else can hold the Lease when `released`; when `lost`, the process should exit. */
  onStoppedLeading: (reason: "lost" | "released") => void;
  /** Another identity (or nobody: empty) was seen to hold the Lease. */
  onLeaderChanged?: (identity: string) => void;
  /** Refusals and lost connections; they are retried. */
  onError?: (error: unknown) => void;
  /** How long others wait after the last change they saw; default 15,000, whole seconds. */
  leaseDurationMs?: number;
  /** How long the leader works on after its last successful renewal; default 10,000. */
  renewDeadlineMs?: number;
  /** Time between two tries; default 2,000. */
  retryPeriodMs?: number;
  timing?: Timing;
}

export interface Elector {
  start(): void;
  /** True while the Lease is surely ours: judged by the monotonic clock at this moment, also right after a SIGSTOP. */
  isLeader(): boolean;
  /** Who was last seen to hold the Lease; empty when nobody. */
  leader(): string;
  /** Gives the Lease up after the last work is done; the next leader need not wait for it to expire. Never throws. */
  release(): Promise<void>;
}

interface LeaseSpec {
  holderIdentity?: string;
  leaseDurationSeconds?: number;
  acquireTime?: string;
  renewTime?: string;
  leaseTransitions?: number;
}

interface Lease {
  metadata: { name: string; namespace?: string; resourceVersion?: string };
  spec?: LeaseSpec;
}

/**
 * Elects one leader among the processes that name the same Lease, by client-go's rules: a holder counts as gone when its
 * Lease's spec did not change for its duration *as seen here*, on a monotonic clock; times in the Lease are for people only.
 * Every write carries the resourceVersion last seen, so of two writers one fails and reads again. This is no fence: a
 * paused leader may still have writes under way, which the epoch must refuse. Who lost the Lease stays out.
 * Stricter than client-go: the deadline counts from when the last successful renewal was sent, not answered, and a Lease that
 * somebody deleted is lost. Sooner: the pause between two tries is never longer than its period, which client-go's may be.
 */
export function createElector(options: ElectorOptions): Elector {
  const { client, namespace, name, identity, timing = systemTiming } = options;
  const times = checkedTimes(options);
  const location = { group: "coordination.k8s.io", version: "v1", resource: "leases", namespace };
  const collectionPath = resourcePath(location);
  const path = resourcePath({ ...location, name });
  const stopping = new AbortController();
  let running: Promise<void> | undefined;
  let seen: { lease: Lease; atMs: number } | undefined; // the Lease as last read or written, and when its change was seen
  let announced: string | undefined;
  let leading = false;
  let renewedAtMs = Number.NEGATIVE_INFINITY; // when the last successful renewal was *sent*

  function isLeader(): boolean {
    return leading && timing.nowMs() - renewedAtMs < times.renewDeadlineMs;
  }

  function leader(): string {
    return seen?.lease.spec?.holderIdentity ?? "";
  }

  function observe(lease: Lease): void {
    if (seen?.lease.metadata.resourceVersion === lease.metadata.resourceVersion) return;
    // A label, say, is no sign of life of the holder.
    const still = seen !== undefined && JSON.stringify(seen.lease.spec) === JSON.stringify(lease.spec);
    seen = { lease, atMs: still ? seen!.atMs : timing.nowMs() };
  }

  /** Outside every catch: what a callback throws is a defect and must not look like a failed request. */
  function announce(): void {
    if (seen === undefined || leader() === announced) return;
    announced = leader();
    options.onLeaderChanged?.(announced);
  }

  function heldByOther(): boolean {
    if (seen === undefined || leader() === "" || leader() === identity) return false;
    return timing.nowMs() - seen.atMs < (seen.lease.spec?.leaseDurationSeconds ?? 0) * 1000;
  }

  function claim(): LeaseSpec {
    const now = microTime(timing);
    const spec = seen?.lease.spec ?? {};
    const mine = spec.holderIdentity === identity;
    return {
      holderIdentity: identity,
      leaseDurationSeconds: times.leaseDurationMs / 1000,
      acquireTime: mine ? (spec.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: (spec.leaseTransitions ?? 0) + (mine || seen === undefined ? 0 : 1),
    };
  }

  async function write(spec: LeaseSpec, signal: AbortSignal): Promise<void> {
    const sentAtMs = timing.nowMs();
    const metadata = seen?.lease.metadata ?? { name, namespace };
    const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec };
    const written =
      seen === undefined
        ? client.request<Lease>("POST", collectionPath, { body, signal })
        : client.request<Lease>("PUT", path, { body, signal });
    observe(await written);
    if (spec.holderIdentity === identity) renewedAtMs = sentAtMs;
  }

  async function read(signal: AbortSignal): Promise<void> {
    try {
      observe(await client.request<Lease>("GET", path, { signal }));
    } catch (error) {
      if (!isNotFound(error)) throw error;
      seen = undefined;
    }
  }

  /** One try. A leader writes at once with the version it knows; everybody else, and who meets a conflict, reads first. */
  async function tryAcquireOrRenew(signal: AbortSignal): Promise<boolean> {
    try {
      if (!leading) await read(signal);
      if (heldByOther()) return false;
      await write(claim(), signal);
      return true;
    } catch (error) {
      if (!isConflict(error) && !isNotFound(error) && !isAlreadyExists(error)) throw error;
      if (leading) await read(signal);
      // Our own earlier write may have arrived although its answer did not.
      return leading && leader() === identity ? renewAgain(signal) : false;
    }
  }

  async function renewAgain(signal: AbortSignal): Promise<boolean> {
    await write(claim(), signal);
    return true;
  }

  async function guarded(signal: AbortSignal): Promise<boolean> {
    try {
      return await tryAcquireOrRenew(signal);
    } catch (error) {
      if (!stopping.signal.aborted) options.onError?.(error);
      return false;
    }
  }

  /** Aborts `attempt` when the time is over, so that a hung request cannot outlive the Lease. */
  async function within<T>(limitMs: number, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const limit = new AbortController();
    const finished = new AbortController();
    void timing.sleep(limitMs, finished.signal).then(() => {
      if (!finished.signal.aborted) limit.abort();
    });
    try {
      return await attempt(limit.signal);
    } finally {
      // An abort without a reason makes an exception with a stack.
      finished.abort("finished");
    }
  }

  async function acquire(): Promise<void> {
    while (!stopping.signal.aborted) {
      const acquired = await within(times.renewDeadlineMs, guarded);
      announce();
      if (acquired) return;
      // Never later than the period: that bounds how long a released Lease stays unclaimed.
      await timing.sleep(times.retryPeriodMs * (0.75 + 0.25 * timing.random()), stopping.signal);
    }
  }

  function leftMs(): number {
    return renewedAtMs + times.renewDeadlineMs - timing.nowMs();
  }

  async function renewUntilLost(): Promise<void> {
    while (leftMs() > 0) {
      await timing.sleep(Math.min(times.retryPeriodMs, leftMs()), stopping.signal);
      if (stopping.signal.aborted || leftMs() <= 0) return;
      const renewed = await within(leftMs(), guarded);
      announce();
      if (!renewed && leader() !== identity) return;
    }
  }

  async function run(): Promise<void> {
    await acquire();
    if (stopping.signal.aborted) return;
    leading = true;
    options.onStartedLeading(seen?.lease.spec?.leaseTransitions ?? 0);
    await renewUntilLost();
    if (!stopping.signal.aborted) stopLeading("lost");
  }

  function stopLeading(reason: "lost" | "released"): void {
    if (!leading) return;
    leading = false;
    options.onStoppedLeading(reason);
  }

  async function release(): Promise<void> {
    stopping.abort();
    await running;
    stopLeading(isLeader() ? "released" : "lost");
    // Safe even when we lost it: the version we know is our own, so the write fails if anybody wrote since.
    if (leader() !== identity) return;
    const now = microTime(timing);
    const spec = { ...seen?.lease.spec, holderIdentity: "", leaseDurationSeconds: 1, renewTime: now, acquireTime: now };
    try {
      await within(times.retryPeriodMs, (signal) => write(spec, signal));
    } catch (error) {
      options.onError?.(error);
    }
  }

  return {
    start: () => {
      if (running !== undefined) throw new Error(`elector ${name} was already started`);
      running = run();
    },
    isLeader,
    leader,
    release,
  };
}

function checkedTimes(options: ElectorOptions): {
  leaseDurationMs: number;
  renewDeadlineMs: number;
  retryPeriodMs: number;
} {
  const { leaseDurationMs = 15_000, renewDeadlineMs = 10_000, retryPeriodMs = 2_000 } = options;
  const message = `elector ${options.name}: leaseDurationMs ${leaseDurationMs}, renewDeadlineMs ${renewDeadlineMs}, retryPeriodMs ${retryPeriodMs}`;
  if (!(leaseDurationMs > renewDeadlineMs && renewDeadlineMs > 1.2 * retryPeriodMs && retryPeriodMs > 0)) {
    throw new Error(`${message}: need leaseDurationMs > renewDeadlineMs > 1.2 × retryPeriodMs > 0`);
  }
  if (leaseDurationMs % 1000 !== 0) throw new Error(`${message}: leaseDurationMs must be whole seconds`);
  return { leaseDurationMs, renewDeadlineMs, retryPeriodMs };
}
