/**
 * The pure half of the reflector: what a list and a stream of watch lines say about a collection, and how that differs
 * from what was known. No clock, no network.
 */

/**
 * One difference between what was known and what is; an object whose record is the very same value is no difference. `key` is `namespace/name`, or `name` for cluster-scoped objects.
 * An object deleted and created again is `deleted` (old uid) then `added`, never `updated`.
 * `replaced` follows the differences of every complete list; the first one means synced.
 */
export type Change<T> =
  | { type: "added"; key: string; uid: string; value: T }
  | { type: "updated"; key: string; uid: string; value: T; previous: T }
  | { type: "deleted"; key: string; uid: string; previous: T }
  | { type: "replaced"; resourceVersion: string };

/** An object that `project` could not read. It keeps its last readable record, if it had one. */
export interface InvalidObject {
  key: string;
  uid: string;
  error: unknown;
}

/** What one line of a watch meant. `changes` and `invalid` may be present with every outcome but `malformed`. */
export interface Step<T> {
  outcome: "event" | "bookmark" | "listed" | "gone" | "refused" | "malformed";
  changes: Change<T>[];
  invalid: InvalidObject[];
  /** Of `gone`, `refused` and `malformed`. */
  message?: string;
}

interface Entry<T> {
  uid: string;
  resourceVersion: string;
  value: T;
}

/** The raw fields of every object that the cache itself reads. */
interface RawObject {
  metadata: {
    name: string;
    namespace?: string;
    uid: string;
    resourceVersion: string;
    annotations?: Record<string, string>;
  };
}

export interface WatchCache<T> {
  readonly items: ReadonlyMap<string, T>;
  /** Where a watch may resume; undefined: only a list helps. */
  resourceVersion(): string | undefined;
  /** How many objects cannot be read now. */
  unreadable(): number;
  /** A list begins (again); what an unfinished one had gathered is dropped. `items` stay as they are. */
  beginList(): void;
  /** One object of a listed page. */
  listed(raw: unknown): InvalidObject[];
  /** All pages are in: makes `items` equal to them in one step, deletions first. */
  completeList(resourceVersion: string): Change<T>[];
  /** One line of a watch stream; while a list is open, its events gather into the list. */
  line(text: string): Step<T>;
  /** The server no longer knows our version: only a list helps. */
  forget(): void;
}

/** An empty cache. `project` may throw, then the object is skipped and reported once. */
export function createWatchCache<R, T>(project: (raw: R) => T): WatchCache<T> {
  const items = new Map<string, T>(); // key -> projected record
  const versions = new Map<string, { uid: string; resourceVersion: string }>(); // key -> what the record was made from
  const reported = new Map<string, { uid: string; list: number }>(); // key -> unreadable object, and the list it was last seen in
  let list = 0;
  let resourceVersion: string | undefined;
  let pending: Map<string, Entry<T>> | undefined; // key -> entry of the list being read
  let unreadable: InvalidObject[] = [];

  function entryOf(raw: RawObject): Entry<T> | undefined {
    const key = keyOf(raw);
    const { uid, resourceVersion: version } = raw.metadata;
    const known = pending?.get(key) ?? knownEntry(key);
    if (known?.uid === uid && known.resourceVersion === version) return known;
    try {
      const value = project(raw as R);
      reported.delete(key);
      return { uid, resourceVersion: version, value };
    } catch (error) {
      if (reported.get(key)?.uid !== uid) unreadable.push({ key, uid, error });
      reported.set(key, { uid, list });
      return known?.uid === uid ? known : undefined;
    }
  }

  function knownEntry(key: string): Entry<T> | undefined {
    const version = versions.get(key);
    return version === undefined ? undefined : { ...version, value: items.get(key) as T };
  }

  function put(key: string, next: Entry<T>): Change<T>[] {
    const before = knownEntry(key);
    if (before?.uid === next.uid && before.resourceVersion === next.resourceVersion) return [];
    items.set(key, next.value);
    versions.set(key, { uid: next.uid, resourceVersion: next.resourceVersion });
    const { uid, value } = next;
    if (before === undefined) return [{ type: "added", key, uid, value }];
    if (before.uid === uid)
      return before.value === value ? [] : [{ type: "updated", key, uid, value, previous: before.value }];
    return [
      { type: "deleted", key, uid: before.uid, previous: before.value },
      { type: "added", key, uid, value },
    ];
  }

  function remove(key: string): Change<T>[] {
    const before = knownEntry(key);
    if (before === undefined) return [];
    items.delete(key);
    versions.delete(key);
    return [{ type: "deleted", key, uid: before.uid, previous: before.value }];
  }

  function beginList(): void {
    pending = new Map();
    resourceVersion = undefined;
    list += 1;
  }

  function gather(raw: RawObject): void {
    const entry = entryOf(raw);
    if (entry === undefined) pending?.delete(keyOf(raw));
    else pending?.set(keyOf(raw), entry);
  }

  function completeList(version: string): Change<T>[] {
    const listed = pending ?? new Map<string, Entry<T>>();
    const changes: Change<T>[] = [];
    for (const key of [...versions.keys()]) {
      if (versions.get(key)?.uid !== listed.get(key)?.uid) changes.push(...remove(key));
    }
    for (const [key, entry] of listed) changes.push(...put(key, entry));
    for (const [key, seen] of reported) if (seen.list !== list) reported.delete(key);
    pending = undefined;
    resourceVersion = version;
    changes.push({ type: "replaced", resourceVersion: version });
    return changes;
  }

  function drainUnreadable(): InvalidObject[] {
    if (unreadable.length === 0) return [];
    const drained = unreadable;
    unreadable = [];
    return drained;
  }

  /** While a list is open nothing changes yet. */
  function drop(list: Map<string, Entry<T>>, key: string): Change<T>[] {
    list.delete(key);
    return [];
  }

  function apply(type: "ADDED" | "MODIFIED" | "DELETED", raw: RawObject): Change<T>[] {
    const key = keyOf(raw);
    if (pending === undefined) {
      if (isOlder(raw.metadata.resourceVersion, resourceVersion, "or equal")) return [];
      resourceVersion = raw.metadata.resourceVersion;
    }
    if (type === "DELETED") {
      reported.delete(key);
      return pending === undefined ? remove(key) : drop(pending, key);
    }
    if (pending !== undefined) {
      gather(raw);
      return [];
    }
    const entry = entryOf(raw);
    // Unreadable: a record of the same object stays, but one of a predecessor is surely gone.
    return entry === undefined ? remove(key) : put(key, entry);
  }

  function bookmark(version: string, endOfList: boolean): Step<T> {
    if (pending !== undefined && endOfList) return step("listed", { changes: completeList(version) });
    if (pending !== undefined) return step("bookmark", {});
    if (isOlder(version, resourceVersion)) {
      forget();
      return step("gone", { message: `the server went back in time, to resourceVersion ${version}` });
    }
    resourceVersion = version;
    return step("bookmark", {});
  }

  function line(text: string): Step<T> {
    const event = parseEvent(text);
    switch (event.type) {
      case "MALFORMED":
        return step("malformed", { message: event.message });
      case "ERROR":
        if (event.gone) forget();
        return step(event.gone ? "gone" : "refused", { message: event.message });
      case "BOOKMARK":
        return bookmark(event.resourceVersion, event.endOfList);
      default: {
        const changes = apply(event.type, event.object);
        return step("event", { changes, invalid: drainUnreadable() });
      }
    }
  }

  function forget(): void {
    resourceVersion = undefined;
    pending = undefined;
  }

  return {
    items,
    resourceVersion: () => resourceVersion,
    unreadable: () => reported.size,
    beginList,
    listed: (raw) => {
      const object = asObject(raw);
      if (object === undefined) throw new Error("a listed object lacks metadata.name, uid or resourceVersion");
      gather(object);
      return drainUnreadable();
    },
    completeList,
    line,
    forget,
  };
}

