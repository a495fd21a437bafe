import { type KubeClient, KubeError, type LinesOptions, type RequestOptions } from "../../src/kube/client.ts";
import { parsePath } from "../support/api-double/resources.ts";
import type { ApiServer } from "../support/api-double/server.ts";
import { openWatch, type WatchCursor } from "../support/api-double/watch.ts";
import type { Clock } from "./clock.ts";
import type { Process } from "./process.ts";
import type { Random } from "./random.ts";

/** What goes wrong between processes and the API server; changed while the world runs. */
export interface Weather {
  /** Nobody reaches the API server. */
  outage: boolean;
  /** Probability that a request meets a fault: lost on the way, answer lost, hung, refused. */
  faults: number;
  /** Probability that a request or a batch of watch events is slow, and how slow at most. */
  slowness: number;
  slowestMs: number;
}

export const fairWeather: Weather = { outage: false, faults: 0, slowness: 0, slowestMs: 0 };

type Send = {
  method: string;
  path: string;
  query?: RequestOptions["query"];
  body?: unknown;
  contentType?: string | undefined;
};
/** A request with who sends it. */
type Sent = Send & { user: string; pod?: string | undefined };

export interface Network {
  weather: Weather;
  /** Probability that a single event never comes to a planner that watches, without anybody's notice. */
  losses: number;
  /** Called when a request is about to leave its process: it is still in there if the process is paused now. */
  onLeaving: (process: Process, request: { method: string; path: string; body?: unknown }) => void;
  /** Called when a process has decided on a request, before it leaves. */
  onSent: (request: { path: string; body?: unknown }) => void;
  /** For how many milliseconds a request is on its way after its connection broke; 0: it arrives as usual. */
  lateMs: (request: { method: string; path: string; body?: unknown }) => number;
  /** Called when a request has come to the API server and is about to be handled: somebody else may be faster. */
  onArrival: (request: { method: string; path: string; body?: unknown }) => void;
  /** One request, for models that need no promises. `done` runs in the process. */
  send(process: Process, user: string, request: Send, done: (error: unknown, answer?: unknown) => void): void;
  /** @param pod UID of the pod that the process runs in */
  client(process: Process, user: string, pod?: string): KubeClient;
  /** Ends some open watches: orderly, by reset, or (worst) by silence. */
  disturbWatches(how: "close" | "reset" | "silence", probability: number): void;
}

/** Kinds of which the planner's auditor finds what a watch did not tell. */
const audited: ReadonlySet<string> = new Set(["pods", "resourceclaims", "gangs"]);
const usualMs = { least: 0.3, most: 4 };
const bookmarkMs = 60_000;

