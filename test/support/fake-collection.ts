import { type KubeClient, KubeError, type LinesOptions, type RequestOptions } from "../../src/kube/client.ts";
import type { Timing } from "../../src/kube/timing.ts";

/** What the fake stores: `data` "unreadable" is what the tests' projections refuse. */
export interface FakeObject {
  metadata: { name: string; namespace: string; uid: string; resourceVersion: string };
  data: string;
}

interface Stream {
  push(line: string): void;
  end(error?: Error): void;
  /** Silence from now on: a half-open connection. */
  hang(): void;
}

const pageSize = 3;
const pageMs = 10;

/**
 * One collection of an API server in memory, with the faults a real one and its network have. A KubeClient that
 * knows GET of the collection in pages, and watch, with or without streamed lists.
 */
export function createFakeCollection(timing: Timing, options: { watchList: boolean }) {
  const objects = new Map<string, FakeObject>(); // name -> object
  const snapshots = new Map<string, { version: number; rest: FakeObject[] }>(); // continue token -> rest of that list
  const streams = new Set<Stream>();
  const held = new Set<Stream>(); // streamed lists whose end is still to come
  let history: { version: number; line: string }[] = [];
  let version = 10;
  let oldestVersion = 0; // a watch from before it is answered 410
  let uids = 0;
  let refusals: KubeError[] = [];
  let breakListAfter: number | undefined;
  let holdNextList = false;
  const requests = { list: 0, page: 0, watch: 0, streamedList: 0 };

  function emit(line: string): void {
    history.push({ version, line });
    for (const stream of streams) stream.push(line);
  }

  function store(name: string, data: string): void {
    version += 1;
    const known = objects.get(name)?.metadata.uid;
    if (known === undefined) uids += 1;
    const metadata = { name, namespace: "ns", uid: known ?? `uid-${uids}`, resourceVersion: `${version}` };
    const object = { metadata, data };
    objects.set(name, object);
    emit(JSON.stringify({ type: known === undefined ? "ADDED" : "MODIFIED", object }));
  }

  function remove(name: string): void {
    const object = objects.get(name);
    if (object === undefined) return;
    version += 1;
    objects.delete(name);
    const last = { ...object, metadata: { ...object.metadata, resourceVersion: `${version}` } };
    emit(JSON.stringify({ type: "DELETED", object: last }));
  }

  function bookmarkLine(endOfList: boolean): string {
    const annotations = endOfList ? { "k8s.io/initial-events-end": "true" } : {};
    return JSON.stringify({ type: "BOOKMARK", object: { metadata: { resourceVersion: `${version}`, annotations } } });
  }

  async function list(query: RequestOptions["query"] = {}): Promise<unknown> {
    const refusal = refusals.shift();
    if (refusal !== undefined) throw refusal;
    const token = query["continue"];
    requests[token === undefined ? "list" : "page"] += 1;
    const found = token === undefined ? { version, rest: [...objects.values()] } : snapshots.get(String(token));
    if (found === undefined || found.version < oldestVersion) throw gone();
    const rest = found.rest.slice(pageSize);
    const next = rest.length === 0 ? "" : `token-${snapshots.size}`;
    if (next !== "") snapshots.set(next, { version: found.version, rest });
    await timing.sleep(pageMs, new AbortController().signal);
    return { metadata: { resourceVersion: `${found.version}`, continue: next }, items: found.rest.slice(0, pageSize) };
  }

  async function* lines(
    _path: string,
    { query = {}, signal, idleTimeoutMs = Infinity }: LinesOptions,
  ): AsyncGenerator<string> {
    const refusal = refusals.shift();
    if (refusal !== undefined) throw refusal;
    const streaming = query["sendInitialEvents"] === true;
    if (streaming && !options.watchList) {
      throw new KubeError("sendInitialEvents is forbidden", { status: 422, reason: "Invalid" });
    }
    requests[streaming ? "streamedList" : "watch"] += 1;
    const since = Number(query["resourceVersion"]);
    if (!streaming && since < oldestVersion) throw gone();
    const stream = createStream(timing, idleTimeoutMs, signal);
    if (streaming) startList(stream);
    else {
      for (const event of history) if (event.version > since) stream.push(event.line);
      streams.add(stream);
    }
    try {
      yield* stream.read();
    } finally {
      streams.delete(stream);
      held.delete(stream);
    }
  }

  function startList(stream: Stream): void {
    const all = [...objects.values()].map((object) => JSON.stringify({ type: "ADDED", object }));
    for (const line of all.slice(0, breakListAfter)) stream.push(line);
    if (breakListAfter !== undefined) stream.end(unreachable());
    else {
      streams.add(stream);
      if (holdNextList) held.add(stream);
      else stream.push(bookmarkLine(true));
    }
    breakListAfter = undefined;
    holdNextList = false;
  }

  function bookmark(): void {
    for (const stream of streams) stream.push(bookmarkLine(held.delete(stream)));
  }

  const client: KubeClient = {
    request: <T>(_method: string, _path: string, requestOptions: RequestOptions = {}) =>
      list(requestOptions.query) as Promise<T>,
    lines,
    close: async () => {},
  };

  return {
    client,
    objects: objects as ReadonlyMap<string, FakeObject>,
    requests,
    store,
    remove,
    bookmark,
    /** History up to now is compacted; open streams go on. */
    compact: () => {
      history = [];
      oldestVersion = version;
    },
    /** A line to all open streams. */
    send: (line: string) => {
      for (const stream of streams) stream.push(line);
    },
    /** A line that every watch from before it will meet again. */
    poison: (line: string) => {
      version += 1;
      emit(line);
    },
    /** The event `back` before the last one, once more. */
    repeat: (back: number) => {
      const event = history.at(-1 - back);
      if (event !== undefined) for (const stream of streams) if (!held.has(stream)) stream.push(event.line);
    },
    sendGone: () => {
      const line = JSON.stringify({
        type: "ERROR",
        object: { kind: "Status", code: 410, reason: "Expired", message: "too old" },
      });
      for (const stream of streams) stream.push(line);
    },
    dropStreams: () => {
      for (const stream of [...streams]) stream.end(unreachable());
    },
    closeStreams: () => {
      for (const stream of [...streams]) stream.end();
    },
    hangStreams: () => {
      for (const stream of [...streams]) stream.hang();
    },
    /** The next streamed list ends with the next bookmark only; events come before. */
    holdNextStreamedList: () => {
      holdNextList = true;
    },
    breakNextStreamedListAfter: (count: number) => {
      breakListAfter = count;
    },
    refuseNext: (error: KubeError) => {
      refusals.push(error);
    },
    heal: () => {
      refusals = [];
      breakListAfter = undefined;
      holdNextList = false;
      if (held.size > 0) bookmark();
    },
    openStreams: () => streams.size,
  };
}

