import type { Gang } from "../api/gang.ts";
import type { Condition, KubernetesObject, Pod } from "../api/kubernetes.ts";
import type { LLMCluster, LLMClusterStatus } from "../api/llm-cluster.ts";
import { wholeSeconds } from "../kube/timing.ts";
import { instanceUrl } from "./desired.ts";
import { members, staleMembers } from "./members.ts";
import type { StatefulSet } from "./owned.ts";

/** Why the objects of an LLMCluster could not all be brought about; a closed list, used as condition reason. */
export interface Problem {
  /** `InvalidSpec`: the user must change the LLMCluster; `NameConflict`: another object has the name; `ApplyFailed`: the API server said no for another reason. */
  reason: "InvalidSpec" | "NameConflict" | "ApplyFailed";
  message: string;
}

/** What the API server holds for one LLMCluster. `pods` may hold more than its own: they are told apart by owner. */
export interface Observed {
  statefulSet?: StatefulSet;
  templateSettled: boolean;
  pods: readonly Pod[];
  gang?: Gang;
  problem?: Problem;
}

/** What one condition says, before its times are known. */
interface Verdict {
  status: "True" | "False";
  reason: string;
  message: string;
}

/**
 * The status an LLMCluster should have at `nowMs` (milliseconds since 1970). Ready only with every member ready: a TP
 * instance with a missing member does not serve. Equal to `cluster.status` when nothing has changed: times move only
 * when a condition's status does.
 */
export function nextStatus(cluster: LLMCluster, observed: Observed, nowMs: number): LLMClusterStatus {
  const wanted = cluster.spec.replicas;
  const readyReplicas = members(cluster, observed).filter((pod) => pod !== undefined && isReady(pod)).length;
  const stamp = stamper(cluster, cluster.status, nowMs);
  const ready = stamp("Ready", readiness(cluster, observed, readyReplicas));
  return {
    observedGeneration: cluster.metadata.generation ?? 0,
    readyReplicas,
    ready: `${readyReplicas}/${wanted}`,
    gang: cluster.metadata.name,
    url: instanceUrl(cluster),
    conditions: [
      ready,
      stamp("Progressing", progress(cluster, observed, ready)),
      stamp("Degraded", degradation(cluster, observed, ready, nowMs)),
    ],
  };
}

/** Status of an LLMCluster that cannot be read: nothing is known of its pods, and nothing is done for it. */
export function invalidStatus(
  raw: KubernetesObject & { status?: LLMClusterStatus },
  problems: readonly string[],
  nowMs: number,
): LLMClusterStatus {
  const stamp = stamper(raw, raw.status, nowMs);
  const verdict = { reason: "InvalidSpec", message: problems.join("; ") } as const;
  return {
    observedGeneration: raw.metadata.generation ?? 0,
    conditions: [
      stamp("Ready", { status: "False", ...verdict }),
      stamp("Progressing", { status: "False", ...verdict }),
      stamp("Degraded", { status: "True", ...verdict }),
    ],
  };
}

/** An event to tell about an LLMCluster. */
export interface Happening {
  type: "Normal" | "Warning";
  reason: string;
  message: string;
}

/** What is worth an event in the step from one status to the next: a change of state or reason, never a mere wording. */
export function happenings(before: LLMClusterStatus | undefined, after: LLMClusterStatus): Happening[] {
  const told: Happening[] = [];
  for (const condition of after.conditions ?? []) {
    const earlier = before?.conditions?.find((other) => other.type === condition.type);
    if (earlier?.status === condition.status && earlier.reason === condition.reason) continue;
    const type = eventType(condition.type, condition.status === "True", earlier?.status === "True");
    if (type !== undefined) told.push({ type, reason: condition.reason, message: condition.message });
  }
  return told;
}

