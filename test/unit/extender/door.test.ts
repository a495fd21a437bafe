import { once } from "node:events";
import { constants, connect as http2Connect, type IncomingHttpHeaders } from "node:http2";
import { Agent, request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { type TLSSocket, connect as tlsConnect } from "node:tls";
import type { FastifyInstance } from "fastify";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import type { ConnectionLimits } from "../../../src/extender/connections.ts";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { buildServer, type ExtenderBackend, type ServerTls } from "../../../src/extender/server.ts";
import {
  type Certificate,
  type CertificateAuthority,
  createAuthority,
} from "../../../tools/control-plane/certificates.ts";

/** The door as kube-scheduler meets it: real sockets, real TLS, HTTP/1.1 and HTTP/2. */

const scheduler = "system:kube-scheduler";
let authority: CertificateAuthority;
let stranger: CertificateAuthority;
let serverCertificate: Certificate;
const clients = new Map<string, Certificate>();
const closers: (() => unknown)[] = [];

beforeAll(async () => {
  [authority, stranger] = await Promise.all([createAuthority("kllama test"), createAuthority("somebody else")]);
  serverCertificate = await authority.issue({ commonName: "planner", ipAddresses: ["127.0.0.1"], usages: ["server"] });
  for (const commonName of [scheduler, "prometheus", "mallory"]) {
    clients.set(commonName, await authority.issue({ commonName, usages: ["client"] }));
  }
  clients.set("stranger", await stranger.issue({ commonName: scheduler, usages: ["client"] }));
});

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Door {
  app: FastifyInstance;
  port: number;
  asked: string[];
  /** Held bind calls; calling one answers it. */
  held: (() => void)[];
  given: string[];
}

async function openDoor(
  names: Partial<ServerTls> = {},
  limits: Partial<ConnectionLimits> = {},
  leads?: () => boolean,
): Promise<Door> {
  const asked: string[] = [];
  const held: (() => void)[] = [];
  const given: string[] = [];
  const backend: ExtenderBackend = {
    bind({ podUid }, signal) {
      signal.addEventListener("abort", () => given.push(podUid));
      return new Promise((resolve) => held.push(() => resolve(undefined)));
    },
    plannedNode(podUid) {
      asked.push(podUid);
      return { node: "n1" };
    },
    ready: () => ({ ready: true, reason: "planning" }),
    ...(leads === undefined ? {} : { leads }),
  };
  const tls = {
    key: serverCertificate.keyPem,
    cert: serverCertificate.certificatePem,
    ca: authority.certificatePem,
    ...names,
  };
  const app = buildServer(backend, createPlannerMetrics(), { tls, limits });
  await app.listen({ host: "127.0.0.1", port: 0 });
  closers.push(() => {
    for (const answer of held) answer();
    return app.close();
  });
  return { app, port: (app.server.address() as AddressInfo).port, asked, held, given };
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

const credentials = (client: string) => ({
  ca: authority.certificatePem,
  ...(clients.has(client) ? { cert: clients.get(client)?.certificatePem, key: clients.get(client)?.keyPem } : {}),
});

const filterBody = JSON.stringify({ Pod: { metadata: { uid: "u" } }, NodeNames: ["n1", "n2"] });

/** One request on a connection of its own, or on `session`. */
type Call = (port: number, client: string, path: string, body?: string) => Promise<Answer>;

const overHttp1: Call = (port, client, path, body) =>
  callHttp1(new Agent({ ...credentials(client), keepAlive: false }), port, path, body);

async function callHttp1(agent: Agent, port: number, path: string, body?: string): Promise<Answer> {
  const request = httpsRequest({
    host: "127.0.0.1",
    port,
    path,
    agent,
    method: body === undefined ? "GET" : "POST",
    headers: body === undefined ? {} : { "content-type": "application/json" },
  });
  // The server may answer and hang up before it has read everything.
  request.on("error", () => undefined);
  request.end(body);
  const [response] = await once(request, "response");
  let text = "";
  for await (const part of response) text += String(part);
  return { status: response.statusCode, headers: response.headers, body: text };
}

function openSession(port: number, client: string) {
  const session = http2Connect(`https://127.0.0.1:${port}`, credentials(client));
  // A refused handshake is told by the request as well.
  session.on("error", () => undefined);
  closers.push(() => session.destroy());
  return session;
}

const overHttp2: Call = async (port, client, path, body) => call(openSession(port, client), path, body);

async function call(session: ReturnType<typeof openSession>, path: string, body?: string): Promise<Answer> {
  const stream = session.request({
    ":method": body === undefined ? "GET" : "POST",
    ":path": path,
    ...(body === undefined ? {} : { "content-type": "application/json" }),
  });
  stream.end(body);
  const unanswered = once(stream, "close").then(() => Promise.reject(new Error("the stream closed without an answer")));
  const [headers] = (await Promise.race([once(stream, "response"), unanswered])) as [
    IncomingHttpHeaders & { ":status": number },
  ];
  let text = "";
  for await (const part of stream) text += String(part);
  return { status: headers[":status"], headers, body: text };
}

const protocols: Record<string, Call> = { "HTTP/1.1": overHttp1, "HTTP/2": overHttp2 };

for (const [protocol, ask] of Object.entries(protocols)) {
  describe(`over ${protocol} the door`, () => {
    test("lets a client with the expected name call the verbs", async () => {
      const { port, asked } = await openDoor({ clientNames: [scheduler] });
      const answer = await ask(port, scheduler, "/filter", filterBody);
      expect(answer.status).toBe(200);
      expect(JSON.parse(answer.body).NodeNames).toEqual(["n1"]);
      expect(asked).toEqual(["u"]);
    });

    test("refuses another name of the same authority with its reason, and asks nobody", async () => {
      const { port, asked } = await openDoor({ clientNames: [scheduler] });
      const answer = await ask(port, "mallory", "/filter", filterBody);
      expect([answer.status, JSON.parse(answer.body)]).toEqual([
        403,
        { error: 'client certificate name "mallory" is not allowed' },
      ]);
      expect(asked).toEqual([]);
    });

    for (const client of ["stranger", "nobody"]) {
      const who = client === "nobody" ? "a client without a certificate" : "the right name from another authority";
      test(`ends the handshake of ${who}`, async () => {
        const { port, asked } = await openDoor({ clientNames: [scheduler] });
        await expect(ask(port, client, "/filter", filterBody)).rejects.toThrow();
        expect(asked).toEqual([]);
      });
    }

    test("tells every client of the authority whether it is healthy", async () => {
      const { port } = await openDoor({ clientNames: [scheduler] });
      expect((await ask(port, "mallory", "/healthz")).status).toBe(200);
      expect((await ask(port, "mallory", "/readyz")).status).toBe(200);
    });

    test("gives metrics to those who may call, unless others are named for them", async () => {
      const shared = await openDoor({ clientNames: [scheduler] });
      expect((await ask(shared.port, scheduler, "/metrics")).status).toBe(200);
      expect((await ask(shared.port, "prometheus", "/metrics")).status).toBe(403);
      const apart = await openDoor({ clientNames: [scheduler], metricsNames: ["prometheus"] });
      expect((await ask(apart.port, "prometheus", "/metrics")).status).toBe(200);
      expect((await ask(apart.port, scheduler, "/metrics")).status).toBe(403);
      expect((await ask(apart.port, "prometheus", "/filter", filterBody)).status).toBe(403);
    });

    test("does not let a reader of metrics call the verbs when callers are not named", async () => {
      const { port, asked } = await openDoor({ metricsNames: ["prometheus"] });
      expect((await ask(port, "prometheus", "/filter", filterBody)).status).toBe(403);
      expect(asked).toEqual([]);
      expect((await ask(port, "mallory", "/filter", filterBody)).status).toBe(200);
    });

    test("gives capacity to those who may call, unless others are named for it, who may call nothing else", async () => {
      const shared = await openDoor({ clientNames: [scheduler] });
      expect((await ask(shared.port, scheduler, "/capacity")).status).toBe(404);
      expect((await ask(shared.port, "mallory", "/capacity")).status).toBe(403);
      for (const names of [{ clientNames: [scheduler] }, {}]) {
        const apart = await openDoor({ ...names, capacityNames: ["mallory"] });
        expect((await ask(apart.port, "mallory", "/capacity?limit=1")).status).toBe(404);
        expect((await ask(apart.port, scheduler, "/capacity")).status).toBe(403);
        expect((await ask(apart.port, "mallory", "/filter", filterBody)).status).toBe(403);
        expect((await ask(apart.port, "mallory", "/metrics")).status).toBe(403);
        expect(apart.asked).toEqual([]);
      }
    });

    test("says how long every reply is", async () => {
      const { port } = await openDoor({ clientNames: [scheduler] });
      const calls: [string, string?][] = [
        ["/filter", filterBody],
        ["/filter", "{"],
        ["/nowhere", "{}"],
        ["/healthz"],
        ["/readyz"],
        ["/metrics"],
      ];
      for (const [path, body] of calls) {
        const { headers, body: text } = await ask(port, scheduler, path, body);
        expect([path, headers["content-length"]]).toEqual([path, String(Buffer.byteLength(text))]);
        expect(headers["transfer-encoding"]).toBeUndefined();
      }
    });

    test("refuses a body above 8 MiB", async () => {
      const { port, asked } = await openDoor();
      const answer = await ask(port, scheduler, "/filter", `"${"x".repeat(8 * 1024 * 1024)}"`).catch(
        (error: Error & { code?: string }) => error.code,
      );
      // The answer may be cut off: the rest of the body is not read.
      if (typeof answer === "object") expect(answer.status).toBe(413);
      else expect(["EPIPE", "ECONNRESET"]).toContain(answer);
      expect(asked).toEqual([]);
    });
  });
}

function rawConnection(port: number, protocol: string) {
  const socket = tlsConnect({ host: "127.0.0.1", port, ALPNProtocols: [protocol], ...credentials(scheduler) });
  socket.on("error", () => undefined);
  closers.push(() => socket.destroy());
  return socket;
}

async function closed(socket: {
  destroyed: boolean;
  once: (event: "close", done: () => void) => unknown;
  resume?: () => unknown;
}) {
  socket.resume?.();
  if (!socket.destroyed) await new Promise<void>((resolve) => socket.once("close", resolve));
}

/** HTTP/2 by hand: the client's preface and an empty SETTINGS frame. */
const preface = Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, Buffer.alloc(0))]);

