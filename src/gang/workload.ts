import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";
import type { Workload } from "./fit.ts";

const maxSampled = 1000;
const maxKinds = 64;
/** Changes of the model after which it is looked at again. */
const staleAfter = 5000;
/** Share of pods that have to be of other kinds than before, for the old idea to be given up. */
const material = 0.1;

type Kind = Workload[number];

interface Memory {
  kinds: Map<string, Kind>;
  workload: Workload;
  seen: number;
}

const memories = new WeakMap<ClusterModel, Memory>();

/**
 * What pods to come will ask for, taken from the pods that the cluster has: running ones and those that wait. Looks again
 * now and then; while that tells much the same, the answer stays the same object, so that what rests on it stays too.
 */
export function expectedWorkload(model: ClusterModel): Workload {
  const memory = memories.get(model) ?? { kinds: new Map(), workload: [], seen: Number.NEGATIVE_INFINITY };
  memories.set(model, memory);
  if (model.version - memory.seen < staleAfter && memory.workload.length > 0) return memory.workload;
  memory.seen = model.version;
  const now = sample(model);
  if (difference(memory.kinds, now) <= material) return memory.workload;
  memory.kinds = now;
  memory.workload = [...now.values()].sort((a, b) => b.weight - a.weight).slice(0, maxKinds);
  return memory.workload;
}

function sample(model: ClusterModel): Map<string, Kind> {
  const kinds = new Map<string, Kind & { weight: number }>();
  const every = Math.ceil(model.pods.size / maxSampled);
  let position = 0;
  for (const pod of model.pods.values()) {
    if (position++ % every !== 0 || pod.terminal || pod.claims.length === 0) continue;
    const claims = claimsOf(model, pod);
    if (claims === undefined) continue;
    const { requests, nodeSelector, nodeAffinity, tolerations } = pod;
    const key = JSON.stringify([requests, nodeSelector, nodeAffinity, tolerations, claims.map(({ spec }) => spec)]);
    const kind = kinds.get(key);
    if (kind) kind.weight++;
    else kinds.set(key, { pod, claims, weight: 1 });
  }
  return kinds;
}

/** As they were before they were allocated; undefined: one of them is not known. */
function claimsOf(model: ClusterModel, pod: PodRecord) {
  const claims = pod.claims.map(({ claimName }) =>
    claimName === undefined ? undefined : model.claim(pod.namespace, claimName),
  );
  if (claims.includes(undefined)) return undefined;
  return claims.map((claim) => {
    const { allocation: _, ...unallocated } = claim!;
    return unallocated;
  });
}

/** Half the sum of differences between shares of kinds: 0 for the same mix, 1 where no kind is in both. */
function difference(before: ReadonlyMap<string, Kind>, now: ReadonlyMap<string, Kind>): number {
  const total = (kinds: ReadonlyMap<string, Kind>) => [...kinds.values()].reduce((sum, { weight }) => sum + weight, 0);
  const [all, allNow] = [Math.max(1, total(before)), Math.max(1, total(now))];
  let sum = 0;
  for (const key of new Set([...before.keys(), ...now.keys()])) {
    sum += Math.abs((before.get(key)?.weight ?? 0) / all - (now.get(key)?.weight ?? 0) / allNow);
  }
  return sum / 2;
}
