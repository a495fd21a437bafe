import type { Node, Pod, ResourceClaim } from "../api/kubernetes.ts";
import { createDeviceStatusWriter } from "../dra/driver/device-status.ts";
import { isNotFound, type KubeClient } from "../kube/client.ts";
import { createEventRecorder } from "../kube/events.ts";
import { claimPath, podPath } from "../kube/paths.ts";
import { type Change, createReflector, type Reflector } from "../kube/reflector.ts";
import { systemTiming, type Timing } from "../kube/timing.ts";
import { createEndingPods } from "./ending-pods.ts";
import { loseDevice, loseNode, type NodeLoss, restoreDevice, restoreNode } from "./faults.ts";
import type { Fleet } from "./fleet.ts";
import { createHardware, type FleetHardware, type NodeState } from "./hardware.ts";
import { createKubelets, type Decision } from "./kubelets.ts";
import { lostNodeLabel } from "./names.ts";
import { createNodeDrivers } from "./node-drivers.ts";
import { fleetNodes, type SimulatedNode } from "./objects.ts";
import { type BoundPod, boundPod, type EndingPod, endingPod, type ObservedClaim, observedClaim } from "./observed.ts";
import { isViolation, type Problem } from "./problems.ts";
import { lossesOf, nodePath, publishFleet, simulatedSelector } from "./publish.ts";
import { createStartQueue } from "./start-queue.ts";

/** The lines that pino and its like take. */
interface FleetLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface FleetOptions {
  /** An account like kllama-system/kllama-simulator. */
  client: KubeClient;
  fleet: Fleet;
  log: FleetLog;
  /** Nodes published so far, of all. */
  onProgress?: (done: number, total: number) => void;
  /** Requests under way at once; default 32. */
  parallelism?: number;
  /** Also write `status.devices` of prepared claims, as the driver does; default false. */
  deviceStatus?: boolean;
  /** `reportingInstance` of events; default `fleet`. */
  instance?: string;
  timing?: Timing;
}

interface FleetStats {
  nodes: number;
  /** GPUs and partitions. */
  devices: number;
  slices: number;
  preparedClaims: number;
  /** That drivers have cut out of boards. */
  partitions: number;
  /** Pods that this process let start. */
  startedPods: number;
  violations: number;
  /** Consistent reads made because watches seemed to contradict each other. */
  confirmations: number;
}

/** A running fleet: nodes and slices exist, and claims of pods bound to the nodes get prepared by the driver's code. */
export interface FleetHandle {
  readonly nodes: readonly SimulatedNode[];
  /**
   * Every breach of an invariant that was seen, each once: a device or counter used twice, a device that is elsewhere, an
   * answer of a driver that the judge contradicts.
   */
  readonly violations: readonly Problem[];
  stats(): FleetStats;
  /** Pods that may not start yet, and why. */
  waiting(): readonly Problem[];
  loseNode(node: string, how?: NodeLoss): Promise<void>;
  restoreNode(node: string): Promise<void>;
  loseDevice(node: string, device: string, how?: "taint" | "remove"): Promise<void>;
  restoreDevice(node: string, device: string): Promise<void>;
  /** Preparation for the pod fails from now on, until `undefined` takes the message back. Pods that started stay. */
  failPrepare(namespace: string, pod: string, message: string | undefined): void;
  /** Stops preparing; nodes and slices stay. */
  stop(): Promise<void>;
}

/** Watches are expected to catch up with one another within this time; then a consistent read decides. */
const lagMs = 2000;

/**
 * Publishes a fleet and acts as the node agent of all its nodes. Resolves when everything is published, the first lists are
 * complete, and what they ask for is prepared; may be started again at any time over what is there.
 */
export async function startFleet(options: FleetOptions): Promise<FleetHandle> {
  const { client, log, timing = systemTiming, parallelism = 32 } = options;
  const nodes = fleetNodes(options.fleet);
  const { slices } = await publishFleet({ client, nodes, parallelism, onProgress: options.onProgress });
  const hardware = createHardware(nodes);
  log.info({ nodes: nodes.length, slices }, "fleet published");
  const agent = createAgent({ ...options, timing, parallelism, hardware });
  await agent.start();
  const find = (name: string): SimulatedNode => {
    const node = hardware.node(name);
    if (node !== undefined) return node;
    throw new Error(`fleet ${options.fleet.name} has no node ${JSON.stringify(name)}; the first is ${nodes[0]?.name}`);
  };
  return {
    nodes,
    violations: agent.violations,
    stats: () => ({ nodes: nodes.length, devices: hardware.devices(), slices, ...agent.stats() }),
    waiting: agent.waiting,
    loseNode: async (node, how = "unreachable") => loseNode(client, find(node), how, timing.wallClock()),
    restoreNode: async (node) => restoreNode(client, find(node)),
    loseDevice: async (node, device, how = "taint") => loseDevice(client, find(node), device, how, timing.wallClock()),
    restoreDevice: async (node, device) => restoreDevice(client, find(node), device),
    failPrepare: agent.failPrepare,
    stop: agent.stop,
  };
}

