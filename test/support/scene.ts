import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { Gang, GangStatus } from "../../src/api/gang.ts";
import type { Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import { plannerMetrics, sumSeries } from "../../src/cli/system/metrics.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { claimPath, podPath } from "../../src/kube/paths.ts";
import type { FleetHandle } from "../../src/simulator/fleet-agent.ts";
import { type Observer, observe } from "./observer.ts";
import { type Stack, type StackOptions, startStack } from "./stack.ts";
import { create, createNamespace, gang, member, remove, removeAll, type Workload } from "./workloads.ts";

/** One system for the tests of a file, each in a namespace of its own. */
export interface Scene {
  readonly stack: Stack;
  readonly fleet: FleetHandle;
  readonly seen: Observer;
  /** Begins a test: what follows is in a namespace of its own. @returns its name */
  freshNamespace(labels?: Record<string, string>): Promise<string>;
  /** Goes on in a namespace that was left for another. */
  returnTo(namespace: string): void;
  namespace(): string;
  apply(...objects: Workload[]): Promise<void>;
  drop(object: Workload): Promise<void>;
  pods(): Pod[];
  pod(name: string): Pod | undefined;
  claims(): ResourceClaim[];
  gangs(): Gang[];
  status(gangName: string): GangStatus | undefined;
  until: Observer["until"];
  /** Before anything is expected of what was seen of one kind, after another kind, a metric or an answer told something. */
  inStep: Observer["inStep"];
  /** Sum of the planner's metric over its labels, now; `label` (`reason="x"`) picks those that have it. */
  metric(name: string, label?: string): Promise<number>;
  /** Resolves when the planner's metric has the value, and all is seen that was so by then. */
  untilMetric(name: string, value: number, label?: string): Promise<void>;
  /** Pods with the label of the gang. */
  membersOf(gangName: string): Pod[];
  /** Paths at the API server. */
  podPath(name: string, subresource?: string): string;
  claimPath(name: string, subresource?: string): string;
  /** Once the Gang says so, and all is seen that was so by then: its pods bound, and their claims allocated. */
  scheduled(gangName: string, timeoutMs?: number): Promise<Gang>;
  /** Once the Gang says why it has no place. That it waits for members is no refusal: on a slow machine it says so before. */
  refused(gangName: string): Promise<Gang>;
  /** The devices of a pod as its claims hold them: `pool/device`, sorted. */
  devicesOf(pod: Pod | undefined): string[];
  /** A Gang of one pod set `ranks` and its pods, each with a claim from `template`. */
  createGang(name: string, pods: number, spec?: object, template?: string): Promise<void>;
}

export const isBound = (pod: Pod): boolean => pod.spec.nodeName !== undefined;

export const isReady = (pod: Pod): boolean =>
  pod.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True") ?? false;

/** It has no place; not that it waits for members. */
export const isRefused = ({ status }: Gang): boolean =>
  status?.conditions?.some((c) => c.type === "Planned" && c.status === "False" && c.reason !== "WaitingForMembers") ??
  false;

/**
 * Registers the hooks of a test file: one control plane with fleet and planner; and after every test that invariants
 * held at every revision ever seen, and that deleting what it created leaves nothing behind.
 */
export function useScene(options: StackOptions): Scene {
  let stack: Stack;
  let seen: Observer;
  let namespaces = 0;
  let ns = "";

  beforeAll(async () => {
    stack = await startStack(options);
    seen = await observe(stack.admin);
  });

  afterAll(async () => {
    await seen?.stop();
    await stack?.stop();
  });

  afterEach(async () => {
    await seen.inStep();
    expect(seen.violations()).toEqual([]);
    expect(stack.fleet?.violations).toEqual([]);
    // The namespace controller waits for five seconds before it begins; nothing here has to wait for it.
    await removeAll(stack.admin, ns);
    await stack.admin.request("DELETE", `/api/v1/namespaces/${ns}`);
    await seen.until(
      `${ns} is empty`,
      () => seen.pods(ns).length + seen.claims(ns).length + seen.gangs(ns).length === 0,
    );
  });

  const metric: Scene["metric"] = async (name, label) => sumSeries(await plannerMetrics(stack.extender), name, label);

  return {
    get stack() {
      return stack;
    },
    get fleet() {
      if (stack.fleet === undefined) throw new Error("this scene has no node agents");
      return stack.fleet;
    },
    get seen() {
      return seen;
    },
    namespace: () => ns,
    apply: (...objects) => create(stack.admin, ns, ...objects),
    drop: (object) => remove(stack.admin, ns, object),
    pods: () => seen.pods(ns),
    pod: (name) => seen.pods(ns).find((pod) => pod.metadata.name === name),
    claims: () => seen.claims(ns),
    gangs: () => seen.gangs(ns),
    status: (name) => seen.gang(ns, name)?.status,
    until: (what, found, timeoutMs) => seen.until(what, found, timeoutMs),
    inStep: () => seen.inStep(),
    async freshNamespace(labels = {}) {
      namespaces += 1;
      ns = `test-${namespaces}`;
      await createNamespace(stack.admin, ns, labels);
      return ns;
    },
    returnTo(namespace) {
      ns = namespace;
    },
    metric,
    async untilMetric(name, value, label) {
      const missing = async (): Promise<string | undefined> => {
        const found = await metric(name, label);
        return found === value ? undefined : `it is ${found}`;
      };
      await eventually(`${name} is ${value}`, missing, { timeoutMs: 60_000 });
      await seen.inStep();
    },
    membersOf: (name) => seen.pods(ns).filter((pod) => pod.metadata.labels?.[gangLabel] === name),
    podPath: (name, subresource) => podPath({ namespace: ns, name }, subresource),
    claimPath: (name, subresource) => claimPath({ namespace: ns, name }, subresource),
    async scheduled(name, timeoutMs) {
      const isScheduled = (): Gang | undefined => {
        const found = seen.gang(ns, name);
        return found?.status?.phase === "Scheduled" ? found : undefined;
      };
      const found = await seen.until(`gang ${name} is scheduled`, isScheduled, timeoutMs);
      await seen.inStep();
      return found;
    },
    async refused(name) {
      const found = await seen.until(`gang ${name} is refused`, () => {
        const each = seen.gang(ns, name);
        return each !== undefined && isRefused(each) ? each : undefined;
      });
      await seen.inStep();
      return found;
    },
    devicesOf(pod) {
      const claims = seen.claims(ns).filter((claim) => claim.metadata.ownerReferences?.[0]?.uid === pod?.metadata.uid);
      return claims
        .flatMap((claim) => claim.status?.allocation?.devices?.results ?? [])
        .map((d) => `${d.pool}/${d.device}`)
        .sort();
    },
    async createGang(name, pods, spec = {}, template = "four") {
      await create(stack.admin, ns, gang(name, { podSets: [{ name: "ranks", count: pods }], ...spec }));
      const members = Array.from({ length: pods }, (_, index) => member(name, "ranks", index, template));
      await Promise.all(members.map((pod) => create(stack.admin, ns, pod)));
    },
  };
}
