import { refuse } from "./errors.ts";
import type { StoredObject, Target } from "./resources.ts";
import type { Commit, Store } from "./store.ts";

/** One watch, read by whoever carries its lines. */
export interface WatchCursor {
  /** Whether `next` has anything to tell. */
  pending(): boolean;
  /** Lines of what happened since the last call, after the listed objects and their closing bookmark if they were asked for. */
  next(): string[];
  /** A bookmark at the version up to which everything was told. */
  bookmark(): string;
}

/** Throws 410 when the version to begin at was compacted away. */
export function openWatch(
  store: Store,
  { type, namespace }: Target,
  query: Readonly<Record<string, string | number | boolean | undefined>>,
): WatchCursor {
  const { resource } = type;
  const lists = query["sendInitialEvents"] === true;
  let told = lists ? store.version : Number(query["resourceVersion"] ?? 0);
  if (!lists && told < store.compactedVersion) throw refuse.expired();
  const concerns = (object: StoredObject): boolean =>
    namespace === undefined || object.metadata.namespace === namespace;
  const first = lists ? [...store.all(resource).values()].filter(concerns) : [];
  let listing = lists;

  return {
    pending: () => listing || store.lastVersion(resource) > told,
    next() {
      const lines: string[] = [];
      if (listing) {
        for (const object of first) lines.push(addedLine(object));
        lines.push(bookmarkLine(told, type.kind, true));
        listing = false;
      }
      for (const commit of store.since(resource, told)) if (concerns(commit.object)) lines.push(lineOf(commit));
      told = store.version;
      return lines;
    },
    bookmark: () => bookmarkLine(told, type.kind, false),
  };
}

function lineOf(commit: Commit): string {
  if (commit.type === "ADDED") return addedLine(commit.object);
  commit.line ??= JSON.stringify({ type: commit.type, object: commit.object });
  return commit.line;
}

/** Object → its line. Many lists tell the same objects: every planner that begins to lead asks for one of each kind. */
const addedLines = new WeakMap<StoredObject, string>();

function addedLine(object: StoredObject): string {
  const known = addedLines.get(object);
  if (known !== undefined) return known;
  const line = JSON.stringify({ type: "ADDED", object });
  addedLines.set(object, line);
  return line;
}

function bookmarkLine(version: number, kind: string, endOfList: boolean): string {
  const annotations = endOfList ? { "k8s.io/initial-events-end": "true" } : {};
  return JSON.stringify({
    type: "BOOKMARK",
    object: { kind, metadata: { resourceVersion: String(version), annotations } },
  });
}
