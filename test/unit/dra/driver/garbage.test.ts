import { spawn } from "node:child_process";
import { createConnection, type Socket } from "node:net";
import process from "node:process";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createRandom } from "../../../simulation/random.ts";
import { claimObject, referenceTo } from "../../../support/driver.ts";
import { connectKubelet } from "../../../support/kubelet-client.ts";
import { type NodeAgentProcess, startNodeAgentProcess } from "../../../support/node-agent-process.ts";
import { seed } from "../../../support/seed.ts";

/**
 * Whatever is sent to its sockets, the node agent goes on, answers the kubelet and does not grow. `npm run driver-faults`
 * opens 10,000 connections; without it a slice.
 */
const all = process.env["KLLAMA_DRIVER_FAULTS"] === "all";
const connections = all ? 10_000 : 300;
const atATime = 50;
const mostGrowthMb = 30;

const random = createRandom(seed);
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** An HTTP/2 frame; `length` may be a lie. */
function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer = Buffer.alloc(0),
  length = payload.length,
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, () => random.below(256)));
const settings = frame(4, 0, 0);
/** HPACK: `:method POST`, `:scheme http`, then literals. */
const literal = (key: string, value: string): Buffer =>
  Buffer.concat([Buffer.from([0, key.length]), Buffer.from(key), Buffer.from([value.length]), Buffer.from(value)]);
const call = (path: string): Buffer =>
  Buffer.concat([
    Buffer.from([0x83, 0x86]),
    literal(":path", path),
    literal(":authority", "x"),
    literal("content-type", "application/grpc"),
    literal("te", "trailers"),
  ]);
const prepare = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources";
/** A gRPC message: one byte, four of its length, the length's worth. */
const message = (payload: Buffer, length = payload.length): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, payload]);
};
const http2 = (...frames: Buffer[]): Buffer => Buffer.concat([preface, settings, ...frames]);

const garbage: readonly (() => Buffer)[] = [
  () => Buffer.alloc(0),
  () => noise(1 + random.below(4000)),
  () => Buffer.from(`POST ${prepare} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n`),
  () => Buffer.concat([Buffer.from([22, 3, 1, 2, 0]), noise(512)]),
  () => preface.subarray(0, random.below(preface.length)),
  () => Buffer.concat([preface, noise(random.below(300))]),
  () => http2(frame(random.below(256), random.below(256), random.below(8), noise(random.below(64)))),
  () => http2(frame(1, 4, 1, noise(40))),
  () => http2(frame(0, 0, 1, noise(20), 0xffffff)),
  () => http2(frame(0, 1, 7, noise(20))),
  () => http2(frame(8, 0, 0, Buffer.from([0, 0, 0, 0]))),
  () => http2(frame(6, 0, 0, noise(3))),
  () => http2(...Array.from({ length: 200 }, () => frame(6, 0, 0, noise(8)))),
  () => http2(...Array.from({ length: 200 }, (_, index) => frame(3, 0, 2 * index + 1, noise(4)))),
  () => http2(frame(1, 4, 1, call(prepare)), frame(0, 1, 1, message(noise(random.below(500))))),
  () => http2(frame(1, 4, 1, call(prepare)), frame(0, 1, 1, message(noise(10), 0x7fffffff))),
  () => http2(frame(1, 4, 1, call(prepare)), frame(0, 0, 1, message(noise(10)).subarray(0, 3))),
  () => http2(frame(1, 4, 1, call("/no/such")), frame(0, 1, 1, message(Buffer.alloc(0)))),
  () => http2(...Array.from({ length: 60 }, (_, index) => frame(1, 4, 2 * index + 1, call(prepare)))),
  // Opened, headers begun, never ended: whoever counts on an end waits for ever.
  () => http2(frame(1, 0, 1, call(prepare))),
];

let agent: NodeAgentProcess;

