import type { KubernetesObject, Pod } from "../api/kubernetes.ts";
import { servingGroup, version } from "../api/names.ts";
import type { KubeClient } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import { type Change, createReflector, promptPauseMs, type Reflector } from "../kube/reflector.ts";
import type { Timing } from "../kube/timing.ts";
import { apiVersionOf, clusterLabel, type OwnedKind, ownedKinds } from "./owned.ts";

export type LiveObject = KubernetesObject & { apiVersion: string; kind: OwnedKind };

/** Everything the operator reads, kept current by watches. Keys are `namespace/name`. */
export interface Watched {
  clusters: Reflector<KubernetesObject>;
  pods: Reflector<Pod>;
  owned: Readonly<Record<OwnedKind, Reflector<LiveObject>>>;
  all: readonly Reflector<unknown>[];
}

export interface WatchOptions {
  client: KubeClient;
  timing: Timing;
  /** Something about the LLMCluster `namespace/name` may have changed. */
  onChange: (clusterKey: string) => void;
  onError: (error: Error, fatal: boolean) => void;
}

export function createWatched(options: WatchOptions): Watched {
  const { client, timing, onError } = options;
  const common = { client, timing, onError, longestPauseMs: promptPauseMs };
  const clusters = createReflector<KubernetesObject, KubernetesObject>({
    ...common,
    name: "llmclusters",
    path: resourcePath({ group: servingGroup, version, resource: "llmclusters" }),
    project: withoutManagedFields,
    onChange: (change) => {
      if (change.type !== "replaced") options.onChange(change.key);
    },
  });
  const pods = createReflector<Pod, Pod>({
    ...common,
    name: "pods",
    path: resourcePath({ group: "", version: "v1", resource: "pods" }),
    query: { labelSelector: clusterLabel },
    project: projectPod,
    onChange: forOwner(options.onChange),
  });
  const owned = Object.fromEntries(
    (Object.keys(ownedKinds) as OwnedKind[]).map((kind) => [
      kind,
      createReflector<KubernetesObject, LiveObject>({
        ...common,
        name: ownedKinds[kind].resource,
        path: resourcePath(ownedKinds[kind]),
        query: { labelSelector: clusterLabel },
        // Entries of a list do not say what they are.
        project: (raw) => ({ ...withoutManagedFields(raw), apiVersion: apiVersionOf(kind), kind }),
        onChange: forOwner(options.onChange),
      }),
    ]),
  ) as Record<OwnedKind, Reflector<LiveObject>>;
  return { clusters, pods, owned, all: [clusters, pods, ...Object.values(owned)] };
}

/** The label says which LLMCluster an object belongs to, also when it has just been taken away or changed. */
function forOwner(onChange: (clusterKey: string) => void) {
  return (change: Change<KubernetesObject>): void => {
    if (change.type === "replaced") return;
    const seen = [
      change.type === "deleted" ? undefined : change.value,
      change.type === "added" ? undefined : change.previous,
    ];
    const keys = seen.flatMap((object) => (object === undefined ? [] : [clusterKeyOf(object)]));
    for (const key of new Set(keys)) onChange(key);
  };
}

export function clusterKeyOf({ metadata }: KubernetesObject): string {
  return `${metadata.namespace}/${metadata.labels?.[clusterLabel]}`;
}

/** What of a pod the operator reads. */
function projectPod(raw: Pod): Pod {
  const { name, namespace, uid, labels, ownerReferences, deletionTimestamp } = raw.metadata;
  const { nodeName, resourceClaims } = raw.spec;
  const conditions = raw.status?.conditions?.filter(({ type }) => type === "Ready") ?? [];
  return {
    metadata: {
      name,
      ...(namespace === undefined ? {} : { namespace }),
      ...(uid === undefined ? {} : { uid }),
      ...(labels === undefined ? {} : { labels }),
      ...(ownerReferences === undefined ? {} : { ownerReferences }),
      ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
    },
    spec: {
      ...(nodeName === undefined ? {} : { nodeName }),
      ...(resourceClaims === undefined ? {} : { resourceClaims }),
      containers: [],
    },
    status: { conditions },
  };
}

function withoutManagedFields<T extends KubernetesObject>(raw: T): T {
  const { managedFields: _, ...metadata } = raw.metadata as T["metadata"] & { managedFields?: unknown };
  return { ...raw, metadata };
}
