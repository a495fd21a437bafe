import type { AddressInfo } from "node:net";
import { performance } from "node:perf_hooks";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import { driverName, schedulingGroup, version } from "../api/names.ts";
import { toAllocation } from "../dra/allocator/result.ts";
import { type KubeClient, KubeError } from "../kube/client.ts";
import { createEventRecorder } from "../kube/events.ts";
import { createElector, type Elector } from "../kube/lease.ts";
import { projectClaim, projectGang, projectPod } from "../kube/project.ts";
import { type ClusterModel, createClusterModel } from "../topology/model.ts";
import { type Coordinator, createCoordinator } from "./coordinator.ts";
import { type AllocationBuilder, applyWrite, type WriteEffect, type Written } from "./effects.ts";
import { createPlannerMetrics, type PlannerMetrics } from "./metrics.ts";
import { type BindRequest, buildServer, type ServerOptions } from "./server.ts";
import { createWatches } from "./watches.ts";
import { createWriteQueue, type WriteQueue } from "./writes.ts";

export interface PlannerOptions extends ServerOptions {
  client: KubeClient;
  log: Logger;
  /** Unique for every process, as the Lease's holder. */
  identity: string;
  /** Namespace of the Lease. */
  namespace: string;
  listen: { host: string; port: number };
  managedDrivers?: readonly string[];
  /** Called when the Lease was lost: the process must end, because another replica plans now. */
  onLost: () => void;
  /** kube-scheduler gives up a bind call after `httpTimeout` (30 s); we answer before. */
  holdBindMs?: number;
  /** Writes to the API server under way at a time. */
  writeLimit?: number;
  /** Called after each successful write, before anything is decided from it: where tests kill the process. */
  onWritten?: (effect: WriteEffect) => void;
}

export interface Planner {
  url: string;
  /** Resolves once this replica leads and decides. */
  active: Promise<void>;
  metrics: PlannerMetrics;
  stop(): Promise<void>;
}

/** Starts watching, serving and electing; plans once the Lease is held and every kind is synced. */
export async function startPlanner(options: PlannerOptions): Promise<Planner> {
  const { client, log } = options;
  const metrics = createPlannerMetrics();
  const drivers = options.managedDrivers ?? [driverName];
  const model = createClusterModel({ managedDrivers: drivers });
  const calls = createHeldCalls(options.holdBindMs ?? 25_000);
  const recorder = createEventRecorder({ client, component: "kllama-planner", instance: options.identity });
  const allocation = allocationBuilder(model);
  const queue: WriteQueue = createWriteQueue(
    { total: options.writeLimit ?? 32, background: 2, patienceMs: 5_000 },
    async (effect) => {
      const written = await timedWrite(client, effect, allocation, metrics);
      if (written.outcome.ok) options.onWritten?.(effect);
      return written;
    },
    (effect, owner, written) => report(coordinator, log, effect, owner, written),
    () => performance.now(),
  );
  const coordinator = createCoordinator(model, new Set(drivers), {
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
    answer: (call, error) => calls.answer(call, error),
    nowMs: () => performance.timeOrigin + performance.now(),
    nowIso: wholeSeconds,
    schedule: (delayMs) => {
      if (delayMs < 1) setTimeout(() => coordinator.flush(), 2);
      else setTimeout(() => coordinator.flush(), delayMs).unref();
    },
    planned: (outcome, milliseconds, explored, reason) => {
      metrics.plans.inc({ outcome, reason });
      metrics.planSeconds.observe({ outcome }, milliseconds / 1000);
      metrics.explored.inc(explored);
    },
  });
  const watches = createWatches(client, model, coordinator, {
    invalid: (kind, object) => {
      metrics.invalidObjects.inc({ kind });
      log.warn({ kind, object: object.key, error: String(object.error) }, "object left out: it cannot be read");
    },
    error: (kind, error, fatal) => {
      log[fatal ? "fatal" : "warn"]({ kind, error: error.message }, fatal ? "watch stopped" : "watch interrupted");
      if (fatal) throw error;
    },
  });
  for (const watch of watches.values()) watch.start();

  let activate: () => void = () => undefined;
  const active = new Promise<void>((resolve) => {
    activate = resolve;
  });
  let leading = false;
  const elector = createElector({
    client,
    namespace: options.namespace,
    name: "kllama-planner",
    identity: options.identity,
    onStartedLeading: (epoch) => {
      void Promise.all([...watches.values()].map((watch) => watch.waitForSync())).then(() => {
        leading = true;
        metrics.leader.set(1);
        log.info({ epoch, ...coordinator.stats() }, "planning");
        coordinator.activate();
        activate();
      }, fail(log));
    },
    onStoppedLeading: (reason) => {
      leading = false;
      metrics.leader.set(0);
      if (reason === "lost") options.onLost();
    },
    onError: (error) => log.warn({ error: String(error) }, "lease"),
  });

  const app = buildServer(
    {
      bind: (request, signal) => {
        if (!leading || !elector.isLeader()) return Promise.resolve("this replica of the kllama planner does not lead");
        return holdBind(coordinator, calls, request, signal);
      },
      plannedNode: (podUid) => {
        const node = coordinator.plannedNode(podUid);
        return node === undefined ? { refusal: "the gang of this pod is not placed yet" } : { node };
      },
      ready: () => readiness(leading, elector, watches),
    },
    metrics,
    { ...options, onError: (error) => log.error({ error: error.stack }, "a request failed") },
  );
  gauges(metrics, coordinator, watches);
  await app.listen(options.listen);
  elector.start();
  return {
    url: urlOf(app, options),
    active,
    metrics,
    async stop() {
      calls.answerAll("the kllama planner is stopping");
      await app.close();
      await Promise.all([...watches.values()].map((watch) => watch.stop()));
      await queue.idle();
      await elector.release();
      await recorder.close();
    },
  };
}

