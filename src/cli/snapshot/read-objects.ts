import { schedulingGroup, version } from "../../api/names.ts";
import { isNotFound, type KubeClient, KubeError } from "../../kube/client.ts";
import { listPages, type Page } from "../../kube/list.ts";
import { type ResourceLocation, resourcePath } from "../../kube/paths.ts";
import { deviceTaintRules, findServed } from "../../kube/served.ts";
import { comparePlain } from "../../topology/natural-order.ts";
import type { KindedObject } from "../plan/expand.ts";

interface Collection extends ResourceLocation {
  kind: string;
}

const ours = (resource: string, kind: string): Collection => ({ group: schedulingGroup, version, resource, kind });
const dra = (resource: string, kind: string): Collection => ({
  group: "resource.k8s.io",
  version: "v1",
  resource,
  kind,
});

/**
 * What the planner watches. Whoever holds something comes after who wants it: where the lists are not of one instant,
 * nothing looks free that is not.
 */
const collections: readonly Collection[] = [
  { group: "", version: "v1", resource: "nodes", kind: "Node" },
  ours("clustertopologies", "ClusterTopology"),
  { group: "policy", version: "v1", resource: "poddisruptionbudgets", kind: "PodDisruptionBudget" },
  dra("deviceclasses", "DeviceClass"),
  dra("resourceslices", "ResourceSlice"),
  ours("placementgroups", "PlacementGroup"),
  ours("gangs", "Gang"),
  { group: "", version: "v1", resource: "pods", kind: "Pod" },
  dra("resourceclaims", "ResourceClaim"),
];

export interface ReadObjects {
  /** By kind, then namespace and name. */
  readonly objects: KindedObject[];
  /** All objects are as they were at this version; undefined: the API server could not list them so. */
  readonly resourceVersion: string | undefined;
}

/**
 * All that the planner knows of a cluster, read in pages, as it was at one instant: kinds share the revisions of one
 * store, so that all can be listed at the revision of the first. Where that is refused, each is as new as it was read.
 */
export async function readObjects(client: KubeClient): Promise<ReadObjects> {
  const rules = await findServed(client, deviceTaintRules);
  const [first, ...always] = collections;
  const others = rules === undefined ? always : [{ ...rules, kind: "DeviceTaintRule" }, ...always];
  const start = await listed(client, first!);
  try {
    const rest = await Promise.all(others.map((each) => listed(client, each, start.resourceVersion)));
    return { objects: [start, ...rest].flatMap(({ objects }) => objects), resourceVersion: start.resourceVersion };
  } catch (error) {
    if (!isTooOld(error)) throw error;
  }
  const objects = [...start.objects];
  for (const each of others) objects.push(...(await listed(client, each)).objects);
  return { objects, resourceVersion: undefined };
}

/** Compacted, or a server that keeps some kinds in another store. */
function isTooOld(error: unknown): boolean {
  return error instanceof KubeError && (error.status === 410 || error.status === 504 || error.status === 400);
}

async function listed(
  client: KubeClient,
  collection: Collection,
  resourceVersion?: string,
): Promise<{ objects: KindedObject[]; resourceVersion: string | undefined }> {
  const { kind, group, version: of } = collection;
  const apiVersion = group === "" ? of : `${group}/${of}`;
  const project = (raw: KindedObject): KindedObject => ({ ...raw, apiVersion, kind });
  const objects: KindedObject[] = [];
  let seen: string | undefined;
  try {
    const pages = listPages({ client, path: resourcePath(collection), project, resourceVersion });
    for await (const page of pages as AsyncGenerator<Page<KindedObject>>) {
      seen ??= page.resourceVersion;
      objects.push(...page.items);
    }
  } catch (error) {
    // kllama is not installed there: the cluster has no Gangs yet.
    if (!isNotFound(error) || group !== schedulingGroup) throw error;
  }
  return { objects: objects.sort(byName), resourceVersion: seen };
}

function byName({ metadata: a }: KindedObject, { metadata: b }: KindedObject): number {
  return comparePlain(a.namespace ?? "", b.namespace ?? "") || comparePlain(a.name, b.name);
}
