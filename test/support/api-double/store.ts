import type { StoredObject } from "./resources.ts";

/** One change of one object, in the order of versions. */
export interface Commit {
  version: number;
  type: "ADDED" | "MODIFIED" | "DELETED";
  resource: string;
  key: string;
  object: StoredObject;
  previous?: StoredObject;
  /** Who asked for it. */
  user: string;
  /** As a watch carries it; made when first needed. */
  line?: string;
}

/** Objects of all resources under one growing version, and what changed since, as etcd keeps them. */
export interface Store {
  readonly version: number;
  get(resource: string, key: string): StoredObject | undefined;
  all(resource: string): ReadonlyMap<string, StoredObject>;
  /** Adds or replaces. @returns the object with its new resourceVersion. */
  put(resource: string, key: string, object: StoredObject, user: string): StoredObject;
  remove(resource: string, key: string, user: string): StoredObject | undefined;
  /** Changes of a resource after `version`, oldest first. */
  since(resource: string, version: number): readonly Commit[];
  /** Version of the newest change of a resource; 0: there was none. */
  lastVersion(resource: string): number;
  /** No watch may begin before this version; those that are open go on. */
  readonly compactedVersion: number;
  /** From now on no watch may begin before the present version. */
  compact(): void;
  /** Called synchronously with every change, before anybody else learns of it. */
  onCommit(listener: (commit: Commit) => void): void;
}

const none: ReadonlyMap<string, StoredObject> = new Map();

export function createStore(): Store {
  const objects = new Map<string, Map<string, StoredObject>>();
  const history = new Map<string, Commit[]>();
  const listeners: ((commit: Commit) => void)[] = [];
  let version = 1;
  let compacted = 0;

  function of(resource: string): Map<string, StoredObject> {
    let found = objects.get(resource);
    if (found === undefined) {
      found = new Map();
      objects.set(resource, found);
    }
    return found;
  }

  function commit(change: Omit<Commit, "version">): StoredObject {
    version += 1;
    const metadata = { ...change.object.metadata, resourceVersion: String(version) };
    const done = { ...change, version, object: { ...change.object, metadata } };
    const past = history.get(change.resource);
    if (past === undefined) history.set(change.resource, [done]);
    else past.push(done);
    if (done.type === "DELETED") of(change.resource).delete(change.key);
    else of(change.resource).set(change.key, done.object);
    for (const listener of listeners) listener(done);
    return done.object;
  }

  return {
    get version() {
      return version;
    },
    get: (resource, key) => objects.get(resource)?.get(key),
    all: (resource) => objects.get(resource) ?? none,
    put(resource, key, object, user) {
      const previous = of(resource).get(key);
      if (previous === undefined) return commit({ type: "ADDED", resource, key, object, user });
      return commit({ type: "MODIFIED", resource, key, object, previous, user });
    },
    remove(resource, key, user) {
      const previous = of(resource).get(key);
      if (previous === undefined) return undefined;
      return commit({ type: "DELETED", resource, key, object: previous, previous, user });
    },
    since(resource, from) {
      const past = history.get(resource) ?? [];
      let first = past.length;
      while (first > 0 && (past[first - 1]?.version ?? 0) > from) first -= 1;
      return past.slice(first);
    },
    lastVersion: (resource) => history.get(resource)?.at(-1)?.version ?? 0,
    get compactedVersion() {
      return compacted;
    },
    compact() {
      compacted = version;
    },
    onCommit: (listener) => {
      listeners.push(listener);
    },
  };
}
