import { gangGate } from "../../src/api/names.ts";
import type { PlacedPod } from "../../src/api/placement.ts";
import { createDoubts } from "../../src/extender/doubts.ts";
import { createGangGroups } from "../../src/extender/gang-groups.ts";
import { createGangHolds } from "../../src/extender/gang-holds.ts";
import { createHeldPlaces, defaultLimits } from "../../src/extender/limits.ts";
import { createPlanQueue, type PlanQueue } from "../../src/extender/plan-queue.ts";
import { createSingles, type Singles } from "../../src/extender/singles.ts";
import { type GangRecord, type GangState, memberKey, newGangState } from "../../src/gang/lifecycle/state.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import { exactly, podRecord } from "../builders.ts";
import { claimRecord, gangIn } from "./cluster.ts";

export interface Job {
  name: string;
  gpus: number;
  /** Pods of a gang; undefined: a pod of its own. */
  pods?: number;
  /** A pod of its own that came past the gate. */
  ungated?: true;
  priority?: number;
  rack?: boolean;
  /** Level that all its pods share; `rack` says the same of racks. */
  level?: string;
  /** Its pods name one claim: they share the GPUs of the first. */
  shared?: true;
  minCount?: number;
  cpu?: number;
  /** How long it runs once it is placed; default: for ever. */
  runsMs?: number;
}

interface Entry extends Job {
  createdAtMs: number;
  placedAtMs?: number;
  endsAtMs?: number;
  places: readonly PlacedPod[];
}

/**
 * The planner's queue, its model and its holds, with time that is told: what is placed runs at once, and leaves when
 * its time is over. No writes, no API server.
 */
export interface QueueWorld {
  readonly nowMs: number;
  submit(...jobs: Job[]): void;
  leave(name: string): void;
  /** Time passes by the second: who leaves makes room, newcomers come, and what waits is planned. */
  pass(seconds: number, newcomers?: readonly Job[]): void;
  /** The same in one leap. */
  leap(seconds: number): void;
  /** Nothing is planned until the restart. */
  stop(): void;
  /** The planner loses its memory; what Gangs say of themselves stays. */
  restart(): void;
  places(name: string): readonly PlacedPod[];
  message(name: string): string | undefined;
  createdAt(name: string): number | undefined;
  running(): Entry[];
  /** Jobs that have no place. */
  waiting(): string[];
  /** Gangs that have a room reserved. */
  draining(): string[];
  /** Places that a waiting gang has reserved. */
  reserved(name: string): readonly PlacedPod[];
  readonly queue: PlanQueue;
  /** Others may allocate beside the planner. */
  fenceBroken: boolean;
  /** So long takes each look of the planner at the clock; default 0: it has all the time in a moment. */
  lookMs: number;
  /** Told whenever all that waits was planned. */
  onPlanned: () => void;
}

