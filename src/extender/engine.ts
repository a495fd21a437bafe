import type { Logger } from "pino";
import type { Gang } from "../api/gang.ts";
import { driverName, plannerName, schedulingGroup, version } from "../api/names.ts";
import { withRankOrder } from "../dra/allocator/rank-configuration.ts";
import { toAllocation } from "../dra/allocator/result.ts";
import { warmUp } from "../gang/fit.ts";
import { type KubeClient, KubeError } from "../kube/client.ts";
import { createEventRecorder, type EventRecorder } from "../kube/events.ts";
import { inTerm } from "../kube/field-manager.ts";
import { createElector, type Elector } from "../kube/lease.ts";
import { projectClaim, projectGang, projectPod } from "../kube/project.ts";
import { systemTiming, type Timing, wholeSeconds } from "../kube/timing.ts";
import { deviceKey } from "../topology/held.ts";
import { type ClusterModel, createClusterModel } from "../topology/model.ts";
import { runAudits } from "./auditor.ts";
import { createCapacityDesk, type WorkAsked } from "./capacity-desk.ts";
import { type CapacityFigures, capacityFigures } from "./capacity-figures.ts";
import { type Coordinator, createCoordinator } from "./coordinator.ts";
import { type AllocationBuilder, applyWrite, type WriteEffect, type Written } from "./effects.ts";
import { createHeldCalls, type HeldCalls } from "./held-calls.ts";
import { defaultLimits, type PlannerLimits } from "./limits.ts";
import { type PlannerMetrics, planCounter } from "./metrics.ts";
import type { CoordinatorPorts } from "./ports.ts";
import { runReaper } from "./reaper.ts";
import type { ExtenderBackend } from "./server.ts";
import type { Fence } from "./term.ts";
import { createWatches } from "./watches.ts";
import { whileLeading } from "./while-leading.ts";
import { createWriteQueue, type WriteQueue } from "./writes.ts";

export interface EngineOptions {
  client: KubeClient;
  log: Pick<Logger, "info" | "warn" | "fatal">;
  metrics: PlannerMetrics;
  /** As the Lease's holder: no two running processes have the same. */
  identity: string;
  /** Keeps writes of a planner that was replaced out of the API server. */
  fence?: Fence;
  /** Namespace of the Lease. */
  namespace: string;
  managedDrivers?: readonly string[];
  /** Called with the reason when the Lease or the term was lost: the process must end, because another one may plan now. */
  onLost: (why: string) => void;
  /**
   * kube-scheduler gives up a bind call after `httpTimeout` (120 s); we answer before. The first member of a gang must
   * still be held when the last one arrives: a call that ends costs two more writes of the claim and a new cycle.
   */
  holdBindMs?: number;
  plannerLimits?: Partial<PlannerLimits>;
  /** Whether gangs of higher priority may have others evicted; default true. Reads PodDisruptionBudgets. */
  preemption?: boolean;
  /** Writes to the API server under way at a time. */
  writeLimit?: number;
  /** Time between two audits of what is known; default 600,000, 0: none. */
  auditPeriodMs?: number;
  /** Reads what `/capacity` is asked about; absent: it is not served. */
  readWork?: (body: unknown) => Promise<WorkAsked>;
  /** Devices that nobody uses are given back when two looks so far apart see them so; default 60,000, 0: never. */
  reapGraceMs?: number;
  /** Called after each successful write, before anything is decided from it: where tests kill the process. */
  onWritten?: (effect: WriteEffect) => void;
  timing?: Timing;
}

/** The planner without its door: it watches, decides and writes. All its time and chance come from `timing`. */
export interface Engine {
  /** What the door serves. */
  backend: ExtenderBackend;
  /** Resolves once this replica leads and decides. */
  active: Promise<void>;
  stats(): ReturnType<Coordinator["stats"]>;
  /** Kind → milliseconds since its watch was last heard. */
  staleMs(): ReadonlyMap<string, number>;
  /** What is free, as the replica that plans knows it; undefined: this one does not, or cannot say now. */
  capacity(): Promise<CapacityFigures | undefined>;
  /** Takes part in the election; before, the world is only watched. */
  elect(): void;
  /** Answers all held calls, so that the door can close. */
  refuseCalls(): void;
  /** Hands over: waits for the writes under way, then gives the Lease up. */
  stop(): Promise<void>;
}

