import type { KubernetesObject, Pod, ResourceClaim } from "../api/kubernetes.ts";
import { claimFinalizer, gangCondition, gangGate, schedulingGroup, version } from "../api/names.ts";
import type { ClaimReference, Effect, Outcome, PodReference } from "../gang/lifecycle/state.ts";
import { isConflict, isNotFound, type KubeClient, KubeError } from "../kube/client.ts";
import { claimPath, podPath, resourcePath } from "../kube/paths.ts";

/** Effects that are writes to the API server; `plan`, `answer` and `event` stay inside the process. */
export type WriteEffect = Exclude<Effect, { type: "plan" | "answer" | "event" | "planRefused" }>;

/** What a write left behind: fresh objects, so that the next decision need not wait for the watch. */
export interface Written {
  outcome: Outcome;
  gang?: KubernetesObject;
  pod?: Pod;
  claim?: ResourceClaim;
}

/** `status.allocation` for a claim; throws when a planned device is no longer published. */
export type AllocationBuilder = (effect: Extract<Effect, { type: "reserveClaim" }>) => unknown;

/**
 * Applies one effect. Every write names the resourceVersion or the UID that the decision rested on, so a decision from
 * an older world fails with a conflict instead of changing a newer one.
 */
export async function applyWrite(
  client: KubeClient,
  effect: WriteEffect,
  allocation: AllocationBuilder,
): Promise<Written> {
  try {
    return await writers[effect.type](client, effect as never, allocation);
  } catch (error) {
    return { outcome: failure(error) };
  }
}

function failure(error: unknown): Outcome {
  if (!(error instanceof KubeError)) return { ok: false, reason: "Internal", message: String(error) };
  const reason = isConflict(error) ? "Conflict" : isNotFound(error) ? "NotFound" : error.reason;
  const { message, retryAfterMs } = error;
  return { ok: false, reason, message, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
}

const done: Outcome = { ok: true };

type Of<T extends WriteEffect["type"]> = Extract<WriteEffect, { type: T }>;

const writers: {
  [T in WriteEffect["type"]]: (client: KubeClient, effect: Of<T>, allocation: AllocationBuilder) => Promise<Written>;
} = {
  async writeStatus(client, { gang, status }) {
    const path = resourcePath({
      group: schedulingGroup,
      version,
      resource: "gangs",
      namespace: gang.namespace,
      name: gang.name,
      subresource: "status",
    });
    const body = {
      apiVersion: `${schedulingGroup}/${version}`,
      kind: "Gang",
      metadata: {
        name: gang.name,
        namespace: gang.namespace,
        uid: gang.uid,
        resourceVersion: gang.resourceVersion,
      },
      spec: gang.spec,
      status,
    };
    return { outcome: done, gang: await client.request<KubernetesObject>("PUT", path, { body }) };
  },

  async reserveClaim(client, effect, allocation) {
    const { namespace, name, uid, allocated } = effect.claim;
    const resourceVersion = await protectedVersion(client, effect.claim);
    // It holds what was planned already and lacks consumers only; an allocation cannot be changed, not even its time.
    if (allocated) {
      const body = { metadata: { uid, resourceVersion }, status: { reservedFor: effect.reservedFor } };
      return { outcome: done, claim: await patchClaimStatus(client, effect, body) };
    }
    const status = { allocation: allocation(effect), reservedFor: effect.reservedFor };
    // Of an unallocated one this is the whole status: an update costs the API server two thirds of a patch.
    const metadata = { namespace, name, uid, resourceVersion };
    const body = { apiVersion: "resource.k8s.io/v1", kind: "ResourceClaim", metadata, status };
    const path = claimPath(effect.claim, "status");
    return { outcome: done, claim: await client.request<ResourceClaim>("PUT", path, { body }) };
  },

  /** Allocation and consumers go in one update: the API server refuses consumers of an unallocated claim. */
  async clearClaim(client, effect) {
    const body = {
      metadata: { uid: effect.claim.uid, resourceVersion: effect.claim.resourceVersion },
      status: { allocation: null, reservedFor: null, devices: null },
    };
    return { outcome: done, claim: await patchClaimStatus(client, effect, body) };
  },

  async dropGuard(client, effect) {
    const body = {
      metadata: { uid: effect.claim.uid, resourceVersion: effect.claim.resourceVersion },
      status: { reservedFor: effect.reservedFor },
    };
    return { outcome: done, claim: await patchClaimStatus(client, effect, body) };
  },

  /** Nominates first: once the gate is lifted, kube-scheduler may take the pod at any time. */
  async releasePod(client, effect) {
    if (effect.nominate) {
      await patchPod(client, effect.pod, { status: { nominatedNodeName: effect.node } }, "status");
    }
    const gates = [{ $patch: "delete", name: gangGate }];
    const pod = await patchPod(client, effect.pod, { spec: { schedulingGates: gates } });
    return { outcome: done, pod };
  },

  async tellPod(client, { pod, status, reason, message, atIso }) {
    const condition = { type: gangCondition, status, reason, message, lastTransitionTime: atIso };
    return { outcome: done, pod: await patchPod(client, pod, { status: { conditions: [condition] } }, "status") };
  },

  async evictPod(client, { pod }) {
    const { namespace, name, uid } = pod;
    const deleteOptions = { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid } };
    const body = { apiVersion: "policy/v1", kind: "Eviction", metadata: { namespace, name }, deleteOptions };
    await client.request("POST", podPath(pod, "eviction"), { body });
    return { outcome: done };
  },

  async disruptPod(client, { pod }) {
    const body = { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid: pod.uid } };
    await client.request("DELETE", podPath(pod), { body });
    return { outcome: done };
  },

  async bind(client, effect) {
    try {
      await client.request("POST", podPath(effect.pod, "binding"), {
        body: {
          apiVersion: "v1",
          kind: "Binding",
          metadata: { name: effect.pod.name, namespace: effect.pod.namespace, uid: effect.pod.uid },
          target: { apiVersion: "v1", kind: "Node", name: effect.node },
        },
      });
      return { outcome: done };
    } catch (error) {
      if (!isConflict(error)) throw error;
      return alreadyBound(client, effect, error);
    }
  },
};

