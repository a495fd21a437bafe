import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Pod } from "../../src/api/kubernetes.ts";
import { type Child, startChild } from "../../src/cli/system/children.ts";
import { kubeconfigOf, plannerFlags } from "../../src/cli/system/system.ts";
import { createClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
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
 * proxy of its own: all others reach the server as ever. Their tests are one story on one control plane. What the planner
 * owes is judged by its requests, as the proxies saw them come: how long this machine takes to serve them says nothing.
 */
const scene = useScene({
  fleet: uniformFleet({ nodes: 8, nodesPerRack: 4 }),
  operator: true,
  auditLog: true,
});
const { freshNamespace, namespace, apply, drop, until, membersOf, scheduled, refused, status, createGang } = scene;

/** How long the API server is away, and the cluster idle: seconds here, a minute by `npm run outage`. */
const lengthMs = Number(process.env["KLLAMA_OUTAGE_SECONDS"] ?? 12) * 1_000;
const resumeMs = 5_000;

/** A planner that is started again when it has ended, as a kubelet does. */
interface Replica {
  readonly proxy: ApiProxy;
  readonly child: Child;
  /** How often its process ended. */
  readonly ends: number;
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
  let ends = 0;
  const launch = (): Child => {
    const launched = startChild({ name: "planner", flags, logDir: join(plane.dataDir, "logs") });
    void launched.exited.then(() => {
      ends += 1;
    });
    return launched;
  };
  let child = launch();
  return {
    proxy,
    get child() {
      return child;
    },
    get ends() {
      return ends;
    },
    start: () => {
      child = launch();
    },
  };
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
const isLease = ({ path }: SeenRequest): boolean => path.includes("/leases");
const isEvent = (seen: SeenRequest): boolean => isWrite(seen) && seen.path.includes("/events");
const isReservation = ({ method, path }: SeenRequest): boolean => method === "PUT" && path.includes("/resourceclaims/");
/** A list in pages, or one that is streamed, that the API server answered. */
const isList = ({ method, path, status }: SeenRequest): boolean =>
  method === "GET" && status === 200 && (path.includes("sendInitialEvents=true") || path.includes("limit=500"));
const collectionOf = ({ path }: SeenRequest): string => path.split("?")[0] ?? "";

async function bound(name: string, members: number): Promise<void> {
  await until(
    `all members of ${name} are bound`,
    () => membersOf(name).length === members && membersOf(name).every(isBound),
  );
}

async function whole(name: string, members: number): Promise<void> {
  await bound(name, members);
  await scheduled(name);
}

/** Path → how often it was asked for. */
function counts(requests: readonly SeenRequest[]): Record<string, number> {
  const found: Record<string, number> = {};
  for (const path of requests.map(collectionOf)) found[path] = (found[path] ?? 0) + 1;
  return found;
}

const lists = (requests: readonly SeenRequest[]) => counts(requests.filter(isList));
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
    const { ends } = first;
    const lateMs = 8_000;
    first.proxy.disturb({ delayMs: (seen) => (isReservation(seen) ? lateMs : 2_000) });
    await createGang("late", 32, {}, "one");
    await bound("late", 32);
    const seen = first.proxy.requests.slice(from);
    const reservations = seen.filter(isReservation);
    const underWay = (atMs: number): number =>
      reservations.filter((each) => each.atMs <= atMs && atMs < each.atMs + lateMs).length;
    // It pauses for two seconds and waits two for the answer: had it to wait for a connection as well, all would be over.
    const renewals = seen.filter((each) => isLease(each) && isWrite(each));
    expect(Math.max(...renewals.map(({ atMs }) => underWay(atMs)))).toBe(32);
    expect(lists(seen)).toEqual({});
    expect(first.ends).toBe(ends);
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
      async () => (late.length >= 8 ? undefined : `${late.length} of 8`),
      { timeoutMs: 60_000 },
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
      { timeoutMs: 60_000 },
    );
    expect(late.map(({ status }) => status)).toEqual(late.map(() => 403));
  });

  test("refuses everything with 429 for five seconds: it waits as it is told, resumes within five, and lists nothing", async () => {
    const from = first.proxy.requests.length;
    const { ends } = first;
    const sinceMs = performance.now();
    first.proxy.disturb({ refuseFor: () => 1 });
    first.proxy.cut();
    await createGang("patient", 3);
    await sleep(5_000);
    const during = first.proxy.requests.slice(from);
    first.proxy.disturb({});
    const overMs = performance.now();
    await whole("patient", 3);
    const tries = counts(during);
    expect(Object.keys(tries).length).toBeGreaterThan(collections().length);
    for (const [path, count] of Object.entries(tries)) {
      expect(count, path).toBeLessThanOrEqual(1 + (overMs - sinceMs) / 1_000);
    }
    const resumed = first.proxy.requests
      .slice(from)
      .find((each) => isReservation(each) && each.path.includes(namespace()));
    expect((resumed?.atMs ?? Number.POSITIVE_INFINITY) - overMs).toBeLessThan(resumeMs);
    expect(lists(first.proxy.requests.slice(from))).toEqual({});
    expect(first.ends).toBe(ends);
  });
});

