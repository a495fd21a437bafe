import type { KubeClient } from "./client.ts";
import type { Timing } from "./timing.ts";

/**
 * One difference between what was known and what is. `key` is `namespace/name`, or `name` for cluster-scoped objects.
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

export interface ReflectorOptions<R, T> {
  client: KubeClient;
  /** Path of the collection, from `resourcePath`. */
  path: string;
  query?: { labelSelector?: string; fieldSelector?: string };
  /** Raw object → the small record that is kept. Throws when the object cannot be read: it is then skipped, counted and reported once. */
  project: (raw: R) => T;
  /** Called synchronously, after `items` shows the change. If it throws, that is a defect: the reflector stops for good. */
  onChange: (change: Change<T>) => void;
  onInvalid?: (object: InvalidObject) => void;
  /** `fatal` false: lost connection or refusal, being retried. True: `onChange` threw and the reflector has stopped. Absent: a fatal error crashes the process. */
  onError?: (error: Error, fatal: boolean) => void;
  /** For messages. */
  name: string;
  timing?: Timing;
}

/** Counters since `start`. */
export interface ReflectorStats {
  lists: number;
  watches: number;
  events: number;
  bookmarks: number;
  /** Events or list entries whose object could not be read. */
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
  /** True once the first list is complete. */
  readonly synced: boolean;
  /** Rejects when the reflector fails or stops first, or with the signal's reason. */
  waitForSync(signal?: AbortSignal): Promise<void>;
  /** Milliseconds since the server was last heard (event, bookmark or list); a quiet healthy watch stays below about 70,000. Infinity before the first. */
  staleMs(): number;
  start(): void;
  stop(): Promise<void>;
  stats(): ReflectorStats;
}

export declare function createReflector<R, T>(options: ReflectorOptions<R, T>): Reflector<T>;
