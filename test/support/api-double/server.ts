import type { ObjectMeta, Pod, PodDisruptionBudget, ResourceClaim } from "../../../src/api/kubernetes.ts";
import { plannerName } from "../../../src/api/names.ts";
import type { PlannerTermSpec } from "../../../src/api/planner-term.ts";
import { equalJson } from "../../../src/topology/equal.ts";
import { refuse } from "./errors.ts";
import { mergePatch, strategicMergePatch } from "./patch.ts";
import { parsePath, type ResourceType, type StoredObject, type Target } from "./resources.ts";
import {
  bindPod,
  checkClaimStatus,
  checkFence,
  checkPodSpec,
  checkTermSpec,
  countsForBudgets,
  covers,
  mutateOnCreate,
  plannerAccount,
  takeFrom,
} from "./rules.ts";
import { createStore, type Store } from "./store.ts";

/** One request, as it comes off the wire. */
interface ApiRequest {
  user: string;
  /** UID of the pod that the sender's token is bound to. */
  pod?: string | undefined;
  method: string;
  path: string;
  query?: Readonly<Record<string, string | number | boolean | undefined>> | undefined;
  body?: unknown;
  contentType?: string | undefined;
}

/**
 * kube-apiserver in memory, as far as kllama can tell: objects, versions, subresources, patches, refusals, and what
 * deploy/policies.yaml does. `test/support/api-contract.ts` holds it against the real one.
 */
export interface ApiServer {
  readonly store: Store;
  /** Answers at once. Throws KubeError for a refusal. The answer is shared: do not change it. */
  handle(request: ApiRequest): unknown;
}

export interface ApiServerOptions {
  /** Wall clock in milliseconds. */
  nowMs(): number;
  newUid(): string;
  /** The PlannerTerm as the policy knows it now: it follows its parameter some time later. Default: at once. */
  term?(): PlannerTermSpec | undefined;
  /** The policy *term* asks who holds the term, not in which one a write was sent. */
  anyTerm?: boolean | undefined;
  /** Namespaces that are being deleted: nothing is created in them. */
  terminating?(namespace: string): boolean;
  /** Namespaces with the label `scheduling.kllama.ai/inject: enabled`. */
  injects(namespace: string): boolean;
}

interface Change {
  request: ApiRequest;
  target: Target & { name: string };
  key: string;
  before: StoredObject;
}

