import type { GangRecord } from "../../gang/lifecycle/state.ts";
import { assignSlots, minCountOf, slotKey } from "../../gang/members.ts";
import type { Manifest } from "../../kube/manifests.ts";
import { compareNatural } from "../../topology/natural-order.ts";
import type { PodRecord } from "../../topology/records.ts";

/** What applied manifests lead to, by `namespace/name`. */
export interface Expected {
  /** Hand-written Gangs, and the one of each LLMCluster. */
  gangs: readonly string[];
  /** Pods that stand in the manifests themselves. */
  pods: readonly string[];
  namespaces: ReadonlySet<string>;
}

export function expectedOf(manifests: readonly Pick<Manifest, "object">[]): Expected {
  const keysOf = (...kinds: string[]): string[] =>
    manifests
      .filter(({ object }) => kinds.includes(object.kind))
      .map(({ object }) => `${object.metadata.namespace ?? "default"}/${object.metadata.name}`)
      .sort(compareNatural);
  const namespaces = manifests.map(({ object }) => object.metadata.namespace ?? "default");
  return { gangs: [...new Set(keysOf("Gang", "LLMCluster"))], pods: keysOf("Pod"), namespaces: new Set(namespaces) };
}

export interface Progressed {
  /** One line for each gang and pod that is not there yet; empty: all is placed and ready. */
  reasons: string[];
  gangsScheduled: number;
  podsReady: number;
  pods: number;
}

/** How far the expected gangs and pods are. Every pod of their namespaces has to be ready, whoever made it. */
export function progressOf(expected: Expected, gangs: Iterable<GangRecord>, pods: Iterable<PodRecord>): Progressed {
  const gangByKey = new Map([...gangs].map((gang) => [`${gang.namespace}/${gang.name}`, gang]));
  const concerned = [...pods]
    .filter((pod) => expected.namespaces.has(pod.namespace) && !pod.terminal && !pod.deleting)
    .sort((a, b) => compareNatural(a.namespace, b.namespace) || compareNatural(a.name, b.name));
  const podKeys = new Set(concerned.map((pod) => `${pod.namespace}/${pod.name}`));
  const reasons: string[] = [];
  let gangsScheduled = 0;
  for (const key of expected.gangs) {
    const gang = gangByKey.get(key);
    const members = concerned.filter((pod) => `${pod.namespace}/${pod.gang}` === key);
    const reason = gang === undefined ? "does not exist yet" : gangReason(gang, members);
    if (gang?.status.phase === "Scheduled") gangsScheduled += 1;
    if (reason !== undefined) reasons.push(`gang ${key}: ${reason}`);
  }
  for (const key of expected.pods) if (!podKeys.has(key)) reasons.push(`pod ${key}: does not exist`);
  for (const pod of concerned) {
    const ofGang = pod.gang !== undefined && expected.gangs.includes(`${pod.namespace}/${pod.gang}`);
    if (!pod.ready && !ofGang) reasons.push(`pod ${pod.namespace}/${pod.name}: ${podState(pod)}`);
  }
  return { reasons, gangsScheduled, podsReady: concerned.filter((pod) => pod.ready).length, pods: concerned.length };
}

/** Why a gang is not placed and ready; surplus beyond `minCount` may wait. */
function gangReason(gang: GangRecord, members: readonly PodRecord[]): string | undefined {
  const { phase, explanation, placement } = gang.status;
  if (phase !== "Scheduled") {
    const waiting = members.filter((pod) => pod.nodeName === undefined).map((pod) => pod.name);
    const unbound = waiting.length === 0 ? "" : `; not bound: ${waiting.join(", ")}`;
    return `${phase ?? "no status"}: ${explanation ?? "no explanation"}${unbound}`;
  }
  const { slots } = assignSlots(gang.spec, members, placement?.pods ?? []);
  const lacking = gang.spec.podSets.flatMap((podSet) => {
    const present = Array.from({ length: podSet.count }, (_, index) => slots.get(slotKey(podSet.name, index)));
    const ready = present.filter((pod) => pod?.ready === true).length;
    if (ready >= minCountOf(podSet)) return [];
    const notReady = present
      .filter((pod) => pod !== undefined && !pod.ready)
      .map((pod) => `${pod!.name} ${podState(pod!)}`);
    return [
      `${ready} of ${minCountOf(podSet)} pods of ${podSet.name} are ready${notReady.length === 0 ? "" : `; ${notReady.join(", ")}`}`,
    ];
  });
  return lacking.length === 0 ? undefined : `Scheduled, but ${lacking.join("; ")}`;
}

function podState(pod: PodRecord): string {
  if (pod.nodeName !== undefined) return `is bound to ${pod.nodeName} and not ready`;
  if (pod.unschedulableMessage !== undefined) return `is not bound: ${pod.unschedulableMessage}`;
  return pod.gates.length > 0 ? `is not bound: it waits behind gate ${pod.gates.join(", ")}` : "is not bound";
}
