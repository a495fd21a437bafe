import { isUtf8 } from "node:buffer";
import fastify, { type FastifyInstance } from "fastify";
import { z } from "zod";
import type {
  ExtenderBindingResult,
  ExtenderFilterResult,
  ExtenderPreemptionResult,
  HostPriority,
} from "../api/extender.ts";
import type { PlannerMetrics } from "./metrics.ts";

/** What the server asks of the planner. A pod is known by its UID only: nothing else in a request is believed. */
export interface ExtenderBackend {
  /** Holds the call until the gang is committed or given up. @returns why not, or undefined when bound. */
  bind(request: BindRequest, signal: AbortSignal): Promise<string | undefined>;
  /** The one node that the pod may go to now, or why it has none. */
  plannedNode(podUid: string): { node: string } | { refusal: string };
  ready(): { ready: boolean; reason: string };
}

export interface BindRequest {
  podName: string;
  podNamespace: string;
  podUid: string;
  node: string;
}

export interface ServerOptions {
  /** mTLS: kube-scheduler must show a certificate of this CA. Without it the server is for loopback only. */
  tls?: { key: string; cert: string; ca: string; clientNames?: readonly string[] };
  /** Longest time that a request may take to arrive. A held bind call has arrived. */
  requestTimeoutMs?: number;
  /** Hears of faults inside; the caller is only told that there was one. */
  onError?: (error: Error) => void;
}

/** Calls at a time on one connection: more than the members of the largest gang, whose calls are all held at once. */
const maxConcurrentStreams = 4096;
const bodyLimitBytes = 8 * 1024 * 1024;
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
  const app = fastify({
    // HTTP/2 as well: Go's client keeps two idle HTTP/1.1 connections per host, so that half of a gang's calls would begin
    // with a TLS handshake, which costs both ends more than the call.
    ...(options.tls === undefined ? {} : { http2: true, https: tlsOptions(options.tls) }),
    bodyLimit: bodyLimitBytes,
    requestTimeout: options.requestTimeoutMs ?? 10_000,
    // Go's client reuses idle connections for 90 s: the client must be the one who closes.
    keepAliveTimeout: 120_000,
    forceCloseConnections: true,
    logger: false,
  } as object) as unknown as FastifyInstance;
  app.server.headersTimeout = 10_000;

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
      error: `no such path ${request.url.slice(0, 200)}; known: /filter, /prioritize, /preempt, /bind, /healthz, /readyz, /metrics`,
    });
  });

  verb(app, metrics, "filter", filterArgs, (args) => filter(backend, args.pod.metadata.uid, args.nodenames));
  verb(app, metrics, "prioritize", filterArgs, (args) => prioritize(backend, args.pod.metadata.uid, args.nodenames));
  // A veto: no victim frees a device for a gang member, and a member's place is the planner's to choose.
  verb(app, metrics, "preempt", preemptArgs, (): ExtenderPreemptionResult => ({ NodeNameToMetaVictims: {} }));
  verb(app, metrics, "bind", bindArgs, async (args, signal): Promise<ExtenderBindingResult> => {
    const request = { podName: args.podname, podNamespace: args.podnamespace, podUid: args.poduid, node: args.node };
    return { Error: (await backend.bind(request, signal)) ?? "" };
  });

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

function tlsOptions(tls: NonNullable<ServerOptions["tls"]>): object {
  return {
    key: tls.key,
    cert: tls.cert,
    ca: tls.ca,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.2",
    allowHTTP1: true,
    settings: { maxConcurrentStreams },
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
function clientNameCheck(app: FastifyInstance, options: ServerOptions): void {
  const names = options.tls?.clientNames;
  if (names === undefined) return;
  // Parsing a certificate takes longer than most requests; a connection's never changes.
  const commonNames = new WeakMap<object, string>();
  app.addHook("onRequest", async (request, reply) => {
    const socket = request.raw.socket as unknown as { getPeerCertificate?: () => { subject?: { CN?: string } } };
    const commonName = commonNames.get(socket) ?? socket.getPeerCertificate?.().subject?.CN ?? "";
    commonNames.set(socket, commonName);
    if (!names.includes(commonName)) {
      await reply.code(403).send({ error: `client certificate name ${JSON.stringify(commonName)} is not allowed` });
    }
  });
}

/** One POST verb: keys in any case (Go writes its field names, other clients lower case), validated, timed, counted. */
function verb<S extends z.ZodType>(
  app: FastifyInstance,
  metrics: PlannerMetrics,
  path: string,
  schema: S,
  handle: (args: z.output<S>, signal: AbortSignal) => unknown,
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
    const answer = await handle(parsed.data, abort.signal);
    metrics.requests.inc({ verb: path, outcome: isRefusal(answer) ? "refused" : "ok" });
    stop();
    await reply.send(answer);
  });
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

function verbOf(url: string): string {
  const path = url.split("?")[0]?.slice(1) ?? "";
  return ["filter", "prioritize", "preempt", "bind"].includes(path) ? path : "other";
}
