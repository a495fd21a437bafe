import { isDeepStrictEqual } from "node:util";
import type { Gang } from "../api/gang.ts";
import type { KubernetesObject, Pod } from "../api/kubernetes.ts";
import type { LLMCluster, LLMClusterStatus } from "../api/llm-cluster.ts";
import { servingGroup, version } from "../api/names.ts";
import { type KubeClient, KubeError } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import type { Timing } from "../kube/timing.ts";
import { type Applier, ApplyError, createApplier, deleteOwned, deletePods, serverSideApply } from "./apply.ts";
import { desired } from "./desired.ts";
import { podsToReplace, templatesInUse } from "./members.ts";
import type { OwnedKind, OwnedObject, StatefulSet } from "./owned.ts";
import { invalidStatus, nextStatus, type Observed, type Problem } from "./status.ts";
import { readCluster } from "./validate.ts";
import { isOlder } from "./versions.ts";
import { clusterKeyOf, type LiveObject, type Watched } from "./watch.ts";

/** An instance on its way is looked at this often, besides every change that a watch shows. */
const progressingDelayMs = 5_000;

/** A settled one this often, against missed events; also the longest pause after failures. */
const resyncDelayMs = 30_000;

/** The part of a pino logger that the operator uses. */
export interface OperatorLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

interface ReconcilerOptions {
  client: KubeClient;
  watched: Watched;
  timing: Timing;
  log: OperatorLog;
  report: (object: KubernetesObject, before: LLMClusterStatus | undefined, after: LLMClusterStatus) => void;
}

/** What is remembered of one LLMCluster between two looks; losing it costs a few writes that change nothing. */
interface Memory {
  uid: string | undefined;
  applier: Applier;
  failures: number;
  /** The status last written, and the version that the object had then. */
  written?: { resourceVersion: string | undefined; status: LLMClusterStatus };
}

/** Makes the function that looks at one LLMCluster once; see `WorkQueueOptions.process`. */
export function createReconciler({ client, watched, timing, log, report }: ReconcilerOptions) {
  const memories = new Map<string, Memory>();

  function memoryOf(key: string, object: KubernetesObject): Memory {
    const known = memories.get(key);
    if (known !== undefined && known.uid === object.metadata.uid) return known;
    const memory: Memory = { uid: object.metadata.uid, applier: createApplier(client), failures: 0 };
    memories.set(key, memory);
    return memory;
  }

  async function reconcile(raw: RawCluster, memory: Memory): Promise<LLMClusterStatus> {
    const read = readCluster(raw);
    const observed = "cluster" in read ? await bringAbout(client, watched, memory.applier, read.cluster) : undefined;
    // The watch may not have shown our last write yet.
    const isBehind = isOlder(raw.metadata.resourceVersion, memory.written?.resourceVersion);
    const before = isBehind ? memory.written?.status : raw.status;
    const nowMs = timing.wallClock().getTime();
    const base = before === undefined ? raw : { ...raw, status: before };
    const after =
      "cluster" in read && observed !== undefined
        ? nextStatus({ ...read.cluster, ...(before === undefined ? {} : { status: before }) }, observed, nowMs)
        : invalidStatus(base, "problems" in read ? read.problems : [], nowMs);
    if (isDeepStrictEqual(before, after)) return after;
    const { metadata } = await writeStatus(client, raw, after);
    memory.written = { resourceVersion: metadata.resourceVersion, status: after };
    report(raw, before, after);
    return after;
  }

  return async (key: string): Promise<number | undefined> => {
    const raw = watched.clusters.items.get(key);
    if (raw === undefined) memories.delete(key);
    // What belongs to a deleted LLMCluster is Kubernetes' garbage collector's.
    if (raw === undefined || raw.metadata.deletionTimestamp !== undefined) return undefined;
    const memory = memoryOf(key, raw);
    const jitter = 0.9 + 0.2 * timing.random();
    try {
      const status = await reconcile(raw, memory);
      memory.failures = 0;
      return jitter * (isProgressing(status) ? progressingDelayMs : resyncDelayMs);
    } catch (error) {
      if (!(error instanceof KubeError))
        log.error({ err: error, llmCluster: key }, "defect while working on an LLMCluster");
      else log.warn({ err: error, llmCluster: key }, "the API server could not be asked; trying again later");
      memory.failures += 1;
      return jitter * Math.min(resyncDelayMs, progressingDelayMs * 2 ** (memory.failures - 1));
    }
  };
}

