import { isNotFound, type KubeClient, KubeError } from "./client.ts";
import { systemTiming, type Timing } from "./timing.ts";
import { type Change, createWatchCache, type InvalidObject, isGone, type Step } from "./watch-cache.ts";

export type { Change, InvalidObject } from "./watch-cache.ts";

export interface ReflectorOptions<R, T> {
  client: KubeClient;
  /**
   * Path of the collection, from `resourcePath`; or, for a kind that not every server has, how to find it. Without one
   * (undefined) the collection is empty, until the server has it: that is looked up once a minute.
   */
  path: string | ((signal: AbortSignal) => Promise<string | undefined>);
  query?: { labelSelector?: string; fieldSelector?: string };
  /**
   * Raw object → the small record that is kept. Throws when the object cannot be read: it is then skipped, counted and
   * reported once. `apiVersion` and `kind` may be absent: lists leave them out of their items.
   */
  project: (raw: R) => T;
  /** Called synchronously, after `items` shows the change. If it throws, that is a defect: the reflector stops for good. */
  onChange: (change: Change<T>) => void;
  onInvalid?: (object: InvalidObject) => void;
  /**
   * `fatal` false: lost connection or refusal, being retried. True: a callback threw and the reflector has stopped.
   * Without it a fatal error is thrown where nobody catches it, so that the process ends.
   */
  onError?: (error: Error, fatal: boolean) => void;
  /** For messages. */
  name: string;
  /**
   * Longest pause between two tries, unless the server asks for a longer one; default 30,000, for what runs on every
   * node. A process of which there are a few may ask more often, and is back sooner.
   */
  longestPauseMs?: number;
  timing?: Timing;
}

/**
 * `longestPauseMs` of processes that a cluster has one or a few of: after any outage they are back within five seconds,
 * which is this pause and a list.
 */
export const promptPauseMs = 3_000;

/** Counters since `start`, but `invalid`: the objects that cannot be read now. */
interface ReflectorStats {
  lists: number;
  watches: number;
  events: number;
  bookmarks: number;
  invalid: number;
  malformedLines: number;
  /** 410 Gone, as status or inside a stream. */
  gone: number;
  errors: number;
}

export interface Reflector<T> {
  /** Live view; replaced content is never seen half-way. */
  readonly items: ReadonlyMap<string, T>;
  /** Version up to which `items` is known to be true; undefined while a list is needed. */
  readonly resourceVersion: string | undefined;
  /** True once the first list is complete, until a fatal error or `stop`. */
  readonly synced: boolean;
  /** Rejects when the reflector fails or stops first, or with the signal's reason. */
  waitForSync(signal?: AbortSignal): Promise<void>;
  /** Milliseconds since the server was last heard (event, bookmark or list); a quiet healthy watch stays below about 70,000. Infinity before the first. */
  staleMs(): number;
  start(): void;
  /**
   * Lists anew at once. Resolves when `items` shows a list that began after this call: what a watch has told may be
   * minutes old when its connection is dead and nobody noticed yet. Rejects when the reflector fails or stops first.
   */
  refresh(): Promise<void>;
  /** Ends the watch; no callback runs after it resolves. */
  stop(): Promise<void>;
  stats(): ReflectorStats;
}

const pageSize = 500;
/** The API server sends a bookmark about every minute, so this long a silence means the connection is dead. */
const idleTimeoutMs = 150_000;
const watchSeconds = { least: 300, most: 600 };
const firstPauseMs = 800;
/** client-go's rule: a watch that ends sooner, without a word, was refused rather than closed. */
const shortWatchMs = 1_000;
/** Time between two looks for a kind that the server does not have. */
const absentMs = 60_000;
/** Heard this long after its start, a watch was a success: back-off begins anew. */
const healthyWatchMs = 5_000;

/** How one attempt to list and watch ended, and what the next one may rely on. */
type Ending = { kind: "closed" } | { kind: "gone"; error: Error } | { kind: "failed"; error: Error };

/** A callback threw: not the network's fault, so never retried. */
class CallbackError extends Error {}

/**
 * Keeps `items` equal to a collection of the API server: one list, then watches that resume where the last one ended,
 * through lost connections, compaction (410) and half-open sockets. The list is streamed (watch-list) where the server
 * can, so that only one raw object is in memory at a time; else it comes in pages of 500.
 */
