import type { KubeClient } from "../kube/client.ts";
import { insist } from "../kube/insist.ts";
import { podPath } from "../kube/paths.ts";
import type { Timing } from "../kube/timing.ts";
import type { EndingPod } from "./observed.ts";

/**
 * Removes pods that the API server did not: a pod without a grace period is marked as deleted and removed in one request, of which
 * the second half is left out if whoever asked has gone meanwhile. A kubelet removes such pods.
 */
export interface EndingPods {
  push(pod: EndingPod): void;
  /** It is gone. */
  forget(uid: string): void;
  /** Resolves when nothing is under way. */
  stop(): Promise<void>;
}

export interface EndingPodsOptions {
  client: KubeClient;
  timing: Timing;
  onError: (pod: EndingPod, error: unknown) => void;
}

/** The API server's own removal follows within milliseconds. */
const patienceMs = 1_000;

export function createEndingPods({ client, timing, onError }: EndingPodsOptions): EndingPods {
  const waiting = new Map<string, { over: AbortController; done: Promise<void> }>();
  let stopped = false;

  async function remove(pod: EndingPod, signal: AbortSignal): Promise<void> {
    await timing.sleep(patienceMs, signal);
    // By its UID: a successor of the same name is left alone.
    const body = { gracePeriodSeconds: 0, preconditions: { uid: pod.uid } };
    const request = () => client.request("DELETE", podPath(pod), { body, signal });
    await insist(request, { timing, signal, onError: (error) => onError(pod, error) });
  }

  return {
    push(pod) {
      if (stopped || waiting.has(pod.uid)) return;
      const over = new AbortController();
      waiting.set(pod.uid, { over, done: remove(pod, over.signal) });
    },
    forget(uid) {
      waiting.get(uid)?.over.abort("the pod is gone");
      waiting.delete(uid);
    },
    async stop() {
      stopped = true;
      for (const { over } of waiting.values()) over.abort("stopped");
      await Promise.all([...waiting.values()].map(({ done }) => done));
    },
  };
}
