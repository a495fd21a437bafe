import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { claimFinalizer } from "../../src/api/names.ts";
import { isConflict, isNotFound, type KubeClient } from "../../src/kube/client.ts";
import {
  type Component,
  createComponent,
  createInformers,
  isReservedFor,
  namespace,
  type Parts,
  paths,
  replaceClaim,
} from "./parts.ts";
import type { Process } from "./process.ts";
import { isOver, isReady } from "./scheduler.ts";

/** What a StatefulSet with `podManagementPolicy: Parallel` wants: `make` builds the pod of an index. */
export interface Workload {
  name: string;
  replicas: number;
  make(index: number): Pod;
}

export interface Cluster {
  /** The namespace of all that is namespaced is being deleted; there is a new one once it is empty. */
  terminating: boolean;
}

/**
 * A model of kube-controller-manager 1.36, on caches that lag: claims made from templates and reservations cleaned up
 * (pkg/controller/resourceclaim), claims of gone pods collected, pods of lost nodes deleted, StatefulSets kept whole,
 * deleted namespaces emptied.
 */
export function createControllerManager(
  parts: Parts,
  workloads: ReadonlyMap<string, Workload>,
  cluster: Cluster,
): Component {
  return createComponent("kube-controller-manager", parts, (process) =>
    runControllers(parts, workloads, cluster, process),
  );
}

type Sync = () => Promise<void>;

function runControllers(
  parts: Parts,
  workloads: ReadonlyMap<string, Workload>,
  cluster: Cluster,
  process: Process,
): void {
  const { random, api } = parts;
  const client = parts.network.client(process, "system:kube-controller-manager");
  const follow = createInformers(parts, process);
  const enqueue = createQueue(
    process,
    () => random.between(0.5, 10),
    () => random.between(20, 1_000),
  );

  let keeping = false;
  /** Workloads that were found whole, since when no pod has changed: there is nothing to do for them. */
  let whole: readonly Workload[] = [];

  const pods = follow<Pod>("pods", (pod, previous, gone) => observePod(pod, previous, gone));
  const claims = follow<ResourceClaim>("resourceclaims", (claim, _previous, gone) => {
    if (!gone) observeClaim(claim);
    else for (const { name } of claim.metadata.ownerReferences ?? []) enqueuePod(name);
  });
  const nodes = follow<Node>("nodes", (node, _previous, gone) => observeNode(node, gone));
  for (const pod of pods.values()) observePod(pod, undefined, false);
  for (const claim of claims.values()) observeClaim(claim);
  for (const node of nodes.values()) observeNode(node, false);
  keepWorkloads();
  emptyNamespaces();

  function observePod(pod: Pod, previous: Pod | undefined, gone: boolean): void {
    whole = [];
    keepSoon();
    if (!gone) enqueuePod(pod.metadata.name);
    else
      for (const claim of claims.values()) if (ownerUid(claim) === pod.metadata.uid) enqueueClaim(claim.metadata.name);
    for (const { resourceClaimName } of (previous ?? pod).status?.resourceClaimStatuses ?? []) {
      if (resourceClaimName !== undefined) enqueueClaim(resourceClaimName);
    }
    const node = pod.spec.nodeName;
    if (!gone && node !== undefined && !nodes.has(node)) podsOfLostNode(node);
  }

  function observeClaim(claim: ResourceClaim): void {
    enqueueClaim(claim.metadata.name);
    for (const owner of claim.metadata.ownerReferences ?? []) enqueuePod(owner.name);
  }

  function enqueuePod(name: string): void {
    enqueue(`pod/${name}`, async () => {
      const pod = pods.get(`${namespace}/${name}`);
      if (pod !== undefined && pod.metadata.deletionTimestamp === undefined) await syncPod(parts, client, pod, claims);
    });
  }

  function enqueueClaim(name: string): void {
    enqueue(`claim/${name}`, async () => {
      const claim = claims.get(`${namespace}/${name}`);
      if (claim !== undefined) await syncClaim(client, claim, pods);
      collectLater(name);
    });
  }

  /** The garbage collector: an owner that is surely gone takes what it owns with it. */
  function collectLater(name: string): void {
    const claim = claims.get(`${namespace}/${name}`);
    const owner = claim?.metadata.ownerReferences?.[0];
    if (claim === undefined || owner === undefined || claim.metadata.deletionTimestamp !== undefined) return;
    if (pods.get(`${namespace}/${owner.name}`)?.metadata.uid === owner.uid) return;
    enqueue(`collect/${name}`, async () => {
      // It asks the API server itself before it deletes.
      const live = (await get<Pod>(client, paths.pod(owner.name)))?.metadata.uid;
      if (live === owner.uid) return;
      await remove(client, paths.claim(name), { preconditions: { uid: claim.metadata.uid } });
    });
  }

  /** Pod garbage collection and taint-based eviction, both much sooner than the defaults. */
  function observeNode(node: Node, gone: boolean): void {
    const { name } = node.metadata;
    if (gone) podsOfLostNode(name);
    else if (!isReady(node)) process.after(random.between(5_000, 20_000), () => evict(name));
  }

  function podsOfLostNode(name: string): void {
    process.after(random.between(1_000, 10_000), () => {
      if (nodes.has(name)) return;
      for (const pod of pods.values()) if (pod.spec.nodeName === name) deletePod(pod, 0);
    });
  }

  function evict(name: string): void {
    const node = nodes.get(name);
    if (node === undefined || isReady(node)) return;
    for (const pod of pods.values()) {
      if (pod.spec.nodeName === name && pod.metadata.deletionTimestamp === undefined) deletePod(pod, undefined);
    }
  }

  function deletePod(pod: Pod, gracePeriodSeconds: number | undefined): void {
    enqueue(`delete/${pod.metadata.uid}`, async () => {
      const body = { preconditions: { uid: pod.metadata.uid }, gracePeriodSeconds };
      if ((await get<Pod>(client, paths.pod(pod.metadata.name)))?.metadata.uid !== pod.metadata.uid) return;
      await remove(client, paths.pod(pod.metadata.name), body);
    });
  }

  function emptyNamespaces(): void {
    process.after(random.between(500, 2_000), () => {
      if (cluster.terminating) emptyNamespace();
      emptyNamespaces();
    });
  }

  /** One kind after another, in no order that anybody can rely on. */
  function emptyNamespace(): void {
    const kinds = { pods: paths.pod, resourceclaims: paths.claim, gangs: paths.gang, placementgroups: paths.group };
    let left = 0;
    for (const [resource, path] of Object.entries(kinds)) {
      for (const { metadata } of api.store.all(resource).values()) {
        left += 1;
        if (metadata.deletionTimestamp !== undefined) continue;
        enqueue(`empty/${metadata.uid}`, () => remove(client, path(metadata.name), {}));
      }
    }
    if (left > 0) return;
    parts.say("the namespace is gone, and created again");
    cluster.terminating = false;
  }

  /** Soon after every change of pods, and now and then: nobody tells of changed workloads. */
  function keepWorkloads(): void {
    process.after(random.between(500, 2_000), () => {
      keepSoon();
      keepWorkloads();
    });
  }

  function keepSoon(): void {
    if (keeping) return;
    keeping = true;
    process.after(random.between(1, 200), () => {
      keeping = false;
      const all = [...workloads.values()];
      if (all.length === whole.length && all.every((workload, index) => workload === whole[index])) return;
      const isWhole = all.map(keepWorkload);
      whole = isWhole.includes(false) ? [] : all;
    });
  }

  /** @returns whether nothing is to be done before it changes, or a pod */
  function keepWorkload({ name, replicas, make }: Workload): boolean {
    let isWhole = true;
    for (let index = 0; index < replicas; index++) {
      const pod = pods.get(`${namespace}/${name}-${index}`);
      if (pod === undefined) {
        isWhole = false;
        if (api.store.get("pods", `${namespace}/${name}-${index}`) !== undefined) continue;
        enqueue(`make/${name}-${index}`, async () => {
          if (workloads.get(name) !== undefined) await client.request("POST", paths.pod(), { body: make(index) });
        });
      } else if (isOver(pod) && pod.metadata.deletionTimestamp === undefined) {
        isWhole = false;
        deletePod(pod, undefined);
      }
    }
    for (let index = replicas; ; index++) {
      const surplus = pods.get(`${namespace}/${name}-${index}`);
      if (surplus === undefined) return isWhole;
      if (surplus.metadata.deletionTimestamp !== undefined) continue;
      isWhole = false;
      deletePod(surplus, undefined);
    }
  }
}

