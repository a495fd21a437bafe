import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Agent, request } from "undici";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Gang } from "../../src/api/gang.ts";
import type { Pod } from "../../src/api/kubernetes.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { type Observer, observe } from "../support/observer.ts";
import { type Stack, startStack } from "../support/stack.ts";
import { claimTemplate, create, createNamespace, gang, member, remove, statefulSet } from "../support/workloads.ts";

/**
 * Gangs on real etcd, kube-apiserver, kube-controller-manager and an unmodified kube-scheduler; kllama's planner runs as
 * a child process under its own account, so that it can be killed. Nodes and GPUs are simulated: two racks of five
 * nodes with eight GPUs each.
 */
let stack: Stack;
let seen: Observer;
let namespaces = 0;
let ns = "";

beforeAll(async () => {
  stack = await startStack({ fleet: uniformFleet({ nodes: 10, nodesPerRack: 5 }) });
  seen = await observe(stack.admin);
});

afterAll(async () => {
  await seen?.stop();
  await stack?.stop();
});

async function freshNamespace(labels: Record<string, string> = {}): Promise<string> {
  namespaces += 1;
  ns = `test-${namespaces}`;
  await createNamespace(stack.admin, ns, labels);
  return ns;
}

/** After every test: invariants held at every revision ever seen, and deletion leaves nothing behind. */
afterEach(async () => {
  expect(seen.violations()).toEqual([]);
  expect(stack.fleet?.violations).toEqual([]);
  await stack.admin.request("DELETE", `/api/v1/namespaces/${ns}`);
  await seen.until(`${ns} is empty`, () => seen.pods(ns).length + seen.claims(ns).length + seen.gangs(ns).length === 0);
});

const isBound = (pod: Pod): boolean => pod.spec.nodeName !== undefined;
const isReady = (pod: Pod): boolean =>
  pod.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True") ?? false;

function membersOf(name: string): Pod[] {
  return seen.pods(ns).filter((pod) => pod.metadata.labels?.["scheduling.kllama.ai/gang"] === name);
}

function scheduled(name: string): Promise<Gang> {
  return seen.until(`gang ${name} is scheduled`, () => {
    const found = seen.gang(ns, name);
    return found?.status?.phase === "Scheduled" ? found : undefined;
  });
}

/** The devices of each pod, as its claims hold them. */
function devicesOf(pod: Pod): string[] {
  const claims = seen.claims(ns).filter((claim) => claim.metadata.ownerReferences?.[0]?.uid === pod.metadata.uid);
  return claims
    .flatMap((claim) => claim.status?.allocation?.devices?.results ?? [])
    .map((d) => `${d.pool}/${d.device}`)
    .sort();
}

async function createGang(name: string, pods: number, spec: object = {}, template = "four"): Promise<void> {
  await create(stack.admin, ns, gang(name, { podSets: [{ name: "ranks", count: pods }], ...spec }));
  const members = Array.from({ length: pods }, (_, index) => member(name, "ranks", index, template));
  await Promise.all(members.map((pod) => create(stack.admin, ns, pod)));
}

