import type { Pod, PodDisruptionBudget, ResourceClaim } from "../../../src/api/kubernetes.ts";
import {
  bindMarker,
  claimFinalizer,
  driverName,
  gangGate,
  gangLabel,
  memberMarker,
  plannerName,
} from "../../../src/api/names.ts";
import type { PlannerTermSpec } from "../../../src/api/planner-term.ts";
import { equalJson } from "../../../src/topology/equal.ts";
import { refuse } from "./errors.ts";
import type { StoredObject } from "./resources.ts";

/** The account that deploy/policies.yaml lets allocate devices of managed drivers. */
export const plannerAccount = "system:serviceaccount:kllama-system:kllama-planner";

/** What deploy/policies.yaml does to objects at their creation: gate and markers on pods, a finalizer on claims. */
export function mutateOnCreate(resource: string, object: StoredObject, injects: boolean): StoredObject {
  if (resource === "resourceclaims") return withFinalizer(object);
  if (resource !== "pods") return object;
  const pod = object as unknown as Pod;
  if ((pod.spec.nodeName ?? "") !== "") return object;
  const hasClaims = (pod.spec.resourceClaims ?? []).length > 0;
  const member = pod.metadata.labels?.[gangLabel] !== undefined;
  if (!member && !(injects && hasClaims)) return object;
  const gated = withGate(pod);
  return (member ? withMarkers(gated, hasClaims ? [bindMarker] : [bindMarker, memberMarker]) : gated) as StoredObject;
}

function withFinalizer(object: StoredObject): StoredObject {
  const finalizers = object.metadata.finalizers ?? [];
  if (finalizers.includes(claimFinalizer)) return object;
  return { ...object, metadata: { ...object.metadata, finalizers: [...finalizers, claimFinalizer] } };
}

function withGate(pod: Pod): Pod {
  const gates = pod.spec.schedulingGates ?? [];
  if (gates.some((gate) => gate.name === gangGate)) return pod;
  return { ...pod, spec: { ...pod.spec, schedulingGates: [...gates, { name: gangGate }] } };
}

function withMarkers(pod: Pod, markers: readonly string[]): Pod {
  const [first, ...others] = pod.spec.containers;
  if (first === undefined) return pod;
  const marked = Object.fromEntries(markers.map((name) => [name, "1"]));
  const { requests, limits } = first.resources ?? {};
  const resources = {
    ...first.resources,
    requests: { ...requests, ...marked },
    limits: { ...limits, ...marked },
  };
  return { ...pod, spec: { ...pod.spec, containers: [{ ...first, resources }, ...others] } };
}

/** kube-apiserver's own rules for `resourceclaims/status`, and the policy *account*. */
export function checkClaimStatus(before: ResourceClaim, after: ResourceClaim, user: string): void {
  const { allocation, reservedFor = [] } = after.status ?? {};
  const old = before.status?.allocation;
  const same = equalJson(old, allocation);
  const results = allocation?.devices?.results ?? [];
  const managed = results.filter((result) => result.driver === driverName && result.adminAccess !== true);
  if (!same && managed.length > 0 && user !== plannerAccount) {
    throw refuse.forbidden(`devices of ${driverName} are allocated by kllama's planner alone, not by ${user}`);
  }
  if (old !== undefined && allocation !== undefined && !same) {
    throw refuse.invalid("status.allocation: field is immutable");
  }
  if (reservedFor.length > 0 && allocation === undefined) {
    throw refuse.invalid("status.reservedFor: may not be specified when `allocated` is not set");
  }
  if (new Set(reservedFor.map((consumer) => consumer.uid)).size < reservedFor.length) {
    throw refuse.invalid("status.reservedFor: duplicate value");
  }
  const known = new Set((before.status?.reservedFor ?? []).map((consumer) => consumer.uid));
  if (before.metadata.deletionTimestamp !== undefined && reservedFor.some((consumer) => !known.has(consumer.uid))) {
    throw refuse.invalid("status.reservedFor: new entries may not be added while `deletionTimestamp` is set");
  }
}

/** The rule of the kind itself (src/api/planner-term.ts). */
export function checkTermSpec(before: PlannerTermSpec, after: PlannerTermSpec): void {
  const later = after.epoch > before.epoch || (after.epoch === before.epoch && after.holder === before.holder);
  if (!later) throw refuse.invalid("spec: a later term has begun");
}

