import type { KubeClient } from "../kube/client.ts";
import { insist } from "../kube/insist.ts";
import { resourcePath } from "../kube/paths.ts";
import type { Timing } from "../kube/timing.ts";
import { preparedAnnotation } from "./names.ts";
import type { BoundPod } from "./observed.ts";

/** Lets pods start: one patch per pod, a bounded number at a time. */
export interface StartQueue {
  push(pod: BoundPod): void;
  /** Drops what has not begun, and resolves when nothing is under way. */
  stop(): Promise<void>;
  /** Patches that took effect. */
  started(): number;
}

export interface StartQueueOptions {
  client: KubeClient;
  parallelism: number;
  timing: Timing;
  onError: (pod: BoundPod, error: unknown) => void;
}

export function createStartQueue(options: StartQueueOptions): StartQueue {
  const { client, timing } = options;
  const pending: BoundPod[] = [];
  const workers = new Set<Promise<void>>();
  const ended = new AbortController();
  let started = 0;

  return {
    push(pod) {
      if (ended.signal.aborted) return;
      pending.push(pod);
      if (workers.size >= options.parallelism) return;
      const worker = drain().finally(() => workers.delete(worker));
      workers.add(worker);
    },
    async stop() {
      ended.abort();
      pending.length = 0;
      await Promise.all(workers);
    },
    started: () => started,
  };

  async function drain(): Promise<void> {
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) await start(next);
  }

  async function start(pod: BoundPod): Promise<void> {
    const onError = (error: unknown) => options.onError(pod, error);
    if (await insist(() => mark(pod), { timing, signal: ended.signal, onError })) started += 1;
  }

  /** A uid in a patch is a precondition: a successor of the same name is left alone. */
  async function mark(pod: BoundPod): Promise<void> {
    const { namespace, name, uid } = pod;
    await client.request("PATCH", resourcePath({ group: "", version: "v1", resource: "pods", namespace, name }), {
      body: { metadata: { uid, annotations: { [preparedAnnotation]: "true" } } },
      signal: ended.signal,
    });
  }
}
