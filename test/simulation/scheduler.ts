import type { AllocationResult, Node, Pod, ResourceClaim, ResourceSlice } from "../../src/api/kubernetes.ts";
import { bindMarker, driverName, memberMarker } from "../../src/api/names.ts";
import { isConflict, type KubeClient } from "../../src/kube/client.ts";
import { parseMilli } from "../../src/topology/quantity.ts";
import {
  type Component,
  createComponent,
  createInformers,
  devicesOf,
  isReservedFor,
  nodeOfClaim,
  type Parts,
  paths,
  replaceClaim,
} from "./parts.ts";
import type { Process } from "./process.ts";

/** How kube-scheduler reaches its extender. Errors are texts, as in the extender's answers. */
export interface ExtenderDoor {
  bind(
    caller: Process,
    request: { podName: string; podNamespace: string; podUid: string; node: string },
  ): Promise<string>;
  /** What filter leaves of all nodes: one, or none; undefined when nobody answers. */
  filter(podUid: string): { node?: string } | undefined;
}

interface Queued {
  attempts: number;
  notBeforeMs: number;
  /** `unschedulable` pods wait for an event; `busy` ones are in their binding cycle. */
  state: "active" | "unschedulable" | "busy";
}

/**
 * A model of kube-scheduler 1.36 (schedule_one.go; plugins dynamicresources and default binder): one cycle at a time on
 * caches that lag, allocation of its own where a claim has none, PostFilter's deallocation, PreBind's write, the
 * extender's bind, Unreserve after a failure, back-off from 1 s to 10 s.
 */
export function createScheduler(parts: Parts, door: ExtenderDoor): Component {
  return createComponent("kube-scheduler", parts, (process) => runScheduler(parts, door, process));
}

