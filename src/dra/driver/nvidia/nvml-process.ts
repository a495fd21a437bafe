import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { BoardRefusal } from "../machine.ts";
import type { NvmlCalls, NvmlMessage } from "./nvml-protocol.ts";

/** NVML behind a process of its own, which is started when it is needed and again after it ended. */
export interface NvmlProcess {
  /** One after another. Rejects with NVML's error, after the time limit, and when the process ends meanwhile. */
  ask<C extends keyof NvmlCalls>(call: C, question: NvmlCalls[C]["ask"]): Promise<NvmlCalls[C]["answer"]>;
  close(): Promise<void>;
}

export interface NvmlProcessOptions {
  /** Path or name of `libnvidia-ml.so.1`. */
  library: string;
  /** Made if need be; its folder has to exist when partitions are asked for. */
  lockFile: string;
  /** A call that takes longer ends the process: NVML cannot be interrupted otherwise. */
  limitMs: number;
  env?: Record<string, string | undefined>;
  /** A board reported an error; `xid` 0: of its memory. */
  onEvent(gpu: string, xid: number): void;
}

interface Waiting {
  resolve(answer: never): void;
  reject(error: Error): void;
}

const beingStopped = "the driver is being stopped";
const program = fileURLToPath(new URL("nvml-child.ts", import.meta.url));

export function openNvmlProcess(options: NvmlProcessOptions): NvmlProcess {
  const { library, lockFile, limitMs, onEvent, env = process.env } = options;
  let child: ChildProcess | undefined;
  /** Was killed and has not ended: while NVML hangs in the kernel, another process would hang beside it, and the next one, too. */
  let dying: { pid: number | undefined; exited: Promise<unknown> } | undefined;
  /** A call hung. Whoever has many boards to ask must not wait for each of them, and others meanwhile for him. */
  let resting: { untilMs: number; why: string } | undefined;
  let waiting: Waiting | undefined;
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;

  function start(): ChildProcess {
    // Words of a crashed library go to the log of whoever runs the driver.
    const started = fork(program, [library, lockFile], { env, stdio: ["ignore", "ignore", "inherit", "ipc"] });
    started.on("message", (message: NvmlMessage) => {
      if (message.type === "event") return onEvent(message.gpu, message.xid);
      // What was on its way when its process was given up is no answer to what another one is asked.
      if (child !== started) return;
      if (message.type === "answer") waiting?.resolve(message.answer as never);
      else waiting?.reject(message.refused ? new BoardRefusal(message.message) : new Error(message.message));
    });
    const ended = (how: string): void => {
      if (child !== started) return;
      child = undefined;
      waiting?.reject(new Error(`the process that calls NVML ended: ${how}; it is started again`));
    };
    started.once("error", (error) => ended(error.message));
    started.once("exit", (code, signal) => ended(signal ?? `exit code ${code}`));
    return started;
  }

  async function once(call: keyof NvmlCalls, question: object): Promise<unknown> {
    if (closed) throw new Error(beingStopped);
    refuseInRest();
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        waiting = { resolve: resolve as Waiting["resolve"], reject };
        timer = setTimeout(() => reject(giveUp(call)), limitMs);
        const own = waiting;
        const send = (): void => {
          if (closed || waiting !== own) return;
          child ??= start();
          child.send({ call, ...question }, (error) => error !== null && reject(error));
        };
        if (dying === undefined) send();
        else void dying.exited.then(send);
      });
    } finally {
      clearTimeout(timer);
      waiting = undefined;
    }
  }

  /** NVML cannot be interrupted. */
  function giveUp(call: string): Error {
    if (dying !== undefined) {
      const { pid } = dying;
      return new Error(
        `NVML's process ${pid} was killed and does not end: it hangs in the kernel; restart the machine if it stays`,
      );
    }
    const given = child;
    child = undefined;
    const restMs = limitMs / 2;
    resting = {
      untilMs: performance.now() + restMs,
      why: `NVML did not answer ${call} within ${limitMs / 1_000} s`,
    };
    if (given !== undefined) {
      const exited = new Promise<void>((resolve) => given.once("exit", resolve)).then(() => {
        dying = undefined;
      });
      dying = { pid: given.pid, exited };
      given.kill("SIGKILL");
    }
    return new Error(`${resting.why}; it is asked again in ${restMs / 1_000} s`);
  }

  function refuseInRest(): void {
    if (resting === undefined) return;
    const leftMs = resting.untilMs - performance.now();
    if (leftMs > 0) throw new Error(`${resting.why}; it is asked again in ${Math.ceil(leftMs / 1_000)} s`);
    resting = undefined;
  }

  return {
    ask(call, question) {
      const answer = last.then(() => once(call, question));
      last = answer.catch(() => undefined);
      return answer as Promise<never>;
    },
    async close() {
      closed = true;
      const running = child;
      if (running === undefined) return waiting?.reject(new Error(beingStopped));
      const exited = new Promise((resolve) => running.once("exit", resolve));
      running.kill("SIGKILL");
      await exited;
    },
  };
}
