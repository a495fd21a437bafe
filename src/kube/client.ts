import type { Readable } from "node:stream";
// Deep imports: the package's front door loads fetch, caches, proxies and mocks, 5 MB of memory in every process.
import sendRequest from "undici/lib/api/api-request.js";
import Pool from "undici/lib/dispatcher/pool.js";
import type { Connection } from "./credentials.ts";
import { exchange, TimeIsOver } from "./exchange.ts";
import { splitLines } from "./lines.ts";

/** Values of a query string; undefined entries are left out. */
type Query = Record<string, string | number | boolean | undefined>;

/** Options of one request; `timeoutMs` (default 30,000) bounds the whole exchange. */
export interface RequestOptions {
  query?: Query;
  /** Sent as JSON. */
  body?: unknown;
  /** Default `application/json`, for PATCH `application/merge-patch+json`. */
  contentType?: string;
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** Options of a stream; `idleTimeoutMs` bounds the silence before the first byte and between bytes. */
export interface LinesOptions {
  query?: Query;
  signal: AbortSignal;
  idleTimeoutMs?: number;
}

/** Raw JSON in, raw JSON out: no typed models, no retries, one set of kept connections. */
export interface KubeClient {
  /** Throws KubeError for every refusal and network failure; the signal's own reason when the caller aborts. */
  request<T = unknown>(
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    options?: RequestOptions,
  ): Promise<T>;
  /** The non-empty lines of a response as they arrive (watches send one JSON document per line); ends when the server ends it. */
  lines(path: string, options: LinesOptions): AsyncIterable<string>;
  /** Ends idle connections, lets requests in flight finish, aborts streams. */
  close(): Promise<void>;
}

export interface ClientOptions {
  userAgent?: string;
  /** Connections for requests, opened as needed; default 32. Each open stream has one of its own besides. */
  maxConnections?: number;
}

const defaultTimeoutMs = 30_000;
const defaultMaxConnections = 32;
/** kube-apiserver keeps idle HTTP/1.1 connections for 3 minutes; we let go first, so no request meets a closing one. */
const keepAliveMs = 60_000;

/**
 * Opens nothing until the first request. HTTP/1.1 on purpose: HTTP/2 was no faster (1,000 status patches, 64 at a time:
 * about 900/s either way, the API server being the limit), and one dead connection then costs one request, not all watches.
 */
export function createClient(connection: Connection, options: ClientOptions = {}): KubeClient {
  const { origin, prefix } = splitServer(connection.server);
  const common = {
    pipelining: 1,
    allowH2: false,
    // Deadlines are ours: the pool's own are coarse and cannot differ between requests and watches.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: keepAliveMs,
    connect: tlsOptions(connection),
  };
  const calls = new Pool(origin, { ...common, connections: options.maxConnections ?? defaultMaxConnections });
  // Watches hold their connection for minutes; in a bounded pool a few of them would starve the requests.
  const streams = new Pool(origin, common);
  const closing = new AbortController();
  const baseHeaders = { accept: "application/json", "user-agent": options.userAgent ?? "kllama" };

  async function headers(extra: Record<string, string> = {}): Promise<Record<string, string>> {
    const token = await connection.token?.();
    return token === undefined
      ? { ...baseHeaders, ...extra }
      : { ...baseHeaders, ...extra, authorization: `Bearer ${token}` };
  }

  async function request<T>(method: Method, path: string, requestOptions: RequestOptions = {}): Promise<T> {
    const { body, contentType, query, timeoutMs = defaultTimeoutMs, signal } = requestOptions;
    const what = `${method} ${path}`;
    try {
      const type = body === undefined ? {} : { "content-type": contentType ?? defaultContentType(method) };
      const answer = await exchange(
        calls,
        {
          method,
          path: prefix + path + queryString(query),
          headers: await headers(type),
          body: body === undefined ? null : JSON.stringify(body),
        },
        { timeoutMs, signal },
      );
      if (answer.status >= 300) throw refusal(what, answer.status, answer.retryAfter, answer.text);
      return parseBody<T>(what, answer.status, answer.text);
    } catch (error) {
      throw networkError(what, error, signal, error instanceof TimeIsOver ? error.message : undefined);
    }
  }

  async function* lines(path: string, streamOptions: LinesOptions): AsyncGenerator<string> {
    const { query, signal, idleTimeoutMs } = streamOptions;
    const what = `GET ${path}`;
    const deadline = createDeadline(idleTimeoutMs, `silent for ${idleTimeoutMs} ms`, [signal, closing.signal]);
    let body: Readable | undefined;
    try {
      const response = await sendRequest.call(streams, {
        method: "GET",
        path: prefix + path + queryString(query),
        headers: await headers(),
        signal: deadline.signal,
      });
      body = response.body;
      if (response.statusCode >= 300) {
        throw refusal(what, response.statusCode, response.headers["retry-after"], await response.body.text());
      }
      yield* splitLines(response.body, deadline.extend);
    } catch (error) {
      throw networkError(what, error, signal, deadline.expired());
    } finally {
      deadline.done();
      destroyQuietly(body);
    }
  }

  async function close(): Promise<void> {
    if (closing.signal.aborted) return;
    closing.abort(new KubeError("client closed", { status: 0, reason: "Unreachable" }));
    await Promise.all([calls.close(), streams.close()]);
  }

  return { request, lines, close };
}

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/**
 * A refusal by the API server (`status` is HTTP's, `reason` and `details` come from its Status object), or a failure to
 * reach it: then `status` is 0, `reason` is `Unreachable` or `Timeout`, and whether the request took effect is unknown.
 */
export class KubeError extends Error {
  readonly status: number;
  readonly reason: string;
  readonly retryAfterMs?: number;
  readonly details?: unknown;