function createStream(timing: Timing, idleTimeoutMs: number, signal: AbortSignal) {
  const waiting: string[] = [];
  let ended: { error: Error | undefined } | undefined;
  let hung = false;
  let wake = new AbortController(); // aborted when there is something to read
  signal.addEventListener("abort", () => wake.abort(), { once: true });

  async function* read(): AsyncGenerator<string> {
    for (;;) {
      if (signal.aborted) throw signal.reason;
      const line = waiting.shift();
      if (line !== undefined) {
        yield line;
      } else if (ended !== undefined) {
        if (ended.error !== undefined) throw ended.error;
        return;
      } else {
        wake = new AbortController();
        if (signal.aborted) throw signal.reason;
        await timing.sleep(idleTimeoutMs, wake.signal);
        if (!wake.signal.aborted) throw new KubeError("silent", { status: 0, reason: "Timeout" });
      }
    }
  }

  return {
    read,
    push: (line: string) => {
      if (hung || ended !== undefined) return;
      waiting.push(line);
      wake.abort();
    },
    end: (error?: Error) => {
      if (hung) return;
      ended = { error };
      wake.abort();
    },
    hang: () => {
      hung = true;
    },
  };
}

function unreachable(): KubeError {
  return new KubeError("connection reset", { status: 0, reason: "Unreachable" });
}

function gone(): KubeError {
  return new KubeError("too old resource version", { status: 410, reason: "Expired" });
}