function runScheduler(parts: Parts, door: ExtenderDoor, process: Process): void {
  const { clock, random, say } = parts;
  const client = parts.network.client(process, "system:kube-scheduler");
  const follow = createInformers(parts, process);
  const queue = new Map<string, Queued>(); // pod UID -> state
  const assumed = new Map<string, { pod: Pod; node: string }>(); // until the cache shows it
  const allocating = new Map<string, string[]>(); // claim UID -> devices, until they are written
  let looking = false;

  const pods = follow<Pod>("pods", (pod, _previous, gone) => observePod(pod, gone));
  const claims = follow<ResourceClaim>("resourceclaims", wakeUnschedulable);
  const nodes = follow<Node>("nodes", wakeUnschedulable);
  for (const pod of pods.values()) observePod(pod, false);
  flushUnschedulable();

  function observePod(pod: Pod, gone: boolean): void {
    const uid = pod.metadata.uid ?? "";
    if (gone || pod.spec.nodeName !== undefined) {
      assumed.delete(uid);
      queue.delete(uid);
      wakeUnschedulable();
    } else if (pod.metadata.deletionTimestamp !== undefined || (pod.spec.schedulingGates ?? []).length > 0) {
      queue.delete(uid);
    } else {
      const known = queue.get(uid);
      if (known === undefined) queue.set(uid, { attempts: 0, notBeforeMs: 0, state: "active" });
      else if (known.state === "unschedulable") known.state = "active";
      look(random.between(0.5, 3));
    }
  }

  function wakeUnschedulable(): void {
    for (const queued of queue.values()) if (queued.state === "unschedulable") queued.state = "active";
    look(random.between(0.5, 3));
  }

  /** kube-scheduler tries all again after five minutes, whatever it has seen. */
  function flushUnschedulable(): void {
    process.after(300_000, () => {
      wakeUnschedulable();
      flushUnschedulable();
    });
  }

  function look(delayMs: number): void {
    if (looking) return;
    looking = true;
    process.after(delayMs, () => {
      looking = false;
      next();
    });
  }

  function next(): void {
    let soonestMs = Number.POSITIVE_INFINITY;
    for (const pod of pods.values()) {
      const queued = queue.get(pod.metadata.uid ?? "");
      if (queued?.state !== "active") continue;
      if (queued.notBeforeMs > clock.nowMs) {
        soonestMs = Math.min(soonestMs, queued.notBeforeMs);
        continue;
      }
      queued.state = "busy";
      void schedule(pod, queued).then(() => look(0.1));
      look(random.between(0.3, 2));
      return;
    }
    if (soonestMs !== Number.POSITIVE_INFINITY) process.after(soonestMs - clock.nowMs, () => look(0));
  }

  async function schedule(pod: Pod, queued: Queued): Promise<void> {
    const uid = pod.metadata.uid ?? "";
    const mine = claimsOf(pod);
    const fitting = mine === undefined ? [] : fittingNodes(pod, mine);
    // Extenders are asked about what the plugins left.
    const filtered = fitting.length > 0 && marked(pod, memberMarker) ? door.filter(uid) : "all";
    if (filtered === undefined) return await failed(pod, queued, "SchedulerError", "the extender does not answer");
    const node = fitting.find((name) => filtered === "all" || filtered.node === name);
    if (mine === undefined || node === undefined) {
      if (mine !== undefined) await postFilter(pod, mine);
      await failed(pod, queued, "Unschedulable", "no node fits");
      return;
    }
    assumed.set(uid, { pod, node });
    const error = await bindingCycle(pod, mine, node);
    if (error === undefined) return;
    say(`kube-scheduler: ${pod.metadata.name} not bound: ${error}`);
    assumed.delete(uid);
    await unreserve(pod, mine);
    await failed(pod, queued, "SchedulerError", error);
  }

  /** undefined while one is missing. */
  function claimsOf(pod: Pod): ResourceClaim[] | undefined {
    const found: ResourceClaim[] = [];
    for (const { name } of pod.spec.resourceClaims ?? []) {
      const status = pod.status?.resourceClaimStatuses?.find((each) => each.name === name);
      const claim = claims.get(`${pod.metadata.namespace}/${status?.resourceClaimName}`);
      if (claim === undefined || claim.metadata.deletionTimestamp !== undefined) return undefined;
      found.push(claim);
    }
    return found;
  }

  /** The nominated one first. */
  function fittingNodes(pod: Pod, mine: readonly ResourceClaim[]): string[] {
    const wanted = pod.status?.nominatedNodeName;
    const names = [...nodes.keys()].sort((a, b) => Number(b === wanted) - Number(a === wanted));
    return names.filter((name) => fits(pod, mine, name));
  }

  function fits(pod: Pod, mine: readonly ResourceClaim[], name: string): boolean {
    const node = nodes.get(name);
    if (node === undefined || node.spec?.unschedulable === true || !isReady(node)) return false;
    if (cpuOf(pod) > parseMilli(node.status?.allocatable?.["cpu"] ?? "0") - usedCpu(name, pod)) return false;
    const taken = new Set<string>();
    return mine.every((claim) =>
      claim.status?.allocation === undefined
        ? pickDevices(claim, name, taken) !== undefined
        : nodeOfClaim(claim) === name,
    );
  }

  function usedCpu(name: string, except: Pod): number {
    let used = 0;
    for (const other of pods.values()) {
      const { uid } = other.metadata;
      if (uid === except.metadata.uid || isOver(other)) continue;
      const on = other.spec.nodeName ?? assumed.get(uid ?? "")?.node ?? other.status?.nominatedNodeName;
      if (on === name) used += cpuOf(other);
    }
    return used;
  }

  /** First fit, as the structured allocator does it; adds to `taken`. */
  function pickDevices(claim: ResourceClaim, name: string, taken: Set<string>): string[] | undefined {
    const held = new Set(taken);
    for (const other of claims.values()) for (const device of devicesOf(other)) held.add(device);
    for (const devices of allocating.values()) for (const device of devices) held.add(device);
    const count = claim.spec.devices?.requests?.[0]?.exactly?.count ?? 1;
    const slices = [...parts.api.store.all("resourceslices").values()] as unknown as ResourceSlice[];
    const free = slices
      .filter(({ spec }) => spec.nodeName === name)
      .flatMap(({ spec }) => spec.devices ?? [])
      .map((device) => `${name}/${device.name}`)
      .filter((each) => !held.has(each));
    if (free.length < count) return undefined;
    const picked = free.slice(0, count);
    for (const device of picked) taken.add(device);
    return picked;
  }

  async function bindingCycle(pod: Pod, mine: ResourceClaim[], node: string): Promise<string | undefined> {
    for (const [index, claim] of mine.entries()) {
      if (isReservedFor(claim, pod.metadata.uid)) continue;
      const allocation = claim.status?.allocation === undefined ? allocate(claim, node) : undefined;
      try {
        mine[index] = await reserve(client, pod, claim, allocation);
      } catch (error) {
        return `PreBind: ${String(error)}`;
      } finally {
        allocating.delete(claim.metadata.uid ?? "");
      }
    }
    const { name: podName, namespace: podNamespace = "", uid: podUid = "" } = pod.metadata;
    if (marked(pod, bindMarker)) {
      const error = await door.bind(process, { podName, podNamespace, podUid, node });
      return error === "" ? undefined : error;
    }
    try {
      await client.request("POST", paths.pod(podName, "binding"), {
        body: { metadata: { name: podName, uid: podUid }, target: { kind: "Node", name: node } },
      });
      return undefined;
    } catch (error) {
      return String(error);
    }
  }

  function allocate(claim: ResourceClaim, node: string): AllocationResult | undefined {
    const devices = pickDevices(claim, node, new Set());
    if (devices === undefined) return undefined;
    allocating.set(claim.metadata.uid ?? "", devices);
    const request = claim.spec.devices?.requests?.[0]?.name ?? "";
    return {
      devices: {
        results: devices.map((each) => ({
          request,
          driver: driverName,
          pool: node,
          device: each.slice(node.length + 1),
        })),
      },
      nodeSelector: {
        nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: [node] }] }],
      },
    };
  }

  /** One claim that keeps the pod from some node is deallocated, if nobody else uses it. */
  async function postFilter(pod: Pod, mine: readonly ResourceClaim[]): Promise<void> {
    if (nodes.size < 2) return;
    const unavailable = mine.filter((claim) => claim.status?.allocation !== undefined);
    if (unavailable.length === 0) return;
    const claim = random.pick(unavailable);
    const others = (claim.status?.reservedFor ?? []).filter((consumer) => consumer.uid !== pod.metadata.uid);
    if (others.length > 0) return;
    say(`kube-scheduler: PostFilter deallocates ${claim.metadata.name}`);
    await replaceClaim(client, claim, { status: {} }).catch(() => undefined);
  }

  async function unreserve(pod: Pod, mine: readonly ResourceClaim[]): Promise<void> {
    for (const claim of mine) {
      if (claim.status?.allocation === undefined || !isReservedFor(claim, pod.metadata.uid)) continue;
      const body = {
        metadata: { uid: claim.metadata.uid },
        status: { reservedFor: [{ $patch: "delete", uid: pod.metadata.uid }] },
      };
      await client
        .request("PATCH", paths.claim(claim.metadata.name, "status"), {
          body,
          contentType: "application/strategic-merge-patch+json",
        })
        .catch(() => undefined);
    }
  }

  /** A refusal waits for news, an error for its time; the condition says which. */
  async function failed(
    pod: Pod,
    queued: Queued,
    reason: "Unschedulable" | "SchedulerError",
    message: string,
  ): Promise<void> {
    queued.attempts += 1;
    queued.notBeforeMs = clock.nowMs + Math.min(10_000, 1_000 * 2 ** (queued.attempts - 1));
    queued.state = reason === "Unschedulable" ? "unschedulable" : "active";
    look(0);
    const before = pod.status?.conditions?.find((condition) => condition.type === "PodScheduled");
    const says = before?.status === "False" && before.reason === reason && before.message === message;
    if (says && pod.status?.nominatedNodeName === undefined) return;
    const condition = { type: "PodScheduled", status: "False", reason, message };
    await client
      .request("PATCH", paths.pod(pod.metadata.name, "status"), {
        body: { metadata: { uid: pod.metadata.uid }, status: { nominatedNodeName: null, conditions: [condition] } },
        contentType: "application/strategic-merge-patch+json",
      })
      .catch(() => undefined);
  }
}