export function createApiServer(options: ApiServerOptions): ApiServer {
  const store = createStore();
  const pages = new Map<string, { version: number; rest: StoredObject[] }>();

  const term = options.term ?? (() => store.get("plannerterms", plannerName)?.spec as PlannerTermSpec | undefined);
  const nowIso = (): string => new Date(options.nowMs()).toISOString().replace(/\.\d+Z$/, "Z");

  function handle(request: ApiRequest): unknown {
    const target = parsePath(request.path);
    if (target === undefined) throw refuse.notFound(request.path);
    const { name } = target;
    if (name === undefined) return request.method === "POST" ? create(request, target) : list(request, target);
    const key = keyOf(target.namespace, name);
    const before = store.get(target.type.resource, key);
    if (before === undefined) throw refuse.notFound(`${target.type.resource} ${JSON.stringify(name)}`);
    const change = { request, target: { ...target, name }, key, before };
    if (request.method === "GET") return before;
    if (request.method === "DELETE") return remove(change);
    if (target.subresource === "binding") return bind(change);
    if (target.subresource === "eviction") return evict(change);
    if (isDryRun(request) && target.type.resource !== "plannerterms")
      throw refuse.badRequest("dryRun: not in the double");
    if (request.method === "PUT") return update(change, request.body as StoredObject, "PUT");
    const patch = request.contentType?.includes("strategic") === true ? strategicMergePatch : mergePatch;
    return update(change, patch(before, request.body) as StoredObject, "PATCH");
  }

  function list({ query = {} }: ApiRequest, { type, namespace }: Target): unknown {
    const limit = Number(query["limit"] ?? Number.POSITIVE_INFINITY);
    const token = query["continue"];
    const page =
      token === undefined ? { version: store.version, rest: [...itemsOf(type, namespace)] } : pages.get(String(token));
    if (page === undefined) throw refuse.expired();
    const rest = page.rest.slice(limit);
    const next = rest.length === 0 ? undefined : `${page.version}-${pages.size}`;
    if (next !== undefined) pages.set(next, { version: page.version, rest });
    return {
      metadata: { resourceVersion: String(page.version), ...(next === undefined ? {} : { continue: next }) },
      items: page.rest.slice(0, limit),
    };
  }

  function* itemsOf(type: ResourceType, namespace: string | undefined): Iterable<StoredObject> {
    for (const object of store.all(type.resource).values()) {
      if (namespace === undefined || object.metadata.namespace === namespace) yield object;
    }
  }

  function create({ body, user }: ApiRequest, { type, namespace }: Target): StoredObject {
    const sent = body as StoredObject;
    const { name } = sent.metadata;
    const key = keyOf(namespace, name);
    if (namespace !== undefined && options.terminating?.(namespace) === true) {
      throw refuse.forbidden(`unable to create new content in namespace ${namespace} because it is being terminated`);
    }
    if (store.get(type.resource, key) !== undefined) throw refuse.exists(`${type.resource} ${JSON.stringify(name)}`);
    const { status: _, ...rest } = sent;
    const object: StoredObject = {
      ...(type.status === true ? rest : sent),
      ...(type.resource === "pods" ? { status: { phase: "Pending" } } : {}),
      metadata: {
        ...sent.metadata,
        ...(namespace === undefined ? {} : { namespace }),
        uid: options.newUid(),
        resourceVersion: "",
        creationTimestamp: nowIso(),
        ...(type.custom === true ? { generation: 1 } : {}),
      },
    };
    const injects = namespace !== undefined && options.injects(namespace);
    return store.put(type.resource, key, mutateOnCreate(type.resource, object, injects), user);
  }

  function update(change: Change, sent: StoredObject, method: "PUT" | "PATCH"): StoredObject {
    const { target, key, before, request } = change;
    checkPreconditions(target.type, before, sent.metadata, method);
    const after = accepted(target, before, sent);
    if (target.type.resource === "resourceclaims" && target.subresource === "status") {
      checkClaimStatus(before as unknown as ResourceClaim, after as unknown as ResourceClaim, request.user);
      noteAllocator(before as unknown as ResourceClaim, after as unknown as ResourceClaim, request);
    }
    if (target.type.resource === "pods" && target.subresource === undefined) {
      checkPodSpec(before as unknown as Pod, after as unknown as Pod);
    }
    if (target.type.resource === "plannerterms" && target.subresource === undefined) {
      checkTermSpec(before.spec as PlannerTermSpec, after.spec as PlannerTermSpec);
    }
    checkTerm(change, (after.status as { probe?: string } | undefined)?.probe);
    if (isDryRun(request)) return after;
    // A write that changes nothing is none: no version, no event.
    if (equalJson(before, after)) return before;
    if (isFinished(after)) return store.remove(target.type.resource, key, request.user) as StoredObject;
    return store.put(target.type.resource, key, after, request.user);
  }

  function checkTerm({ request, target: { type, subresource } }: Change, probe?: string): void {
    if (request.user !== plannerAccount) return;
    const what = subresource === undefined ? type.resource : `${type.resource}/${subresource}`;
    const caller = request.pod ?? request.user;
    const speaker = type.resource === "plannerterms" ? (probe ?? caller) : caller;
    const asked = request.method !== "DELETE" && options.anyTerm !== true;
    const manager = asked ? String(request.query?.["fieldManager"] ?? "") : undefined;
    checkFence(what, { caller, speaker, manager }, term());
  }

  function remove(change: Change): StoredObject {
    const { target, key, before, request } = change;
    if (target.type.resource === "pods" && target.subresource === undefined) checkTerm(change);
    const { preconditions, gracePeriodSeconds } = (request.body ?? {}) as {
      preconditions?: { uid?: string };
      gracePeriodSeconds?: number;
    };
    if (preconditions?.uid !== undefined && preconditions.uid !== before.metadata.uid) {
      throw refuse.conflict(`the UID in the precondition (${preconditions.uid}) is not the object's`);
    }
    const graceful =
      target.type.resource === "pods" && runsSomewhere(before as unknown as Pod) && gracePeriodSeconds !== 0;
    const finalized = (before.metadata.finalizers ?? []).length > 0;
    if (!graceful && !finalized) return store.remove(target.type.resource, key, request.user) as StoredObject;
    if (before.metadata.deletionTimestamp !== undefined) return before;
    const metadata = { ...before.metadata, deletionTimestamp: nowIso() };
    return store.put(target.type.resource, key, { ...before, metadata }, request.user);
  }

  function bind(change: Change): unknown {
    const { target, key, before, request } = change;
    checkTerm(change);
    const bound = bindPod(before as unknown as Pod, (request.body ?? {}) as object);
    store.put(target.type.resource, key, bound as StoredObject, request.user);
    return { kind: "Status", status: "Success" };
  }

  function evict(change: Change): unknown {
    const { before, request } = change;
    checkTerm(change);
    const { deleteOptions } = (request.body ?? {}) as { deleteOptions?: object };
    const budget = budgetFor(before as unknown as Pod);
    const preconditions = (deleteOptions as { preconditions?: { uid?: string } } | undefined)?.preconditions;
    if (preconditions?.uid !== undefined && preconditions.uid !== before.metadata.uid) {
      throw refuse.conflict(`the UID in the precondition (${preconditions.uid}) is not the object's`);
    }
    if (budget !== undefined) {
      const status = takeFrom(budget as unknown as PodDisruptionBudget);
      const key = keyOf(budget.metadata.namespace, budget.metadata.name);
      store.put("poddisruptionbudgets", key, { ...budget, status }, request.user);
    }
    remove({ ...change, request: { ...request, method: "DELETE", body: deleteOptions ?? {} } });
    return { kind: "Status", status: "Success" };
  }

  /** The budget that the eviction is taken from; undefined: none. */
  function budgetFor(pod: Pod): StoredObject | undefined {
    if (!countsForBudgets(pod)) return undefined;
    const all = [...store.all("poddisruptionbudgets").values()].filter(
      (each) =>
        each.metadata.namespace === pod.metadata.namespace && covers(each as unknown as PodDisruptionBudget, pod),
    );
    if (all.length > 1) {
      throw refuse.internal(
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
      );
    }
    return all[0];
  }

  return { store, handle };
}

