import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Pod } from "../../src/api/kubernetes.ts";
import { type Child, startChild } from "../../src/cli/system/children.ts";
import { kubeconfigOf, plannerFlags } from "../../src/cli/system/system.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { type ApiProxy, type SeenRequest, startApiProxy } from "../support/api-proxy.ts";
import { acceptedWrites } from "../support/audit-log.ts";
import { compactEtcd } from "../support/etcd.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import { createReplicaPod } from "../support/stack.ts";
import { claimTemplate, gang, member, type Workload } from "../support/workloads.ts";

/**
 * An API server that is slow, overloaded, away or loses answers, as two replicas of the planner meet it, each through a
 * proxy of its own: all others reach the server as ever. Their tests are one story on one control plane.
 */
const scene = useScene({
  fleet: uniformFleet({ nodes: 8, nodesPerRack: 4 }),
  operator: true,
  auditLog: true,
});
const { freshNamespace, namespace, apply, drop, until, membersOf, scheduled, status, createGang } = scene;

/** How long the API server is away, and the cluster idle: seconds here, a minute by `npm run outage`. */
const lengthMs = Number(process.env["KLLAMA_OUTAGE_SECONDS"] ?? 12) * 1_000;
const resumeMs = 5_000;

/** A planner that is started again whenever it ends, as a kubelet does. */
interface Replica {
  proxy: ApiProxy;
  child: Child;
  start(): void;
}

let first: Replica;
let second: Replica;

async function replica(name: string, uid: string, listen: string): Promise<Replica> {
  const { plane, extender } = scene.stack;
  const proxy = await startApiProxy(plane);
  const kubeconfig = join(plane.dataDir, `${name}-through-proxy.kubeconfig`);
  const direct = await readFile(await kubeconfigOf(plane, "planner", { name, uid }), "utf8");
  await writeFile(kubeconfig, direct.replaceAll(plane.server, proxy.server), { mode: 0o600 });
  const flags = ["--kubeconfig", kubeconfig, ...plannerFlags({ ...extender, listen })];
  const launch = (): Child => startChild({ name: "planner", flags, logDir: join(plane.dataDir, "logs") });
  const self: Replica = {
    proxy,
    child: launch(),
    start: () => {
      self.child = launch();
    },
  };
  return self;
}

beforeAll(async () => {
  const { admin, extender, planner } = scene.stack;
  await planner.kill("SIGTERM");
  const pod = await admin.request<Pod>("GET", "/api/v1/namespaces/kllama-system/pods/kllama-planner-0");
  first = await replica("kllama-planner-0", pod.metadata.uid ?? "", extender.listen);
  await first.child.ready;
});

afterAll(async () => {
  for (const each of [first, second]) {
    await each?.child.stop();
    await each?.proxy.close();
  }
});

beforeEach(async () => {
  await freshNamespace();
  await apply(claimTemplate("one", 1), claimTemplate("four", 4), claimTemplate("sixteen", 16));
});

afterEach(() => {
  for (const each of [first, second]) each?.proxy.disturb({});
});

const isWrite = ({ method }: SeenRequest): boolean => method !== "GET";
const isReservation = ({ method, path }: SeenRequest): boolean => method === "PUT" && path.includes("/resourceclaims/");
const isLease = ({ path }: SeenRequest): boolean => path.includes("/leases");
/** A list in pages, or one that is streamed, that the API server answered. */
const isList = ({ method, path, status }: SeenRequest): boolean =>
  method === "GET" && status === 200 && (path.includes("sendInitialEvents=true") || path.includes("limit=500"));

async function whole(name: string, members: number, withinMs?: number): Promise<void> {
  await until(
    `all members of ${name} are bound`,
    () => membersOf(name).length === members && membersOf(name).every(isBound),
    withinMs,
  );
  await scheduled(name);
}

/** Path of each collection that was listed → how often. */
function lists(requests: readonly SeenRequest[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { path } of requests.filter(isList)) {
    const collection = path.split("?")[0]?.split("/").at(-1) ?? "";
    counts[collection] = (counts[collection] ?? 0) + 1;
  }
  return counts;
}

const mostListed = (requests: readonly SeenRequest[]): number => Math.max(0, ...Object.values(lists(requests)));

