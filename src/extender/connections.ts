import type { Server as HttpServer } from "node:http";
import type { Http2SecureServer, Http2Session, ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";

/**
 * Limits below the requests: connections, TLS handshakes, and the time that a request takes to arrive. Node limits that
 * time for HTTP/1.1; for HTTP/2 it has no such limit, so sessions and streams are timed here.
 */

export interface ConnectionLimits {
  /** Longest time for a TLS handshake, for a connection's first request to begin, and for a request to arrive whole. */
  requestTimeoutMs: number;
  /** Connections without a request are closed after this. */
  keepAliveMs: number;
  /** Connections at a time; further ones are dropped. */
  maxConnections: number;
  /** When the server ends, requests under way get this long to finish. */
  closeGraceMs: number;
}

/**
 * Over HTTP/1.1 every held bind call is a connection of its own, over HTTP/2 a stream: both must exceed the members of the
 * largest gang (2,000) beside those of other gangs that are released at the same time.
 */
const maxHeldCalls = 4096;

export const defaultLimits: ConnectionLimits = {
  requestTimeoutMs: 10_000,
  // Go's client reuses idle connections for 90 s: the client must be the one who closes.
  keepAliveMs: 120_000,
  maxConnections: maxHeldCalls,
  closeGraceMs: 1_000,
};

const maxHeaderBytes = 16 * 1024;

/** Options of Node's HTTP/1.1 server. Expired requests are looked for often enough for the limits to mean something. */
export function http1Options({ requestTimeoutMs, keepAliveMs }: ConnectionLimits): object {
  return {
    headersTimeout: requestTimeoutMs,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: keepAliveMs,
    connectionsCheckingInterval: Math.min(1_000, requestTimeoutMs),
    maxHeaderSize: maxHeaderBytes,
  };
}

/**
 * Options of Node's HTTP/2 server.
 * kube-scheduler gives up all calls of a gang at once when it ends: Node's default takes more than 1,000 resets in a
 * moment for an attack and closes the session.
 */
export function http2Options(): object {
  return {
    settings: { maxConcurrentStreams: maxHeldCalls, maxHeaderListSize: maxHeaderBytes },
    streamResetBurst: maxHeldCalls,
    streamResetRate: maxHeldCalls / 4,
    // In MB; a session that holds more refuses streams. A held call takes some kilobytes.
    maxSessionMemory: 64,
  };
}

/** Open connections and HTTP/2 sessions of a server. */
export interface Connections {
  sockets: Set<Socket>;
  sessions: Set<Http2Session>;
}

/** Applies the limits to a server that does not listen yet. */
export function guardConnections(server: HttpServer, limits: ConnectionLimits): Connections {
  const connections: Connections = { sockets: new Set(), sessions: new Set() };
  server.maxConnections = limits.maxConnections;
  server.on("connection", (socket: Socket) => {
    connections.sockets.add(socket);
    socket.once("close", () => connections.sockets.delete(socket));
  });
  // Without TLS there is no HTTP/2, and this is never heard.
  (server as unknown as Http2SecureServer).on("session", (session: ServerHttp2Session) =>
    limitSession(session, limits, connections.sessions),
  );
  return connections;
}

/** Bytes alone keep no session alive: a header block that never ends is not a request. */
function limitSession(session: Http2Session, limits: ConnectionLimits, sessions: Set<Http2Session>): void {
  sessions.add(session);
  let streams = 0;
  let timer = closeAfter(limits.requestTimeoutMs);
  session.on("stream", (stream: ServerHttp2Stream) => {
    streams += 1;
    clearTimeout(timer);
    limitArrival(stream, limits.requestTimeoutMs);
    stream.once("close", () => {
      streams -= 1;
      if (streams === 0 && !session.destroyed) timer = closeAfter(limits.keepAliveMs);
    });
  });
  session.once("close", () => {
    clearTimeout(timer);
    sessions.delete(session);
  });

  // Closing waits for what is under way, half a header block included; so the session is cut in the end.
  function closeAfter(delayMs: number): NodeJS.Timeout {
    return setTimeout(() => {
      session.close();
      timer = setTimeout(() => session.destroy(), limits.closeGraceMs).unref();
    }, delayMs).unref();
  }
}

function limitArrival(stream: ServerHttp2Stream, timeoutMs: number): void {
  if (stream.endAfterHeaders) return;
  const timer = setTimeout(() => stream.close(8 /* NGHTTP2_CANCEL */), timeoutMs).unref();
  const stop = (): void => clearTimeout(timer);
  stream.once("end", stop);
  stream.once("close", stop);
}

/** Asks every client to leave; requests under way may finish within `graceMs`, then connections are cut. */
export async function closeConnections({ sockets, sessions }: Connections, graceMs: number): Promise<void> {
  for (const session of sessions) session.close();
  setTimeout(() => {
    for (const socket of sockets) socket.destroy();
  }, graceMs).unref();
}
