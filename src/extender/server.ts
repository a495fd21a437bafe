import { isUtf8 } from "node:buffer";
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import { z } from "zod";
import type {
  ExtenderBindingResult,
  ExtenderFilterResult,
  ExtenderPreemptionResult,
  HostPriority,
} from "../api/extender.ts";
import type { CapacityDesk } from "./capacity-desk.ts";
import {
  type ConnectionLimits,
  closeConnections,
  defaultLimits,
  guardConnections,
  http1Options,
  http2Options,
} from "./connections.ts";
import type { PlannerMetrics } from "./metrics.ts";

/** What the server asks of the planner. A pod is known by its UID only: nothing else in a request is believed. */
export interface ExtenderBackend {
  /** Holds the call until the gang is committed or given up. @returns why not, or undefined when bound. */
  bind(request: BindRequest, signal: AbortSignal): Promise<string | undefined>;
  /** The one node that the pod may go to now, or that all nodes are alike to us, or why it has none. */
  plannedNode(podUid: string): { node: string } | { anyNode: true } | { refusal: string };
  ready(): { ready: boolean; reason: string };
  /** Whether bind calls are of any use here; absent: they are. */
  leads?(): boolean;
  /** Answers `/capacity`; absent: nobody does. */
  capacity?: CapacityDesk;
}

export interface BindRequest {
  podName: string;
  podNamespace: string;
  podUid: string;
  node: string;
}

export interface ServerOptions {
  /** mTLS: kube-scheduler must show a certificate of this CA. Without it the server is for loopback only. */
  tls?: ServerTls;
  limits?: Partial<ConnectionLimits>;
  /** Hears of faults inside; the caller is only told that there was one. */
  onError?: (error: Error) => void;
}

/** PEM texts, and the common names that a client's certificate may have. */
export interface ServerTls {
  key: string;
  cert: string;
  ca: string;
  /** Who may call the verbs; absent: any client of the authority. */
  clientNames?: readonly string[];
  /** Who may read /metrics, and nothing but that and health; absent: who may call the verbs. */
  metricsNames?: readonly string[];
  /** Who may ask for /capacity, and nothing but that and health; absent: who may call the verbs. */
  capacityNames?: readonly string[];
}

const bodyLimitBytes = 8 * 1024 * 1024;
const questionLimitBytes = 256 * 1024;
/** Copies that one question may ask for. */
const maxCopies = 64;
const defaultCopies = 8;
const uid = z.string().min(1).max(128);
const maxNameLength = 253;
const name = z.string().min(1).max(maxNameLength);

const maxNodes = 200_000;

function isName(value: unknown): boolean {
  return typeof value === "string" && value.length > 0 && value.length <= maxNameLength;
}

/** One check for the whole list: an issue per wrong name would make a small request a huge answer. */
const nodeNames = z.custom<string[]>(
  (value) => Array.isArray(value) && value.length <= maxNodes && value.every(isName),
  `expected a list of at most ${maxNodes} node names`,
);

const filterArgs = z.object({ pod: z.object({ metadata: z.object({ uid }) }), nodenames: nodeNames });
const bindArgs = z.object({ podname: name, podnamespace: name, poduid: uid, node: name });
const preemptArgs = z.object({ pod: z.object({ metadata: z.object({ uid }) }) });