/** What the policy *term* matches: resource and, after a slash, subresource. */
const fenced = new Set([
  "resourceclaims",
  "resourceclaims/status",
  "pods",
  "pods/binding",
  "pods/eviction",
  "gangs/status",
  "placementgroups/status",
  "plannerterms/status",
]);

/** Who writes, as the policy *term* sees it. */
export interface Writer {
  /** UID of the sender's pod, else its user name. */
  caller: string;
  /** Who a probe of the fence speaks for; else the caller. */
  speaker: string;
  /** Field manager; undefined: a deletion has none, or nobody asks for it. */
  manager: string | undefined;
}

/** The policy *term*: of all planners only the holder of the PlannerTerm writes, and only in this term. */
export function checkFence(
  what: string,
  { caller, speaker, manager }: Writer,
  term: PlannerTermSpec | undefined,
): void {
  if (term === undefined || !fenced.has(what)) return;
  const denied = "ValidatingAdmissionPolicy 'term.scheduling.kllama.ai' denied request: this planner was replaced: ";
  if (caller !== term.holder || speaker !== term.holder) {
    throw refuse.forbidden(`${denied}term ${term.epoch} is held by ${term.holder}, not by ${speaker}`);
  }
  if (manager !== undefined && manager !== `${plannerName}/${term.epoch}`) {
    throw refuse.forbidden(`${denied}it is in term ${term.epoch}, and this was sent by field manager '${manager}'`);
  }
}

/** Of a pod's spec kllama changes the gates only, which may be lifted and never added. */
export function checkPodSpec(before: Pod, after: Pod): void {
  const gates = (pod: Pod) => (pod.spec.schedulingGates ?? []).map((gate) => gate.name);
  const allowed = new Set(gates(before));
  if (gates(after).some((gate) => !allowed.has(gate))) {
    throw refuse.invalid("spec.schedulingGates: only deletion is allowed");
  }
  const { schedulingGates: _before, ...old } = before.spec;
  const { schedulingGates: _after, ...next } = after.spec;
  if (!equalJson(old, next)) throw refuse.invalid("spec: pod updates may not change these fields");
}

/** The Eviction API asks no budget about pods that have not started, are over or are ending. */
export function countsForBudgets({ metadata, status }: Pod): boolean {
  return metadata.deletionTimestamp === undefined && status?.phase === "Running";
}

export function covers({ spec }: PodDisruptionBudget, { metadata: { labels = {} } }: Pod): boolean {
  const { matchLabels } = spec?.selector ?? {};
  return matchLabels !== undefined && Object.entries(matchLabels).every(([key, value]) => labels[key] === value);
}

/** @returns the budget's status after one more eviction */
export function takeFrom({ metadata, status }: PodDisruptionBudget): NonNullable<PodDisruptionBudget["status"]> {
  const { disruptionsAllowed = 0, observedGeneration = 0 } = status ?? {};
  if (observedGeneration < (metadata.generation ?? 0))
    throw refuse.tooMany(`${metadata.name} is still being processed`);
  if (disruptionsAllowed <= 0)
    throw refuse.tooMany("Cannot evict pod as it would violate the pod's disruption budget.");
  return { ...status, disruptionsAllowed: disruptionsAllowed - 1 };
}

/** A pod that is bound by `pods/binding`. */
export function bindPod(pod: Pod, binding: { metadata?: { uid?: string }; target?: { name?: string } }): Pod {
  const { name } = pod.metadata;
  const uid = binding.metadata?.uid;
  if (uid !== undefined && uid !== pod.metadata.uid) {
    throw refuse.conflict(`pods/binding ${name}: UID in precondition: ${uid}, in object: ${pod.metadata.uid}`);
  }
  if (pod.metadata.deletionTimestamp !== undefined) throw refuse.conflict(`pod ${name} is being deleted`);
  if (pod.spec.nodeName !== undefined) {
    throw refuse.conflict(`pod ${name} is already assigned to node "${pod.spec.nodeName}"`);
  }
  if ((pod.spec.schedulingGates ?? []).length > 0) {
    throw refuse.conflict(`pod ${name} has non-empty .spec.schedulingGates`);
  }
  const { nominatedNodeName: _, conditions = [], ...status } = pod.status ?? {};
  const scheduled = { type: "PodScheduled", status: "True" };
  const others = conditions.filter((condition) => condition.type !== "PodScheduled");
  return {
    ...pod,
    spec: { ...pod.spec, nodeName: binding.target?.name ?? "" },
    status: { ...status, conditions: [...others, scheduled] },
  };
}
