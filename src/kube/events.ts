import { isNotFound, type KubeClient, KubeError } from "./client.ts";
import { createFairQueue } from "./fair-queue.ts";
import { resourcePath } from "./paths.ts";
import { microTime, systemTiming, type Timing } from "./timing.ts";

/** The object an event is about. */
interface EventReference {
  apiVersion: string;
  kind: string;
  /** Absent for cluster-scoped objects: their events live in namespace `default`. */
  namespace?: string;
  name: string;
  uid: string;
}

export interface EventInput {
  regarding: EventReference;
  related?: EventReference;
  type: "Normal" | "Warning";
  /** PascalCase, for machines: `GangPlanned`. */
  reason: string;
  /** What was done or attempted, PascalCase: `Plan`. Default: the reason. */
  action?: string;
  /** For people; cut at 1,024 bytes. */
  note: string;
}

export interface EventRecorder {
  /** Queues the event; returns at once and never throws. The same object, reason and note within 10 minutes become one series. */
  record(event: EventInput): void;
  /** Resolves when everything recorded so far is written or given up. */
  flush(): Promise<void>;
  /** Flushes (for at most `timeoutMs`, default 2,000) and stops; later events are dropped. */
  close(timeoutMs?: number): Promise<void>;
  /** API writes done, events that found the queue full, and writes given up (refused or not answered). */
  stats(): { written: number; dropped: number; failed: number };
}

export interface EventRecorderOptions {
  client: KubeClient;
  /** Becomes `reportingController`, a qualified name such as `scheduling.kllama.ai/planner`. */
  component: string;
  /** Becomes `reportingInstance`, such as the pod's name. */
  instance: string;
  timing?: Timing;
}

const maxQueued = 1_000;
const maxSeries = 4_096;
const seriesGapMs = 600_000;
/** A series is written when its count doubles, or after this long: a hot loop costs 20 writes per million repeats. */
const seriesWriteMs = 60_000;
const maxNoteBytes = 1_024;
const maxPauseMs = 30_000;
const writeTimeoutMs = 10_000;

/** What is remembered of an event, to recognise its repetition. */
interface Series {
  input: EventInput;
  count: number;
  lastAtMs: number;
  lastObserved: string;
  /** Absent until the first write succeeded. */
  name?: string;
  writtenCount: number;
  writtenAtMs: number;
  queued: boolean;
}

/**
 * Writes events of events.k8s.io/v1 in the background, one after another: they inform people, so they may neither slow
 * nor fail the work they tell about. Namespaces take turns; a full queue drops the newest of the one that has most in it; 429
 * pauses; any other refusal gives the write up.
 */