/** One pod each, with more GPUs than a node has. */
const waitingGangs = ["waits-0", "waits-1", "waits-2", "waits-3"];

async function createGangsThatWait(): Promise<void> {
  for (const name of waitingGangs) {
    await apply(gang(name, { podSets: [{ name: "ranks", count: 1 }] }), member(name, "ranks", 0, "sixteen"));
  }
  await Promise.all(waitingGangs.map(refused));
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
    const sinceMs = await idle();
    for (const { proxy } of [first, second]) {
      expect(lists(proxy.requests.filter(({ atMs }) => atMs >= sinceMs))).toEqual({});
    }
  });

  test("hand over at once on SIGTERM, the last events before the Lease; the other is warm", async () => {
    // One event after another: several are queued when it is told to stop.
    const eventMs = 300;
    first.proxy.disturb({ delayMs: (seen) => (isEvent(seen) ? eventMs : 0) });
    const from = first.proxy.requests.length;
    const listed = second.proxy.requests.length;
    await createGangsThatWait();
    const toldMs = performance.now();
    await first.child.stop();
    // Who does not end by itself is killed after five seconds.
    expect(performance.now() - toldMs).toBeLessThan(5_000);
    await second.child.ready;
    const readyMs = performance.now();

    const last = first.proxy.requests.slice(from);
    const events = last.filter(isEvent);
    expect(events.filter((each) => each.status === 201 || each.status === 200).length).toBeGreaterThanOrEqual(4);
    const release = last.findLast((seen) => isLease(seen) && isWrite(seen));
    expect(last.findLastIndex(isEvent)).toBeLessThan(last.indexOf(release!));
    const queued = events.filter(({ atMs }) => atMs + eventMs > toldMs).length;
    expect(release!.atMs - toldMs - queued * eventMs).toBeLessThan(3_000);

    // The other looks at the Lease every two seconds: the first look takes it.
    const looks = second.proxy.requests.slice(listed).filter((seen) => isLease(seen) && seen.atMs > release!.atMs);
    expect(looks.slice(0, 3).map(({ method }) => method)).toContain("PUT");
    const taken = looks.find(isWrite);
    expect(readyMs - taken!.atMs).toBeLessThan(resumeMs);
    // It knew everything, and read it once more behind the fence.
    expect(mostListed(second.proxy.requests.slice(listed))).toBe(1);
    await until("every gang has its event", () => {
      const told = scene.seen.events().filter((each) => each.regarding?.namespace === namespace());
      return waitingGangs.every((name) => told.some(({ regarding }) => regarding?.name === name));
    });
  });

  test("are back within five seconds after the API server was away and its history is gone; none lists a kind more than twice", async () => {
    const apiServer = scene.stack.plane.component("kube-apiserver");
    const [leader, other] = [second, first];
    const started = other.proxy.requests.length;
    other.start();
    await standsBy(other, started);
    const { ends } = other;
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
    await answersAgain();
    const readyMs = performance.now();
    await Promise.any([leader.child.ready, other.child.ready]);
    expect(performance.now() - readyMs).toBeLessThan(resumeMs);
    expect(other.ends).toBe(ends);
    // Whose process went on is told that its history is gone once it asks again, which the other does not wait for.
    const told = ({ expired, status }: SeenRequest) => expired === true || status === 410;
    const missing = async () => (other.proxy.requests.slice(from[1]).some(told) ? undefined : "not told");
    await eventually("its history is gone", missing, { timeoutMs: 60_000 });
    for (const [index, { proxy }] of [leader, other].entries()) {
      expect(mostListed(proxy.requests.slice(from[index]))).toBeLessThanOrEqual(2);
    }
    await apply(gang("after", { podSets: [{ name: "ranks", count: 1 }] }), member("after", "ranks", 0));
    const appliedMs = performance.now();
    await until("the gang has a place", () => status("after")?.placement !== undefined);
    const written = [leader, other]
      .flatMap(({ proxy }) => proxy.requests)
      .filter((seen) => isWrite(seen) && seen.path.includes(`/${namespace()}/gangs/after/status`));
    expect(Math.max(...written.map(({ atMs }) => atMs)) - appliedMs).toBeLessThan(resumeMs);
    // Controllers of Kubernetes pause for up to half a minute, and the namespace is to go.
    await scene.stack.plane.component("kube-controller-manager").restart();
  });
});