function isDryRun({ query }: ApiRequest): boolean {
  return query?.["dryRun"] !== undefined;
}

function keyOf(namespace: string | undefined, name: string): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

function checkPreconditions(type: ResourceType, before: StoredObject, sent: ObjectMeta, method: "PUT" | "PATCH"): void {
  const { uid, resourceVersion } = sent;
  const what = `${type.resource} ${JSON.stringify(before.metadata.name)}`;
  const another = uid !== undefined && uid !== before.metadata.uid;
  if (another && method === "PUT") throw refuse.conflict(`${what}: the UID in the precondition is another's`);
  if (resourceVersion === undefined || resourceVersion === "") {
    if (type.conditional === true && method === "PUT")
      throw refuse.invalid(`${what}: metadata.resourceVersion: must be specified for an update`);
  } else if (resourceVersion !== before.metadata.resourceVersion) {
    throw refuse.conflict(`${what}: the object has been modified`);
  }
  // A patch is applied to whatever has that name: the UID in it would change the object's.
  if (another) throw refuse.invalid(`${what}: metadata.uid: field is immutable`);
}

/** What a write through this door may change of the object; the rest stays as it is. */
function accepted({ type, subresource }: Target, before: StoredObject, sent: StoredObject): StoredObject {
  const kept = before.metadata;
  if (subresource === "status") {
    const { status: _, ...rest } = before;
    return sent.status === undefined ? rest : { ...rest, status: withoutEmptyLists(sent.status) };
  }
  const { status: _old, ...next } = sent;
  const { finalizers, labels, annotations, ownerReferences } = sent.metadata;
  const metadata: StoredObject["metadata"] = { ...kept };
  assignOrDelete(metadata, { finalizers, labels, annotations, ownerReferences });
  if (type.custom === true && !equalJson(before.spec, sent.spec)) metadata.generation = (kept.generation ?? 0) + 1;
  if (type.status !== true) return { ...sent, metadata };
  return { ...next, metadata, ...(before.status === undefined ? {} : { status: before.status }) };
}

/** Of all field managers only that of the allocation: the first who writes it. */
function noteAllocator(before: ResourceClaim, after: ResourceClaim, { user, query }: ApiRequest): void {
  if ((before.status?.allocation === undefined) === (after.status?.allocation === undefined)) return;
  const manager = String(query?.["fieldManager"] ?? user);
  const allocator = { manager, subresource: "status", fieldsV1: { "f:status": { "f:allocation": {} } } };
  const managedFields = after.status?.allocation === undefined ? undefined : [allocator];
  after.metadata = { ...after.metadata };
  assignOrDelete(after.metadata, { managedFields });
}

/** Go leaves empty lists out of what it writes. */
function withoutEmptyLists(status: unknown): unknown {
  if (typeof status !== "object" || status === null) return status;
  const kept = Object.entries(status).filter(([, value]) => !(Array.isArray(value) && value.length === 0));
  return Object.fromEntries(kept);
}

function assignOrDelete(target: ObjectMeta, fields: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(fields)) {
    const empty = value === undefined || (Array.isArray(value) && value.length === 0);
    if (empty) delete (target as unknown as Record<string, unknown>)[name];
    else (target as unknown as Record<string, unknown>)[name] = value;
  }
}

function isFinished({ metadata }: StoredObject): boolean {
  return metadata.deletionTimestamp !== undefined && (metadata.finalizers ?? []).length === 0;
}

/** A pod that was never bound, or has ended, needs no grace. */
function runsSomewhere(pod: Pod): boolean {
  const phase = pod.status?.phase;
  return pod.spec.nodeName !== undefined && phase !== "Succeeded" && phase !== "Failed";
}
