import { type ChildProcess, spawn } from "node:child_process";
import { rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";

/** How a control plane ends. `stopOrder`: groups of process names, each ended before the next; the rest comes last. */
export type SupervisorConfiguration = {
  readonly stopOrder: readonly (readonly string[])[];
  /** Time between SIGTERM and SIGKILL. */
  readonly graceMs: number;
  /** A directory to remove when everything has ended, or null. */
  readonly removeDir: string | null;
};

/** A process to run under the supervisor; standard output and error are appended to `logPath`. */
export type ProcessSpec = {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly logPath: string;
  readonly env?: Readonly<Record<string, string>>;
};

export type SupervisorRequest = { readonly id: number } & (
  | ({ readonly op: "start" } & ProcessSpec)
  | { readonly op: "signal"; readonly name: string; readonly signal: NodeJS.Signals }
  | { readonly op: "stop"; readonly name: string }
  | { readonly op: "end" }
);

export type Reply =
  | { readonly id: number; readonly pid?: number; readonly error?: string }
  | ({ readonly exit: string; readonly pid: number } & Exit);

/** How a process ended: by itself with a code, or by a signal. */
export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

export type RunningProcess = { readonly pid: number; readonly exited: Promise<Exit> };

/** Starts and ends processes that never outlive this one, even when this one is killed with SIGKILL. */
export type Supervisor = {
  /** Rejects when the command cannot be run or the name is in use. */
  readonly start: (spec: ProcessSpec) => Promise<RunningProcess>;
  readonly signal: (name: string, signal: NodeJS.Signals) => Promise<void>;
  /** SIGTERM, SIGKILL after the grace; resolves when the process is gone, at once when it is not running. */
  readonly stop: (name: string) => Promise<void>;
  /** Ends every process in the configured order, removes the directory and ends the supervisor itself. */
  readonly end: () => Promise<void>;
};

type Pending = { resolve: (started: RunningProcess | undefined) => void; reject: (error: Error) => void };
type Exits = Map<number, PromiseWithResolvers<Exit>>;
type RequestBody = SupervisorRequest extends infer R ? (R extends unknown ? Omit<R, "id"> : never) : never;

/** Starts the supervisor process. It keeps this process alive until `end`. */
export function startSupervisor(configuration: SupervisorConfiguration): Supervisor {
  const script = fileURLToPath(new URL("supervisor.ts", import.meta.url));
  const child = spawn(process.execPath, [script, JSON.stringify(configuration)], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    // A session of its own: Ctrl-C in the terminal reaches us, and we end the components in order.
    detached: true,
    env: { ...process.env, NODE_OPTIONS: "" },
  });
  const pending = new Map<number, Pending>();
  const exits: Exits = new Map();
  let lastId = 0;
  child.on("message", (reply: Reply) => receive(reply, pending, exits));
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()).once("error", () => resolve()));
  void gone.then(() => abandon(child, pending, exits));

  const call = (body: RequestBody): Promise<RunningProcess | undefined> =>
    new Promise((resolve, reject) => {
      lastId += 1;
      const id = lastId;
      pending.set(id, { resolve, reject });
      child.send({ ...body, id } as SupervisorRequest, (error) => {
        if (error === null || !pending.delete(id)) return;
        reject(new Error(`The process that runs the control plane is gone (${error.message}).`));
      });
    });
  return {
    start: async (spec) => (await call({ op: "start", ...spec }))!,
    signal: async (name, signal) => void (await call({ op: "signal", name, signal })),
    stop: async (name) => void (await call({ op: "stop", name })),
    end: async () => {
      const ended = await call({ op: "end" }).then(
        () => true,
        () => false,
      );
      if (child.connected) child.disconnect();
      await gone;
      // A supervisor that was killed leaves its directory, and processes that take a moment to die.
      const { removeDir } = configuration;
      if (!ended && removeDir !== null) await rm(removeDir, { recursive: true, force: true, maxRetries: 10 });
    },
  };
}

/** Synchronous throughout: the news that a process ended may come in the same read as the news that it started. */
function receive(reply: Reply, pending: Map<number, Pending>, exits: Exits): void {
  if ("exit" in reply) {
    exits.get(reply.pid)?.resolve({ code: reply.code, signal: reply.signal });
    exits.delete(reply.pid);
    return;
  }
  const waiting = pending.get(reply.id);
  pending.delete(reply.id);
  if (reply.error !== undefined) waiting?.reject(new Error(reply.error));
  else if (reply.pid === undefined) waiting?.resolve(undefined);
  else {
    const exit = Promise.withResolvers<Exit>();
    exits.set(reply.pid, exit);
    waiting?.resolve({ pid: reply.pid, exited: exit.promise });
  }
}

/** The supervisor itself was killed: nobody but us knows the processes now, so end them. */
function abandon(child: ChildProcess, pending: Map<number, Pending>, exits: Exits): void {
  for (const [pid, exit] of exits) {
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // It ended before us.
    }
    exit.resolve({ code: null, signal: "SIGKILL" });
  }
  exits.clear();
  const how = child.signalCode ?? `code ${child.exitCode}`;
  for (const { reject } of pending.values())
    reject(new Error(`The process that runs the control plane ended (${how}).`));
  pending.clear();
}