export function createEventRecorder(options: EventRecorderOptions): EventRecorder {
  const { client, timing = systemTiming } = options;
  const stats = { written: 0, dropped: 0, failed: 0 };
  const seriesByKey = new Map<string, Series>(); // what makes events alike -> series, least recently seen first
  const queue = createFairQueue<Series>(maxQueued);
  const closing = new AbortController();
  let draining: Promise<void> = Promise.resolve();
  let idle = true;

  function record(event: EventInput): void {
    if (closing.signal.aborted) {
      stats.dropped += 1;
      return;
    }
    const input = { ...event, note: cutNote(event.note) };
    const nowMs = timing.nowMs();
    const key = [input.regarding.uid, input.type, input.reason, input.note].join("\n");
    const known = seriesByKey.get(key);
    const series = known !== undefined && nowMs - known.lastAtMs < seriesGapMs ? known : newSeries(input);
    series.count += 1;
    series.lastAtMs = nowMs;
    series.lastObserved = microTime(timing);
    seriesByKey.delete(key);
    seriesByKey.set(key, series);
    if (seriesByKey.size > maxSeries) forgetOldest();
    const doubled = series.count >= 2 * series.writtenCount;
    if (!series.queued && (doubled || nowMs - series.writtenAtMs >= seriesWriteMs)) enqueue(series);
  }

  function forgetOldest(): void {
    for (const key of seriesByKey.keys()) {
      seriesByKey.delete(key);
      return;
    }
  }

  function enqueue(series: Series): void {
    series.queued = true;
    const displaced = queue.push(namespaceOf(series.input.regarding), series);
    if (displaced !== undefined) {
      displaced.queued = false;
      stats.dropped += 1;
    }
    if (!idle) return;
    idle = false;
    draining = drain();
  }

  async function drain(): Promise<void> {
    for (let series = queue.shift(); series !== undefined; series = queue.shift()) {
      series.queued = false;
      await writeOrGiveUp(series);
    }
    idle = true;
  }

  async function writeOrGiveUp(series: Series): Promise<void> {
    try {
      await write(series);
      stats.written += 1;
    } catch (error) {
      stats.failed += 1;
      const busy = error instanceof KubeError && error.status === 429;
      if (busy) await timing.sleep(Math.min(error.retryAfterMs ?? 1_000, maxPauseMs), closing.signal);
    }
  }

  /** Counts as of the moment of writing: repetitions that arrive while it is under way belong to the next write. */
  async function write(series: Series): Promise<void> {
    const { count, lastObserved } = series;
    series.writtenCount = count;
    series.writtenAtMs = timing.nowMs();
    if (series.name !== undefined) {
      const body = { series: { count, lastObservedTime: lastObserved } };
      try {
        await send("PATCH", series.name, series.input, body);
        return;
      } catch (error) {
        // The API server forgets events after an hour: begin a new one.
        if (!isNotFound(error)) throw error;
      }
    }
    const name = eventName(series.input.regarding.name, timing);
    await send("POST", name, series.input, eventBody(name, series, count));
    series.name = name;
  }

  async function send(method: "POST" | "PATCH", name: string, input: EventInput, body: unknown): Promise<void> {
    const namespace = namespaceOf(input.regarding);
    const path = resourcePath({
      group: "events.k8s.io",
      version: "v1",
      resource: "events",
      namespace,
      name: method === "POST" ? undefined : name,
    });
    await client.request(method, path, { body, timeoutMs: writeTimeoutMs, signal: closing.signal });
  }

  function eventBody(name: string, series: Series, count: number): unknown {
    const { input, lastObserved } = series;
    return {
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { name, namespace: namespaceOf(input.regarding) },
      eventTime: lastObserved,
      ...(count > 1 ? { series: { count, lastObservedTime: lastObserved } } : {}),
      reportingController: options.component,
      reportingInstance: options.instance.slice(0, 128),
      type: input.type,
      reason: input.reason,
      action: input.action ?? input.reason,
      note: input.note,
      regarding: input.regarding,
      ...(input.related === undefined ? {} : { related: input.related }),
    };
  }

  async function close(timeoutMs = 2_000): Promise<void> {
    for (const series of seriesByKey.values())
      if (series.count > series.writtenCount && !series.queued) enqueue(series);
    const done = new AbortController();
    void timing.sleep(timeoutMs, done.signal).then(() => closing.abort(new Error("event recorder closed")));
    await draining;
    done.abort();
    closing.abort(new Error("event recorder closed"));
  }

  return { record, flush: () => draining, close, stats: () => ({ ...stats }) };
}

function newSeries(input: EventInput): Series {
  return {
    input,
    count: 0,
    lastAtMs: 0,
    lastObserved: "",
    writtenCount: 0,
    writtenAtMs: Number.NEGATIVE_INFINITY,
    queued: false,
  };
}

function namespaceOf(reference: EventReference): string {
  return reference.namespace ?? "default";
}

/** As client-go names them: the object's name and a suffix nobody else picks; at most 253 characters. */
function eventName(regarding: string, timing: Timing): string {
  const half = (): string =>
    Math.floor(timing.random() * 2 ** 32)
      .toString(16)
      .padStart(8, "0");
  return `${regarding.slice(0, 253 - 17).replace(/[.-]+$/, "")}.${half()}${half()}`;
}

/** The API server counts bytes; a cut must not split a character. */
function cutNote(note: string): string {
  const bytes = Buffer.from(note, "utf8");
  if (bytes.length <= maxNoteBytes) return note;
  const ellipsis = "…";
  let end = maxNoteBytes - Buffer.byteLength(ellipsis);
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return bytes.toString("utf8", 0, end) + ellipsis;
}
