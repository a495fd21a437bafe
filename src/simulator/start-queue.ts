import { driverName } from "../api/names.ts";
import { isConflict, isNotFound, type KubeClient, KubeError } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import { type Timing, wholeSeconds } from "../kube/timing.ts";
import { preparedAnnotation } from "./names.ts";
import type { BoundPod, ObservedClaim } from "./preparation.ts";

/** Lets pods start: one patch per pod, a bounded number at a time. */
export interface StartQueue {
  push(pod: BoundPod, claims: readonly ObservedClaim[]): void;
  /** Drops what has not begun, and resolves when nothing is under way. */
  stop(): Promise<void>;
  /** Patches that took effect. */
  started(): number;
}

export interface StartQueueOptions {
  client: KubeClient;
  parallelism: number;
  /** Also writes `status.devices` of each claim, as drivers may; one more request per claim. */
  deviceStatus: boolean;
  timing: Timing;
  onError: (pod: BoundPod, error: unknown) => void;
}

/** Without `retryAfterMs` from the server: how long a failed patch waits. */
const retryMs = 1000;

export function createStartQueue(options: StartQueueOptions): StartQueue {
  const { client, timing } = options;
  const pending: { pod: BoundPod; claims: readonly ObservedClaim[] }[] = [];
  const workers = new Set<Promise<void>>();
  const ended = new AbortController();
  let started = 0;

  return {
    push(pod, claims) {
      if (ended.signal.aborted) return;
      pending.push({ pod, claims });
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
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) await start(next.pod, next.claims);
  }

  async function start(pod: BoundPod, claims: readonly ObservedClaim[]): Promise<void> {
    while (!ended.signal.aborted) {
      try {
        if (options.deviceStatus) for (const claim of claims) await writeDeviceStatus(claim);
        if (!pod.marked) await mark(pod);
        started += 1;
        return;
      } catch (error) {
        // Gone, or another pod of that name: the watch says so too.
        if (ended.signal.aborted || isNotFound(error) || isConflict(error)) return;
        options.onError(pod, error);
        if (!isPassing(error)) return;
        await timing.sleep(error.retryAfterMs ?? retryMs, ended.signal);
      }
    }
  }

  /** A uid in a patch is a precondition: a successor of the same name is left alone. */
  async function mark(pod: BoundPod): Promise<void> {
    const { namespace, name, uid } = pod;
    await client.request("PATCH", resourcePath({ group: "", version: "v1", resource: "pods", namespace, name }), {
      body: { metadata: { uid, annotations: { [preparedAnnotation]: "true" } } },
      signal: ended.signal,
    });
  }

  async function writeDeviceStatus(claim: ObservedClaim): Promise<void> {
    const { namespace, name, uid } = claim;
    const lastTransitionTime = wholeSeconds(timing.wallClock());
    const condition = { type: "Ready", status: "True", reason: "Prepared", message: "simulated", lastTransitionTime };
    const devices = (claim.devices ?? []).map(({ pool, device }) => ({
      driver: driverName,
      pool,
      device,
      conditions: [condition],
    }));
    const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace, name };
    await client.request("PATCH", resourcePath({ ...location, subresource: "status" }), {
      contentType: "application/apply-patch+yaml",
      query: { fieldManager: "kllama-simulator", force: true },
      body: {
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        metadata: { name, namespace, uid },
        status: { devices },
      },
      signal: ended.signal,
    });
  }
}

/** The server was unreachable, busy or broken; a refusal for good is not worth another try. */
function isPassing(error: unknown): error is KubeError {
  return error instanceof KubeError && (error.status === 0 || error.status === 429 || error.status >= 500);
}
