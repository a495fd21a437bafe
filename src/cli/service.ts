import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import process from "node:process";
import { type Logger, pino } from "pino";
import { KubeError } from "../kube/client.ts";
import { systemTiming, type Timing } from "../kube/timing.ts";
import { type Flag, UsageError } from "./command.ts";
import { onStopSignals } from "./signals.ts";

/** What all long-running commands have in common: connection, logs, and how they begin and end. */

export const serviceFlags = {
  kubeconfig: {
    type: "string",
    value: "FILE",
    describe:
      "How to reach the API server. Default: the file that KUBECONFIG names, the pod's service account, ~/.kube/config.",
  },
  "log-level": {
    type: "string",
    value: "LEVEL",
    default: "info",
    describe: "Least important lines to log: trace, debug, info, warn, error or fatal. Logs are JSON lines on stderr.",
  },
} as const satisfies Record<string, Flag>;

const logLevels = ["trace", "debug", "info", "warn", "error", "fatal"];

/** Writes synchronously: the last line before an exit is the one that matters. */
export function createLog(name: string, level: string): Logger {
  if (!logLevels.includes(level)) {
    throw new UsageError(`--log-level ${level} is not a level; use one of ${logLevels.join(", ")}`);
  }
  return pino({ name, level }, pino.destination({ dest: 2, sync: true }));
}

/** Different for every process, as an elected leader's name has to be: host, process and a random part. */
export function processIdentity(): string {
  return `${hostname()}_${process.pid}_${randomUUID().slice(0, 8)}`;
}

const reachPauseMs = 1_000;
/** An API server that starts refuses everybody until it has read who may do what; after this long it means what it says. */
const refusedMs = 30_000;

/**
 * What a service has to ask the API server before it can begin: asked again until the API server can be reached. Throws
 * what it answers otherwise, a lack of rights only when it stays.
 */
export async function whenReachable<T>(
  log: Pick<Logger, "warn">,
  ask: () => Promise<T>,
  timing: Timing = systemTiming,
): Promise<T> {
  const never = new AbortController().signal;
  let refusedSinceMs: number | undefined;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof KubeError)) throw error;
      const { status, message } = error;
      const refused = status === 401 || status === 403;
      if (!refused && status !== 0 && status !== 429 && status < 500) throw error;
      refusedSinceMs = refused ? (refusedSinceMs ?? timing.nowMs()) : undefined;
      if (refusedSinceMs !== undefined && timing.nowMs() - refusedSinceMs >= refusedMs) throw error;
      log.warn({ error: message }, "the API server cannot be asked yet");
      await timing.sleep(Math.max(reachPauseMs, error.retryAfterMs ?? 0), never);
    }
  }
}

/** A started service: `failed` rejects when it cannot go on. */
export interface Service {
  stop(): Promise<void>;
}

/** A clean stop that takes longer is cut short: what matters is in the API server, and a successor waits. */
const stopGraceMs = 10_000;

/**
 * Starts a service and keeps it up until SIGTERM, SIGINT or SIGHUP, until the process that forked this one is gone, or
 * until `fail` is called; a second signal ends it at once. Tells a forking parent with the message `ready`.
 * @returns the exit code.
 */
export async function serve(
  log: Logger,
  start: (fail: (reason: string) => void) => Promise<Service & { ready: Promise<unknown> }>,
): Promise<number> {
  let end: (code: number) => void = () => undefined;
  const ended = new Promise<number>((resolve) => {
    end = resolve;
  });
  endWithSignals(log, end);
  let over = false;
  void ended.then(() => {
    over = true;
  });
  const fail = (reason: string): void => {
    if (over) return;
    log.fatal(reason);
    end(1);
  };
  const starting = start(fail);
  const started = await Promise.race([starting, ended]);
  if (typeof started === "number") return started;
  started.ready.then(tellParent, (error: unknown) => fail(error instanceof Error ? error.message : String(error)));
  const code = await ended;
  setTimeout(() => {
    log.error({ stopGraceMs }, "stopping takes too long: exit");
    process.exit(1);
  }, stopGraceMs).unref();
  await started.stop();
  log.info("stopped");
  return code;
}

/** A parent that is gone by now ends this process by the closed channel: its error says nothing new. */
function tellParent(): void {
  if (process.connected) process.send?.("ready", undefined, {}, () => undefined);
}

function endWithSignals(log: Logger, end: (code: number) => void): void {
  const stop = (reason: string): void => {
    log.info({ reason }, "stopping");
    end(0);
  };
  onStopSignals(stop, () => process.exit(1));
  // The channel closes with the parent, however it ends: nobody else would end this process then.
  const orphaned = (): void => stop("the parent process is gone");
  process.on("disconnect", orphaned);
  if (process.send !== undefined && !process.connected) orphaned();
}