/** Keys are handled one after another each, soon, and again after a failure. */
function createQueue(process: Process, soonMs: () => number, laterMs: () => number) {
  const waiting = new Map<string, Sync>();
  const running = new Set<string>();

  function run(key: string): void {
    const sync = waiting.get(key);
    if (sync === undefined || running.has(key)) return;
    waiting.delete(key);
    running.add(key);
    void sync().then(
      () => {
        running.delete(key);
        if (waiting.has(key)) process.after(soonMs(), () => run(key));
      },
      () => {
        running.delete(key);
        if (!waiting.has(key)) waiting.set(key, sync);
        process.after(laterMs(), () => run(key));
      },
    );
  }

  return (key: string, sync: Sync): void => {
    const planned = waiting.has(key);
    waiting.set(key, sync);
    if (!planned) process.after(soonMs(), () => run(key));
  };
}

async function get<T>(client: KubeClient, path: string): Promise<T | undefined> {
  try {
    return await client.request<T>("GET", path);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** What is gone, or another of that name by now, needs no deletion any more. */
async function remove(client: KubeClient, path: string, body: object): Promise<void> {
  try {
    await client.request("DELETE", path, { body });
  } catch (error) {
    if (!isNotFound(error) && !isConflict(error)) throw error;
  }
}

/** Creates missing claims, and reserves those of a bound pod that lost their reservation. */
async function syncPod(
  parts: Parts,
  client: KubeClient,
  pod: Pod,
  claims: ReadonlyMap<string, ResourceClaim>,
): Promise<void> {
  const statuses = [...(pod.status?.resourceClaimStatuses ?? [])];
  let added = false;
  for (const { name, resourceClaimTemplateName } of pod.spec.resourceClaims ?? []) {
    const known = statuses.find((status) => status.name === name);
    if (known !== undefined && claims.has(`${namespace}/${known.resourceClaimName}`)) continue;
    const claim = await claimFor(parts, client, pod, name, resourceClaimTemplateName ?? "");
    if (known !== undefined) statuses.splice(statuses.indexOf(known), 1);
    statuses.push({ name, resourceClaimName: claim });
    added = true;
  }
  if (added) {
    const body = { metadata: { uid: pod.metadata.uid }, status: { resourceClaimStatuses: statuses } };
    await client.request("PATCH", paths.pod(pod.metadata.name, "status"), { body });
  }
  if (pod.spec.nodeName === undefined) return;
  for (const { resourceClaimName } of statuses) {
    const claim = claims.get(`${namespace}/${resourceClaimName}`);
    if (claim?.status?.allocation === undefined || isReservedFor(claim, pod.metadata.uid)) continue;
    const consumer = { resource: "pods", name: pod.metadata.name, uid: pod.metadata.uid ?? "" };
    await replaceClaim(client, claim, {
      status: { ...claim.status, reservedFor: [...(claim.status.reservedFor ?? []), consumer] },
    });
  }
}

/** The claim that was made for the pod's reference already, be it on its way out, or a new one. @returns its name */
async function claimFor(parts: Parts, client: KubeClient, pod: Pod, reference: string, template: string) {
  const annotation = "resource.kubernetes.io/pod-claim-name";
  for (const made of parts.api.store.all("resourceclaims").values()) {
    const owner = made.metadata.ownerReferences?.[0];
    if (owner?.uid === pod.metadata.uid && made.metadata.annotations?.[annotation] === reference) {
      return made.metadata.name;
    }
  }
  const suffix = parts.random
    .below(36 ** 5)
    .toString(36)
    .padStart(5, "0");
  const name = `${pod.metadata.name}-${reference}-${suffix}`;
  const { name: podName, uid = "" } = pod.metadata;
  await client.request("POST", paths.claim(), {
    body: {
      metadata: {
        name,
        namespace,
        annotations: { [annotation]: reference },
        ownerReferences: [{ apiVersion: "v1", kind: "Pod", name: podName, uid, controller: true }],
      },
      spec: parts.templates.get(template),
    },
  });
  return name;
}

/** syncClaim of the resource claim controller: consumers that are gone, deallocation, finalizer, unused claims. */
async function syncClaim(client: KubeClient, cached: ResourceClaim, pods: ReadonlyMap<string, Pod>): Promise<void> {
  const consumers = cached.status?.reservedFor ?? [];
  const remaining = [];
  for (const consumer of consumers) {
    if (consumer.resource !== "pods" || (await stillUses(client, consumer, pods))) remaining.push(consumer);
  }
  const finalizers = (cached.metadata.finalizers ?? []).filter((each) => each !== claimFinalizer);
  const isProtected = cached.metadata.finalizers?.includes(claimFinalizer) === true;
  if (remaining.length < consumers.length) {
    const { allocation, ...status } = cached.status ?? {};
    const deallocate = remaining.length === 0 && isProtected;
    const next = {
      ...status,
      reservedFor: remaining,
      ...(deallocate || allocation === undefined ? {} : { allocation }),
    };
    const claim = await replaceClaim(client, cached, { status: next });
    if (isProtected && claim.status?.allocation === undefined) await replaceClaim(client, claim, { finalizers });
  } else if (isProtected && cached.metadata.deletionTimestamp !== undefined && remaining.length === 0) {
    let claim = cached;
    if (claim.status?.allocation !== undefined) claim = await replaceClaim(client, claim, { status: {} });
    await replaceClaim(client, claim, { finalizers });
  }
  if (remaining.length > 0 || cached.metadata.deletionTimestamp !== undefined) return;
  const owner = cached.metadata.ownerReferences?.[0];
  const pod = owner === undefined ? undefined : pods.get(`${namespace}/${owner.name}`);
  if (pod === undefined || (pod.metadata.uid === owner?.uid && !isDone(pod))) return;
  await remove(client, paths.claim(cached.metadata.name), { preconditions: { uid: cached.metadata.uid } });
}

async function stillUses(
  client: KubeClient,
  consumer: { name: string; uid: string },
  pods: ReadonlyMap<string, Pod>,
): Promise<boolean> {
  const known = pods.get(`${namespace}/${consumer.name}`);
  const pod = known ?? (await get<Pod>(client, paths.pod(consumer.name)));
  return pod !== undefined && pod.metadata.uid === consumer.uid && !isDone(pod);
}

function ownerUid(claim: ResourceClaim): string | undefined {
  return claim.metadata.ownerReferences?.[0]?.uid;
}

/** It will not run (any more). */
function isDone(pod: Pod): boolean {
  return isOver(pod) || (pod.metadata.deletionTimestamp !== undefined && pod.spec.nodeName === undefined);
}
