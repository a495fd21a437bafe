import { spawn } from "node:child_process";
import { once } from "node:events";
import { type ClientHttp2Session, connect } from "node:http2";
import { constants, setPriority } from "node:os";
import process from "node:process";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createAuthority } from "../../../tools/control-plane/certificates.ts";
import { queuedMs } from "../queued.ts";
import type { Stack } from "../stack.ts";
import type { Order, Report } from "./attacker.ts";
import type { Target } from "./attacks.ts";

/** A valid call: path, body, and what the answer must say. */
export interface ValidCall {
  path: "/filter" | "/bind";
  body: object;
  answer: object;
}

interface Served {
  calls: number;
  wallP99Ms: number;
  /** Without the time in line for a core. */
  p99Ms: number;
  /** Calls that were not answered as they must be. */
  wrong: string[];
}

export interface Siege {
  idle: Served;
  attacked: Served;
  reports: Report[];
}

const pauseMs = 20;

/**
 * Calls as kube-scheduler does, one after the other on one connection: in every round first with nobody else there, then
 * while everybody attacks. Short rounds, so that whatever else the machine does slows both alike.
 */
export async function besiege(
  stack: Stack,
  calls: readonly ValidCall[],
  { rounds, idleCalls, aside, ...order }: Omit<Order, "target"> & { rounds: number; idleCalls: number; aside: boolean },
): Promise<Siege> {
  const target = await targetOf(stack);
  const session = connect(stack.extender.url, stack.extender.client);
  const client: Client = { session, calls, queuedMs: () => queuedMs([process.pid, stack.planner.pid!]) };
  const idle: Call[] = [];
  const attacked: Call[] = [];
  const reports: Report[] = [];
  try {
    await once(session, "connect");
    // Both with warm code.
    await serve(client, [], (done) => done < 50);
    for (let round = 0; round < rounds; round++) {
      await serve(client, idle, (done) => done < idleCalls);
      let over = false;
      const report = attack({ target, ...order }, aside).finally(() => {
        over = true;
      });
      await serve(client, attacked, () => !over);
      reports.push(await report);
    }
    return { idle: served(idle), attacked: served(attacked), reports };
  } finally {
    session.close();
  }
}

/**
 * On a cluster the attackers are other machines, which do not take the planner's CPU. Here they have the lowest priority, or with
 * `aside` none at all: Linux gives them a core only while nobody else wants it, so that on a busy machine they would starve.
 */
async function attack(order: Order, aside: boolean): Promise<Report> {
  const command = [process.execPath, fileURLToPath(new URL("attacker.ts", import.meta.url))];
  const [file = "", ...flags] = aside ? ["chrt", "--idle", "0", ...command] : command;
  const child = spawn(file, flags, { stdio: ["pipe", "pipe", "inherit"] });
  if (!aside) setPriority(child.pid!, constants.priority.PRIORITY_LOW);
  child.stdin.end(JSON.stringify(order));
  return JSON.parse(await text(child.stdout)) as Report;
}

async function targetOf({ plane, extender }: Stack): Promise<Target> {
  const elsewhere = await createAuthority("somebody else");
  const [mallory, stranger] = await Promise.all([
    plane.issueCertificate({ commonName: "mallory", usages: ["client"] }),
    elsewhere.issue({ commonName: "system:kube-scheduler", usages: ["client"] }),
  ]);
  const { ca, ...scheduler } = extender.client;
  return {
    port: Number(new URL(extender.url).port),
    ca,
    scheduler,
    mallory: { cert: mallory.certificatePem, key: mallory.keyPem },
    stranger: { cert: stranger.certificatePem, key: stranger.keyPem },
  };
}

interface Call {
  tookMs: number;
  /** Of it, how long the planner and this process stood in line for a core: what others do on the machine. */
  queuedMs: number;
  /** What was answered instead of what must be. */
  wrong?: string;
}

interface Client {
  session: ClientHttp2Session;
  calls: readonly ValidCall[];
  queuedMs: () => number;
}

async function serve(
  { session, calls, queuedMs }: Client,
  made: Call[],
  more: (done: number) => boolean,
): Promise<void> {
  for (let done = 0; more(done); done++) {
    const call = calls[done % calls.length]!;
    const queuedBeforeMs = queuedMs();
    const startMs = performance.now();
    const answer = await post(session, call);
    const tookMs = performance.now() - startMs;
    const times = { tookMs, queuedMs: queuedMs() - queuedBeforeMs };
    const right = answer === `200 ${JSON.stringify(call.answer)}`;
    made.push(right ? times : { ...times, wrong: `${call.path}: ${answer}` });
    await sleep(pauseMs);
  }
}

function served(calls: readonly Call[]): Served {
  const wrong = calls.flatMap((call) => call.wrong ?? []);
  return {
    calls: calls.length,
    wallP99Ms: p99(calls.map(({ tookMs }) => tookMs)),
    p99Ms: p99(calls.map((call) => Math.max(0, call.tookMs - call.queuedMs))),
    wrong,
  };
}

function p99(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length * 0.99)] ?? 0;
}

async function post(session: ClientHttp2Session, { path, body }: ValidCall): Promise<string> {
  const stream = session.request({ ":method": "POST", ":path": path, "content-type": "application/json" });
  stream.end(JSON.stringify(body));
  const [headers] = (await once(stream, "response")) as [{ ":status"?: number }];
  return `${headers[":status"]} ${await text(stream)}`;
}