function fail(log: Logger): (error: unknown) => void {
  return (error) => log.warn({ error: String(error) }, "stopped before the first sync");
}

/** Followers are ready too: they answer, and take over warm. */
function readiness(
  leading: boolean,
  elector: Elector,
  watches: ReadonlyMap<string, { synced: boolean }>,
): { ready: boolean; reason: string } {
  const waiting = [...watches].filter(([, watch]) => !watch.synced).map(([kind]) => kind);
  if (waiting.length > 0) return { ready: false, reason: `not synced: ${waiting.join(", ")}` };
  if (leading) return { ready: true, reason: "planning" };
  const leader = elector.leader();
  if (leader === "") return { ready: false, reason: "nobody leads yet" };
  return { ready: true, reason: `standing by; ${leader} plans` };
}

function urlOf(app: FastifyInstance, options: PlannerOptions): string {
  const address = app.server.address() as AddressInfo;
  const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return `${options.tls === undefined ? "http" : "https"}://${host}:${address.port}`;
}

function gauges(
  metrics: PlannerMetrics,
  coordinator: Coordinator,
  watches: ReadonlyMap<string, { staleMs(): number }>,
): void {
  const collect = (): void => {
    const { gangs, arrivals } = coordinator.stats();
    metrics.gangs.set(gangs);
    metrics.arrivals.set(arrivals);
    for (const [kind, watch] of watches) metrics.staleSeconds.set({ kind }, watch.staleMs() / 1000);
  };
  Object.assign(metrics.gangs, { collect });
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

function report(coordinator: Coordinator, log: Logger, effect: WriteEffect, owner: string, written: Written): void {
  const { outcome, gang, pod, claim } = written;
  if (!outcome.ok && outcome.reason !== "Conflict" && outcome.reason !== "NotFound") {
    log.warn({ gang: owner, effect: effect.id, reason: outcome.reason, error: outcome.message }, "write failed");
  }
  if (effect.type === "writeStatus" && outcome.ok) {
    log.info({ gang: owner, phase: effect.status.phase, explanation: effect.status.explanation }, "gang");
  }
  coordinator.written(effect, owner, {
    outcome,
    ...(gang === undefined ? {} : { gang: projectGang(gang as never) }),
    ...(pod === undefined ? {} : { pod: projectPod(pod) }),
    ...(claim === undefined ? {} : { claim: projectClaim(claim) }),
  });
}

/** Builds `status.allocation` from the newest claim, classes and inventory; a vanished device fails the effect. */
function allocationBuilder(model: ClusterModel): AllocationBuilder {
  return (effect) => {
    const claim = model.claim(effect.claim.namespace, effect.claim.name);
    const nodeIndex = model.view.indexOf(effect.node);
    const inventory = nodeIndex === undefined ? undefined : model.view.inventory(nodeIndex);
    if (claim === undefined || inventory === undefined) throw gone(`claim ${effect.claim.name} or node ${effect.node}`);
    const placed = effect.placed.devices.map(({ request, driver, pool, device }) => {
      const entry = inventory.devices[inventory.indexOf.get(`${driver}/${pool}/${device}`) ?? -1];
      if (entry === undefined) throw gone(`device ${driver}/${pool}/${device}`);
      return { request, device: entry };
    });
    return toAllocation(claim.spec, model.view.deviceClasses, placed, effect.node, wholeSeconds());
  };
}

/** Now, as RFC 3339 in whole seconds. */
function wholeSeconds(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, "Z");
}

function gone(what: string): KubeError {
  return new KubeError(`${what} is gone`, { status: 404, reason: "NotFound" });
}

interface HeldCalls {
  open(resolve: (error: string | undefined) => void, timedOut: (call: number) => string): number;
  answer(call: number, error: string | undefined): void;
  answerAll(error: string): void;
}

/** Bind calls that kube-scheduler waits on, by number. */
function createHeldCalls(holdMs: number): HeldCalls {
  const held = new Map<number, { resolve: (error: string | undefined) => void; timer: NodeJS.Timeout }>();
  let last = 0;
  function answer(call: number, error: string | undefined): void {
    const found = held.get(call);
    if (found === undefined) return;
    held.delete(call);
    clearTimeout(found.timer);
    found.resolve(error);
  }
  return {
    open(resolve, timedOut) {
      last += 1;
      const call = last;
      held.set(call, { resolve, timer: setTimeout(() => answer(call, timedOut(call)), holdMs) });
      return call;
    },
    answer,
    answerAll(error) {
      for (const call of [...held.keys()]) answer(call, error);
    },
  };
}

/** One bind call: arrives at the barrier, leaves it when kube-scheduler hangs up or the hold ends. */
function holdBind(
  coordinator: Coordinator,
  calls: HeldCalls,
  request: BindRequest,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { podUid, podName, node } = request;
  return new Promise((resolve) => {
    const call = calls.open(resolve, (timedOut) => {
      coordinator.leave(podUid, timedOut);
      return `gang ${coordinator.gangOf(podUid) ?? "?"}: not all members are at the barrier yet`;
    });
    signal.addEventListener("abort", () => {
      coordinator.leave(podUid, call);
      calls.answer(call, "the call was given up");
    });
    if (coordinator.arrive(podUid, node, call) === undefined) {
      calls.answer(call, `pod ${podName} with UID ${podUid} is not a member of any gang`);
    }
  });
}
