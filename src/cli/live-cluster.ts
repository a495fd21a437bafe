import type { KubeClient } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import type { ClusterState } from "./cluster-state.ts";
import type { SingleRefusals } from "./placements.ts";
import { assembleObjects } from "./plan/input.ts";
import { readObjects } from "./snapshot/read-objects.ts";

/** Reads the cluster as it is now. Objects that cannot be read are left out, and `warn` is told. */
export async function readCluster(client: KubeClient, warn: (text: string) => void): Promise<ClusterState> {
  return assembleObjects((await readObjects(client)).objects, warn);
}

/** Why the planner refused pods without a Gang: it says so in events on them, newest last. */
export async function readRefusals(client: KubeClient): Promise<SingleRefusals> {
  interface Event {
    reason?: string;
    note?: string;
    reportingController?: string;
    regarding?: { kind?: string; uid?: string };
  }
  const path = resourcePath({ group: "events.k8s.io", version: "v1", resource: "events" });
  const { items } = await client.request<{ items: Event[] }>("GET", path);
  const refusals = new Map<string, { reason: string; message: string }>();
  for (const { reason = "", note = "", reportingController, regarding } of items) {
    if (reportingController !== "kllama-planner" || regarding?.kind !== "Pod" || regarding.uid === undefined) continue;
    refusals.set(regarding.uid, { reason: reason.replace(/^Pod/, ""), message: note });
  }
  return refusals;
}