/**
 * Claims get delete-protection at their creation; kube-controller-manager takes it off with the first deallocation, so a
 * claim that is used again needs it anew.
 * @returns the resourceVersion to write upon
 */
async function protectedVersion(client: KubeClient, claim: ClaimReference): Promise<string> {
  if (claim.finalizers.includes(claimFinalizer)) return claim.resourceVersion;
  const { uid, resourceVersion } = claim;
  const finalizers = [...claim.finalizers, claimFinalizer];
  const body = { metadata: { uid, resourceVersion, finalizers } };
  const written = await client.request<ResourceClaim>("PATCH", claimPath(claim), { body });
  return written.metadata.resourceVersion ?? resourceVersion;
}

/** A binding that the API server already has is a success: an answer was lost, or another replica posted it. */
async function alreadyBound(client: KubeClient, effect: Of<"bind">, conflict: unknown): Promise<Written> {
  const pod = await client.request<Pod>("GET", podPath(effect.pod));
  if (pod.metadata.uid === effect.pod.uid && pod.spec.nodeName === effect.node) return { outcome: done, pod };
  throw conflict;
}

async function patchPod(client: KubeClient, pod: PodReference, body: object, subresource?: string): Promise<Pod> {
  return await client.request<Pod>("PATCH", podPath(pod, subresource), {
    body: { metadata: { uid: pod.uid }, ...body },
    contentType: "application/strategic-merge-patch+json",
  });
}

/** A merge patch that replaces lists whole; the resourceVersion in it makes it a compare-and-swap. */
async function patchClaimStatus(
  client: KubeClient,
  effect: { claim: ClaimReference },
  body: object,
): Promise<ResourceClaim> {
  return await client.request<ResourceClaim>("PATCH", claimPath(effect.claim, "status"), { body });
}