/** Builds the server without listening, so that tests inject requests. */
export function buildServer(
  backend: ExtenderBackend,
  metrics: PlannerMetrics,
  options: ServerOptions = {},
): FastifyInstance {
  const limits = { ...defaultLimits, ...options.limits };
  const app = fastify({
    // HTTP/2 as well: Go's client keeps two idle HTTP/1.1 connections per host, so that half of a gang's calls would begin
    // with a TLS handshake, which costs both ends more than the call.
    ...(options.tls === undefined
      ? { http: http1Options(limits) }
      : { http2: true, https: tlsOptions(options.tls, limits) }),
    bodyLimit: bodyLimitBytes,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveMs,
    connectionTimeout: limits.keepAliveMs,
    http2SessionTimeout: limits.keepAliveMs,
    logger: false,
  } as object) as unknown as FastifyInstance;
  const connections = guardConnections(app.server, limits);
  app.addHook("preClose", async () => closeConnections(connections, limits.closeGraceMs));

  readStrictJson(app);
  clientNameCheck(app, options);
  app.setErrorHandler(async (error: Error & { statusCode?: number }, request, reply) => {
    const status = error.statusCode ?? 500;
    metrics.requests.inc({ verb: verbOf(request.url), outcome: status < 500 ? "invalid" : "error" });
    if (status >= 500) options.onError?.(error);
    await reply.code(status).send({ error: status < 500 ? error.message : "internal error; see the planner's log" });
  });
  app.setNotFoundHandler(async (request, reply) => {
    await reply.code(404).send({
      error: `no such path ${request.url.slice(0, 200)}; known: /filter, /prioritize, /preempt, /bind, /capacity, /healthz, /readyz, /metrics`,
    });
  });

  verb(app, metrics, "filter", filterArgs, (args) => filter(backend, args.pod.metadata.uid, args.nodenames));
  verb(app, metrics, "prioritize", filterArgs, (args) => prioritize(backend, args.pod.metadata.uid, args.nodenames));
  // A veto: no victim frees a device for a gang member, and a member's place is the planner's to choose.
  verb(app, metrics, "preempt", preemptArgs, (): ExtenderPreemptionResult => ({ NodeNameToMetaVictims: {} }));
  verb(app, metrics, "bind", bindArgs, async (args, signal, close): Promise<ExtenderBindingResult> => {
    const request = { podName: args.podname, podNamespace: args.podnamespace, podUid: args.poduid, node: args.node };
    const error = (await backend.bind(request, signal)) ?? "";
    // Behind one address kube-scheduler would stay with this replica for ever: its next call may reach the one that plans.
    if (backend.leads?.() === false) close();
    return { Error: error };
  });

  if (backend.capacity !== undefined) questions(app, metrics, backend.capacity);

  app.get("/healthz", async () => ({ status: "ok" }));
  app.get("/readyz", async (_request, reply) => {
    const { ready, reason } = backend.ready();
    await reply.code(ready ? 200 : 503).send({ status: ready ? "ok" : "not ready", reason });
  });
  app.get("/metrics", async (_request, reply) => {
    await reply.header("content-type", metrics.registry.contentType).send(await metrics.registry.metrics());
  });
  return app;
}

function tlsOptions(tls: ServerTls, limits: ConnectionLimits): object {
  return {
    ...http1Options(limits),
    ...http2Options(),
    key: tls.key,
    cert: tls.cert,
    ca: tls.ca,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.2",
    handshakeTimeout: limits.requestTimeoutMs,
    allowHTTP1: true,
  };
}

/**
 * JSON as RFC 8259 has it: UTF-8 without a byte order mark. Fastify would repair both silently, and reads text/plain;
 * kube-scheduler sends neither, so a name could mean another object than the one that was checked.
 */
function readStrictJson(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser("error", "error");
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "buffer" }, (request, body: Buffer, done) => {
    if (!isUtf8(body)) return done(badRequest("the body is not valid UTF-8"));
    if (body[0] === 0xef && body[1] === 0xbb && body[2] === 0xbf) {
      return done(badRequest("the body begins with a byte order mark; send JSON without it"));
    }
    // Typed for strings or buffers, but takes strings only.
    void parse(request, body.toString("utf8"), done);
  });
}

function badRequest(message: string): Error {
  return Object.assign(new Error(message), { statusCode: 400 });
}

/** A certificate of the right CA is not enough where the CA signs others too: its name must be one we expect. */
function clientNameCheck(app: FastifyInstance, { tls }: ServerOptions): void {
  const { clientNames, metricsNames, capacityNames } = tls ?? {};
  if (tls === undefined || (clientNames ?? metricsNames ?? capacityNames) === undefined) return;
  // Parsing a certificate takes longer than most requests; a connection's never changes.
  const commonNames = new WeakMap<object, string>();
  app.addHook("onRequest", async (request, reply) => {
    const connection = connectionOf(request.raw);
    const commonName = commonNames.get(connection) ?? commonNameOf(request.raw);
    commonNames.set(connection, commonName);
    if (!isAllowed(tls, pathOf(request.url), commonName)) {
      await reply.code(403).send({ error: `client certificate name ${JSON.stringify(commonName)} is not allowed` });
    }
  });
}

/** Health is told to every client of the authority. */
function isAllowed({ clientNames, metricsNames, capacityNames }: ServerTls, path: string, commonName: string): boolean {
  if (path === "healthz" || path === "readyz") return true;
  const apart: Record<string, readonly string[] | undefined> = { metrics: metricsNames, capacity: capacityNames };
  const names = apart[path] ?? clientNames;
  if (names !== undefined) return names.includes(commonName);
  // Whoever was let in for something else was not let in to bind pods.
  return ![metricsNames, capacityNames].some((others) => others?.includes(commonName));
}

/** HTTP/2 gives every request a socket object of its own; what requests of one connection share is the session. */
function connectionOf(raw: { socket: object; stream?: { session?: object } }): object {
  return raw.stream?.session ?? raw.socket;
}

function commonNameOf(raw: { socket: object }): string {
  const socket = raw.socket as { getPeerCertificate?: () => { subject?: { CN?: string } } };
  return socket.getPeerCertificate?.().subject?.CN ?? "";
}