function frame(type: number, flags: number, streamId: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, payload]);
}

/** `:method: GET` and nothing that would end the header block. */
const halfHeaders = frame(1, 0, 1, Buffer.from([0x82]));

describe("a request that does not arrive in time is cut off", () => {
  const limits = { requestTimeoutMs: 150, closeGraceMs: 50 };
  /** Where something has to arrive in time, also on a busy machine. */
  const roomy = { ...limits, requestTimeoutMs: 3_000 };
  const patient = { timeout: 10_000 };
  /** A handshake that takes longer than the limit is cut off too. */
  const connected = (socket: TLSSocket) => Promise.race([once(socket, "secureConnect"), closed(socket)]);
  const slow: Record<string, { protocol: string; bytes: (string | Buffer)[] }> = {
    "HTTP/1.1: no request line": { protocol: "http/1.1", bytes: [] },
    "HTTP/1.1: headers that do not end": { protocol: "http/1.1", bytes: ["POST /filter HTTP/1.1\r\nHost: x\r\n"] },
    "HTTP/1.1: a body that stops": {
      protocol: "http/1.1",
      bytes: ["POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"],
    },
    "HTTP/2: no preface": { protocol: "h2", bytes: [] },
    "HTTP/2: no request after the preface": { protocol: "h2", bytes: [preface] },
    "HTTP/2: headers that do not end": { protocol: "h2", bytes: [preface, halfHeaders] },
  };
  for (const [title, { protocol, bytes }] of Object.entries(slow)) {
    test(title, async () => {
      const { port, asked } = await openDoor({}, limits);
      const socket = rawConnection(port, protocol);
      await connected(socket);
      for (const part of bytes) socket.write(part);
      await closed(socket);
      expect(asked).toEqual([]);
    });
  }

  test("HTTP/2: a header block that dribbles on for ever", async () => {
    const { port, asked } = await openDoor({}, limits);
    const socket = rawConnection(port, "h2");
    await connected(socket);
    socket.write(Buffer.concat([preface, halfHeaders]));
    // CONTINUATION frames with one header each, none of which ends the block.
    const dribble = setInterval(() => socket.write(frame(9, 0, 1, Buffer.from([0x87]))), 20);
    await closed(socket);
    clearInterval(dribble);
    expect(asked).toEqual([]);
  });

  test("HTTP/2: a body that stops; other calls of the connection go on", async () => {
    const { port, asked, held } = await openDoor({}, roomy);
    const session = openSession(port, scheduler);
    const bind = call(session, "/bind", JSON.stringify({ PodName: "p", PodNamespace: "d", PodUID: "u", Node: "n1" }));
    await expect.poll(() => held.length, patient).toBe(1);
    const stream = session.request({ ":method": "POST", ":path": "/filter", "content-type": "application/json" });
    stream.on("error", () => undefined);
    stream.write("{");
    await new Promise((resolve) => stream.once("close", resolve));
    expect(stream.rstCode).toBe(constants.NGHTTP2_CANCEL);
    expect(asked).toEqual([]);
    held[0]?.();
    expect((await bind).body).toBe('{"Error":""}');
  });

  test("before TLS", async () => {
    const { port } = await openDoor({}, limits);
    const { connect } = await import("node:net");
    const socket = connect(port, "127.0.0.1");
    closers.push(() => socket.destroy());
    await closed(socket);
  });

  test("a held bind call has arrived: it outlives the limit, on both protocols", async () => {
    const { port, held } = await openDoor({}, roomy);
    const body = JSON.stringify({ PodName: "p", PodNamespace: "d", PodUID: "u", Node: "n1" });
    const answers = [overHttp1(port, scheduler, "/bind", body), overHttp2(port, scheduler, "/bind", body)];
    await expect.poll(() => held.length, patient).toBe(2);
    const slowSocket = rawConnection(port, "h2");
    await closed(slowSocket);
    for (const answer of held) answer();
    for (const answer of await Promise.all(answers)) expect(answer.body).toBe('{"Error":""}');
  });
});

