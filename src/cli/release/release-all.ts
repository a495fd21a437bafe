import type { Pod, ResourceClaim, ResourceClaimConsumer } from "../../api/kubernetes.ts";
import { bindMarker, gangGate } from "../../api/names.ts";
import { isGuard } from "../../gang/lifecycle/claims.ts";
import { isConflict, isNotFound, type KubeClient } from "../../kube/client.ts";
import { listPages } from "../../kube/list.ts";
import { resourcePath } from "../../kube/paths.ts";

/** What was let go, and what could not be. */
export interface ReleaseReport {
  /** Claims that lost their guard and go on being used. */
  unguarded: number;
  /** Claims that lost guard and allocation: nothing had started with them. */
  cleared: number;
  /** Pods whose gate was lifted. */
  ungated: number;
  /** Of these, pods that ask for the marker resource: only kllama can bind them. */
  marked: number;
  /** Each names object and refusal. */
  failures: string[];
}

/** What to do with a guarded claim, as the planner itself would when the Gang is gone. */
export type GuardRelease = { keep: readonly ResourceClaimConsumer[] } | "clear";

/**
 * A claim of a pod that is bound keeps its allocation and loses the guard, so that Kubernetes' own clean-up goes on; one
 * that no bound pod uses loses allocation and consumers in one write. Undefined: it has no guard.
 */
export function guardRelease(claim: ResourceClaim, isBound: (podUid: string) => boolean): GuardRelease | undefined {
  const consumers = claim.status?.reservedFor ?? [];
  if (!consumers.some(isGuard)) return undefined;
  const keep = consumers.filter((consumer) => !isGuard(consumer));
  return keep.some(({ resource, uid }) => resource !== "pods" || isBound(uid)) ? { keep } : "clear";
}

/**
 * Lets go of everything that kllama holds in a namespace, or in all: guards on claims, then gates on pods. Gangs and
 * finalizers are left alone: a Gang without a planner holds nothing, and kube-controller-manager takes delete-protection
 * off a claim once nobody uses it. Nothing that runs is touched. Works without the kinds of kllama.
 */
export async function releaseAll(client: KubeClient, namespace?: string): Promise<ReleaseReport> {
  const report: ReleaseReport = { unguarded: 0, cleared: 0, ungated: 0, marked: 0, failures: [] };
  const pods = await listAll<Pod>(client, { group: "", version: "v1", resource: "pods", namespace });
  const bound = new Set(pods.filter((pod) => pod.spec.nodeName !== undefined).map((pod) => pod.metadata.uid));
  const dra = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace };
  for (const claim of await listAll<ResourceClaim>(client, dra)) {
    await attempt(report, "ResourceClaim", claim, () => releaseClaim(client, claim, (uid) => bound.has(uid), report));
  }
  for (const pod of pods) await attempt(report, "Pod", pod, () => liftGate(client, pod, report));
  return report;
}

async function listAll<T extends Pod | ResourceClaim>(
  client: KubeClient,
  location: Parameters<typeof resourcePath>[0],
): Promise<T[]> {
  const all: T[] = [];
  for await (const page of listPages<T, T>({ client, path: resourcePath(location), project: (raw) => raw })) {
    all.push(...page.items);
  }
  return all;
}

async function attempt(
  report: ReleaseReport,
  kind: string,
  { metadata }: Pod | ResourceClaim,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (isNotFound(error)) return;
    const why = error instanceof Error ? error.message : String(error);
    report.failures.push(`${kind} ${metadata.namespace}/${metadata.name}: ${why}`);
  }
}

const mostTries = 5;

/** A merge patch with the resourceVersion in it is a compare-and-swap: what changed meanwhile is read and judged anew. */
async function releaseClaim(
  client: KubeClient,
  listed: ResourceClaim,
  isBound: (podUid: string) => boolean,
  report: ReleaseReport,
): Promise<void> {
  const { namespace, name } = listed.metadata;
  const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace, name };
  let claim = listed;
  for (let attempts = 1; ; attempts++) {
    const release = guardRelease(claim, isBound);
    if (release === undefined) return;
    const { uid, resourceVersion } = claim.metadata;
    const status =
      release === "clear" ? { allocation: null, reservedFor: null, devices: null } : { reservedFor: release.keep };
    try {
      const body = { metadata: { uid, resourceVersion }, status };
      await client.request("PATCH", resourcePath({ ...location, subresource: "status" }), { body });
      report[release === "clear" ? "cleared" : "unguarded"] += 1;
      return;
    } catch (error) {
      if (!isConflict(error) || attempts === mostTries) throw error;
    }
    claim = await client.request<ResourceClaim>("GET", resourcePath(location));
  }
}

async function liftGate(client: KubeClient, pod: Pod, report: ReleaseReport): Promise<void> {
  const { namespace, name, uid } = pod.metadata;
  if (pod.spec.schedulingGates?.some((gate) => gate.name === gangGate) !== true) return;
  await client.request("PATCH", resourcePath({ group: "", version: "v1", resource: "pods", namespace, name }), {
    body: { metadata: { uid }, spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] } },
    contentType: "application/strategic-merge-patch+json",
  });
  report.ungated += 1;
  if (pod.spec.containers.some((container) => container.resources?.requests?.[bindMarker] !== undefined)) {
    report.marked += 1;
  }
}