function eventType(condition: string, isTrue: boolean, wasTrue: boolean): Happening["type"] | undefined {
  if (condition === "Ready") return isTrue ? "Normal" : wasTrue ? "Warning" : undefined;
  if (!isTrue) return undefined;
  return condition === "Degraded" ? "Warning" : "Normal";
}

function readiness(cluster: LLMCluster, observed: Observed, readyReplicas: number): Verdict {
  const wanted = cluster.spec.replicas;
  if (readyReplicas === wanted) {
    return { status: "True", reason: "AllMembersReady", message: `All ${wanted} pods are ready` };
  }
  const missing = members(cluster, observed).flatMap((pod, index) =>
    pod !== undefined && isReady(pod) ? [] : [`${cluster.metadata.name}-${index} ${memberState(pod)}`],
  );
  const named = missing.length > 4 ? [...missing.slice(0, 4), `${missing.length - 4} more`] : missing;
  return {
    status: "False",
    reason: "MembersNotReady",
    message: `${readyReplicas} of ${wanted} pods are ready: ${named.join(", ")}`,
  };
}

function memberState(pod: Pod | undefined): string {
  if (pod === undefined) return "does not exist yet";
  if (pod.metadata.deletionTimestamp !== undefined) return "is being deleted";
  if (pod.spec.nodeName === undefined) return "has no node";
  return `is not ready on ${pod.spec.nodeName}`;
}

function progress(cluster: LLMCluster, observed: Observed, ready: Condition): Verdict {
  const { problem } = observed;
  if (problem !== undefined) {
    return { status: problem.reason === "InvalidSpec" ? "False" : "True", ...problem };
  }
  const pods = members(cluster, observed);
  const stale = staleMembers(cluster, observed).length;
  if (stale > 0) {
    const message = `${stale} of ${cluster.spec.replicas} pods are of an earlier revision; all members are replaced together`;
    return { status: "True", reason: "Updating", message };
  }
  if (ready.status === "True") return { status: "False", reason: "Complete", message: ready.message };
  if (pods.some((pod) => pod === undefined || pod.metadata.deletionTimestamp !== undefined)) {
    return { status: "True", reason: "CreatingPods", message: ready.message };
  }
  if (pods.some((pod) => pod?.spec.nodeName === undefined)) {
    const message = observed.gang?.status?.explanation ?? `Gang ${cluster.metadata.name} has no placement yet`;
    return { status: "True", reason: "WaitingForPlacement", message };
  }
  return { status: "True", reason: "StartingPods", message: ready.message };
}

/** The clock of a start runs from the moment since which the instance is not Ready. */
function degradation(cluster: LLMCluster, observed: Observed, ready: Condition, nowMs: number): Verdict {
  if (observed.problem !== undefined) return { status: "True", ...observed.problem };
  const { startupTimeoutSeconds } = cluster.spec;
  const sinceMs = Date.parse(ready.lastTransitionTime);
  if (ready.status === "False" && nowMs - sinceMs >= startupTimeoutSeconds * 1000) {
    const message = `Startup timeout: not Ready within ${startupTimeoutSeconds} s; ${ready.message}`;
    return { status: "True", reason: "StartupTimeout", message };
  }
  return { status: "False", reason: "AsExpected", message: "" };
}

/** Makes conditions: the time is the earlier one's for as long as the status stays. Times are whole seconds. */
function stamper(object: KubernetesObject, status: LLMClusterStatus | undefined, nowMs: number) {
  const now = wholeSeconds(new Date(nowMs));
  return (type: string, verdict: Verdict): Condition => {
    const earlier = status?.conditions?.find((condition) => condition.type === type);
    return {
      type,
      status: verdict.status,
      reason: verdict.reason,
      message: verdict.message,
      lastTransitionTime: earlier?.status === verdict.status ? earlier.lastTransitionTime : now,
      observedGeneration: object.metadata.generation ?? 0,
    };
  };
}

function isReady(pod: Pod): boolean {
  if (pod.metadata.deletionTimestamp !== undefined) return false;
  return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}
