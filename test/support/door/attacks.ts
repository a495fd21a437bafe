import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { Agent, request as httpsRequest } from "node:https";
import { connect, type Socket } from "node:net";
import { connect as tlsConnect } from "node:tls";

/** Everything that a broken or hostile client sends to the planner's door, each with the answers that it may get. */

interface ClientPair {
  cert: string;
  key: string;
}

export interface Target {
  port: number;
  ca: string;
  /** kube-scheduler's own certificate. */
  scheduler: ClientPair;
  /** Another name, of the same authority. */
  mallory: ClientPair;
  /** kube-scheduler's name, of another authority. */
  stranger: ClientPair;
}

/** What became of a request: its HTTP status, or that the door hung up, or that it was still open when time was up. */
type Outcome = `${number}` | "closed" | "open";

interface Attack {
  title: string;
  expected: RegExp;
  send(): Promise<Outcome>;
}

/** What one client keeps open between its requests. */
interface Client {
  attacks: readonly Attack[];
  close(): void;
}

const host = "127.0.0.1";
const answeredWithinMs = 20_000;
const refused = /^4\d\d$/;
const refusedOrClosed = /^(4\d\d|closed)$/;
const closed = /^closed$/;

const good = JSON.stringify({ Pod: { metadata: { uid: "u" } }, NodeNames: ["n1"] });
const brackets = (depth: number): string => `${"[".repeat(depth)}${"]".repeat(depth)}`;

interface Message {
  path?: string;
  method?: string;
  type?: string | undefined;
  body: string | Buffer;
}

const messages: Record<string, Message> = {
  "a body that is no JSON": { body: "{Pod:" },
  "truncated JSON": { body: good.slice(0, 20) },
  "an empty body": { body: "" },
  null: { body: "null" },
  "a list": { body: "[]" },
  "a number too large": { body: "1e400" },
  "no Pod": { body: '{"NodeNames":["n1"]}' },
  "a UID that is an object": { body: '{"Pod":{"metadata":{"uid":{}}},"NodeNames":[]}' },
  "node names that are numbers": { body: `{"Pod":{"metadata":{"uid":"u"}},"NodeNames":[${"1,".repeat(1000)}1]}` },
  "a list 10,000 deep": { body: brackets(10_000) },
  __proto__: { body: '{"__proto__":{"pod":1}}' },
  "a byte order mark": { body: `\uFEFF${good}` },
  "bad UTF-8": { body: Buffer.from([0x22, 0xff, 0xc0, 0x80, 0x22]) },
  "bind without UID": { path: "/bind", body: '{"PodName":"p","PodNamespace":"d","Node":"n1"}' },
  "preempt without Pod": { path: "/preempt", body: "{}" },
  "text/plain": { type: "text/plain", body: good },
  "a form": { type: "application/x-www-form-urlencoded", body: "Pod=1" },
  "a type that is none": { type: "%%%", body: good },
  "no content type": { type: undefined, body: good },
  "an unknown path": { path: "/evict", body: good },
  "a bad escape": { path: "/%E0%A4%A", body: good },
  "a very long path": { path: `/${"x".repeat(4_000)}`, body: good },
  "a wrong method": { method: "PUT", path: "/bind", body: good },
  "an oversized body": { body: Buffer.alloc(8 * 1024 * 1024 + 64, 0x20) },
};