export function queueWorld(model: ClusterModel, drainAfterMs: number): QueueWorld {
  let nowMs = 1_000_000_000;
  let queue: PlanQueue;
  let stopped = false;
  let singles: Singles;
  const states = new Map<string, GangState>();
  const entries = new Map<string, Entry>();

  function change(key: string, news: Partial<GangState>): void {
    const before = states.get(key);
    if (before !== undefined) states.set(key, { ...before, ...news });
  }

  function refuse(key: string, reason: string, message: string, capacityVersion: number): void {
    const { gang, ...state } = states.get(key)!;
    const said = { type: "Planned" as const, status: "False" as const, reason, message };
    const lastTransitionTime = gang!.status.conditions?.[0]?.lastTransitionTime ?? new Date(nowMs).toISOString();
    const status = { ...gang!.status, explanation: message, conditions: [{ ...said, lastTransitionTime }] };
    const rejection = { reason, message, capacityVersion, members: memberKey({ ...state, gang: gang! }) };
    change(key, { rejection, gang: { ...gang!, status } });
  }

  function start(): void {
    const ports = {
      write: () => undefined,
      event: () => undefined,
      answer: () => undefined,
      nowMs: () => {
        nowMs += world.lookMs;
        return nowMs;
      },
      nowIso: () => "",
      schedule: () => undefined,
      planned: () => undefined,
      mayPlan: () => !world.fenceBroken,
      planRefused: () => undefined,
      bypassed: () => undefined,
      preempted: () => undefined,
    };
    const places = createHeldPlaces();
    const holds = createGangHolds(model, places, createDoubts(model));
    singles = createSingles(model, ports, () => undefined);
    queue = createPlanQueue({
      model,
      ports,
      limits: { ...defaultLimits, drainAfterMs },
      places,
      holds,
      groups: createGangGroups(() => [...states.values()]),
      singles,
      stateOf: (key) => states.get(key),
      nodeFits: () => true,
      makeRoom: () => undefined,
      refused: () => undefined,
      tell(key, event) {
        if (event.type === "rejected") {
          refuse(key, event.rejection.reason, event.rejection.message, event.capacityVersion);
        } else if (event.type === "planned") {
          const { rejection: _, ...state } = states.get(key)!;
          const { pods, domains, cost } = event.placement;
          states.set(key, { ...state, proposal: { pods, domains, costMs: cost.totalMs } });
        }
      },
      decide: (key) => holds.settle(states.get(key)!),
    });
    for (const state of states.values()) holds.settle(state);
  }

  function submitGang(job: Job, pods: number): void {
    const { name, gpus, priority = 0, rack = false, minCount = pods, cpu = 1_000, shared } = job;
    const level = job.level ?? (rack ? "rack" : undefined);
    const constraints = level === undefined ? [] : [{ type: "colocate" as const, level, mode: "required" as const }];
    const claims = [{ name: "gpu", claimName: `${name}-w-shared` }];
    if (shared) model.upsertClaim(claimRecord(`${name}-w-shared`, [exactly("gpu", gpus)]));
    const more = { priority, requests: { cpu }, createdAtMs: nowMs, ...(shared && { claims }) };
    const { spec, pods: records } = gangIn(model, name, { w: { count: pods, gpus, minCount, more } }, { constraints });
    const gang: GangRecord = {
      namespace: "team",
      name,
      uid: `gang-uid-${name}`,
      generation: 1,
      resourceVersion: "1",
      deleting: false,
      createdAtMs: nowMs,
      labels: {},
      spec,
      problems: [],
      status: {},
    };
    const state = newGangState(`team/${name}`);
    states.set(state.key, { ...state, gang, pods: new Map(records.map((pod) => [pod.uid, pod])) });
  }

  function submitPod({ name, gpus, priority = 0, cpu = 1_000, ungated }: Job): void {
    model.upsertClaim(claimRecord(`${name}-gpu`, [exactly("gpu", gpus)]));
    const claims = [{ name: "gpu", claimName: `${name}-gpu` }];
    const gates = ungated ? [] : [gangGate];
    singles.observePod(podRecord(name, { claims, priority, gates, requests: { cpu }, createdAtMs: nowMs }));
  }

  function holder({ name, pods }: Job): string {
    return pods === undefined ? `pod:pod-uid-${name}` : `team/${name}`;
  }

  function heldFor(job: Job): readonly PlacedPod[] {
    return model.view.heldUnder(holder(job)).map(({ placed }) => placed);
  }

  function leave(name: string): void {
    const entry = entries.get(name);
    if (entry === undefined) return;
    entries.delete(name);
    states.delete(`team/${name}`);
    singles.forget(`pod-uid-${name}`);
    model.release(holder(entry));
    for (const claim of [...model.claims.values()]) {
      if (claim.name === `${name}-gpu` || claim.name.startsWith(`${name}-w-`)) model.removeClaim(claim.uid);
    }
  }

  function submit(jobs: readonly Job[]): void {
    for (const job of jobs) {
      entries.set(job.name, { ...job, createdAtMs: nowMs, places: [] });
      if (job.pods === undefined) submitPod(job);
      else submitGang(job, job.pods);
    }
  }

  function tick(seconds: number, newcomers: readonly Job[]): void {
    nowMs += seconds * 1_000;
    for (const { name, endsAtMs = Number.POSITIVE_INFINITY } of [...entries.values()]) {
      if (endsAtMs <= nowMs) leave(name);
    }
    submit(newcomers);
    planAll();
  }

  function planAll(): void {
    if (stopped) return;
    // As the coordinator does it: whoever was refused asks again when something became free.
    let rounds = 0;
    for (let version = -1; version !== model.capacityVersion; rounds++) {
      if (rounds > 20) throw new Error("every plan frees something for the next one, without end");
      version = model.capacityVersion;
      for (const { key, proposal, rejection } of states.values()) {
        if (proposal === undefined && (rejection?.capacityVersion ?? -1) < version) queue.ask(key);
      }
      singles.wakeRefused();
      singles.flush();
      while (!queue.planAll());
    }
    for (const entry of entries.values()) {
      if (entry.placedAtMs !== undefined) continue;
      entry.places = heldFor(entry);
      if (entry.places.length === 0) continue;
      entry.placedAtMs = nowMs;
      if (entry.runsMs !== undefined) entry.endsAtMs = nowMs + entry.runsMs;
    }
    world.onPlanned();
  }

  const world: QueueWorld = {
    get nowMs() {
      return nowMs;
    },
    get queue() {
      return queue;
    },
    fenceBroken: false,
    lookMs: 0,
    onPlanned: () => undefined,
    submit(...jobs) {
      submit(jobs);
      planAll();
    },
    leave(name) {
      leave(name);
      planAll();
    },
    pass(seconds, newcomers = []) {
      for (let second = 0; second < seconds; second++) tick(1, newcomers);
    },
    leap: (seconds) => tick(seconds, []),
    stop() {
      stopped = true;
    },
    restart() {
      stopped = false;
      for (const { key } of [...states.values()]) {
        const { rejection: _, ...state } = states.get(key)!;
        states.set(key, state);
        model.release(`drain:${key}`);
      }
      start();
      planAll();
    },
    createdAt: (name) => entries.get(name)?.createdAtMs,
    waiting: () => [...entries.values()].flatMap(({ name, placedAtMs }) => (placedAtMs === undefined ? name : [])),
    draining: () => [...entries.keys()].filter((name) => world.reserved(name).length > 0),
    places: (name) => entries.get(name)?.places ?? [],
    message: (name) => states.get(`team/${name}`)?.rejection?.message,
    running: () => [...entries.values()].filter(({ placedAtMs }) => placedAtMs !== undefined),
    reserved: (name) => model.view.heldUnder(`drain:team/${name}`).map(({ placed }) => placed),
  };
  start();
  return world;
}