/** One POST verb: keys in any case (Go writes its field names, other clients lower case), validated, timed, counted. */
function verb<S extends z.ZodType>(
  app: FastifyInstance,
  metrics: PlannerMetrics,
  path: string,
  schema: S,
  /** `close`: the connection is closed after the answer. */
  handle: (args: z.output<S>, signal: AbortSignal, close: () => void) => unknown,
): void {
  app.post(`/${path}`, async (request, reply) => {
    const stop = metrics.requestSeconds.startTimer({ verb: path });
    const parsed = schema.safeParse(lowerKeys(request.body, 3));
    if (!parsed.success) {
      metrics.requests.inc({ verb: path, outcome: "invalid" });
      await reply.code(400).send({ error: `invalid ${path} request: ${z.prettifyError(parsed.error)}` });
      return;
    }
    const abort = new AbortController();
    reply.raw.once("close", () => abort.abort("closed"));
    const answer = await handle(parsed.data, abort.signal, () => closeAfter(request, reply));
    metrics.requests.inc({ verb: path, outcome: isRefusal(answer) ? "refused" : "ok" });
    stop();
    await reply.send(answer);
  });
}

/** What else is under way on the connection is finished. */
function closeAfter(request: FastifyRequest, reply: FastifyReply): void {
  const { stream } = request.raw as { stream?: { session?: { close(): void } } };
  if (stream?.session === undefined) void reply.header("connection", "close");
  else stream.session.close();
}

/** GET: what is free; POST: also how often something fits. Nothing is changed. */
function questions(app: FastifyInstance, metrics: PlannerMetrics, desk: CapacityDesk): void {
  const answer = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const stop = metrics.requestSeconds.startTimer({ verb: "capacity" });
    const copies = copiesOf(request.query as { limit?: unknown });
    if (request.method === "POST" && (request.body ?? undefined) === undefined) throw badRequest("the body is empty");
    const body = request.method === "POST" ? request.body : undefined;
    const { status, body: answered, retryAfterSeconds } = await desk.answer(body, copies);
    metrics.requests.inc({ verb: "capacity", outcome: outcomes[status] });
    stop();
    if (retryAfterSeconds !== undefined) reply.header("retry-after", retryAfterSeconds);
    await reply.code(status).send(answered);
  };
  app.get("/capacity", answer);
  app.post("/capacity", { bodyLimit: questionLimitBytes }, answer);
}

const outcomes = { 200: "ok", 400: "invalid", 429: "refused", 503: "refused" } as const;

function copiesOf({ limit }: { limit?: unknown }): number {
  if (limit === undefined) return defaultCopies;
  const copies = typeof limit === "string" && /^\d{1,3}$/.test(limit) ? Number(limit) : 0;
  if (copies >= 1 && copies <= maxCopies) return copies;
  throw badRequest(`limit is not a whole number from 1 to ${maxCopies}`);
}

function isRefusal(answer: unknown): boolean {
  return typeof answer === "object" && answer !== null && "Error" in answer && answer.Error !== "";
}

/** Lower-cases keys of plain objects down to `depth`; lists are left as they are. */
function lowerKeys(value: unknown, depth: number): unknown {
  if (depth === 0 || typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key.toLowerCase(), lowerKeys(inner, depth - 1)]),
  );
}

function filter(backend: ExtenderBackend, podUid: string, nodeNames: readonly string[]): ExtenderFilterResult {
  const answer = backend.plannedNode(podUid);
  if ("anyNode" in answer) {
    return { NodeNames: [...nodeNames], FailedNodes: {}, FailedAndUnresolvableNodes: {}, Error: "" };
  }
  const planned = "node" in answer ? answer.node : undefined;
  const refusal = "refusal" in answer ? answer.refusal : "the gang's plan places this pod on another node";
  const failed: Record<string, string> = {};
  for (const node of nodeNames) if (node !== planned) failed[node] = refusal;
  const found = planned !== undefined && nodeNames.includes(planned);
  return { NodeNames: found ? [planned] : [], FailedNodes: {}, FailedAndUnresolvableNodes: failed, Error: "" };
}

function prioritize(backend: ExtenderBackend, podUid: string, nodeNames: readonly string[]): HostPriority[] {
  const answer = backend.plannedNode(podUid);
  return nodeNames.map((Host) => ({ Host, Score: "node" in answer && answer.node === Host ? 10 : 0 }));
}

function pathOf(url: string): string {
  return url.split("?")[0]?.slice(1) ?? "";
}

function verbOf(url: string): string {
  const path = pathOf(url);
  return ["filter", "prioritize", "preempt", "bind", "capacity"].includes(path) ? path : "other";
}