/** Bytes on an HTTP/1.1 connection; the client ends its half afterwards. */
const http1Bytes: Record<string, { bytes: string | Buffer; expected: RegExp }> = {
  "a truncated request line": { bytes: "POST /fil", expected: refusedOrClosed },
  "truncated headers": { bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Ty", expected: refusedOrClosed },
  "a truncated body": {
    bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    expected: refusedOrClosed,
  },
  "a truncated chunk": {
    bytes:
      "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    expected: refusedOrClosed,
  },
  "a chunk size that is none": {
    bytes:
      "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    expected: refusedOrClosed,
  },
  "two lengths": {
    bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    expected: refusedOrClosed,
  },
  "length and chunks (request smuggling)": {
    bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    expected: refusedOrClosed,
  },
  "a negative length": {
    bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    expected: refusedOrClosed,
  },
  "a declared length of a terabyte": {
    bytes:
      "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{",
    expected: refusedOrClosed,
  },
  "an unknown method": { bytes: "STEAL /bind HTTP/1.1\r\nHost: x\r\n\r\n", expected: refusedOrClosed },
  "an unknown version": { bytes: "GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", expected: refusedOrClosed },
  "no Host": { bytes: "POST /filter HTTP/1.1\r\n\r\n", expected: refusedOrClosed },
  "a header without a name": { bytes: "POST /filter HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", expected: refusedOrClosed },
  "a NUL in a header": { bytes: "POST /filter HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", expected: refusedOrClosed },
  "headers above the limit": {
    bytes: `POST /filter HTTP/1.1\r\nHost: x\r\nA: ${"a".repeat(20_000)}\r\n\r\n`,
    expected: refusedOrClosed,
  },
  noise: { bytes: Buffer.from([...Array(512).keys()].map((i) => (i * 73 + 41) % 256)), expected: refusedOrClosed },
};

/** Type, flags, stream and payload of an HTTP/2 frame. */
function frame(type: number, flags: number, stream: number, payload: Buffer, length = payload.length): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const nothing = Buffer.alloc(0);
const preface = Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, nothing)]);
/** `:method: POST`, `:scheme: https`, `:path: /`. */
const postRoot = Buffer.from([0x83, 0x87, 0x84]);

/** Frames after the preface; the client ends its half afterwards. */
const http2Frames: Record<string, Buffer> = {
  "half a preface": Buffer.from("PRI * HTTP/2.0\r\n\r\nS"),
  "a preface that is none": Buffer.from("PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"),
  "half a frame header": Buffer.concat([preface, Buffer.from([0, 0])]),
  "half a HEADERS frame": Buffer.concat([preface, frame(1, 4, 1, postRoot, 200)]),
  "half a DATA frame": Buffer.concat([preface, frame(1, 4, 1, postRoot), frame(0, 0, 1, Buffer.from("{"), 99)]),
  "headers that do not end": Buffer.concat([preface, frame(1, 0, 1, postRoot)]),
  "a broken header block": Buffer.concat([preface, frame(1, 5, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]))]),
  "no pseudo headers": Buffer.concat([preface, frame(1, 5, 1, nothing)]),
  "DATA on an idle stream": Buffer.concat([preface, frame(0, 1, 5, Buffer.from("{}"))]),
  "HEADERS on stream 0": Buffer.concat([preface, frame(1, 5, 0, postRoot)]),
  "HEADERS on an even stream": Buffer.concat([preface, frame(1, 5, 2, postRoot)]),
  "CONTINUATION without HEADERS": Buffer.concat([preface, frame(9, 4, 1, postRoot)]),
  "SETTINGS of a wrong size": Buffer.concat([preface, frame(4, 0, 0, Buffer.from([1, 2, 3]))]),
  "a window that does not grow": Buffer.concat([preface, frame(8, 0, 0, Buffer.alloc(4))]),
  "RST_STREAM of an idle stream": Buffer.concat([preface, frame(3, 0, 7, Buffer.alloc(4))]),
  "PING of a wrong size": Buffer.concat([preface, frame(6, 0, 0, Buffer.from("x"))]),
  "a frame above the limit": Buffer.concat([preface, frame(0, 0, 1, Buffer.alloc(20_000))]),
};

/** Bytes before TLS is there. */
const beforeTls: Record<string, Buffer> = {
  "HTTP without TLS": Buffer.from(`POST /filter HTTP/1.1\r\nHost: x\r\n\r\n${good}`),
  "HTTP/2 without TLS": preface,
  "noise instead of TLS": Buffer.from([...Array(256).keys()].map((i) => (i * 37 + 11) % 256)),
  "half a ClientHello": Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 1, 2, 3]),
  "a TLS record above the limit": Buffer.from([0x16, 0x03, 0x01, 0xff, 0xff, 0x01]),
  "a TLS alert first": Buffer.from([0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28]),
};

