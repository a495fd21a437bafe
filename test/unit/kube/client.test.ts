import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import {
  createClient,
  isAlreadyExists,
  isConflict,
  isNotFound,
  type KubeClient,
  KubeError,
} from "../../../src/kube/client.ts";

type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

/** A server on loopback, a client of it, and the sockets it saw. */
async function serve(handler: Handler, token?: () => Promise<string | undefined>, maxConnections?: number) {
  const sockets = new Set<Socket>();
  const server: Server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (chunk: string) => {
      body += chunk;
    });
    request.on("end", () => handler(request, response, body));
  });
  server.on("connection", (socket) => sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const client: KubeClient = createClient(
    { server: `http://127.0.0.1:${port}/prefix`, ...(token === undefined ? {} : { token }) },
    { userAgent: "kllama-test", ...(maxConnections === undefined ? {} : { maxConnections }) },
  );
  cleanups.push(async () => {
    await client.close();
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return { client, sockets, port };
}

function status(code: number, reason: string, extra: object = {}): string {
  return JSON.stringify({ kind: "Status", code, reason, message: `it is ${reason}`, ...extra });
}

async function failure(promise: Promise<unknown>): Promise<KubeError> {
  const error: unknown = await promise.then(
    () => expect.unreachable("must fail"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(KubeError);
  return error as KubeError;
}

async function collect(lines: AsyncIterable<string>): Promise<string[]> {
  const all: string[] = [];
  for await (const line of lines) all.push(line);
  return all;
}

describe("request", () => {
  it("sends method, path below the server's prefix, query, headers and JSON", async () => {
    let tokens = 0;
    const seen: unknown[] = [];
    const { client } = await serve(
      (request, response, body) => {
        const { authorization, "content-type": type, "user-agent": agent } = request.headers;
        seen.push([request.method, request.url, authorization, type, agent, body]);
        response.end('{"ok":true}');
      },
      async () => {
        tokens += 1;
        return `t${tokens}`;
      },
    );
    expect(
      await client.request("GET", "/a", { query: { limit: 5, watch: true, labelSelector: "a=b,c", no: undefined } }),
    ).toEqual({ ok: true });
    await client.request("PATCH", "/a", { body: { x: "ü" } });
    await client.request("PUT", "/a", { body: [], contentType: "application/strategic-merge-patch+json" });
    expect(seen).toEqual([
      ["GET", "/prefix/a?limit=5&watch=true&labelSelector=a%3Db%2Cc", "Bearer t1", undefined, "kllama-test", ""],
      ["PATCH", "/prefix/a", "Bearer t2", "application/merge-patch+json", "kllama-test", '{"x":"ü"}'],
      ["PUT", "/prefix/a", "Bearer t3", "application/strategic-merge-patch+json", "kllama-test", "[]"],
    ]);
  });

  it("keeps connections: 50 calls one after another need two at most, 50 at once no more than allowed", async () => {
    const { client, sockets } = await serve((_request, response) => response.end("{}"), undefined, 4);
    for (let call = 0; call < 50; call += 1) await client.request("GET", "/a");
    // Two, because an answer may be read before its connection counts as free again.
    expect(sockets.size).toBeLessThanOrEqual(2);
    await Promise.all(Array.from({ length: 50 }, () => client.request("GET", "/a")));
    expect(sockets.size).toBe(4);
  });

  it.each([
    [404, "NotFound", [true, false, false]],
    [409, "Conflict", [false, true, false]],
    [409, "AlreadyExists", [false, false, true]],
    [422, "Invalid", [false, false, false]],
  ] as const)("turns %d %s into a KubeError that can be told apart", async (code, reason, kinds) => {
    const details = { name: "x", causes: [{ field: "spec.a" }] };
    const { client } = await serve((_request, response) =>
      response.writeHead(code).end(status(code, reason, { details })),
    );
    const error = await failure(client.request("POST", "/things", { body: {} }));
    expect(error).toMatchObject({ status: code, reason, details, message: `POST /things: it is ${reason}` });
    expect([isNotFound(error), isConflict(error), isAlreadyExists(error)]).toEqual(kinds);
    expect(error.retryAfterMs).toBeUndefined();
  });

  it("hands Retry-After on, and retries nothing", async () => {
    let calls = 0;
    const { client } = await serve((_request, response) => {
      calls += 1;
      response.writeHead(429, { "retry-after": "3" }).end(status(429, "TooManyRequests"));
    });
    expect(await failure(client.request("GET", "/a"))).toMatchObject({ status: 429, retryAfterMs: 3_000 });
    expect(calls).toBe(1);
  });

  it.each([
    ["plain text", 502, "upstream <b>gone</b>"],
    ["nothing", 500, ""],
    ["JSON null", 500, "null"],
    ["an array", 503, "[1]"],
    ["odd types", 500, '{"message":7,"reason":{},"details":"x"}'],
  ])("understands a refusal that is %s", async (_what, code, body) => {
    const { client } = await serve((_request, response) => response.writeHead(code).end(body));
    const error = await failure(client.request("GET", "/a"));
    expect(error.status).toBe(code);
    expect(error.message).toMatch(/^GET \/a: ./);
    expect(error.reason).toBe("");
  });

  it("reports an answer that is not JSON", async () => {
    const { client } = await serve((_request, response) => response.end("<html>"));
    expect(await failure(client.request("GET", "/a"))).toMatchObject({ status: 200, reason: "InvalidAnswer" });
  });

  it("reports a server that is not there, a cut connection and a time limit as status 0", async () => {
    const { client, port } = await serve((request, response) => {
      if (request.url === "/prefix/cut") {
        response.writeHead(200, { "content-length": "100" });
        response.write("{");
        setImmediate(() => request.socket.destroy());
      }
    });
    expect(await failure(client.request("GET", "/cut"))).toMatchObject({ status: 0, reason: "Unreachable" });
    expect(await failure(client.request("GET", "/hang", { timeoutMs: 30 }))).toMatchObject({
      status: 0,
      reason: "Timeout",
    });
    const nowhere = createClient({ server: `http://127.0.0.1:${port === 1 ? 2 : 1}` });
    expect(await failure(nowhere.request("GET", "/a"))).toMatchObject({ status: 0, reason: "Unreachable" });
    await nowhere.close();
  });

  it("throws the caller's own reason when the caller aborts, before or meanwhile", async () => {
    const reached = Promise.withResolvers<void>();
    const { client } = await serve(() => reached.resolve());
    const early = AbortSignal.abort(new Error("changed my mind"));
    await expect(client.request("GET", "/a", { signal: early })).rejects.toThrow("changed my mind");
    const controller = new AbortController();
    const pending = expect(client.request("GET", "/a", { signal: controller.signal })).rejects.toThrow("enough");
    await reached.promise;
    controller.abort(new Error("enough"));
    await pending;
  });

  it("tells a caller that aborts while it waits for a connection at once, and never sends its request", async () => {
    const seen: (string | undefined)[] = [];
    const held = Promise.withResolvers<ServerResponse>();
    const { client } = await serve(
      (request, response) => {
        seen.push(request.url);
        if (request.url === "/prefix/held") held.resolve(response);
        else response.end("{}");
      },
      undefined,
      1,
    );
    const first = client.request("GET", "/held");
    const response = await held.promise;
    const controller = new AbortController();
    const waiting = expect(client.request("GET", "/late", { signal: controller.signal })).rejects.toBe("enough");
    const last = client.request("GET", "/last");
    controller.abort("enough");
    await waiting;
    response.end("{}");
    await Promise.all([first, last]);
    expect(seen).toEqual(["/prefix/held", "/prefix/last"]);
  });

  it.each(["", "127.0.0.1:6443", "ftp://x"])("refuses %j as server", (server) => {
    expect(() => createClient({ server })).toThrow(/API server address .*https:\/\//);
  });
});

describe("lines", () => {
  it("delivers lines as they come, whatever the chunks cut, and only complete ones", async () => {
    const long = "é".repeat(700_000);
    const bytes = Buffer.from(`{"a":"ü€😀"}\n\n${long}\r\nlast\nincomplete`);
    const { client } = await serve((_request, response) => {
      for (let start = 0; start < 40; start += 1) response.write(bytes.subarray(start, start + 1));
      for (let start = 40; start < bytes.length; start += 65_537) response.write(bytes.subarray(start, start + 65_537));
      response.end();
    });
    const lines = await collect(client.lines("/watch", { signal: new AbortController().signal }));
    expect(lines.map((line) => line.length)).toEqual([12, 700_001, 4]);
    expect(lines[0]).toBe('{"a":"ü€😀"}');
    expect(lines[2]).toBe("last");
  });

  it("does not wait for the end of the body", async () => {
    const controller = new AbortController();
    const { client, sockets } = await serve((_request, response) => response.write("one\n"));
    const iterator = client.lines("/watch", { signal: controller.signal })[Symbol.asyncIterator]();
    expect(await iterator.next()).toEqual({ value: "one", done: false });
    const next = expect(iterator.next()).rejects.toThrow("stop");
    const [socket] = sockets;
    const closed = new Promise((resolve) => socket?.once("close", resolve));
    controller.abort(new Error("stop"));
    await next;
    await closed;
  });

  it("closes its connection when the reader leaves early", async () => {
    const { client, sockets } = await serve((_request, response) => response.write("one\ntwo\n"));
    for await (const line of client.lines("/watch", { signal: new AbortController().signal })) {
      expect(line).toBe("one");
      break;
    }
    const [socket] = sockets;
    if (socket?.destroyed === false) await new Promise((resolve) => socket.once("close", resolve));
    expect(socket?.destroyed).toBe(true);
  });

  it.each(["before the first byte", "between bytes"])("gives up on silence %s", async (when) => {
    const { client } = await serve((_request, response) => {
      if (when === "between bytes") response.write("one\n");
    });
    const options = { signal: new AbortController().signal, idleTimeoutMs: 60 };
    expect(await failure(collect(client.lines("/watch", options)))).toMatchObject({ status: 0, reason: "Timeout" });
  });

  it("measures silence, not duration", async () => {
    const { client } = await serve((_request, response) => {
      let sent = 0;
      const timer = setInterval(() => {
        sent += 1;
        response.write(`${sent}\n`);
        if (sent < 15) return;
        clearInterval(timer);
        response.end();
      }, 300);
    });
    const options = { signal: new AbortController().signal, idleTimeoutMs: 4_000 };
    expect(await collect(client.lines("/watch", options))).toHaveLength(15);
  });

  it("throws refusals, and tells a cut stream from an ended one", async () => {
    const { client } = await serve((request, response) => {
      if (request.url === "/prefix/gone") response.writeHead(410).end(status(410, "Expired"));
      else {
        response.write("one\n");
        setImmediate(() => request.socket.destroy());
      }
    });
    const { signal } = new AbortController();
    expect(await failure(collect(client.lines("/gone", { signal })))).toMatchObject({ status: 410, reason: "Expired" });
    expect(await failure(collect(client.lines("/cut", { signal })))).toMatchObject({
      status: 0,
      reason: "Unreachable",
    });
  });

  it("never starves requests, and ends with the client", async () => {
    const { client } = await serve(
      (request, response) => (request.url === "/prefix/watch" ? response.write("one\n") : response.end("{}")),
      undefined,
      1,
    );
    const { signal } = new AbortController();
    const streams = Array.from({ length: 5 }, () => client.lines("/watch", { signal })[Symbol.asyncIterator]());
    for (const stream of streams) expect((await stream.next()).value).toBe("one");
    expect(await client.request("GET", "/a")).toEqual({});
    const ends = streams.map((stream) => expect(stream.next()).rejects.toMatchObject({ reason: "Unreachable" }));
    await client.close();
    await Promise.all(ends);
  });
});
