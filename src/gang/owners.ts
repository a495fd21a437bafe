import { gangLabel } from "../api/names.ts";
import type { PodRecord } from "../topology/records.ts";

/** Pods of one pod set, told apart by whose they are: "Who is a member" in ARCHITECTURE.md has the rule and its reasons. */
export interface Ownership {
  members: readonly PodRecord[];
  /** Pods of others, each with a sentence that says so and what helps. */
  strangers: readonly { readonly pod: PodRecord; readonly message: string }[];
}

/** @param isThere whether the pod has a place of the gang or runs as a member of it */
export function ownPods(
  podSet: string,
  minCount: number,
  pods: readonly PodRecord[],
  isThere: (pod: PodRecord) => boolean,
): Ownership {
  // Nearly always there is one owner: names are made only if there is not.
  if (pods.every(({ owner }) => owner?.uid === pods[0]?.owner?.uid)) return { members: pods, strangers: [] };
  const byOwner = Map.groupBy(pods, ownerOf);
  if (byOwner.size === 1) return { members: pods, strangers: [] };
  const there = [...byOwner].filter(([, own]) => own.some(isThere)).map(([owner]) => owner);
  const owners = new Set(there.length > 0 ? there : [firstOf(byOwner, minCount)]);
  const belongs = (pod: PodRecord): boolean => owners.has(ownerOf(pod));
  const names = [...owners].map(nameOf).sort().join(" and ");
  const strangers = pods.filter((pod) => !belongs(pod));
  return {
    members: pods.filter(belongs),
    strangers: strangers.map((pod) => ({
      pod,
      message: `pod ${pod.name} (${nameOf(ownerOf(pod))}) is no member: pod set ${podSet} has the pods of ${names}; remove the label ${gangLabel}, or give it a pod set of its own`,
    })),
  };
}

const lwsLabel = "leaderworkerset.sigs.k8s.io/name";
const jobSetLabel = "jobset.sigs.k8s.io/jobset-name";
const templateHashLabel = "pod-template-hash";

/**
 * By kind and name: a controller that is deleted and created again has another UID. What one object makes through several
 * controllers belongs together: each revision of a Deployment is a ReplicaSet, a LeaderWorkerSet has a StatefulSet of
 * leaders and one of workers for each.
 */
function ownerOf({ owner, labels = {} }: PodRecord): string {
  if (owner === undefined) return "";
  if (labels[lwsLabel] !== undefined) return `LeaderWorkerSet ${labels[lwsLabel]}`;
  if (labels[jobSetLabel] !== undefined) return `JobSet ${labels[jobSetLabel]}`;
  const revision = `-${labels[templateHashLabel]}`;
  if (owner.kind === "ReplicaSet" && owner.name.endsWith(revision)) {
    return `Deployment ${owner.name.slice(0, -revision.length)}`;
  }
  return `${owner.kind} ${owner.name}`;
}

function nameOf(owner: string): string {
  return owner === "" ? "no controller" : owner;
}

function firstOf(byOwner: ReadonlyMap<string, readonly PodRecord[]>, minCount: number): string {
  const ranked = [...byOwner].map(([owner, pods]) => ({
    owner,
    isShort: pods.length < minCount,
    sinceMs: Math.min(...pods.map(({ createdAtMs }) => createdAtMs)),
  }));
  ranked.sort((a, b) => Number(a.isShort) - Number(b.isShort) || a.sinceMs - b.sinceMs || (a.owner < b.owner ? -1 : 1));
  return ranked[0]?.owner ?? "";
}