describe("a gang", () => {
  test("is bound whole, on exactly the planned devices, becomes ready, and its guards go", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("four", 4));
    await createGang("whole", 4);
    const { status } = await scheduled("whole");
    await seen.until(
      "all members are ready",
      () => membersOf("whole").length === 4 && membersOf("whole").every(isReady),
    );
    for (const pod of membersOf("whole")) {
      const planned = status?.placement?.pods.find((placed) => placed.pod === pod.metadata.name);
      expect(pod.spec.nodeName).toBe(planned?.node);
      const devices = planned?.claims.flatMap((claim) => claim.devices.map((d) => `${d.pool}/${d.device}`)) ?? [];
      expect(devices).toHaveLength(4);
      expect(devicesOf(pod)).toEqual(devices.sort());
    }
    await seen.until("guards are gone", () =>
      seen.claims(ns).every((claim) => claim.status?.reservedFor?.length === 1),
    );
    expect(status?.conditions?.find((c) => c.type === "Scheduled")).toMatchObject({ status: "True" });
  });

  test("with a missing member never binds, holds nothing, and says which member is missing", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("four", 4));
    await create(stack.admin, ns, gang("short", { podSets: [{ name: "ranks", count: 3 }] }));
    await create(stack.admin, ns, member("short", "ranks", 0, "four"), member("short", "ranks", 1, "four"));
    const waiting = await seen.until("the gang says what it waits for", () => {
      const found = seen.gang(ns, "short");
      return found?.status?.explanation?.includes("2 of 3") ? found : undefined;
    });
    expect(waiting.status?.phase).toBe("Pending");
    expect(waiting.status?.conditions?.find((c) => c.type === "Planned")).toMatchObject({
      status: "False",
      reason: "WaitingForMembers",
    });
    expect(membersOf("short").filter(isBound)).toEqual([]);
    expect(seen.claims(ns).filter((claim) => claim.status?.allocation !== undefined)).toEqual([]);
  });

  test("that can never fit holds nothing and says why, in its status and in one event", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("nine", 9));
    await createGang("huge", 2, {}, "nine");
    const refused = await seen.until("the gang is refused", () => {
      const found = seen.gang(ns, "huge");
      return found?.status?.conditions?.some((c) => c.type === "Planned" && c.status === "False") ? found : undefined;
    });
    expect(refused.status?.phase).toBe("Pending");
    expect(refused.status?.explanation).toMatch(/gpu\.kllama\.ai|device/);
    const events = await seen.until("an event says so", () => {
      const found = seen
        .events()
        .filter((event) => event.regarding?.name === "huge" && event.regarding.namespace === ns);
      return found.length > 0 ? found : undefined;
    });
    expect(events).toHaveLength(1);
    expect(events[0]?.note).toBe(refused.status?.explanation);
    expect(seen.claims(ns).filter((claim) => claim.status?.allocation !== undefined)).toEqual([]);
  });

  test("with a claim that names an unknown device class or CEL function is told so", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("odd", 1, "no-such-class"));
    await createGang("odd", 1, {}, "odd");
    const refused = await seen.until("the gang is refused", () => seen.gang(ns, "odd")?.status?.explanation);
    expect(refused).toContain("no-such-class");
  });

  test("with a CPU-only leader is bound whole; the leader is held to its planned node by the filter", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("eight", 8));
    const constraints = [{ level: "rack" }];
    const podSets = [
      { name: "leader", count: 1 },
      { name: "ranks", count: 2 },
    ];
    await create(stack.admin, ns, gang("mixed", { podSets, constraints }));
    await create(stack.admin, ns, member("mixed", "leader", 0));
    await create(stack.admin, ns, member("mixed", "ranks", 0, "eight"), member("mixed", "ranks", 1, "eight"));
    const { status } = await scheduled("mixed");
    for (const placed of status?.placement?.pods ?? []) {
      expect(membersOf("mixed").find((pod) => pod.metadata.name === placed.pod)?.spec.nodeName).toBe(placed.node);
    }
    expect(status?.placement?.pods).toHaveLength(3);
    expect(Object.keys(status?.placement?.domains ?? {})).toContain("rack");
  });
});

describe("several gangs", () => {
  test("two that each need a whole rack's worth: one per rack, a third waits and follows when one leaves", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("eight", 8));
    const rack = { constraints: [{ level: "rack" }] };
    for (const name of ["one", "two", "three"]) await createGang(name, 5, rack, "eight");
    const waiting = await seen.until("two are scheduled and one is refused", () => {
      const phases = seen.gangs(ns).map((found) => found.status?.phase);
      const refused = seen
        .gangs(ns)
        .find((found) =>
          found.status?.conditions?.some((c) => c.reason === "NoDomainFits" || c.reason === "InsufficientDevices"),
        );
      return phases.filter((phase) => phase === "Scheduled").length === 2 && refused !== undefined
        ? refused
        : undefined;
    });
    expect(membersOf(waiting.metadata.name).filter(isBound)).toEqual([]);
    const leaving = ["one", "two", "three"].find((name) => name !== waiting.metadata.name) ?? "";
    await remove(stack.admin, ns, gang(leaving, {}));
    for (const pod of membersOf(leaving))
      await remove(stack.admin, ns, { ...member(leaving, "ranks", 0), metadata: pod.metadata });
    await scheduled(waiting.metadata.name);
    await seen.until("the follower is ready", () => membersOf(waiting.metadata.name).every(isReady));
  });

  test("twenty with room for five: exactly five are bound, each whole", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("eight", 8));
    const names = Array.from({ length: 20 }, (_, index) => `rival-${index}`);
    await Promise.all(names.map((name) => createGang(name, 2, {}, "eight")));
    await seen.until("five are scheduled and fifteen refused", () => {
      const found = seen.gangs(ns);
      const refused = found.filter((each) =>
        each.status?.conditions?.some(
          (c) => c.type === "Planned" && c.status === "False" && c.reason !== "WaitingForMembers",
        ),
      );
      return found.filter((each) => each.status?.phase === "Scheduled").length === 5 && refused.length === 15;
    });
    const bound = names.map((name) => membersOf(name).filter(isBound).length).filter((count) => count > 0);
    expect(bound).toEqual([2, 2, 2, 2, 2]);
    const allocated = seen.claims(ns).filter((claim) => claim.status?.allocation !== undefined);
    expect(allocated).toHaveLength(10);
  });
});

