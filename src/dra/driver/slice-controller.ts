import type { Node, ResourceSlice } from "../../api/kubernetes.ts";
import type { KubeClient } from "../../kube/client.ts";
import { resourcePath } from "../../kube/paths.ts";
import { createReflector } from "../../kube/reflector.ts";
import type { Timing } from "../../kube/timing.ts";
import { beingRead } from "./inventory.ts";
import type { Machine } from "./machine.ts";
import { droppedMessage, poolSelector, slicePath, type Written, writeSlices } from "./slice-writer.ts";
import { poolSlices } from "./slices.ts";
import { withKnownTimes } from "./taint-times.ts";

/** Keeps the node's ResourceSlices equal to the inventory, whoever changes either. */
export interface SliceController {
  /** Resolves when the slices were right for the first time. */
  readonly published: Promise<void>;
  stop(): Promise<void>;
}

export interface SliceControllerOptions {
  client: KubeClient;
  nodeName: string;
  machine: Machine;
  timing: Timing;
  /**
   * A younger process of this driver publishes: two that see different devices would undo each other's work for ever. Asked
   * before every round; default: never.
   */
  hasSuccessor?: (() => Promise<boolean>) | undefined;
  onWritten(written: Written): void;
  /** Leaves the slices to the successor, or no longer does. */
  onStandBy(standsBy: boolean): void;
  onError(message: string): void;
}

/** Changes come in flocks: one round deals with what happens within this time. */
const settleMs = 100;
const backoffMs = { first: 1_000, most: 30_000 };
/** How often one that stands by looks whether its successor is still there. */
const standByMs = 2_000;

export function startSliceController(options: SliceControllerOptions): SliceController {
  const { client, nodeName, machine, timing, hasSuccessor = async () => false } = options;
  const ended = new AbortController();
  /** Content as wanted → what the API server makes of it, when it drops fields: else each round would write again. */
  const adopted = new Map<string, ResourceSlice["spec"]>();
  let changed = Promise.withResolvers<void>();
  const published = Promise.withResolvers<void>();
  // Whoever wants to know waits for it; nobody has to.
  published.promise.catch(() => undefined);

  const notice = (): void => changed.resolve();
  const unsubscribe = machine.onChange(notice);
  const reflector = createReflector<ResourceSlice, string>({
    client,
    path: slicePath(),
    query: { fieldSelector: poolSelector(nodeName) },
    project: ({ metadata }) => metadata.resourceVersion ?? "",
    onChange: notice,
    name: "own slices",
    timing,
    onError: (error) => options.onError(`watching ResourceSlices: ${error.message}`),
  });
  reflector.start();
  const running = run();
  return {
    published: published.promise,
    async stop() {
      ended.abort();
      unsubscribe();
      notice();
      await reflector.stop();
      await running;
      published.reject(new Error("stopped before the slices were published"));
    },
  };

  async function run(): Promise<void> {
    let pauseMs = backoffMs.first;
    let standsBy = false;
    while (!ended.signal.aborted) {
      await changed.promise;
      await timing.sleep(settleMs, ended.signal);
      if (ended.signal.aborted) return;
      changed = Promise.withResolvers<void>();
      try {
        const succeeded: boolean = await hasSuccessor();
        if (succeeded !== standsBy) options.onStandBy(succeeded);
        standsBy = succeeded;
        if (!standsBy) {
          if (!isKnown()) continue;
          await publish();
        }
        published.resolve();
        pauseMs = backoffMs.first;
        if (!standsBy) continue;
        notice();
        await timing.sleep(standByMs, ended.signal);
      } catch (error) {
        if (ended.signal.aborted) return;
        options.onError(`publishing ResourceSlices: ${error instanceof Error ? error.message : String(error)}`);
        notice();
        await timing.sleep(pauseMs, ended.signal);
        pauseMs = Math.min(2 * pauseMs, backoffMs.most);
      }
    }
  }

  /** False: nothing is known of the devices. What was published before stays; the machine tells when it was read. */
  function isKnown(): boolean {
    const { unread } = machine.inventory();
    if (unread !== undefined && unread !== beingRead) {
      options.onError(`publishing ResourceSlices: the devices could not be read: ${unread}`);
    }
    return unread === undefined;
  }

  /** The watch only says when to look: what is there is read anew, own writes included. */
  async function publish(): Promise<void> {
    const { signal } = ended;
    const path = resourcePath({ group: "", version: "v1", resource: "nodes", name: nodeName });
    const node = await client.request<Node>("GET", path, { signal });
    const query = { fieldSelector: poolSelector(nodeName) };
    const { items = [] } = await client.request<{ items?: ResourceSlice[] }>("GET", slicePath(), { query, signal });
    const nodeUid = node.metadata.uid ?? "";
    const wanted = new Set<string>();
    const build = (generation: number): ResourceSlice[] =>
      withKnownTimes(poolSlices(machine.inventory(), { nodeName, nodeUid, generation }), items).map((slice) => {
        wanted.add(contentKey(slice));
        return asKept(slice);
      });
    const written = await writeSlices(client, items, build);
    for (const dropped of written.dropped) {
      adopted.set(contentKey(dropped.sent), dropped.kept.spec);
      options.onError(droppedMessage(dropped));
    }
    for (const key of adopted.keys()) if (!wanted.has(key)) adopted.delete(key);
    options.onWritten(written);
  }

  function asKept(slice: ResourceSlice): ResourceSlice {
    const kept = adopted.get(contentKey(slice));
    return kept === undefined ? slice : { ...slice, spec: { ...kept, pool: slice.spec.pool } };
  }
}

/** Everything but the pool's generation. */
function contentKey({ metadata, spec }: ResourceSlice): string {
  return JSON.stringify([metadata.name, { ...spec, pool: spec.pool.name }]);
}