/** What planners follow: the collections that the first one listed. */
function collections(): string[] {
  return Object.keys(lists(first.proxy.requests));
}

/** It follows everything and takes part in the election. @param from how many of its requests were seen before its start */
async function standsBy({ proxy }: Replica, from: number): Promise<void> {
  const missing = async (): Promise<string | undefined> => {
    const seen = proxy.requests.slice(from);
    const listed = lists(seen);
    const lacking = collections().filter((path) => listed[path] === undefined);
    return lacking.length === 0 && seen.some(isLease) ? undefined : `not listed: ${lacking}`;
  };
  await eventually("the replica stands by", missing, { timeoutMs: 60_000 });
}

/**
 * A client that pauses for nothing can read all that planners follow, and the fence stands: an API server that has started
 * may take half a minute to know the kind of a policy's parameter. From now on it is the planner that lets wait.
 */
async function answersAgain(): Promise<void> {
  const { admin, plane } = scene.stack;
  const kubeconfigPath = await kubeconfigOf(plane, "planner");
  const outsider = createClient(await loadConnection({ kubeconfigPath }), { userAgent: "test" });
  const term = "/apis/scheduling.kllama.ai/v1alpha1/plannerterms/kllama-planner";
  const missing = async (): Promise<string | undefined> => {
    try {
      await Promise.all(collections().map((path) => admin.request("GET", path, { query: { limit: 500 } })));
      const body = await admin.request("GET", term);
      await outsider.request("PUT", `${term}/status`, { query: { dryRun: "All" }, body });
      return "the fence does not stand";
    } catch (error) {
      return String(error).includes("this planner was replaced") ? undefined : String(error);
    }
  };
  await eventually("the API server answers", missing, { timeoutMs: 60_000 });
  await outsider.close();
}

/**
 * Resolves when kllama has written nothing for the whole length; rejects when it never rests that long.
 * @returns when that began, by the clock of the proxies
 */
async function idle(): Promise<number> {
  const givenUpMs = performance.now() + 60_000 + lengthMs;
  for (;;) {
    const nowMs = Date.now();
    const writes = await acceptedWrites(scene.stack.plane, new Date(nowMs - lengthMs).toISOString());
    const last = writes.at(-1);
    if (last === undefined) return performance.now() - (Date.now() - nowMs) - lengthMs;
    if (performance.now() > givenUpMs)
      expect.fail(`kllama does not rest: ${last.account}, ${last.what} ${last.object}`);
    await sleep(Date.parse(last.at) + lengthMs - Date.now() + 10);
  }
}

function llmCluster(name: string): Workload {
  return {
    apiVersion: "serving.ai/v1alpha1",
    kind: "LLMCluster",
    metadata: { name },
    spec: { image: "registry.k8s.io/pause:3.10", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 },
  };
}