/** Starts watching at once. */
export function startEngine(options: EngineOptions): Engine {
  const { client, log, metrics, identity, timing = systemTiming } = options;
  const drivers = options.managedDrivers ?? [driverName];
  const preempts = options.preemption ?? true;
  const model = createClusterModel({ managedDrivers: drivers });
  const closing = new AbortController();
  const writer = whileLeading(client, () => elector.isLeader());
  const fenced = inTerm(writer, () => options.fence?.epoch());
  const recorder = createEventRecorder({ client: writer, component: "kllama-planner", instance: identity, timing });
  const calls = createHeldCalls(() => coordinator, timing, options.holdBindMs ?? 110_000);
  const allocation = allocationBuilder(model, timing);
  const queue: WriteQueue = createWriteQueue(
    { total: options.writeLimit ?? 32, background: 2, patienceMs: 5_000 },
    write,
    (effect, owner, written) => report(coordinator, log, effect, owner, written),
    timing.nowMs,
  );

  async function write(effect: WriteEffect): Promise<Written> {
    const written = await timedWrite(fenced, effect, allocation, metrics);
    if (written.outcome.ok) options.onWritten?.(effect);
    return written;
  }

  const coordinator: Coordinator = createCoordinator(
    model,
    new Set(drivers),
    ports({
      ...{ timing, queue, recorder, calls, metrics, log, fence: options.fence },
      ...{ closing: closing.signal, flush: () => coordinator.flush() },
    }),
    { ...defaultLimits, ...options.plannerLimits },
    preempts,
  );
  const watches = createWatches(
    client,
    model,
    coordinator,
    {
      invalid: (kind, object) => {
        metrics.invalidObjects.inc({ kind });
        log.warn({ kind, object: object.key, error: String(object.error) }, "object left out: it cannot be read");
      },
      error: (kind, error, fatal) => {
        log[fatal ? "fatal" : "warn"]({ kind, error: error.message }, fatal ? "watch stopped" : "watch interrupted");
        if (fatal) throw error;
      },
    },
    timing,
    preempts,
  );
  for (const watch of watches.values()) watch.start();

  const synced = Promise.all([...watches.values()].map((watch) => watch.waitForSync()));
  const ending = new AbortController();
  const periodMs = options.auditPeriodMs ?? 600_000;
  const auditor = { client, model, coordinator, metrics, log, timing, periodMs, signal: ending.signal };
  // One that is stopped before its first sync has nothing to audit.
  const auditing = synced.then(
    () => {
      warmUp(model.view);
      return runAudits(auditor);
    },
    () => undefined,
  );

  const active = Promise.withResolvers<void>();
  let leading = false;
  let reaping = Promise.resolve();

  /** What a follower's watches told may be older than what the last leader did: all is listed anew, behind the fence. */
  async function begin(epoch: number): Promise<void> {
    await options.fence?.raise(closing.signal, () => elector.isLeader(), epoch === 0);
    await Promise.all([...watches.values()].map((watch) => watch.refresh()));
    if (closing.signal.aborted || !elector.isLeader()) return;
    warmUp(model.view);
    leading = true;
    metrics.leader.set(1);
    log.info({ epoch, ...coordinator.stats() }, "planning");
    coordinator.activate();
    reaping = reap();
    active.resolve();
  }

  function reap(): Promise<void> {
    return runReaper({
      model,
      managedDrivers: new Set(drivers),
      async write(effect) {
        const written = await write(effect);
        report(coordinator, log, effect, "nobody", written);
        return written.outcome;
      },
      recorder,
      metrics,
      log,
      timing,
      graceMs: options.reapGraceMs ?? 60_000,
      signal: ending.signal,
    });
  }

  const elector = createElector({
    client,
    namespace: options.namespace,
    name: plannerName,
    identity,
    timing,
    onStartedLeading: (epoch) => {
      begin(epoch).catch((error) => log.warn({ error: String(error) }, "stopped before the first sync"));
    },
    onStoppedLeading: (reason) => {
      leading = false;
      metrics.leader.set(0);
      if (reason === "lost") options.onLost("the Lease was lost: another replica plans now");
    },
    onError: (error) => log.warn({ error: String(error) }, "lease"),
  });

  void options.fence?.taken.then((whose) => {
    if (elector.isLeader()) options.onLost(`PlannerTerm ${plannerName} was taken although the Lease is ours: ${whose}`);
  });

  const staleMs = (): ReadonlyMap<string, number> =>
    new Map([...watches].map(([kind, each]) => [kind, each.staleMs()]));
  const leads = (): boolean => leading && elector.isLeader();
  const { readWork } = options;
  const capacity = readWork && {
    capacity: createCapacityDesk({
      model,
      readWork,
      // What gangs hold is known to the replica that plans.
      notReady: () => (leads() ? undefined : readiness(leading, elector, watches, options.fence).reason),
      viewAgeMs: () => Math.max(...staleMs().values()),
      nowMs: timing.nowMs,
    }),
  };

  return {
    backend: {
      ...capacity,
      leads,
      bind: (request, signal) => {
        if (!leads()) return Promise.resolve("this replica of the kllama planner does not lead");
        return calls.hold(request, signal);
      },
      plannedNode: (podUid) => {
        if (coordinator.goesAlone(podUid)) return { anyNode: true };
        const node = coordinator.plannedNode(podUid);
        return node === undefined ? { refusal: "the gang of this pod is not placed yet" } : { node };
      },
      ready: () => readiness(leading, elector, watches, options.fence),
    },
    active: active.promise,
    stats: coordinator.stats,
    staleMs,
    capacity: async () => (leading ? await capacityFigures(model, timing.nowMs) : undefined),
    elect: elector.start,
    refuseCalls: () => calls.answerAll("the kllama planner is stopping"),
    async stop() {
      ending.abort();
      // A gang of thousands may have as many writes in line: the next planner, which waits for the Lease, makes them sooner.
      queue.close();
      await Promise.all([...watches.values()].map((watch) => watch.stop()));
      await auditing;
      await reaping;
      await queue.idle();
      closing.abort();
      // While the Lease is ours: events are not sent without it either.
      await recorder.close();
      await elector.release();
    },
  };
}