export function createNetwork(api: ApiServer, clock: Clock, random: Random): Network {
  const network: Network = {
    weather: fairWeather,
    losses: 0,
    onSent: () => undefined,
    onLeaving: () => undefined,
    onArrival: () => undefined,
    lateMs: () => (random.chance(network.weather.faults / 10) ? random.between(0, latestMs) : 0),
    send,
    client,
    disturbWatches,
  };
  const streams = new Set<Stream>();
  api.store.onCommit(({ resource }) => {
    for (const stream of streams) if (stream.resource === resource) stream.wake();
  });

  function delayMs(): number {
    const { slowness, slowestMs } = network.weather;
    const usual = random.between(usualMs.least, usualMs.most);
    return slowness > 0 && random.chance(slowness) ? usual + random.between(0, slowestMs) : usual;
  }

  function send(process: Process, user: string, request: Send, done: (error: unknown, answer?: unknown) => void): void {
    carry(process, { ...request, user, body: onWire(request.body) }, 30_000, () => false, done);
  }

  /** @param givenUp whether the caller has hung up: what has not arrived by then may still arrive, or not */
  function carry(
    process: Process,
    request: Sent,
    timeoutMs: number,
    givenUp: () => boolean,
    done: (error: unknown, answer?: unknown) => void,
  ): void {
    const fate = random.chance(network.weather.faults) ? random.pick(fates) : "good";
    const answer = (error: unknown, value?: unknown): void => {
      if (fate === "hung" || lateMs > 0) return;
      process.after(delayMs(), () => (fate === "answer lost" ? done(unreachable()) : done(error, value)));
    };
    network.onSent(request);
    if (fate === "hung") process.after(timeoutMs, () => done(timedOut(timeoutMs)));
    const lateMs = network.lateMs(request);
    if (lateMs > 0) process.after(delayMs(), () => done(unreachable()));
    clock.after(delayMs() + lateMs, () => {
      network.onLeaving(process, request);
      if (process.paused) process.deliver(() => clock.after(delayMs(), arrive));
      else arrive();
    });

    function arrive(): void {
      if ((!process.alive || givenUp()) && random.chance(0.5)) return;
      if (network.weather.outage || fate === "lost") answer(unreachable());
      else if (fate === "refused") answer(random.pick(refusals)());
      else if (fate !== "hung" || random.chance(0.5)) handle();
    }

    function handle(): void {
      network.onArrival(request);
      try {
        answer(undefined, api.handle(request));
      } catch (error) {
        if (!(error instanceof KubeError)) throw error;
        answer(error);
      }
    }
  }

  function client(process: Process, user: string, pod?: string): KubeClient {
    return {
      request: <T>(method: string, path: string, options: RequestOptions = {}) =>
        new Promise<T>((resolve, reject) => {
          const { signal, timeoutMs = 30_000, query, body, contentType } = options;
          if (signal?.aborted === true) return reject(signal.reason);
          let over = false;
          const abort = (): void => {
            over = true;
            reject(signal?.reason);
          };
          signal?.addEventListener("abort", abort, { once: true });
          carry(
            process,
            { user, pod, method, path, query, body: onWire(body), contentType },
            timeoutMs,
            () => over,
            (error, answer) => {
              over = true;
              signal?.removeEventListener("abort", abort);
              if (error === undefined) resolve(answer as T);
              else reject(error);
            },
          );
        }),
      lines: (path, options) => lines(process, path, options),
      close: () => Promise.resolve(),
    };
  }

  async function* lines(process: Process, path: string, options: LinesOptions): AsyncGenerator<string> {
    const stream = await openStream(process, path, options);
    try {
      for (;;) {
        const batch = await stream.read();
        if (batch === undefined) return;
        yield* batch;
      }
    } finally {
      stream.close();
    }
  }

  function openStream(process: Process, path: string, { query = {}, signal, idleTimeoutMs }: LinesOptions) {
    return new Promise<Stream>((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const refusal = random.chance(network.weather.faults) ? random.pick(refusals)() : undefined;
      clock.after(delayMs(), () => {
        const fail = (error: unknown): void => process.after(delayMs(), () => reject(error));
        if (!process.alive) return;
        if (network.weather.outage) return fail(unreachable());
        if (refusal !== undefined) return fail(refusal);
        const target = parsePath(path);
        if (target === undefined) return fail(new KubeError(`${path} not found`, { status: 404, reason: "NotFound" }));
        try {
          const cursor = openWatch(api.store, target, query);
          const { resource } = target.type;
          // Components of Kubernetes are believed to hear everything: they have nobody who looks for what was lost.
          const looksForLost = process.name.startsWith("planner") && audited.has(resource);
          const losses = (): number => (looksForLost ? network.losses : 0);
          const lists = query["sendInitialEvents"] === true;
          const stream = createStream(process, clock, random, delayMs, losses, lists, cursor, resource, idleTimeoutMs);
          streams.add(stream);
          stream.onClose(() => streams.delete(stream));
          signal.addEventListener("abort", () => stream.fail(signal.reason), { once: true });
          clock.after(1_000 * Number(query["timeoutSeconds"] ?? 600), () => stream.end());
          process.deliver(() => resolve(stream));
          stream.wake();
        } catch (error) {
          fail(error);
        }
      });
    });
  }

  function disturbWatches(how: "close" | "reset" | "silence", probability: number): void {
    for (const stream of [...streams]) {
      if (!random.chance(probability)) continue;
      if (how === "close") stream.end();
      else if (how === "reset") stream.fail(unreachable());
      else stream.silence();
    }
  }

  return network;
}

/** A copy as JSON would make it, sooner: nothing of the sender's memory is shared, and what is undefined is absent. */
function onWire(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((each) => onWire(each) ?? null);
  if ("toJSON" in value) return JSON.parse(JSON.stringify(value));
  const copy = { ...value } as Record<string, unknown>;
  for (const key in copy) {
    const each = copy[key];
    if (typeof each === "object" && each !== null) copy[key] = onWire(each);
    else if (each === undefined) delete copy[key];
  }
  return copy;
}