  constructor(
    message: string,
    fields: { status: number; reason: string; retryAfterMs?: number; details?: unknown; cause?: unknown },
  ) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = "KubeError";
    this.status = fields.status;
    this.reason = fields.reason;
    if (fields.retryAfterMs !== undefined) this.retryAfterMs = fields.retryAfterMs;
    if (fields.details !== undefined) this.details = fields.details;
  }
}

/** The object or collection does not exist. */
export function isNotFound(error: unknown): boolean {
  return error instanceof KubeError && error.status === 404;
}

/** The object changed since it was read (409, reason Conflict); "already exists" is not one. */
export function isConflict(error: unknown): boolean {
  return error instanceof KubeError && error.status === 409 && error.reason !== "AlreadyExists";
}

/** Create found an object of that name. */
export function isAlreadyExists(error: unknown): boolean {
  return error instanceof KubeError && error.status === 409 && error.reason === "AlreadyExists";
}

function splitServer(server: string): { origin: string; prefix: string } {
  let url: URL;
  try {
    url = new URL(server);
  } catch {
    throw new Error(`API server address ${JSON.stringify(server)} is not a URL; give https://HOST:PORT`);
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    throw new Error(`API server address ${JSON.stringify(server)}: use https://, not ${url.protocol}//`);
  }
  return { origin: url.origin, prefix: url.pathname.replace(/\/$/, "") };
}

function tlsOptions(connection: Connection): NonNullable<Pool.Options["connect"]> {
  const { caPem, clientCertificatePem, clientKeyPem, serverName } = connection;
  return {
    timeout: 10_000,
    ...(caPem === undefined ? {} : { ca: caPem }),
    ...(clientCertificatePem === undefined ? {} : { cert: clientCertificatePem }),
    ...(clientKeyPem === undefined ? {} : { key: clientKeyPem }),
    ...(serverName === undefined ? {} : { servername: serverName }),
  };
}

function defaultContentType(method: Method): string {
  return method === "PATCH" ? "application/merge-patch+json" : "application/json";
}

function queryString(query: Query | undefined): string {
  if (query === undefined) return "";
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) parameters.append(name, String(value));
  const text = parameters.toString();
  return text === "" ? "" : `?${text}`;
}

function parseBody<T>(what: string, status: number, text: string): T {
  if (text === "") return undefined as T;
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new KubeError(`${what}: the answer is not JSON`, { status, reason: "InvalidAnswer", cause });
  }
}

/** Not every refusal is a Status: proxies and panicking handlers answer with plain text. */
function refusal(what: string, status: number, retryAfter: string | string[] | undefined, text: string): KubeError {
  let body: { message?: unknown; reason?: unknown; details?: { retryAfterSeconds?: unknown } } = {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null) body = parsed;
  } catch {
    body = { message: text.slice(0, 512) };
  }
  const seconds = Number(retryAfter ?? body.details?.retryAfterSeconds ?? Number.NaN);
  const message = typeof body.message === "string" && body.message !== "" ? body.message : `HTTP ${status}`;
  return new KubeError(`${what}: ${message}`, {
    status,
    reason: typeof body.reason === "string" ? body.reason : "",
    ...(seconds >= 0 ? { retryAfterMs: seconds * 1000 } : {}),
    ...(body.details === undefined ? {} : { details: body.details }),
  });
}

/** What to throw: our own errors and the caller's abort as they are, everything else as a failure to reach the server. */
function networkError(
  what: string,
  error: unknown,
  signal: AbortSignal | undefined,
  expired: string | undefined,
): unknown {
  if (error instanceof KubeError) return error;
  if (signal?.aborted === true) return signal.reason;
  if (expired !== undefined)
    return new KubeError(`${what}: ${expired}`, { status: 0, reason: "Timeout", cause: error });
  const message = error instanceof Error ? error.message : String(error);
  return new KubeError(`${what}: ${message}`, { status: 0, reason: "Unreachable", cause: error });
}

interface Deadline {
  readonly signal: AbortSignal;
  /** Starts the time anew. */
  extend(): void;
  /** Why it fired, if it did. */
  expired(): string | undefined;
  done(): void;
}

/** One abort signal that follows the given ones and a timer of silence; cheaper than AbortSignal.any and AbortSignal.timeout. */
function createDeadline(timeoutMs: number | undefined, why: string, followed: AbortSignal[]): Deadline {
  const controller = new AbortController();
  let expired: string | undefined;
  const follow = (event: Event): void => controller.abort((event.target as AbortSignal).reason);
  for (const signal of followed) {
    if (signal.aborted) controller.abort(signal.reason);
    signal.addEventListener("abort", follow, { once: true });
  }
  const fire = (): void => {
    expired = why;
    controller.abort();
  };
  const timer = timeoutMs === undefined ? undefined : setTimeout(fire, timeoutMs);
  return {
    signal: controller.signal,
    extend: () => {
      timer?.refresh();
    },
    expired: () => expired,
    done: () => {
      clearTimeout(timer);
      for (const signal of followed) signal.removeEventListener("abort", follow);
    },
  };
}

/** Leaving a stream early makes undici report the abort as an error of the body; nobody is left to read it. */
function destroyQuietly(body: Readable | undefined): void {
  if (body === undefined || body.destroyed) return;
  body.on("error", () => {});
  body.destroy();
}