/** A flush waits this long for what else comes, so that a burst of watch events costs one decision per gang. */
const gatherMs = 2;

function ports(parts: {
  timing: Timing;
  queue: WriteQueue;
  recorder: EventRecorder;
  calls: HeldCalls;
  metrics: PlannerMetrics;
  log: EngineOptions["log"];
  closing: AbortSignal;
  flush: () => void;
  fence: Fence | undefined;
}): CoordinatorPorts {
  const { timing, queue, recorder, calls, metrics, log, closing, flush, fence } = parts;
  // The wall clock at the start plus what the monotonic one counted since: deadlines never step, and neither do the times
  // that they are counted from.
  const originMs = timing.wallClock().getTime() - timing.nowMs();
  const nowMs = (): number => originMs + timing.nowMs();
  return {
    write: (effect, owner) => queue.push(effect, owner),
    event: ({ kind, namespace, name, uid }, { reason, note, warning }) => {
      const apiVersion = kind === "Pod" ? "v1" : `${schedulingGroup}/${version}`;
      recorder.record({
        regarding: { apiVersion, kind, namespace, name, uid },
        type: warning ? "Warning" : "Normal",
        reason,
        note,
      });
    },
    answer: calls.answer,
    mayPlan: () => fence?.stands() !== false,
    nowMs,
    nowIso: () => wholeSeconds(new Date(nowMs())),
    schedule: createAlarmClock(timing, closing, flush),
    planned: planCounter(metrics),
    planRefused: ({ pod, node, message }) => {
      metrics.refusedPlans.inc();
      log.warn(
        { pod, node, message },
        "kube-scheduler refused a place that was planned; it is planned anew without the node",
      );
    },
    preempted: (victims) => {
      metrics.preemptions.inc();
      for (const { kind } of victims) metrics.victims.inc({ kind });
    },
    bypassed: (how) => metrics.bypasses.inc({ how }),
  };
}

/**
 * One wake-up at a time: the coordinator asks for another only when it is sooner, and again after every flush. Sleeps that
 * are no longer wanted end at once: deadlines are minutes away, and thousands of them would pile up. (An abort without a
 * reason makes an exception with a stack, which costs more than all the rest here.)
 */
