import { readFile } from "node:fs/promises";
import { type Target, untilOk } from "./http.ts";
import type { ComponentName } from "./layout.ts";
import type { Exit, ProcessSpec, RunningProcess, Supervisor } from "./supervisor-client.ts";

/** How long a component may take from start to ready. A loaded two-core machine needs a few seconds. */
const readyTimeoutMs = 90_000;
const shownLogLines = 15;

/** One component of a running control plane. */
export type Component = {
  readonly name: ComponentName;
  /** Process id of the current run, undefined when it is not running. */
  readonly pid: number | undefined;
  /** Resolves when the current (or last) run has ended, however it did. */
  readonly exited: Promise<Exit>;
  readonly logPath: string;
  /** Sends a signal; await `exited` to see it die. Rejects when the component is not running. */
  readonly kill: (signal: NodeJS.Signals) => Promise<void>;
  /** SIGTERM, then SIGKILL after the grace. Nothing happens when it is not running. */
  readonly stop: () => Promise<void>;
  /** Stops it if it runs, starts it with the same command line and waits until it is ready. */
  readonly restart: () => Promise<void>;
};

/** A component did not become ready. The message holds the end of its log. */
export class ComponentError extends Error {
  override readonly name = "ComponentError";
  /** Its port was taken by somebody else between the choice and the use. */
  readonly addressInUse: boolean;
  constructor(message: string, addressInUse: boolean) {
    super(message);
    this.addressInUse = addressInUse;
  }
}

/** Starts a component and waits until `path` of `health` answers 200. Rejects with a ComponentError. */
export async function startComponent(
  supervisor: Supervisor,
  spec: ProcessSpec & { readonly name: ComponentName },
  health: { readonly target: Target; readonly path: string },
): Promise<Component> {
  let run: RunningProcess | undefined;
  let running = false;
  const start = async () => {
    const started = await supervisor.start(spec);
    run = started;
    running = true;
    void started.exited.then(() => {
      if (run === started) running = false;
    });
    await untilReady(started, spec, health);
  };
  await start();
  return {
    name: spec.name,
    logPath: spec.logPath,
    get pid() {
      return running ? run?.pid : undefined;
    },
    get exited() {
      return run!.exited;
    },
    kill: (signal) => supervisor.signal(spec.name, signal),
    stop: () => supervisor.stop(spec.name),
    restart: async () => {
      await supervisor.stop(spec.name);
      await run?.exited;
      await start();
    },
  };
}

async function untilReady(
  run: RunningProcess,
  spec: ProcessSpec,
  health: { readonly target: Target; readonly path: string },
): Promise<void> {
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(), readyTimeoutMs);
  const ended = run.exited.then((exit) => {
    giveUp.abort();
    return exit;
  });
  const ready = await untilOk(health.target, health.path, giveUp.signal);
  clearTimeout(timer);
  if (ready) return;
  const exit = await Promise.race([ended, undefined]);
  const log = await readFile(spec.logPath, "utf8").catch(() => "");
  throw new ComponentError(failureMessage(spec, exit, log), log.includes("address already in use"));
}

/** Says how a start failed, with the end of the component's log. */
export function failureMessage(spec: ProcessSpec, exit: Exit | undefined, log: string): string {
  const what =
    exit === undefined
      ? `did not become ready within ${readyTimeoutMs / 1000} s`
      : `ended with ${exit.signal ?? `code ${exit.code}`} before it was ready`;
  return `${spec.name} ${what}. The end of its log (${spec.logPath}):\n${logTail(log)}`;
}

/** The last lines of a log, indented. */
export function logTail(log: string): string {
  const lines = log.trimEnd().split("\n").slice(-shownLogLines);
  return lines.map((line) => `  ${line}`).join("\n");
}