describe("the planner goes on with an API server that", () => {
  test("loses the answer of every write once: the gang is whole, nothing is done twice", async () => {
    const lost = new Set<string>();
    first.proxy.disturb({
      losesAnswer: (seen) => {
        const key = `${seen.method} ${seen.path}`;
        if (!isWrite(seen) || isLease(seen) || lost.has(key)) return false;
        lost.add(key);
        return true;
      },
    });
    await createGang("unheard", 3);
    await whole("unheard", 3);
    expect([...lost].filter((key) => key.includes("/binding?"))).toHaveLength(3);
    expect([...lost].some((key) => key.includes("/gangs/unheard/status"))).toBe(true);
  });

  test("answers everything two seconds late, and as many writes as it gets at a time eight: the Lease is renewed all the same", async () => {
    const from = first.proxy.requests.length;
    const { pid } = first.child;
    first.proxy.disturb({ delayMs: (seen) => (isReservation(seen) ? 8_000 : 2_000) });
    await createGang("late", 32, {}, "one");
    await whole("late", 32);
    const renewals = first.proxy.requests.slice(from).filter((seen) => isLease(seen) && isWrite(seen));
    const gapsMs = renewals.slice(1).map(({ atMs }, index) => atMs - (renewals[index]?.atMs ?? 0));
    // Two seconds of pause and two for the answer; had it to wait for a connection, up to eight more.
    expect(Math.max(...gapsMs)).toBeLessThan(5_500);
    expect(lists(first.proxy.requests.slice(from))).toEqual({});
    expect(first.child.pid).toBe(pid);
  });

  test("gets reservations of a planner that was killed after it is back in its pod, and has given the devices to others: they are refused", async () => {
    await apply(claimTemplate("eight", 8));
    const back = Promise.withResolvers<void>();
    const late: SeenRequest[] = [];
    first.proxy.disturb({
      until: (seen) => {
        if (!isReservation(seen)) return undefined;
        late.push(seen);
        return back.promise;
      },
    });
    // All devices that there are.
    await createGang("killed", 8, {}, "eight");
    await eventually(
      "its reservations are under way",
      async () => (late.length === 8 ? undefined : `${late.length} of 8`),
      { timeoutMs: 30_000 },
    );
    first.proxy.disturb({});
    first.child.kill("SIGKILL");
    await first.child.exited;
    await drop(gang("killed", {}));
    first.start();
    await first.child.ready;
    await createGang("next", 8, {}, "eight");
    await whole("next", 8);
    back.resolve();
    await eventually(
      "they are answered",
      async () => (late.every(({ status }) => status !== undefined) ? undefined : "not all"),
      { timeoutMs: 30_000 },
    );
    expect(late.map(({ status }) => status)).toEqual(late.map(() => 403));
  });

  test("refuses everything with 429 for five seconds: it waits as it is told, resumes within five, and lists nothing", async () => {
    const from = first.proxy.requests.length;
    first.proxy.disturb({ refuseFor: () => 1 });
    first.proxy.cut();
    await createGang("patient", 3);
    await sleep(5_000);
    const during = first.proxy.requests.slice(from);
    first.proxy.disturb({});
    await whole("patient", 3, resumeMs);
    // Eight watches and the Lease, each at most once a second.
    expect(during.length).toBeLessThanOrEqual(9 * 6);
    expect(lists(first.proxy.requests.slice(from))).toEqual({});
  });
});

/** One pod each, with more GPUs than a node has. */
const waitingGangs = ["waits-0", "waits-1", "waits-2", "waits-3"];

async function createGangsThatWait(): Promise<void> {
  for (const name of waitingGangs) {
    await apply(gang(name, { podSets: [{ name: "ranks", count: 1 }] }), member(name, "ranks", 0, "sixteen"));
  }
  await until("they say why they wait", () => waitingGangs.every((name) => status(name)?.explanation !== undefined));
}