function createAlarmClock(timing: Timing, closing: AbortSignal, flush: () => void): (delayMs: number) => void {
  let superseded = new AbortController();
  closing.addEventListener("abort", () => superseded.abort("closing"), { once: true });
  return (delayMs) => {
    superseded.abort("superseded");
    const current = new AbortController();
    superseded = current;
    if (closing.aborted) return;
    void timing.sleep(delayMs < 1 ? gatherMs : delayMs, current.signal).then(() => {
      if (!current.signal.aborted) flush();
    });
  };
}

/** Followers are ready too: they answer, and take over warm. */
function readiness(
  leading: boolean,
  elector: Elector,
  watches: ReadonlyMap<string, { synced: boolean }>,
  fence: Fence | undefined,
): { ready: boolean; reason: string } {
  const waiting = [...watches].filter(([, watch]) => !watch.synced).map(([kind]) => kind);
  if (waiting.length > 0) return { ready: false, reason: `not synced: ${waiting.join(", ")}` };
  if (elector.isLeader()) {
    const trouble = fence?.trouble();
    if (trouble !== undefined) return { ready: false, reason: trouble };
    return leading ? { ready: true, reason: "planning" } : { ready: false, reason: "about to plan" };
  }
  const leader = elector.leader();
  if (leader === "") return { ready: false, reason: "nobody leads yet" };
  return { ready: true, reason: `standing by; ${leader} plans` };
}

async function timedWrite(
  client: KubeClient,
  effect: WriteEffect,
  allocation: AllocationBuilder,
  metrics: PlannerMetrics,
): Promise<Written> {
  const stop = metrics.writeSeconds.startTimer({ effect: effect.type });
  const written = await applyWrite(client, effect, allocation);
  stop();
  metrics.writes.inc({ effect: effect.type, outcome: written.outcome.ok ? "ok" : written.outcome.reason });
  return written;
}

function report(
  coordinator: Coordinator,
  log: EngineOptions["log"],
  effect: WriteEffect,
  owner: string,
  written: Written,
): void {
  const { outcome, gang, pod, claim } = written;
  if (!outcome.ok && outcome.reason !== "Conflict" && outcome.reason !== "NotFound") {
    log.warn({ gang: owner, effect: effect.id, reason: outcome.reason, error: outcome.message }, "write failed");
  }
  if (effect.type === "writeStatus" && outcome.ok) {
    log.info({ gang: owner, phase: effect.status.phase, explanation: effect.status.explanation }, "gang");
  }
  coordinator.written(effect, owner, {
    outcome,
    ...(gang === undefined
      ? {}
      : { gang: projectGang(gang as Gang, coordinator.gangs().get(gang.metadata.uid ?? "")) }),
    ...(pod === undefined ? {} : { pod: projectPod(pod) }),
    ...(claim === undefined ? {} : { claim: projectClaim(claim) }),
  });
}

/** Builds `status.allocation` from the newest claim, classes and inventory; a vanished device fails the effect. */
function allocationBuilder(model: ClusterModel, timing: Timing): AllocationBuilder {
  return (effect) => {
    const claim = model.claim(effect.claim.namespace, effect.claim.name);
    const nodeIndex = model.view.indexOf(effect.node);
    const inventory = nodeIndex === undefined ? undefined : model.view.inventory(nodeIndex);
    if (claim === undefined || inventory === undefined) throw gone(`claim ${effect.claim.name} or node ${effect.node}`);
    const placed = effect.placed.devices.map(({ driver, pool, device, ...grant }) => {
      const key = deviceKey(driver, pool, device);
      const entry = inventory.devices[inventory.indexOf.get(key) ?? -1];
      if (entry === undefined) throw gone(`device ${key}`);
      return { ...grant, device: entry };
    });
    const nowIso = wholeSeconds(timing.wallClock());
    const allocation = toAllocation(claim.spec, model.view.deviceClasses, placed, effect.node, nowIso);
    return withRankOrder(
      allocation,
      placed.map(({ device }) => device),
    );
  };
}

function gone(what: string): KubeError {
  return new KubeError(`${what} is gone`, { status: 404, reason: "NotFound" });
}