/** An LLMCluster as the API server sent it, not yet checked. */
type RawCluster = KubernetesObject & { status?: LLMClusterStatus };

/** Writes, deletes and replaces what the LLMCluster asks for, then says what there is. */
async function bringAbout(
  client: KubeClient,
  watched: Watched,
  applier: Applier,
  cluster: LLMCluster,
): Promise<Observed> {
  const wanted = desired(cluster);
  const written = await writeAll(watched, applier, wanted);
  if (written.problem === undefined) await deleteExtras(client, watched, cluster, wanted);
  const observed = observe(watched, cluster, written);
  if (written.problem === undefined) await deletePods(client, podsToReplace(cluster, observed));
  return observed;
}

interface Written {
  templateSettled: boolean;
  problem?: Problem;
}

/** In order, up to the first that is refused: what follows may refer to it. */
async function writeAll(watched: Watched, applier: Applier, wanted: readonly OwnedObject[]): Promise<Written> {
  let templateSettled = false;
  try {
    for (const object of wanted) {
      const { namespace, name } = object.metadata;
      const kind = object.kind as OwnedKind;
      const settled = await applier.apply(object, watched.owned[kind].items.get(`${namespace}/${name}`));
      if (kind === "StatefulSet") templateSettled = settled;
    }
    return { templateSettled };
  } catch (error) {
    if (error instanceof ApplyError) return { templateSettled: false, problem: error.problem };
    throw error;
  }
}

/** Deletes what this LLMCluster owns and no longer wants: claim templates only once no pod refers to them. */
async function deleteExtras(
  client: KubeClient,
  watched: Watched,
  cluster: LLMCluster,
  wanted: readonly OwnedObject[],
): Promise<void> {
  const kept = new Set(wanted.map((object) => `${object.kind}/${object.metadata.name}`));
  const extras = ownedBy(watched, cluster).filter((object) => !kept.has(`${object.kind}/${object.metadata.name}`));
  if (extras.length === 0) return;
  const inUse = templatesInUse(podsOf(watched, cluster));
  for (const object of extras) {
    if (object.metadata.deletionTimestamp !== undefined) continue;
    if (object.kind === "ResourceClaimTemplate" && inUse.has(object.metadata.name)) continue;
    await deleteOwned(client, object);
  }
}

function ownedBy(watched: Watched, cluster: LLMCluster): LiveObject[] {
  const { uid } = cluster.metadata;
  return Object.values(watched.owned).flatMap((reflector) =>
    [...reflector.items.values()].filter((object) =>
      object.metadata.ownerReferences?.some((owner) => owner.controller === true && owner.uid === uid),
    ),
  );
}

function podsOf(watched: Watched, cluster: LLMCluster): Pod[] {
  const key = keyOf(cluster);
  return [...watched.pods.items.values()].filter((pod) => clusterKeyOf(pod) === key);
}

function observe(watched: Watched, cluster: LLMCluster, written: Written): Observed {
  const key = keyOf(cluster);
  const statefulSet = watched.owned.StatefulSet.items.get(key) as StatefulSet | undefined;
  const gang = watched.owned.Gang.items.get(key) as Gang | undefined;
  return {
    ...written,
    pods: podsOf(watched, cluster),
    ...(statefulSet === undefined ? {} : { statefulSet }),
    ...(gang === undefined ? {} : { gang }),
  };
}

function keyOf({ metadata }: KubernetesObject): string {
  return `${metadata.namespace}/${metadata.name}`;
}

function writeStatus(
  client: KubeClient,
  { metadata }: KubernetesObject,
  status: LLMClusterStatus,
): Promise<KubernetesObject> {
  const { namespace, name, uid } = metadata;
  const path = resourcePath({
    group: servingGroup,
    version,
    resource: "llmclusters",
    namespace,
    name,
    subresource: "status",
  });
  const identity = { name, ...(namespace === undefined ? {} : { namespace }), ...(uid === undefined ? {} : { uid }) };
  const body = { apiVersion: `${servingGroup}/${version}`, kind: "LLMCluster", metadata: identity, status };
  return serverSideApply<KubernetesObject>(client, path, body);
}

function isProgressing(status: LLMClusterStatus): boolean {
  return status.conditions?.some(({ type, status }) => type === "Progressing" && status === "True") ?? false;
}