function step<T>(outcome: Step<T>["outcome"], fields: Partial<Step<T>>): Step<T> {
  return { outcome, changes: [], invalid: [], ...fields };
}

type WatchEvent =
  | { type: "ADDED" | "MODIFIED" | "DELETED"; object: RawObject }
  | { type: "BOOKMARK"; resourceVersion: string; endOfList: boolean }
  | { type: "ERROR"; gone: boolean; message: string }
  | { type: "MALFORMED"; message: string };

function parseEvent(text: string): WatchEvent {
  let event: { type?: unknown; object?: unknown };
  try {
    event = (JSON.parse(text) ?? {}) as typeof event;
  } catch (error) {
    return { type: "MALFORMED", message: `a line of the watch is not JSON: ${(error as Error).message}` };
  }
  switch (event.type) {
    case "ADDED":
    case "MODIFIED":
    case "DELETED": {
      const object = asObject(event.object);
      if (object !== undefined) return { type: event.type, object };
      return { type: "MALFORMED", message: `a ${event.type} event has no metadata.name, uid or resourceVersion` };
    }
    case "BOOKMARK": {
      const metadata = (event.object as Partial<RawObject> | undefined)?.metadata;
      if (typeof metadata?.resourceVersion !== "string")
        return { type: "MALFORMED", message: "a bookmark has no resourceVersion" };
      const endOfList = metadata.annotations?.["k8s.io/initial-events-end"] === "true";
      return { type: "BOOKMARK", resourceVersion: metadata.resourceVersion, endOfList };
    }
    case "ERROR": {
      const { code, message, details } = (event.object ?? {}) as {
        code?: unknown;
        message?: unknown;
        details?: unknown;
      };
      const status = typeof code === "number" ? code : 0;
      const text = typeof message === "string" ? message : "the server ended the watch with an error";
      return { type: "ERROR", gone: isGone({ status, details }), message: text };
    }
    default:
      return { type: "MALFORMED", message: `a line of the watch has type ${JSON.stringify(event.type)}`.slice(0, 200) };
  }
}

function asObject(raw: unknown): RawObject | undefined {
  const metadata = (raw as Partial<RawObject> | null | undefined)?.metadata;
  const complete =
    typeof metadata?.name === "string" &&
    typeof metadata.uid === "string" &&
    typeof metadata.resourceVersion === "string";
  return complete ? (raw as RawObject) : undefined;
}

function keyOf(raw: RawObject): string {
  const { namespace, name } = raw.metadata;
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/**
 * Resource versions of one resource grow and compare as integers (guaranteed since Kubernetes 1.35, true since 1.0 with
 * etcd). A watch delivers them in order, so an older one is a repetition. Anything not a number is never older.
 */
function isOlder(version: string, than: string | undefined, mode: "strictly" | "or equal" = "strictly"): boolean {
  if (than === undefined || !/^[1-9]\d*$/.test(version) || !/^[1-9]\d*$/.test(than)) return false;
  if (version === than) return mode === "or equal";
  return version.length === than.length ? version < than : version.length < than.length;
}

/** The version we hold is too old for the server, or too new: its etcd was restored from a backup. Only a list helps. */
export function isGone({ status, details }: { status: number; details?: unknown }): boolean {
  const causes = (details as { causes?: { reason?: unknown }[] } | null | undefined)?.causes;
  return (
    status === 410 || (Array.isArray(causes) && causes.some((cause) => cause?.reason === "ResourceVersionTooLarge"))
  );
}
