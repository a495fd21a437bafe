import type { Connection } from "./connection.ts";

/** Values of a query string; undefined entries are left out. */
export type Query = Record<string, string | number | boolean | undefined>;

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
  close(): Promise<void>;
}

export interface ClientOptions {
  userAgent?: string;
  maxConnections?: number;
}
export declare function createClient(connection: Connection, options?: ClientOptions): KubeClient;

/**
 * A refusal by the API server (`status` is HTTP's, `reason` and `details` come from its Status object), or a failure to
 * reach it: then `status` is 0 and whether the request took effect is unknown.
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
