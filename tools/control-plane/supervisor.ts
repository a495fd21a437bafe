// Runs as a process of its own, in its own session, and owns the components of one control plane: when the process that
// started it goes away, however it does, the channel between them closes and everything here ends. Node cannot ask the
// kernel for a signal at its parent's death, so a parent cannot promise this by itself.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { rm } from "node:fs/promises";
import type { Reply, SupervisorConfiguration, SupervisorRequest } from "./supervisor-client.ts";

const configuration = JSON.parse(process.argv[2] ?? "{}") as SupervisorConfiguration;
const children = new Map<string, ChildProcess>();
let ending: Promise<void> | undefined;

process.on("message", (request: SupervisorRequest) => {
  handle(request).then(
    (pid) => tell({ id: request.id, ...(pid === undefined ? {} : { pid }) }),
    (error: Error) => tell({ id: request.id, error: error.message }),
  );
});
process.on("disconnect", endAndExit);
process.on("SIGTERM", endAndExit);
process.on("SIGINT", endAndExit);
process.on("SIGHUP", endAndExit);
// Whatever happens here, no component may outlive its owner.
process.on("exit", () => {
  for (const child of children.values()) signalGroup(child, "SIGKILL");
});

async function handle(request: SupervisorRequest): Promise<number | undefined> {
  switch (request.op) {
    case "start":
      return start(request);
    case "signal": {
      const child = children.get(request.name);
      if (child === undefined) throw new Error(`${request.name} is not running, so it cannot get ${request.signal}`);
      signalGroup(child, request.signal);
      return undefined;
    }
    case "stop":
      await stop([request.name]);
      return undefined;
    case "end":
      await end();
      return undefined;
  }
}

async function start(request: SupervisorRequest & { op: "start" }): Promise<number> {
  if (children.has(request.name)) throw new Error(`${request.name} is running already`);
  if (ending !== undefined) throw new Error("the control plane is being stopped");
  const log = openSync(request.logPath, "a", 0o600);
  const child = spawn(request.command, request.args, {
    cwd: request.cwd,
    env: { ...process.env, ...request.env },
    stdio: ["ignore", log, log],
    detached: true,
  });
  closeSync(log);
  await new Promise<void>((resolve, reject) => child.once("spawn", resolve).once("error", reject));
  children.set(request.name, child);
  child.once("exit", (code, signal) => {
    children.delete(request.name);
    tell({ exit: request.name, pid: child.pid ?? 0, code, signal });
  });
  return child.pid ?? 0;
}

/** Ends the named components at the same time: politely first, for good after the grace. */
async function stop(names: readonly string[]): Promise<void> {
  const running = names.map((name) => children.get(name)).filter((child) => child !== undefined);
  await Promise.all(
    running.map((child) => {
      const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      signalGroup(child, "SIGTERM");
      // A component stopped by a test with SIGSTOP would never see the other signal.
      signalGroup(child, "SIGCONT");
      const timer = setTimeout(() => signalGroup(child, "SIGKILL"), configuration.graceMs);
      return exited.finally(() => clearTimeout(timer));
    }),
  );
}

async function end(): Promise<void> {
  ending ??= endInOrder();
  await ending;
}

async function endInOrder(): Promise<void> {
  for (const names of configuration.stopOrder) await stop(names);
  await stop([...children.keys()]);
  if (configuration.removeDir !== null) await rm(configuration.removeDir, { recursive: true, force: true });
}

function endAndExit(): void {
  end().then(
    () => process.exit(0),
    (error: Error) => {
      process.stderr.write(`Ending the control plane: ${error.message}\n`);
      process.exit(1);
    },
  );
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function tell(reply: Reply): void {
  // The parent may be gone between the check and the write: then the closed channel already tells us to end.
  if (process.connected) process.send?.(reply, undefined, {}, () => {});
}