interface AgentOptions extends FleetOptions {
  timing: Timing;
  parallelism: number;
  hardware: FleetHardware;
}

interface Agent extends Pick<FleetHandle, "violations" | "waiting" | "failPrepare" | "stop"> {
  start(): Promise<void>;
  stats(): Pick<FleetStats, "preparedClaims" | "partitions" | "startedPods" | "violations" | "confirmations">;
}

/** Watches nodes, claims and pods, and lets kubelets and drivers decide. */
function createAgent(options: AgentOptions): Agent {
  const { client, log, timing, hardware } = options;
  const forcedFailures = new Map<string, string>();
  const deviceStatus = createDeviceStatusWriter({
    client,
    timing,
    onError: (claim, error) =>
      log.warn({ claim: `${claim.namespace}/${claim.name}`, error: String(error) }, "cannot write the claim's status"),
  });
  const drivers = createNodeDrivers({
    ...hardware,
    onPrepared: (claim) => (options.deviceStatus === true ? deviceStatus.push(claim) : undefined),
  });
  const kubelets = createKubelets({
    hardware,
    drivers,
    failureOf: (pod) => forcedFailures.get(podName(pod)) ?? pod.failPrepare,
    onDecision: apply,
  });
  const events = createEventRecorder({
    client,
    component: "kllama-simulator",
    instance: options.instance ?? "fleet",
    timing,
  });
  const queue = createStartQueue({
    client,
    parallelism: options.parallelism,
    timing,
    onError: (pod, error) => log.warn({ pod: podName(pod), error: String(error) }, "cannot let the pod start"),
  });
  const ending = createEndingPods({
    client,
    timing,
    onError: (pod, error) => log.warn({ pod: podName(pod), error: String(error) }, "cannot remove the pod"),
  });
  const violations: Problem[] = [];
  /** Problems that were reported, by pod. */
  const reported = new Map<string, Set<string>>();
  const confirming = new Map<string, Promise<void>>();
  const ended = new AbortController();
  let confirmations = 0;

  const reflectors = [
    reflect<Node, NodeState>("nodes", nodePath(), { labelSelector: simulatedSelector }, nodeState, nodeChange),
    reflect<ResourceClaim, ObservedClaim>("claims", claimPath({}), {}, observedClaim, claimChange),
    // Only bound pods: the others are not this agent's business and would be most of the traffic.
    reflect<Pod, ObservedPod>("pods", podPath({}), { fieldSelector: "spec.nodeName!=" }, observedPod, podChange),
  ];

  return {
    violations,
    waiting: kubelets.waiting,
    stats: () => ({
      preparedClaims: kubelets.preparedClaims(),
      partitions: drivers.partitions(),
      startedPods: queue.started(),
      violations: violations.length,
      confirmations,
    }),
    /** One after the other: a pod is judged by claims and nodes that are known already. */
    async start() {
      for (const reflector of reflectors) {
        reflector.start();
        await reflector.waitForSync();
      }
      await kubelets.idle();
    },
    failPrepare(namespace, pod, message) {
      const key = `${namespace}/${pod}`;
      if (message === undefined) forcedFailures.delete(key);
      else forcedFailures.set(key, message);
      const waiting = kubelets.waiting().find((problem) => `${problem.namespace}/${problem.pod}` === key);
      if (waiting !== undefined) kubelets.nodeChanged(waiting.node);
    },
    async stop() {
      ended.abort();
      await Promise.all(reflectors.map((reflector) => reflector.stop()));
      await Promise.all(confirming.values());
      await kubelets.idle();
      await Promise.all([queue.stop(), ending.stop(), deviceStatus.stop()]);
      await events.close();
    },
  };

  function reflect<R, T>(
    name: string,
    path: string,
    query: { labelSelector?: string; fieldSelector?: string },
    project: (raw: R) => T,
    onChange: (change: Change<T>) => void,
  ): Pick<Reflector<T>, "start" | "stop" | "waitForSync"> {
    return createReflector<R, T>({
      client,
      path,
      query,
      project,
      onChange,
      name: `fleet ${name}`,
      timing,
      onInvalid: ({ key, error }) => log.error({ key, error: String(error) }, `cannot read one of the ${name}`),
      onError: (error, fatal) =>
        log[fatal ? "error" : "warn"]({ error: error.message, fatal }, `watching ${name} failed`),
    });
  }

  function nodeChange(change: Change<NodeState>): void {
    if (change.type === "replaced" || hardware.node(change.key) === undefined) return;
    hardware.setState(change.key, change.type === "deleted" ? { down: true, losses: {} } : change.value);
    kubelets.nodeChanged(change.key);
  }

  function claimChange(change: Change<ObservedClaim>): void {
    if (change.type === "replaced") return;
    if (change.type !== "deleted") kubelets.claimChanged(change.value);
    else kubelets.claimGone(change.previous.namespace, change.previous.name);
  }

  function podChange(change: Change<ObservedPod>): void {
    if (change.type === "replaced") return;
    if (change.type === "deleted") {
      reported.delete(change.uid);
      ending.forget(change.uid);
      kubelets.podGone(change.uid, true);
      return;
    }
    const { node, bound, leaving } = change.value;
    if (hardware.node(node) === undefined) return;
    if (leaving !== undefined) ending.push(leaving);
    if (bound !== undefined) kubelets.podChanged(bound);
  }

  function apply(decision: Decision): void {
    if (decision.type === "start") {
      if (!decision.pod.marked) queue.push(decision.pod);
    } else if (decision.final) {
      report(decision.pod, decision.problem);
    } else if (!confirming.has(decision.pod.uid) && !ended.signal.aborted) {
      const missing = decision.problem.kind === "NotAllocated" || decision.problem.kind === "NotReserved";
      const confirmed = confirm(decision.pod.uid, missing ? lagMs : 0).finally(() =>
        confirming.delete(decision.pod.uid),
      );
      confirming.set(decision.pod.uid, confirmed);
    }
  }

  /** Reads everything that the problem rests on, then tries for good. */
  async function confirm(podUid: string, waitMs: number): Promise<void> {
    if (waitMs > 0) await timing.sleep(waitMs, ended.signal);
    while (!ended.signal.aborted) {
      const problem = kubelets.problem(podUid);
      if (problem === undefined) return;
      confirmations += 1;
      try {
        await refresh(problem);
        const pod = kubelets.pod(podUid);
        const confirmed = await kubelets.retry(podUid);
        if (pod !== undefined && confirmed !== undefined) report(pod, confirmed);
        return;
      } catch (error) {
        if (ended.signal.aborted) return;
        log.warn({ pod: `${problem.namespace}/${problem.pod}`, error: String(error) }, "cannot confirm a problem");
        await timing.sleep(lagMs, ended.signal);
      }
    }
  }

  async function refresh(problem: Problem): Promise<void> {
    const users = problem.holders.flatMap((uid) => kubelets.users(problem.node, uid));
    const pod = kubelets.pod(problem.podUid);
    for (const known of [...users, ...(pod === undefined ? [] : [pod])]) {
      for (const { claimName } of known.claims) {
        const claim =
          claimName && (await read<ResourceClaim>(claimPath({ namespace: known.namespace, name: claimName })));
        if (claim) kubelets.claimChanged(observedClaim(claim));
      }
      const raw = await read<Pod>(podPath(known));
      const current = raw?.metadata.uid === known.uid ? boundPod(raw) : undefined;
      if (current === undefined) kubelets.podGone(known.uid, false);
      else kubelets.podChanged(current);
    }
  }

  async function read<T>(path: string): Promise<T | undefined> {
    try {
      return await client.request<T>("GET", path, { signal: ended.signal });
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** Each problem of a pod once: loudly when an invariant is broken, as kubelet would otherwise. */
  function report(pod: BoundPod, problem: Problem): void {
    const known = reported.get(pod.uid) ?? new Set<string>();
    const key = `${problem.kind} ${problem.claim} ${problem.device}`;
    if (known.has(key) || problem.kind === "NodeDown") return;
    reported.set(pod.uid, known.add(key));
    const violation = isViolation(problem);
    if (violation) violations.push(problem);
    log[violation ? "error" : "warn"]({ ...problem }, violation ? "invariant broken" : "pod cannot be prepared");
    const refusal = problem.refusal ?? (violation ? undefined : problem.message);
    if (violation) tell(pod, problem.kind, problem.message);
    if (refusal !== undefined) tell(pod, "FailedPrepareDynamicResources", refusal);
  }

  function tell(pod: BoundPod, reason: string, note: string): void {
    events.record({
      regarding: { apiVersion: "v1", kind: "Pod", namespace: pod.namespace, name: pod.name, uid: pod.uid },
      type: "Warning",
      reason,
      action: "PrepareResources",
      note,
    });
  }
}

/** What the watch of pods tells: who has claims, and who is about to go. */
interface ObservedPod {
  node: string;
  bound: BoundPod | undefined;
  leaving: EndingPod | undefined;
}

function observedPod(raw: Pod): ObservedPod {
  return { node: raw.spec.nodeName ?? "", bound: boundPod(raw), leaving: endingPod(raw) };
}

function nodeState(raw: Node): NodeState {
  return { down: raw.metadata.labels?.[lostNodeLabel] === "true", losses: lossesOf(raw) };
}

function podName(pod: Pick<BoundPod, "namespace" | "name">): string {
  return `${pod.namespace}/${pod.name}`;
}
