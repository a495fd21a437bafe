import { type Engine, startEngine } from "../../src/extender/engine.ts";
import type { PlannerLimits } from "../../src/extender/limits.ts";
import type { PlannerMetrics } from "../../src/extender/metrics.ts";
import { createFence } from "../../src/extender/term.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import { plannerAccount } from "../support/api-double/rules.ts";
import type { Parts } from "./parts.ts";
import type { Process } from "./process.ts";
import type { ExtenderDoor } from "./scheduler.ts";

function nothing(): void {}
/** Nobody reads them, and counting (of each garbage collection too) takes its time: whichever is asked for, it counts nothing. */
const silent = { inc: nothing, set: nothing, observe: nothing, startTimer: () => nothing };
const metrics = new Proxy({}, { get: () => silent }) as PlannerMetrics;

interface Replica {
  /** UID of its pod: a container that is started again has the same. */
  pod: string;
  process: Process;
  engine: Engine;
}

/** The real planner, in as many replicas as are started. */
export interface Planners extends ExtenderDoor {
  readonly alive: number;
  /** Whether one leads, decides, and is not stopped in its tracks. */
  readonly leads: boolean;
  /** @param pod the pod whose container is started again; default: a new one */
  start(pod?: string): void;
  /** kill -9. @returns the pod that it ran in; undefined when none runs */
  kill(which: number): string | undefined;
  /** SIGSTOP, and SIGCONT some time later. */
  pause(which: number, forMs: number): void;
  /** The same for the process that has this name. */
  pauseNamed(name: string, forMs: number): void;
  /** SIGTERM: it hands over, then ends. */
  stop(which: number): void;
  /** UIDs of pods for which kube-scheduler ever called `bind`. */
  readonly called: ReadonlySet<string>;
  /** Gangs, calls, plans and releases that those who are alive know of, all together. */
  readonly remembered: number;
}

export interface PlannerReports {
  /** What must never happen: the process would end with an error. */
  crashed(message: string): void;
  /** A bind call was answered with success. */
  answered(request: { podName: string; podUid: string; node: string }): void;
}

/** The planner otherwise than it is: broken on purpose, to see that somebody notices, or with less room. */
export interface Tampering {
  /** Instead of its own. */
  limits?: Partial<PlannerLimits> | undefined;
  /** What its client does instead. */
  tamper?: ((client: KubeClient) => KubeClient) | undefined;
  /** It begins no term. */
  withoutFence?: boolean | undefined;
}

export function createPlanners(
  parts: Parts,
  reports: PlannerReports,
  { tamper = (client) => client, withoutFence = false, limits }: Tampering,
  preempts: boolean,
): Planners {
  const { clock, random, network, say } = parts;
  const replicas: Replica[] = [];
  const called = new Set<string>();
  let pods = 0;
  let starts = 0;

  function newPod(): string {
    pods += 1;
    return `pod-${pods}`;
  }

  function start(pod = newPod()): void {
    starts += 1;
    const process = parts.spawn(`planner-${starts}`);
    say(`start ${process.name} in ${pod}`);
    const log = {
      info: (...what: unknown[]) => say(`${process.name}: ${JSON.stringify(what)}`),
      warn: (...what: unknown[]) => say(`${process.name}: ${JSON.stringify(what)}`),
      fatal: (...what: unknown[]) => reports.crashed(`${process.name}: ${JSON.stringify(what)}`),
    };
    const client = tamper(network.client(process, plannerAccount, pod));
    const engine = startEngine({
      client,
      log,
      metrics,
      identity: pod,
      ...(withoutFence ? {} : { fence: createFence({ client, holder: pod, log, timing: process.timing }) }),
      namespace: "kllama-system",
      // Simulated calls hang for 30 s at most, so that more of them end without an answer.
      holdBindMs: 25_000,
      plannerLimits: { ...limits, drainAfterMs: parts.drainAfterMs },
      preemption: preempts,
      ...(parts.auditPeriodMs !== undefined && { auditPeriodMs: parts.auditPeriodMs }),
      onLost: (why) => {
        say(`${process.name} ends: ${why}`);
        remove(process);
        process.kill();
        clock.after(random.between(500, 3_000), () => start(pod));
      },
      timing: process.timing,
    });
    engine.elect();
    replicas.push({ pod, process, engine });
    clock.touch();
  }

  function remove(process: Process): void {
    const at = replicas.findIndex((replica) => replica.process === process);
    if (at >= 0) replicas.splice(at, 1);
  }

  function leader(): Replica | undefined {
    return replicas.find(({ process, engine }) => !process.paused && engine.backend.ready().reason === "planning");
  }

  function pause({ process }: Replica, forMs: number): void {
    if (process.paused) return;
    say(`pause ${process.name} for ${Math.round(forMs)} ms`);
    process.pause(forMs);
  }

  function bind(caller: Process, request: Parameters<ExtenderDoor["bind"]>[1]): Promise<string> {
    const delayMs = (): number => random.between(0.2, 3);
    const replica = random.chance(0.9) ? (leader() ?? replicas[0]) : replicas[random.below(replicas.length)];
    const hangUp = new AbortController();
    return new Promise((resolve) => {
      const finish = (error: string): void => caller.after(delayMs(), () => resolve(error));
      if (replica === undefined) return finish("connection refused");
      const { process, engine } = replica;
      called.add(request.podUid);
      say(`bind call of ${request.podName} to ${request.node} at ${process.name}`);
      process.onKill(() => finish("EOF"));
      const abort = (): void => clock.after(delayMs(), () => process.deliver(() => hangUp.abort()));
      caller.onKill(abort);
      caller.after(30_000, () => {
        resolve("timeout");
        abort();
      });
      clock.after(delayMs(), () =>
        process.deliver(() => {
          void engine.backend.bind(request, hangUp.signal).then((error) => {
            if (error === undefined) reports.answered(request);
            if (!random.chance(network.weather.faults)) finish(error ?? "");
          });
        }),
      );
    });
  }

  return {
    get alive() {
      return replicas.length;
    },
    get leads() {
      return leader() !== undefined;
    },
    called,
    get remembered() {
      return replicas.flatMap(({ engine }) => Object.values(engine.stats())).reduce((sum, count) => sum + count, 0);
    },
    start,
    kill(which) {
      const replica = replicas[which % Math.max(1, replicas.length)];
      if (replica === undefined) return undefined;
      say(`kill ${replica.process.name}`);
      remove(replica.process);
      replica.process.kill();
      return replica.pod;
    },
    pause(which, forMs) {
      const replica = replicas[which % Math.max(1, replicas.length)];
      if (replica !== undefined) pause(replica, forMs);
    },
    pauseNamed(name, forMs) {
      const replica = replicas.find(({ process }) => process.name === name);
      if (replica !== undefined) pause(replica, forMs);
    },
    stop(which) {
      const replica = replicas[which % Math.max(1, replicas.length)];
      if (replica === undefined) return;
      const { process, engine } = replica;
      say(`stop ${process.name}`);
      remove(process);
      engine.refuseCalls();
      void engine.stop().then(() => process.kill());
      clock.touch();
    },
    bind,
    filter(podUid) {
      const answer = leader()?.engine.backend.plannedNode(podUid);
      if (answer === undefined) return undefined;
      return "node" in answer ? { node: answer.node } : {};
    },
  };
}
