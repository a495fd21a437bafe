import { type ChildProcess, spawn } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { buildGoProgram } from "../build.ts";

/** The kubelet's own plugin manager and DRA manager (the Go modules beside this file), as a process that obeys. */
export interface KubeletJudge {
  /** Starts the kubelet's managers, or new ones on the same folders: a restart. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** One attempt, as in one pod sync; rejects with the kubelet's error. */
  prepare(pod: string): Promise<void>;
  /** Attempts until one succeeds, as pod syncs do. Rejects with the last error when time is over. */
  prepareInTheEnd(pod: string): Promise<void>;
  unprepare(pod: string): Promise<void>;
  unprepareInTheEnd(pod: string): Promise<void>;
  mightNeedToUnprepare(pod: string): Promise<boolean>;
  /** Container → names of CDI devices that the runtime would get. */
  devices(pod: string): Promise<Record<string, string[]>>;
  /** Container → `claim:NAME RESOURCE HEALTH`, and the message if there is one, of the pod's status. */
  health(pod: string): Promise<Record<string, string[]>>;
  close(): Promise<void>;
}

interface Answer {
  id: number;
  error?: string;
  devices?: Record<string, string[]>;
  health?: Record<string, string[]>;
  mightNeed?: boolean;
}

const attemptMs = 200;
const patienceMs = 60_000;

/** Versions of Kubernetes whose kubelet judges, each with Go modules of its own. */
const kubeletModules = { "1.36.3": "go", "1.37.1": "go-1.37" } as const;

/** `folders`: the kubelet's, whose `plugins_registry` is watched, and one for its own state. */
export async function openKubeletJudge(
  kubernetes: keyof typeof kubeletModules,
  kubeconfig: string,
  node: string,
  folders: { kubelet: string; state: string },
): Promise<KubeletJudge> {
  const registry = join(folders.kubelet, "plugins_registry");
  await Promise.all([mkdir(registry, { recursive: true }), mkdir(folders.state, { recursive: true })]);
  const source = fileURLToPath(new URL(".", import.meta.url));
  const refusal = "the kubelet's own code cannot judge the driver";
  const program = await buildGoProgram(source, refusal, kubeletModules[kubernetes]);
  const process = spawn(program, [kubeconfig], { stdio: ["pipe", "pipe", "ignore"] });
  const exited = new Promise((resolve) => process.once("exit", resolve));
  const call = caller(process);
  const ofPod = (name: string) => (pod: string) => call({ do: name, namespace: "team", pod });
  const inTheEnd = (attempt: (pod: string) => Promise<unknown>) => async (pod: string) => {
    const endMs = performance.now() + patienceMs;
    for (;;) {
      try {
        await attempt(pod);
        return;
      } catch (error) {
        if (performance.now() > endMs) throw error;
        await new Promise((resolve) => setTimeout(resolve, attemptMs));
      }
    }
  };
  return {
    start: async () => void (await call({ do: "start", registry, state: folders.state, node })),
    stop: async () => void (await call({ do: "stop" })),
    prepare: async (pod) => void (await ofPod("prepare")(pod)),
    prepareInTheEnd: inTheEnd(ofPod("prepare")),
    unprepare: async (pod) => void (await ofPod("unprepare")(pod)),
    unprepareInTheEnd: inTheEnd(ofPod("unprepare")),
    mightNeedToUnprepare: async (pod) => (await ofPod("mightNeed")(pod)).mightNeed === true,
    devices: async (pod) => (await ofPod("devices")(pod)).devices ?? {},
    health: async (pod) => (await ofPod("health")(pod)).health ?? {},
    async close() {
      process.kill("SIGKILL");
      await exited;
    },
  };
}

/** Sends commands and hands each its answer. */
function caller(process: ChildProcess): (command: object) => Promise<Answer> {
  const waiting = new Map<number, { resolve(answer: Answer): void; reject(error: Error): void }>();
  let next = 1;
  createInterface({ input: process.stdout! }).on("line", (line) => {
    const answer = JSON.parse(line) as Answer;
    const waiter = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.error === undefined) waiter?.resolve(answer);
    else waiter?.reject(new Error(answer.error));
  });
  process.once("exit", () => {
    for (const { reject } of waiting.values()) reject(new Error("the kubelet judge has ended"));
  });
  return (command) =>
    new Promise((resolve, reject) => {
      const id = next++;
      waiting.set(id, { resolve, reject });
      process.stdin!.write(`${JSON.stringify({ id, ...command })}\n`);
    });
}
