import type { KubernetesObject, ResourceClaim, ResourceClaimSpec } from "../../src/api/kubernetes.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import type { ApiServer } from "../support/api-double/server.ts";
import type { Clock } from "./clock.ts";
import { createInformer, type Informer } from "./informer.ts";
import type { Network } from "./network.ts";
import type { Process } from "./process.ts";
import type { Random } from "./random.ts";

/** What every component of a simulated cluster is made of. */
export interface Parts {
  clock: Clock;
  random: Random;
  api: ApiServer;
  network: Network;
  /** ResourceClaimTemplates by name: they never change here. */
  templates: ReadonlyMap<string, ResourceClaimSpec>;
  /** After so long without room a gang has one reserved by planners that start now; 0: never. */
  drainAfterMs: number;
  /** How often planners look for lost events; absent: as usual. */
  auditPeriodMs?: number;
  /** One line of the trace. */
  say(line: string): void;
  /** A fresh process. Only components that run now are alive. */
  spawn(name: string): Process;
}

/** A part of the cluster that may be killed and started again. */
export interface Component {
  readonly running: boolean;
  start(): void;
  kill(): void;
}

/** Keeps one process of a component: `run` builds it anew at every start. */
export function createComponent(name: string, parts: Parts, run: (process: Process) => void): Component {
  let process: Process | undefined;
  let starts = 0;
  return {
    get running() {
      return process?.alive === true;
    },
    start() {
      if (process?.alive === true) return;
      starts += 1;
      process = parts.spawn(`${name}-${starts}`);
      parts.say(`start ${process.name}`);
      run(process);
    },
    kill() {
      if (process?.alive !== true) return;
      parts.say(`kill ${process.name}`);
      process.kill();
    },
  };
}

/** Informers of one component; each lags behind on its own, now and then for long. */
export function createInformers(parts: Parts, process: Process) {
  const { api, random } = parts;
  const woken = new Map<string, Informer<never>>();
  let live = true;
  process.onKill(() => {
    live = false;
    woken.clear();
  });
  api.store.onCommit(({ resource }) => {
    if (live) woken.get(resource)?.wake();
  });
  const lagMs = (): number => (random.chance(0.03) ? random.between(0, 3_000) : random.between(0.2, 8));
  return function follow<T extends { metadata: { name: string } }>(
    resource: string,
    changed?: (object: T, previous: T | undefined, gone: boolean) => void,
  ): ReadonlyMap<string, T> {
    const informer = createInformer<T>(api.store, process, resource, lagMs, changed);
    woken.set(resource, informer as unknown as Informer<never>);
    return informer.items;
  };
}

export const namespace = "team";

/** Puts a cluster-scoped object there as it is, status and all, as a node's own components would. */
export function place(api: ApiServer, resource: string, object: KubernetesObject): void {
  const { name } = object.metadata;
  const known = api.store.get(resource, name);
  const uid = known?.metadata.uid ?? `${name}-${api.store.version}`;
  api.store.put(resource, name, { ...object, metadata: { ...object.metadata, uid, resourceVersion: "" } }, "admin");
}

export const paths = {
  pod: (name?: string, subresource?: string) =>
    resourcePath({ group: "", version: "v1", resource: "pods", namespace, name, subresource }),
  node: (name?: string) => resourcePath({ group: "", version: "v1", resource: "nodes", name }),
  claim: (name?: string, subresource?: string) =>
    resourcePath({ group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace, name, subresource }),
  slice: (name?: string) => resourcePath({ group: "resource.k8s.io", version: "v1", resource: "resourceslices", name }),
  deviceClass: () => resourcePath({ group: "resource.k8s.io", version: "v1", resource: "deviceclasses" }),
  group: (name?: string) =>
    resourcePath({
      group: "scheduling.kllama.ai",
      version: "v1alpha1",
      resource: "placementgroups",
      namespace,
      name,
    }),
  term: resourcePath({
    group: "scheduling.kllama.ai",
    version: "v1alpha1",
    resource: "plannerterms",
    name: "kllama-planner",
  }),
  gang: (name?: string, subresource?: string) =>
    resourcePath({
      group: "scheduling.kllama.ai",
      version: "v1alpha1",
      resource: "gangs",
      namespace,
      name,
      subresource,
    }),
};

/** The node that an allocated claim is bound to. */
export function nodeOfClaim(claim: ResourceClaim): string | undefined {
  return claim.status?.allocation?.nodeSelector?.nodeSelectorTerms[0]?.matchFields?.[0]?.values?.[0];
}

export function isReservedFor(claim: ResourceClaim, uid: string | undefined): boolean {
  return (claim.status?.reservedFor ?? []).some((consumer) => consumer.uid === uid);
}

/** Devices of an allocation, as `pool/device`. */
export function devicesOf(claim: ResourceClaim): string[] {
  return (claim.status?.allocation?.devices?.results ?? []).map(({ pool, device }) => `${pool}/${device}`);
}

/** Whole object written back with a change, as Go clients do. */
export async function replaceClaim(
  client: KubeClient,
  claim: ResourceClaim,
  change: Partial<Pick<ResourceClaim, "status">> & { finalizers?: string[] },
): Promise<ResourceClaim> {
  const { finalizers, ...status } = change;
  const metadata = finalizers === undefined ? claim.metadata : { ...claim.metadata, finalizers };
  const body = { ...claim, ...status, metadata };
  const path = paths.claim(claim.metadata.name, finalizers === undefined ? "status" : undefined);
  return await client.request<ResourceClaim>("PUT", path, { body });
}
