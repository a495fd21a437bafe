import type { KubernetesObject } from "../api/kubernetes.ts";
import type { LLMClusterStatus } from "../api/llm-cluster.ts";
import { servingGroup, version } from "../api/names.ts";
import type { KubeClient } from "../kube/client.ts";
import { createEventRecorder } from "../kube/events.ts";
import { systemTiming, type Timing } from "../kube/timing.ts";
import { createWorkQueue } from "./queue.ts";
import { createReconciler, type OperatorLog } from "./reconcile.ts";
import { happenings } from "./status.ts";
import { createWatched } from "./watch.ts";

/** LLMClusters worked on at once. */
const concurrency = 4;

export interface OperatorOptions {
  client: KubeClient;
  log: OperatorLog;
  /** `reportingInstance` of events, such as the pod's name. */
  instance?: string;
  timing?: Timing;
}

export interface Operator {
  /** Resolves once everything has been listed and work has begun; rejects if the operator stops before. */
  synced: Promise<void>;
  /** Ends watches, finishes the objects being worked on, writes the last events. */
  stop(): Promise<void>;
}

/**
 * Brings about what LLMClusters ask for and keeps it so: watches them and what belongs to them, and for each LLMCluster
 * in turn writes what differs, deletes what is no longer wanted, and tells its state. Several may run at once: all they
 * know is in the API, and writes of one state are equal.
 */
export function startOperator({ client, log, instance = "kllama", timing = systemTiming }: OperatorOptions): Operator {
  let ready = false;
  const recorder = createEventRecorder({ client, component: "kllama-operator", instance, timing });
  const watched = createWatched({
    client,
    timing,
    onChange: (key) => ready && queue.add(key),
    onError: (error, fatal) => log[fatal ? "error" : "warn"]({ err: error }, "watch failed"),
  });
  const report = (object: KubernetesObject, before: LLMClusterStatus | undefined, after: LLMClusterStatus): void => {
    for (const { type, reason, message } of happenings(before, after)) {
      recorder.record({ regarding: referenceTo(object), type, reason, action: "Reconcile", note: message });
    }
  };
  const reconcile = createReconciler({ client, watched, timing, log, report });
  const queue = createWorkQueue({ process: reconcile, timing, concurrency });

  for (const reflector of watched.all) reflector.start();
  const synced = Promise.all(watched.all.map((reflector) => reflector.waitForSync())).then(() => {
    ready = true;
    for (const key of watched.clusters.items.keys()) queue.add(key);
    log.info({ llmClusters: watched.clusters.items.size }, "operator is ready");
  });
  // Whoever starts the operator may look at `synced` later or never.
  synced.catch(() => {});

  return {
    synced,
    async stop() {
      ready = false;
      await queue.stop();
      await Promise.all(watched.all.map((reflector) => reflector.stop()));
      await recorder.close();
    },
  };
}

function referenceTo({ metadata }: KubernetesObject) {
  return {
    apiVersion: `${servingGroup}/${version}`,
    kind: "LLMCluster",
    ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
    name: metadata.name,
    uid: metadata.uid ?? "",
  };
}