describe("a barrier of the largest gang", () => {
  const gang = 2_000;
  const bindBody = (uid: number) => JSON.stringify({ PodName: "p", PodNamespace: "d", PodUID: `u${uid}`, Node: "n1" });

  test("is held on one HTTP/2 connection and answered", async () => {
    const { port, held } = await openDoor();
    const session = openSession(port, scheduler);
    const answers = Array.from({ length: gang }, (_, uid) => call(session, "/bind", bindBody(uid)));
    await expect.poll(() => held.length, { timeout: 20_000 }).toBe(gang);
    for (const answer of held) answer();
    for (const { body } of await Promise.all(answers)) expect(body).toBe('{"Error":""}');
  });

  test("may be given up at once: the connection stays", async () => {
    const { port, held, given } = await openDoor();
    const session = openSession(port, scheduler);
    const streams = Array.from({ length: gang }, (_, uid) => {
      const stream = session.request({ ":method": "POST", ":path": "/bind", "content-type": "application/json" });
      stream.on("error", () => undefined);
      stream.end(bindBody(uid));
      return stream;
    });
    await expect.poll(() => held.length, { timeout: 20_000 }).toBe(gang);
    for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL);
    await expect.poll(() => given.length, { timeout: 20_000 }).toBe(gang);
    expect((await call(session, "/filter", filterBody)).status).toBe(200);
  });
});