export function createReflector<R, T>(options: ReflectorOptions<R, T>): Reflector<T> {
  const { client, onChange, name, longestPauseMs = 30_000, timing = systemTiming } = options;
  const cache = createWatchCache(options.project);
  const stats: ReflectorStats = {
    lists: 0,
    watches: 0,
    events: 0,
    bookmarks: 0,
    invalid: 0,
    malformedLines: 0,
    gone: 0,
    errors: 0,
  };
  const stopping = new AbortController();
  const sync = createSyncPromise();
  let round = new AbortController(); // one attempt and the pause after it
  const refreshing: PromiseWithResolvers<void>[] = [];
  let running: Promise<void> | undefined;
  let synced = false;
  let streamedLists = true;
  let pagesNext = false; // of one list
  let heardAtMs = Number.NEGATIVE_INFINITY;
  let progressed = false; // since the last malformed line
  let path = typeof options.path === "string" ? options.path : "";

  function deliver(changes: Change<T>[], invalid: InvalidObject[]): void {
    // No callback after `stop`, and none after one of them failed.
    if (stopping.signal.aborted) return;
    try {
      for (const object of invalid) options.onInvalid?.(object);
      for (const change of changes) onChange(change);
    } catch (cause) {
      throw new CallbackError(`reflector ${name}: a callback threw: ${messageOf(cause)}`, { cause });
    }
  }

  function completed(changes: Change<T>[], invalid: InvalidObject[]): void {
    stats.lists += 1;
    heardAtMs = timing.nowMs();
    deliver(changes, invalid);
    synced = true;
    sync.resolve();
    for (const waiting of refreshing.splice(0)) waiting.resolve();
  }

  async function listPages(signal: AbortSignal): Promise<void> {
    cache.beginList();
    let version: string | undefined;
    let token: string | undefined;
    const invalid: InvalidObject[] = [];
    do {
      const query = { ...options.query, limit: pageSize, continue: token };
      const page = await client.request<ListPage>("GET", path, { query, signal });
      signal.throwIfAborted();
      if (typeof page?.metadata?.resourceVersion !== "string" || !Array.isArray(page.items)) {
        throw new Error(`GET ${path}: the answer is not a list with metadata.resourceVersion and items`);
      }
      for (const raw of page.items) invalid.push(...cache.listed(raw));
      version = page.metadata.resourceVersion;
      token = page.metadata.continue || undefined;
    } while (token !== undefined);
    completed(cache.completeList(version), invalid);
  }

  /** @returns whether the server has the collection; if not, after it was empty for some time */
  async function find(signal: AbortSignal): Promise<boolean> {
    if (typeof options.path === "string") return true;
    const found = await options.path(signal);
    signal.throwIfAborted();
    if (found !== undefined) {
      path = found;
      return true;
    }
    cache.beginList();
    completed(cache.completeList(""), []);
    cache.forget();
    await timing.sleep(absentMs, signal);
    return false;
  }

  function watchQuery(): Record<string, string | number | boolean> {
    const { least, most } = watchSeconds;
    const version = cache.resourceVersion();
    return {
      ...options.query,
      watch: true,
      allowWatchBookmarks: true,
      timeoutSeconds: Math.round(least + (most - least) * timing.random()),
      ...(version === undefined
        ? { sendInitialEvents: true, resourceVersionMatch: "NotOlderThan" }
        : { resourceVersion: version }),
    };
  }

  /** Ends when the server closes the stream; throws on everything else. */
  async function watch(signal: AbortSignal): Promise<Ending> {
    let listing = cache.resourceVersion() === undefined;
    const startedAtMs = timing.nowMs();
    const query = watchQuery();
    if (listing) cache.beginList();
    else stats.watches += 1;
    let heard = false;
    for await (const text of client.lines(path, { query, signal, idleTimeoutMs })) {
      // Lines that were read before it was given up belong to what is forgotten.
      signal.throwIfAborted();
      const step = cache.line(text);
      if (step.outcome === "listed") listing = false;
      const ended = handle(step);
      if (ended !== undefined) {
        // A stream is served from the server's cache alone, which may be far behind on a busy machine; pages then come from etcd.
        pagesNext = listing;
        return ended;
      }
      heard = true;
    }
    if (listing) return failed("the streamed list broke off");
    if (heard || timing.nowMs() - startedAtMs >= shortWatchMs) return { kind: "closed" };
    return failed("the watch was closed at once");
  }

  function handle(step: Step<T>): Ending | undefined {
    switch (step.outcome) {
      case "malformed":
        stats.malformedLines += 1;
        // A second one at the same place would come for ever: only a list leads past it.
        if (!progressed) cache.forget();
        progressed = false;
        return failed(step.message);
      case "gone":
        return { ...failed(step.message), kind: "gone" };
      case "refused":
        return failed(step.message);
      case "listed":
        progressed = true;
        stats.watches += 1;
        completed(step.changes, step.invalid);
        return undefined;
      default:
        progressed = true;
        heardAtMs = timing.nowMs();
        stats[step.outcome === "event" ? "events" : "bookmarks"] += 1;
        deliver(step.changes, step.invalid);
        return undefined;
    }
  }

  async function attempt(signal: AbortSignal): Promise<Ending> {
    const listing = cache.resourceVersion() === undefined;
    try {
      if (listing && !(await find(signal))) return { kind: "closed" };
      const inPages = pagesNext || !streamedLists;
      pagesNext = false;
      if (listing && inPages) await listPages(signal);
      return await watch(signal);
    } catch (thrown) {
      if (thrown instanceof CallbackError) throw thrown;
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      if (listing && streamedLists && cannotStream(error)) {
        streamedLists = false;
        return attempt(signal);
      }
      const gone = error instanceof KubeError && isGone(error);
      // A server of another version, which may have the kind elsewhere or not at all.
      const moved = typeof options.path !== "string" && isNotFound(error);
      if (gone || moved) cache.forget();
      return { kind: gone ? "gone" : "failed", error };
    }
  }

  async function run(): Promise<void> {
    let failures = 0; // in a row
    while (!stopping.signal.aborted) {
      const { signal } = round;
      const startedAtMs = timing.nowMs();
      const ending = await attempt(signal);
      if (stopping.signal.aborted) return;
      if (signal.aborted) continue;
      const livedMs = timing.nowMs() - startedAtMs;
      if (heardAtMs - startedAtMs >= healthyWatchMs) failures = 0;
      if (ending.kind === "gone") stats.gone += 1;
      if (ending.kind === "failed") stats.errors += 1;
      if (ending.kind !== "closed") options.onError?.(ending.error, false);
      // The first reconnect after an orderly end, or list after a 410, comes soon; the rest wait ever longer.
      const soon = failures === 0 && (ending.kind === "gone" || (ending.kind === "closed" && livedMs >= shortWatchMs));
      await timing.sleep(soon ? 100 * timing.random() : delayMs(failures, ending), signal);
      failures = ending.kind === "closed" ? 0 : failures + 1;
    }
  }

  function delayMs(failures: number, ending: Ending): number {
    const exponential = Math.min(longestPauseMs, firstPauseMs * 2 ** failures);
    const asked = ending.kind !== "closed" && ending.error instanceof KubeError ? (ending.error.retryAfterMs ?? 0) : 0;
    return Math.max(exponential / 2, asked) + (exponential / 2) * timing.random();
  }

  function end(reason: Error): void {
    stopping.abort(reason);
    round.abort(reason);
    synced = false;
    for (const waiting of refreshing.splice(0)) waiting.reject(reason);
  }

  return {
    items: cache.items,
    get resourceVersion() {
      return cache.resourceVersion();
    },
    get synced() {
      return synced;
    },
    waitForSync: (signal) => sync.wait(signal),
    staleMs: () => timing.nowMs() - heardAtMs,
    start: () => {
      if (running !== undefined) throw new Error(`reflector ${name} was already started`);
      running = run().catch((error: Error) => {
        end(error);
        sync.reject(error);
        if (options.onError === undefined) crash(error);
        else options.onError(error, true);
      });
    },
    refresh: () => {
      const waiting = Promise.withResolvers<void>();
      if (stopping.signal.aborted) waiting.reject(stopping.signal.reason);
      else {
        refreshing.push(waiting);
        cache.forget();
        round.abort(new Error(`reflector ${name} lists anew`));
        round = new AbortController();
      }
      return waiting.promise;
    },
    stop: async () => {
      const reason = new Error(`reflector ${name} was stopped`);
      end(reason);
      await running;
      synced = false;
      sync.reject(reason);
    },
    stats: () => ({ ...stats, invalid: cache.unreadable() }),
  };
}

interface ListPage {
  metadata?: { resourceVersion?: string; continue?: string };
  items?: unknown[];
}

function failed(message = "the watch failed"): { kind: "failed"; error: Error } {
  return { kind: "failed", error: new Error(message) };
}

/** The WatchList feature is off (refused as invalid), or the server accepts but never ends the list. */
function cannotStream(error: Error): boolean {
  return error instanceof KubeError && (error.status === 400 || error.status === 422 || error.reason === "Timeout");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function crash(error: Error): void {
  queueMicrotask(() => {
    throw error;
  });
}

interface SyncPromise {
  resolve(): void;
  reject(error: Error): void;
  wait(signal?: AbortSignal): Promise<void>;
}

/** One promise many may wait for, each with a signal of their own; nobody need wait for it. */
function createSyncPromise(): SyncPromise {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  promise.catch(() => {});
  return {
    resolve,
    reject,
    wait: (signal) => {
      if (signal === undefined) return promise;
      const aborted = Promise.withResolvers<void>();
      const onAbort = (): void => aborted.reject(signal.reason);
      if (signal.aborted) onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", onAbort));
    },
  };
}
