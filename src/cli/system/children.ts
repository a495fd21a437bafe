import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { endText } from "./log-end.ts";

/** A kllama command that runs as a process of its own. */
export interface Child {
  readonly pid: number | undefined;
  /** The command is ready; rejects when it ends before, with the end of its log. */
  ready: Promise<void>;
  /** Rejects when it ends without having been stopped. */
  failed: Promise<never>;
  /** Resolves when it is gone, for whatever reason. */
  exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** SIGTERM, SIGKILL after a grace; resolves when it is gone. */
  stop(): Promise<void>;
  /** Default: SIGKILL. */
  kill(signal?: NodeJS.Signals): void;
}

/** How to start one. */
export interface ChildOptions {
  /** Name of the command, `planner` for example; its log is `kllama-NAME.log`. */
  name: string;
  flags: readonly string[];
  logDir: string;
  /** Variables beside those of this process. */
  environment?: Record<string, string>;
}

const main = fileURLToPath(new URL("../../../bin/start.mjs", import.meta.url));
const graceMs = 5_000;
/** As bin/kllama runs Node, whatever runs this process. */
const nodeFlags = ["--max-semi-space-size=4", "--heap-growing-percent=25"];
const nodeAgentFlags = [
  ...["--max-semi-space-size=2", "--heap-growing-percent=30", "--v8-pool-size=1"],
  ...["--no-page-promotion", "--no-sparkplug", "--no-maglev", "--liftoff-only"],
];

/**
 * Starts `kllama NAME FLAGS` with its log in a file. The channel between the processes tells the child when this process
 * is gone, even by SIGKILL. It has a session of its own, so that Ctrl-C in the terminal reaches only this process, which
 * ends everything in order.
 */
export function startChild({ name, flags, logDir, environment = {} }: ChildOptions): Child {
  const logPath = join(logDir, `kllama-${name}.log`);
  const log = openSync(logPath, "a", 0o600);
  const child = fork(main, [name, ...flags], {
    execArgv: name === "node-agent" ? nodeAgentFlags : nodeFlags,
    env: { ...process.env, ...environment },
    stdio: ["ignore", log, log, "ipc"],
    detached: true,
  });
  closeSync(log);
  let stopping = false;
  const exited: Child["exited"] = new Promise((resolve) =>
    child
      .once("exit", (code, signal) => resolve({ code, signal }))
      .once("error", () => resolve({ code: null, signal: null })),
  );
  const failed = exited.then(async () => {
    if (stopping) return new Promise<never>(() => undefined);
    throw new Error(await failureText(name, child, logPath));
  });
  const ready = Promise.race([
    new Promise<void>((resolve) => child.once("message", () => resolve())),
    failed as Promise<never>,
  ]);
  // Whoever starts the child looks at these two later.
  failed.catch(() => undefined);
  ready.catch(() => undefined);
  return {
    pid: child.pid,
    ready,
    failed,
    exited,
    async stop() {
      stopping = true;
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await exited;
      clearTimeout(timer);
    },
    kill: (signal = "SIGKILL") => void child.kill(signal),
  };
}

async function failureText(name: string, child: ChildProcess, logPath: string): Promise<string> {
  return endText(`kllama ${name}`, { code: child.exitCode, signal: child.signalCode }, logPath);
}