/** PreBind's write: finalizer and allocation if the scheduler allocated, then the reservation; again after a conflict. */
async function reserve(
  client: KubeClient,
  pod: Pod,
  cached: ResourceClaim,
  allocation: AllocationResult | undefined,
): Promise<ResourceClaim> {
  let claim = cached;
  for (let attempt = 0; ; attempt++) {
    try {
      if (attempt > 0) claim = await client.request<ResourceClaim>("GET", paths.claim(claim.metadata.name));
      if (claim.metadata.deletionTimestamp !== undefined) throw new Error("the claim was deleted in the meantime");
      const current = claim.status?.allocation;
      if (allocation !== undefined && current !== undefined) throw new Error("allocated elsewhere in the meantime");
      const wanted = allocation ?? current;
      if (wanted === undefined) throw new Error("deallocated elsewhere in the meantime");
      const consumer = { resource: "pods", name: pod.metadata.name, uid: pod.metadata.uid ?? "" };
      const reservedFor = [...(claim.status?.reservedFor ?? []), consumer];
      return await replaceClaim(client, claim, { status: { allocation: wanted, reservedFor } });
    } catch (error) {
      if (!isConflict(error) || attempt >= 4) throw error;
    }
  }
}

function marked(pod: Pod, marker: string): boolean {
  return pod.spec.containers.some((container) => container.resources?.requests?.[marker] !== undefined);
}

/** CPU that a pod requests, in thousandths. */
export function cpuOf(pod: Pod): number {
  return pod.spec.containers.reduce(
    (sum, container) => sum + parseMilli(container.resources?.requests?.["cpu"] ?? "0"),
    0,
  );
}

export function isOver(pod: Pod): boolean {
  return pod.status?.phase === "Succeeded" || pod.status?.phase === "Failed";
}

export function isReady(node: Node): boolean {
  return node.status?.conditions?.some((each) => each.type === "Ready" && each.status === "True") === true;
}