describe("a StatefulSet", () => {
  test("pod deleted and recreated returns to its own devices while another gang waits for them", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("eight", 8));
    await create(stack.admin, ns, gang("set", { podSets: [{ name: "ranks", count: 10 }] }));
    await create(stack.admin, ns, statefulSet("set", 10, "eight"));
    await scheduled("set");
    await createGang("envious", 1, {}, "eight");
    await seen.until("the other gang is refused", () => seen.gang(ns, "envious")?.status?.explanation !== undefined);
    const before = membersOf("set").find((pod) => pod.metadata.name === "set-3");
    const devices = devicesOf(before as Pod);
    await remove(stack.admin, ns, { ...member("set", "ranks", 3), metadata: { name: "set-3" } });
    const after = await seen.until("the pod is back and ready", () =>
      membersOf("set").find(
        (pod) => pod.metadata.name === "set-3" && pod.metadata.uid !== before?.metadata.uid && isReady(pod),
      ),
    );
    expect(after.spec.nodeName).toBe(before?.spec.nodeName);
    expect(devicesOf(after)).toEqual(devices);
    expect(membersOf("envious").filter(isBound)).toEqual([]);
    await remove(stack.admin, ns, statefulSet("set", 10, "eight"));
    await remove(stack.admin, ns, gang("set", {}));
    await scheduled("envious");
  });
});

describe("the planner killed with SIGKILL", () => {
  test("between reserve and release: the restarted one releases what was reserved", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("four", 4));
    await restartWith("reserveClaim:3");
    await createGang("fallen", 4);
    await stack.planner.exited();
    expect(membersOf("fallen").filter(isBound)).toEqual([]);
    await stack.planner.start();
    await scheduled("fallen");
    await seen.until("all members are bound", () => membersOf("fallen").every(isBound));
  });

  test("between two bindings: the committed gang is finished within five seconds", async () => {
    await freshNamespace();
    await create(stack.admin, ns, claimTemplate("four", 4));
    await restartWith("bind:1");
    await createGang("halfway", 4);
    await stack.planner.exited();
    expect(seen.gang(ns, "halfway")?.status?.phase).not.toBe("Scheduled");
    await stack.planner.start();
    await seen.until(
      "all members are bound",
      () => membersOf("halfway").length === 4 && membersOf("halfway").every(isBound),
      5_000,
    );
    await scheduled("halfway");
  });

  async function restartWith(failpoint: string): Promise<void> {
    await stack.planner.kill("SIGTERM");
    await stack.planner.start({ KLLAMA_FAILPOINT: failpoint });
  }
});

describe("pods that are no members", () => {
  test("with a claim in an injected namespace are placed alone; ordinary pods never reach the extender", async () => {
    await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
    const before = await extenderRequests();
    await create(stack.admin, ns, claimTemplate("one", 1));
    const ordinary = Array.from({ length: 5 }, (_, index) => ({
      ...member("none", "ranks", index),
      metadata: { name: `plain-${index}` },
    }));
    await create(stack.admin, ns, ...ordinary, { ...member("none", "ranks", 0, "one"), metadata: { name: "single" } });
    await seen.until("all are ready", () => seen.pods(ns).length === 6 && seen.pods(ns).every(isReady));
    expect(devicesOf(seen.pods(ns).find((pod) => pod.metadata.name === "single") as Pod)).toHaveLength(1);
    expect(await extenderRequests()).toBe(before);
  });

  /** Calls of kube-scheduler, as the planner counts them. */
  async function extenderRequests(): Promise<number> {
    const file = (name: string) => readFile(join(stack.plane.dataDir, name), "utf8");
    const [cert, key, ca] = await Promise.all([file("scheduler.crt"), file("scheduler.key"), file("planner-ca.crt")]);
    const dispatcher = new Agent({ connect: { cert, key, ca } });
    const { body } = await request(`${stack.plannerUrl}/metrics`, { dispatcher });
    const lines = (await body.text()).split("\n").filter((line) => line.startsWith("kllama_extender_requests_total{"));
    await dispatcher.close();
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }
});