const fates = ["lost", "answer lost", "answer lost", "hung", "refused"] as const;
/** The connection breaks, and the request, which waits in some buffer, is handled all the same. */
const latestMs = 8_000;

const refusals: readonly (() => KubeError)[] = [
  () => new KubeError("too many requests", { status: 429, reason: "TooManyRequests", retryAfterMs: 1_000 }),
  () => new KubeError("etcdserver: leader changed", { status: 500, reason: "InternalError" }),
  () => new KubeError("the server is currently unable", { status: 503, reason: "ServiceUnavailable" }),
];

function unreachable(): KubeError {
  return new KubeError("connection reset", { status: 0, reason: "Unreachable" });
}

function timedOut(ms: number): KubeError {
  return new KubeError(`no answer within ${ms} ms`, { status: 0, reason: "Timeout" });
}

interface Stream {
  readonly resource: string;
  /** Lines that came since the last call; waits for some; undefined at the end. */
  read(): Promise<string[] | undefined>;
  /** Something happened that the cursor will tell. */
  wake(): void;
  end(): void;
  fail(error: unknown): void;
  /** Nothing comes through any more, and nobody is told. */
  silence(): void;
  close(): void;
  onClose(done: () => void): void;
}

/** One connection that carries a watch, with delays of its own. */
function createStream(
  process: Process,
  clock: Clock,
  random: Random,
  delayMs: () => number,
  losses: () => number,
  lists: boolean,
  cursor: WatchCursor,
  resource: string,
  idleTimeoutMs: number | undefined,
): Stream {
  const waiting: string[] = [];
  const closers: (() => void)[] = [];
  let last: string | undefined;
  let ended: { error?: unknown } | undefined;
  let silent = false;
  let closed = false;
  let pumping = false;
  /** A list is whole, also one that a watch begins with: a new leader rests on it. */
  let listing = lists;
  let heardAtMs = clock.nowMs;
  let reader: (() => void) | undefined;

  function hear(lines: readonly string[]): void {
    process.deliver(() => {
      heardAtMs = clock.nowMs;
      waiting.push(...lines);
      reader?.();
    });
  }

  function wake(): void {
    if (pumping || closed || silent || ended !== undefined) return;
    pumping = true;
    clock.after(delayMs(), () => {
      pumping = false;
      if (closed || silent || ended !== undefined || !cursor.pending()) return;
      const told = cursor.next();
      const lost = losses();
      const lines = told.filter((line) => {
        if (line.includes("initial-events-end")) listing = false;
        return lost === 0 || line.includes('"BOOKMARK"') || !random.chance(lost) || listing;
      });
      // An event seen twice, as after a reconnection.
      if (last !== undefined && random.chance(0.02)) lines.unshift(last);
      last = lines.at(-1);
      if (lines.length > 0) hear(lines);
    });
  }

  function keepAlive(): void {
    clock.after(bookmarkMs, () => {
      if (closed || ended !== undefined) return;
      if (!silent && !cursor.pending()) hear([cursor.bookmark()]);
      keepAlive();
    });
  }

  function watchSilence(limitMs: number): void {
    // The same sum decides and waits: one that rounds otherwise would wait for no time, for ever.
    const restMs = (): number => heardAtMs + limitMs - clock.nowMs;
    clock.after(restMs(), () => {
      if (closed || ended !== undefined) return;
      if (restMs() > 0) watchSilence(limitMs);
      else finish({ error: new KubeError(`silent for ${limitMs} ms`, { status: 0, reason: "Timeout" }) });
    });
  }

  function finish(how: { error?: unknown }): void {
    if (closed || ended !== undefined) return;
    ended = how;
    process.deliver(() => reader?.());
  }

  function close(): void {
    closed = true;
    for (const closer of closers.splice(0)) closer();
  }

  keepAlive();
  if (idleTimeoutMs !== undefined) watchSilence(idleTimeoutMs);
  process.onKill(close);
  return {
    resource,
    async read() {
      while (waiting.length === 0) {
        if (ended !== undefined) {
          if ("error" in ended) throw ended.error;
          return undefined;
        }
        await new Promise<void>((resolve) => {
          reader = resolve;
        });
      }
      return waiting.splice(0);
    },
    wake,
    end: () => {
      if (!silent) finish({});
    },
    fail: (error) => finish({ error }),
    silence: () => {
      silent = true;
    },
    close,
    onClose: (done) => {
      closers.push(done);
    },
  };
}