describe("a replica that stands by, behind an address that it shares with the one that plans", () => {
  const bindBody = JSON.stringify({ PodName: "p", PodNamespace: "team", PodUID: "u", Node: "n1" });

  /** Answers each bind call as soon as it is held. */
  async function openStandby(leads: () => boolean): Promise<Door> {
    const door = await openDoor({ clientNames: [scheduler] }, {}, leads);
    const push = door.held.push.bind(door.held);
    door.held.push = (...answers) => {
      for (const answer of answers) setImmediate(answer);
      return push(...answers);
    };
    return door;
  }

  test("hands an HTTP/2 connection back with its answer to bind, so that the next call may reach the other; not for filter", async () => {
    let leading = true;
    const { port } = await openStandby(() => leading);
    const session = openSession(port, scheduler);
    expect((await call(session, "/bind", bindBody)).status).toBe(200);
    leading = false;
    expect((await call(session, "/filter", filterBody)).status).toBe(200);
    expect([session.closed, session.destroyed]).toEqual([false, false]);
    const left = once(session, "close");
    expect((await call(session, "/bind", bindBody)).status).toBe(200);
    await left;
  });

  test("says over HTTP/1.1 that it closes", async () => {
    let leading = true;
    const { port } = await openStandby(() => leading);
    const agent = new Agent({ ...credentials(scheduler), keepAlive: true });
    closers.push(() => agent.destroy());
    expect((await callHttp1(agent, port, "/bind", bindBody)).headers.connection).toBe("keep-alive");
    leading = false;
    expect((await callHttp1(agent, port, "/filter", filterBody)).headers.connection).toBe("keep-alive");
    expect((await callHttp1(agent, port, "/bind", bindBody)).headers.connection).toBe("close");
  });
});

describe("closing", () => {
  test("ends idle sessions, half-open handshakes and unfinished requests, and lets a call under way finish", async () => {
    const { app, port, held } = await openDoor({}, { closeGraceMs: 3_000 });
    const { connect } = await import("node:net");
    const mute = connect(port, "127.0.0.1");
    const half = rawConnection(port, "http/1.1");
    const idle = openSession(port, scheduler);
    await Promise.all([once(mute, "connect"), once(half, "secureConnect"), call(idle, "/healthz")]);
    half.write("POST /filter HTTP/1.1\r\n");
    const body = JSON.stringify({ PodName: "p", PodNamespace: "d", PodUID: "u", Node: "n1" });
    const busy = [overHttp2(port, scheduler, "/bind", body), overHttp1(port, scheduler, "/bind", body)];
    await expect.poll(() => held.length, { timeout: 10_000 }).toBe(2);
    const over = app.close();
    for (const answer of held) answer();
    for (const answer of await Promise.all(busy)) expect(answer.body).toBe('{"Error":""}');
    await over;
    await Promise.all([closed(mute), closed(half), closed(idle)]);
  });
});

test("idle HTTP/1.1 connections are kept longer than Go's client keeps them", async () => {
  const { app } = await openDoor();
  expect(app.server.keepAliveTimeout).toBeGreaterThan(90_000);
  expect(app.server.requestTimeout).toBe(10_000);
  expect(app.server.maxConnections).toBeGreaterThan(2_000);
});