describe("two replicas", () => {
  beforeAll(async () => {
    const name = "kllama-planner-1";
    const { uid } = await createReplicaPod(scene.stack.admin, name);
    second = await replica(name, uid, "127.0.0.1:0");
    await standsBy(second, 0);
  });

  test("in an idle cluster write nothing, whatever runs and waits in it, nor does the operator", async () => {
    await createGang("runs", 3);
    await whole("runs", 3);
    await apply(gang("lacks-one", { podSets: [{ name: "ranks", count: 2 }] }), member("lacks-one", "ranks", 0, "one"));
    await apply(llmCluster("serves"));
    await createGangsThatWait();
    await until(
      "an instance of the operator runs",
      () => membersOf("serves").length === 2 && membersOf("serves").every(isReady),
    );
    await untilQuiet();
    const since = new Date().toISOString();
    const from = [first, second].map(({ proxy }) => proxy.requests.length);
    await sleep(lengthMs);
    expect(await acceptedWrites(scene.stack.plane, since)).toEqual([]);
    for (const [index, { proxy }] of [first, second].entries()) {
      expect(lists(proxy.requests.slice(from[index]))).toEqual({});
    }
  });

  test("hand over at once on SIGTERM, the last events before the Lease; the other is warm", async () => {
    // One event after another: several are queued when it is told to stop.
    const isEvent = (seen: SeenRequest): boolean => isWrite(seen) && seen.path.includes("/events");
    first.proxy.disturb({ delayMs: (seen) => (isEvent(seen) ? 300 : 0) });
    const from = first.proxy.requests.length;
    const listed = second.proxy.requests.length;
    await createGangsThatWait();
    const toldAt = performance.now();
    await first.child.stop();
    const gaveUpAt = performance.now();
    await second.child.ready;
    expect(performance.now() - gaveUpAt).toBeLessThan(resumeMs);
    expect(gaveUpAt - toldAt).toBeLessThan(3_000);
    // It knew everything, and read it once more behind the fence.
    expect(mostListed(second.proxy.requests.slice(listed))).toBe(1);
    const last = first.proxy.requests.slice(from);
    expect(last.findLastIndex(isEvent)).toBeLessThan(last.findLastIndex((seen) => isLease(seen) && isWrite(seen)));
    await until(
      "every gang has its event",
      () => {
        const told = scene.seen.events().filter((each) => each.regarding?.namespace === namespace());
        return waitingGangs.every((name) => told.some(({ regarding }) => regarding?.name === name));
      },
      2_000,
    );
  });

  test("are back within five seconds after the API server was away and its history is gone; none lists a kind more than twice", async () => {
    const apiServer = scene.stack.plane.component("kube-apiserver");
    const [leader, other] = [second, first];
    const started = other.proxy.requests.length;
    other.start();
    await standsBy(other, started);
    const { pid } = other.child;
    await apiServer.kill("SIGKILL");
    await apiServer.exited;
    await compactEtcd(scene.stack.plane);
    const back = sleep(lengthMs);
    // Nobody can lead without the API server: the process ends, as client-go's do, and is started again.
    await leader.child.exited;
    leader.start();
    await back;
    const from = [leader, other].map(({ proxy }) => proxy.requests.length);
    await apiServer.restart();
    const readyAt = performance.now();
    await Promise.race([leader.child.ready, other.child.ready]);
    expect(performance.now() - readyAt).toBeLessThan(resumeMs);
    expect(other.child.pid).toBe(pid);
    for (const [index, { proxy }] of [leader, other].entries()) {
      expect(mostListed(proxy.requests.slice(from[index]))).toBeLessThanOrEqual(2);
    }
    await apply(gang("after", { podSets: [{ name: "ranks", count: 1 }] }), member("after", "ranks", 0));
    await until("the gang has a place", () => status("after")?.phase === "Reserved", resumeMs);
    // Controllers of Kubernetes pause for up to half a minute, and the namespace is to go.
    await scene.stack.plane.component("kube-controller-manager").restart();
  });
});

/** Nodes, pods, claims, slices, device classes, disruption budgets, Gangs, PlacementGroups, ClusterTopologies. */
const watchedKinds = 9;

/** It follows everything and takes part in the election. @param from how many of its requests were seen before its start */
async function standsBy({ proxy }: Replica, from: number): Promise<void> {
  const missing = async (): Promise<string | undefined> => {
    const seen = proxy.requests.slice(from);
    const kinds = Object.keys(lists(seen)).length;
    return kinds === watchedKinds && seen.some(isLease) ? undefined : `${kinds} of ${watchedKinds} kinds are listed`;
  };
  await eventually("the replica stands by", missing, { timeoutMs: 30_000 });
}

/** kllama has written nothing for three seconds. */
async function untilQuiet(): Promise<void> {
  const busy = async (): Promise<string | undefined> => {
    const since = new Date(Date.now() - 3_000).toISOString();
    const writes = await acceptedWrites(scene.stack.plane, since);
    return writes.length === 0 ? undefined : `${writes.length} writes in three seconds`;
  };
  await eventually("kllama is quiet", busy, { timeoutMs: 60_000 });
}

function llmCluster(name: string): Workload {
  return {
    apiVersion: "serving.ai/v1alpha1",
    kind: "LLMCluster",
    metadata: { name },
    spec: { image: "registry.k8s.io/pause:3.10", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 },
  };
}
