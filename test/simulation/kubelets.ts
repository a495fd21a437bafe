import type { Node, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { parseMilli } from "../../src/topology/quantity.ts";
import { devicesOf, isReservedFor, namespace, nodeOfClaim, type Parts, paths } from "./parts.ts";
import { cpuOf, isOver, isReady } from "./scheduler.ts";

/** All kubelets and their DRA drivers: what truly runs, and on which devices. */
export interface Kubelets {
  /** pod UID → devices (`pool/device`) that its containers use now, whatever the API says. */
  readonly prepared: ReadonlyMap<string, readonly string[]>;
  /** The machine is gone, or came back empty. */
  wipe(node: string): void;
}

/** A model of kubelets that admit, prepare, run and end pods; those of nodes that are not ready do nothing. */
export function createKubelets(parts: Parts): Kubelets {
  const { api, clock, random, say } = parts;
  const process = parts.spawn("kubelets");
  const client = parts.network.client(process, "system:node");
  const prepared = new Map<string, string[]>();
  const nodeOf = new Map<string, string>(); // pod UID -> node, of prepared pods
  const waiting = new Set<string>();
  /** Pods that are looked at just now, and in how many milliseconds they will be again. */
  const syncing = new Map<string, number | undefined>();
  const { store } = api;

  store.onCommit(({ resource, object }) => {
    if (resource === "pods") look((object as unknown as Pod).metadata.name, random.between(1, 60));
    if (resource === "nodes") lookAll(object.metadata.name);
  });

  /** After a node came back: it ends what the API does not know any more, then goes on. */
  function lookAll(node: string): void {
    if (!isUp(node)) return;
    for (const [uid, on] of nodeOf) if (on === node && podWith(uid) === undefined) end(uid);
    for (const pod of podsOn(node)) look(pod.metadata.name, random.between(1, 500));
  }

  function podsOn(node: string): Pod[] {
    return ([...store.all("pods").values()] as unknown as Pod[]).filter((pod) => pod.spec.nodeName === node);
  }

  function podWith(uid: string): Pod | undefined {
    return ([...store.all("pods").values()] as unknown as Pod[]).find((pod) => pod.metadata.uid === uid);
  }

  function isUp(name: string): boolean {
    const node = store.get("nodes", name) as unknown as Node | undefined;
    return node !== undefined && isReady(node);
  }

  function end(uid: string): void {
    prepared.delete(uid);
    nodeOf.delete(uid);
  }

  function look(name: string, delayMs: number): void {
    if (waiting.has(name)) return;
    // What it looks at may have changed since.
    if (syncing.has(name)) syncing.set(name, delayMs);
    else lookLater(name, delayMs);
  }

  function lookLater(name: string, delayMs: number): void {
    waiting.add(name);
    clock.after(delayMs, () => {
      waiting.delete(name);
      syncing.set(name, undefined);
      void sync(name).then(
        () => {
          const againMs = syncing.get(name);
          syncing.delete(name);
          if (againMs !== undefined) lookLater(name, againMs);
        },
        () => {
          syncing.delete(name);
          lookLater(name, random.between(200, 1_000));
        },
      );
      clock.touch();
    });
  }

  async function sync(name: string): Promise<void> {
    const pod = store.get("pods", `${namespace}/${name}`) as unknown as Pod | undefined;
    forgetReplaced(name, pod);
    const node = pod?.spec.nodeName;
    if (pod === undefined || node === undefined || !isUp(node)) return;
    const uid = pod.metadata.uid ?? "";
    if (pod.metadata.deletionTimestamp !== undefined) {
      end(uid);
      const body = { gracePeriodSeconds: 0, preconditions: { uid } };
      await client.request("DELETE", paths.pod(name), { body });
      return;
    }
    if (isOver(pod)) return end(uid);
    if (prepared.has(uid) && pod.status?.phase === "Running") return;
    if (!admits(pod, node)) {
      say(`kubelet of ${node}: ${name} fails admission`);
      await setPhase(pod, "Failed");
      return;
    }
    if (!prepare(pod, node)) return;
    await setPhase(pod, "Running");
  }

  /** A pod that was force-deleted, or replaced by one of its name, is ended by its kubelet once that is up. */
  function forgetReplaced(name: string, now: Pod | undefined): void {
    for (const [uid, on] of nodeOf) {
      if (names.get(uid) === name && now?.metadata.uid !== uid && isUp(on)) end(uid);
    }
  }

  const names = new Map<string, string>(); // pod UID -> name

  function admits(pod: Pod, node: string): boolean {
    const allocatable = (store.get("nodes", node) as unknown as Node).status?.allocatable?.["cpu"] ?? "0";
    const others = podsOn(node).filter(
      (each) => prepared.has(each.metadata.uid ?? "") && each.metadata.uid !== pod.metadata.uid,
    );
    return others.reduce((sum, each) => sum + cpuOf(each), cpuOf(pod)) <= parseMilli(allocatable);
  }

  /** NodePrepareResources: only for claims that are allocated here and reserved for the pod. */
  function prepare(pod: Pod, node: string): boolean {
    const uid = pod.metadata.uid ?? "";
    const devices: string[] = [];
    for (const { resourceClaimName } of pod.status?.resourceClaimStatuses ?? []) {
      const claim = store.get("resourceclaims", `${namespace}/${resourceClaimName}`) as unknown as ResourceClaim;
      if (claim === undefined || !isReservedFor(claim, uid) || nodeOfClaim(claim) !== node) return waitForClaim(pod);
      devices.push(...devicesOf(claim));
    }
    if ((pod.status?.resourceClaimStatuses ?? []).length < (pod.spec.resourceClaims ?? []).length)
      return waitForClaim(pod);
    prepared.set(uid, devices);
    nodeOf.set(uid, node);
    names.set(uid, pod.metadata.name);
    return true;
  }

  function waitForClaim(pod: Pod): boolean {
    clock.after(random.between(1_000, 3_000), () => look(pod.metadata.name, 0));
    return false;
  }

  async function setPhase(pod: Pod, phase: "Running" | "Failed"): Promise<void> {
    const conditions = [{ type: "Ready", status: phase === "Running" ? "True" : "False" }];
    await client.request("PATCH", paths.pod(pod.metadata.name, "status"), {
      body: { metadata: { uid: pod.metadata.uid }, status: { phase, conditions } },
      contentType: "application/strategic-merge-patch+json",
    });
  }

  return {
    prepared,
    wipe(node) {
      for (const [uid, on] of nodeOf) if (on === node) end(uid);
    },
  };
}