/** One client with its kept connections: an HTTP/1.1 agent and an HTTP/2 session. */
export function createAttacker(target: Target): Client {
  const { port, ca } = target;
  const agent = new Agent({ ca, ...target.scheduler, keepAlive: true, maxSockets: 1 });
  let session = openSession();

  function openSession() {
    const opened = http2Connect(`https://${host}:${port}`, { ca, ...target.scheduler });
    opened.on("error", () => undefined);
    return opened;
  }

  async function overHttp1(message: Message): Promise<Outcome> {
    const { path = "/filter", method = "POST", body } = message;
    const type = "type" in message ? message.type : "application/json";
    const headers = {
      "content-length": Buffer.byteLength(body),
      ...(type === undefined ? {} : { "content-type": type }),
    };
    const sent = httpsRequest({ host, port, path, method, agent, headers });
    const over = new Promise<Outcome>((resolve) => {
      sent.once("response", (response) => {
        response.resume();
        response.once("close", () => resolve(`${response.statusCode ?? 0}`));
      });
      // The door may answer and hang up before it has read everything.
      sent.on("error", () => resolve("closed"));
      sent.setTimeout(answeredWithinMs, () => resolve("open"));
    });
    sent.end(body);
    return await over;
  }

  async function overHttp2(message: Message): Promise<Outcome> {
    if (session.closed || session.destroyed) session = openSession();
    const { path = "/filter", method = "POST", body } = message;
    const type = "type" in message ? message.type : "application/json";
    const stream = session.request({
      ":method": method,
      ":path": path,
      ...(type === undefined ? {} : { "content-type": type }),
    });
    const over = new Promise<Outcome>((resolve) => {
      let status: Outcome = "closed";
      stream.once("response", (headers) => {
        status = `${Number(headers[":status"])}`;
      });
      stream.on("error", () => undefined);
      stream.once("close", () => resolve(status));
      stream.setTimeout(answeredWithinMs, () => resolve("open"));
    });
    stream.resume();
    stream.end(body);
    return await over;
  }

  const attacks: Attack[] = [];
  for (const [title, message] of Object.entries(messages)) {
    const expected = title === "an oversized body" ? refusedOrClosed : refused;
    attacks.push({ title: `HTTP/1.1: ${title}`, expected, send: () => overHttp1(message) });
    attacks.push({ title: `HTTP/2: ${title}`, expected, send: () => overHttp2(message) });
  }
  for (const [title, { bytes, expected }] of Object.entries(http1Bytes)) {
    attacks.push({ title: `HTTP/1.1: ${title}`, expected, send: () => overTls(target, "http/1.1", bytes) });
  }
  for (const [title, bytes] of Object.entries(http2Frames)) {
    attacks.push({ title: `HTTP/2: ${title}`, expected: closed, send: () => overTls(target, "h2", bytes) });
  }
  for (const [title, bytes] of Object.entries(beforeTls)) {
    attacks.push({ title, expected: refusedOrClosed, send: () => overTcp(target, bytes) });
  }
  const whole = `POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${good.length}\r\nConnection: close\r\n\r\n${good}`;
  const bindWhole = whole.replace("/filter", "/bind");
  attacks.push(
    {
      title: "another name of the authority: filter",
      expected: /^403$/,
      send: () => overTls(target, "http/1.1", whole, target.mallory),
    },
    {
      title: "another name of the authority: bind",
      expected: /^403$/,
      send: () => overTls(target, "http/1.1", bindWhole, target.mallory),
    },
    {
      title: "the right name of another authority",
      expected: closed,
      send: () => overTls(target, "http/1.1", whole, target.stranger),
    },
    { title: "no certificate", expected: closed, send: () => overTls(target, "http/1.1", whole, {}) },
    {
      title: "TLS 1.1",
      expected: closed,
      send: () => overTls(target, "http/1.1", whole, target.scheduler, oldTls),
    },
  );
  return {
    attacks,
    close() {
      agent.destroy();
      session.destroy();
    },
  };
}