beforeAll(async () => {
  agent = await startNodeAgentProcess(["--inventory", "simulated:dgx-h100", "--log-level", "error"]);
  // The first start of a version compiles, for which it takes memory that no later one has.
  if (all) await agent.restart();
}, 300_000);

afterAll(() => agent.remove());

/** Opens a connection, sends, and goes away: politely, or not, or once the other side has had enough. */
function send(path: string, bytes: Buffer, manner: number): Promise<void> {
  return new Promise((resolve) => {
    const socket: Socket = createConnection(path);
    const done = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve();
    };
    // A bound for those that are kept open.
    const timer = setTimeout(done, 100);
    socket.on("error", done).on("close", done).resume();
    socket.write(bytes, () => {
      if (manner === 0) socket.end();
      else if (manner === 1) done();
    });
  });
}

/** As many at a time; `pauseMs`: after each. */
async function flood(count: number, lanes = atATime, pauseMs = 0): Promise<void> {
  const paths = [agent.draSocket, agent.registrationSocket];
  let left = count;
  const one = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const kind = left % garbage.length;
      await send(paths[Math.floor(left / garbage.length) % 2]!, garbage[kind]!(), left % 3);
      if (pauseMs > 0) await sleep(pauseMs);
    }
  };
  await Promise.all(Array.from({ length: lanes }, one));
}

async function answersCalls(name: string): Promise<void> {
  const kubelet = connectKubelet(agent.registrationSocket, agent.draSocket);
  const claim = claimObject(name, ["gpus gpu-3"]);
  agent.claims.set(name, claim);
  const { uid } = referenceTo(claim);
  expect((await kubelet.getInfo()).name).toBe("gpu.kllama.ai");
  expect((await kubelet.prepare([referenceTo(claim)]))[uid]).toMatchObject({
    error: "",
    devices: [{ device_name: "gpu-3" }],
  });
  expect(await kubelet.unprepare([referenceTo(claim)])).toEqual({ [uid]: { error: "" } });
  kubelet.close();
}

/** What valid calls take, in a process of their own, until `work` is over. */
async function whileCalled(work: () => Promise<unknown>): Promise<{ calls: number; p50Ms: number; p99Ms: number }> {
  const claim = claimObject("valid", ["gpus gpu-5"]);
  agent.claims.set("valid", claim);
  const program = fileURLToPath(new URL("../../../support/valid-calls-child.ts", import.meta.url));
  const args = [program, agent.registrationSocket, agent.draSocket, JSON.stringify(referenceTo(claim))];
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
  const printed = text(child.stdout);
  try {
    await work();
  } finally {
    child.stdin.end();
  }
  const sorted = (JSON.parse(await printed) as number[]).toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
  return { calls: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99) };
}

const idleMs = 10_000;

test(`${connections} connections with garbage: calls are answered meanwhile and afterwards, memory grows by ${mostGrowthMb} MB at most`, async () => {
  await answersCalls("before");
  if (all) {
    console.log("calls without garbage:", await whileCalled(() => sleep(idleMs)));
    const startedMs = performance.now();
    console.log("calls with some:", await whileCalled(() => flood(1_000, 4, 40)));
    console.log(`${(1_000_000 / (performance.now() - startedMs)).toFixed(0)} connections with garbage a second`);
    console.log("calls without garbage again:", await whileCalled(() => sleep(idleMs)));
  }
  const before = agent.memory().nowMb;
  const besieged = async (): Promise<void> => {
    const flooding = flood(connections);
    for (let index = 0; index < 5; index++) await answersCalls(`meanwhile-${index}`);
    await flooding;
  };
  const valid = await whileCalled(besieged);
  if (all) console.log(`calls with ${atATime} at a time:`, valid);
  await answersCalls("after");
  const grown = agent.memory().nowMb - before;
  if (all) console.log(`memory: ${before.toFixed(1)} MB, grown by ${grown.toFixed(1)} MB`);
  expect(grown).toBeLessThan(mostGrowthMb);
}, 600_000);