/** OpenSSL itself offers no TLS 1.1 unless it is told to. */
const oldTls = { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" } as const;

function openTls(target: Target, protocol: string, pair: Partial<ClientPair>, versions?: typeof oldTls): Socket {
  return tlsConnect({ host, port: target.port, ca: target.ca, ALPNProtocols: [protocol], ...pair, ...versions });
}

async function overTls(
  target: Target,
  protocol: string,
  bytes: string | Buffer,
  pair: Partial<ClientPair> = target.scheduler,
  versions?: typeof oldTls,
): Promise<Outcome> {
  return await outcomeOf(openTls(target, protocol, pair, versions), bytes);
}

async function overTcp(target: Target, bytes: Buffer): Promise<Outcome> {
  return await outcomeOf(connect(target.port, host), bytes);
}

/** Sends, ends its half, and reads until the door hangs up. */
async function outcomeOf(socket: Socket, bytes: string | Buffer): Promise<Outcome> {
  let head = "";
  socket.on("error", () => undefined);
  socket.on("data", (data: Buffer) => {
    if (head.length < 64) head += data.toString("latin1");
  });
  socket.end(bytes);
  socket.setTimeout(answeredWithinMs, () => socket.destroy(new Error("still open")));
  let open = false;
  socket.on("timeout", () => {
    open = true;
  });
  if (!socket.destroyed) await once(socket, "close").catch(() => undefined);
  if (open) return "open";
  const status = /^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1];
  return status === undefined ? "closed" : `${Number(status)}`;
}

interface SlowKind {
  title: string;
  /** Absent: no TLS either. */
  protocol?: string;
  first?: string | Buffer;
  drip?: string | Buffer;
}

/** Connections that arrive byte by byte, or not at all. `first` goes at once, `drip` every second. */
export const slowKinds: readonly SlowKind[] = [
  { title: "TCP without TLS" },
  { title: "HTTP/1.1: connected and silent", protocol: "http/1.1" },
  { title: "HTTP/2: connected and silent", protocol: "h2" },
  { title: "HTTP/1.1: slow headers", protocol: "http/1.1", first: "POST /filter HTTP/1.1\r\n", drip: "A: b\r\n" },
  {
    title: "HTTP/1.1: a slow body",
    protocol: "http/1.1",
    first: "POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{",
    drip: " ",
  },
  {
    title: "HTTP/2: slow headers",
    protocol: "h2",
    first: Buffer.concat([preface, frame(1, 0, 1, Buffer.from([0x83]))]),
    drip: frame(9, 0, 1, Buffer.from([0x87])),
  },
  {
    title: "HTTP/2: a slow body",
    protocol: "h2",
    first: Buffer.concat([preface, frame(1, 4, 1, slowBodyHeaders())]),
    drip: frame(0, 0, 1, Buffer.from(" ")),
  },
];

/** `POST /filter` of JSON, as literals without an index. */
function slowBodyHeaders(): Buffer {
  const literal = (text: string): Buffer => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  return Buffer.concat([
    Buffer.from([0x83, 0x87, 0x04]),
    literal("/filter"),
    Buffer.from([0x00]),
    literal("content-type"),
    literal("application/json"),
  ]);
}

const dripMs = 1_000;

/** @returns milliseconds until the door hung up, or undefined when it had not within `patienceMs`. */
export async function beSlow(target: Target, kind: SlowKind, patienceMs: number): Promise<number | undefined> {
  const { protocol, first, drip } = kind;
  const socket = protocol === undefined ? connect(target.port, host) : openTls(target, protocol, target.scheduler);
  const startMs = performance.now();
  socket.on("error", () => undefined);
  socket.resume();
  if (first !== undefined) socket.write(first);
  const dripping = drip === undefined ? undefined : setInterval(() => socket.write(drip), dripMs);
  const over = new Promise<number | undefined>((resolve) => {
    socket.once("close", () => resolve(performance.now() - startMs));
    setTimeout(() => resolve(undefined), patienceMs).unref();
  });
  const tookMs = await over;
  clearInterval(dripping);
  socket.destroy();
  return tookMs;
}
