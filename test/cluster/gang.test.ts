import process from "node:process";
import { describe, expect, test } from "vitest";
import type { Pod } from "../../src/api/kubernetes.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { besiege, type ValidCall } from "../support/door/door.ts";
import { queuedMs } from "../support/queued.ts";
import { isBound, isReady, isRefused, useScene } from "../support/scene.ts";
import { claimTemplate, gang, member, statefulSet } from "../support/workloads.ts";

/**
 * Gangs on real etcd, kube-apiserver, kube-controller-manager and an unmodified kube-scheduler; kllama's planner runs as
 * a child process under its own account, so that it can be killed. Nodes and GPUs are simulated: two racks of five
 * nodes with eight GPUs each.
 */
const scene = useScene({ fleet: uniformFleet({ nodes: 10, nodesPerRack: 5 }) });
const { freshNamespace, namespace, apply, drop, pods, pod, claims, gangs, status, until, inStep, metric } = scene;
const { membersOf, scheduled, refused, devicesOf, createGang } = scene;

/** The first: kube-scheduler may still call for members of an earlier one when they are gone. */
describe("pods that are no members", () => {
  test("with a claim in an injected namespace are placed alone; ordinary pods never reach the extender", async () => {
    await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
    const before = await metric("kllama_extender_requests_total");
    await apply(claimTemplate("one", 1));
    const ordinary = Array.from({ length: 5 }, (_, index) => ({
      ...member("none", "ranks", index),
      metadata: { name: `plain-${index}` },
    }));
    await apply(...ordinary, { ...member("none", "ranks", 0, "one"), metadata: { name: "single" } });
    await until("all are ready", () => pods().length === 6 && pods().every(isReady));
    await inStep();
    expect(devicesOf(pod("single"))).toHaveLength(1);
    expect(await metric("kllama_extender_requests_total")).toBe(before);
  });
});

describe("a gang", () => {
  test("is bound whole, on exactly the planned devices, becomes ready, and its guards go", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await createGang("whole", 4);
    const { status } = await scheduled("whole");
    await until("all members are ready", () => membersOf("whole").length === 4 && membersOf("whole").every(isReady));
    for (const pod of membersOf("whole")) {
      const planned = status?.placement?.pods.find((placed) => placed.pod === pod.metadata.name);
      expect(pod.spec.nodeName).toBe(planned?.node);
      const devices = planned?.claims.flatMap((claim) => claim.devices.map((d) => `${d.pool}/${d.device}`)) ?? [];
      expect(devices).toHaveLength(4);
      expect(devicesOf(pod)).toEqual(devices.sort());
    }
    await until("guards are gone", () => claims().every((claim) => claim.status?.reservedFor?.length === 1));
    expect(status?.conditions?.find((c) => c.type === "Scheduled")).toMatchObject({ status: "True" });
  });

  test("with a missing member never binds, holds nothing, and says which member is missing", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await apply(gang("short", { podSets: [{ name: "ranks", count: 3 }] }));
    await apply(member("short", "ranks", 0, "four"), member("short", "ranks", 1, "four"));
    const waiting = await until("the gang says what it waits for", () => {
      const found = scene.seen.gang(namespace(), "short");
      return found?.status?.explanation?.includes("2 of 3") ? found : undefined;
    });
    expect(waiting.status?.phase).toBe("Pending");
    expect(waiting.status?.conditions?.find((c) => c.type === "Planned")).toMatchObject({
      status: "False",
      reason: "WaitingForMembers",
    });
    expect(membersOf("short").filter(isBound)).toEqual([]);
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toEqual([]);
  });

  test("that can never fit holds nothing and says why, in its status and in one event", async () => {
    await freshNamespace();
    await apply(claimTemplate("nine", 9));
    await createGang("huge", 2, {}, "nine");
    const found = (await refused("huge")).status;
    expect(found?.phase).toBe("Pending");
    expect(found?.explanation).toMatch(/gpu\.kllama\.ai|device/);
    const events = await until("an event says so", () => {
      const told = scene.seen
        .events()
        .filter(({ regarding }) => regarding?.name === "huge" && regarding.namespace === namespace())
        .filter(({ reason }) => reason !== "GangWaitingForMembers");
      return told.length > 0 ? told : undefined;
    });
    expect(events.map(({ note }) => note)).toEqual([found?.explanation]);
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toEqual([]);
  });

  test("with a claim that names an unknown device class or CEL function is told so", async () => {
    await freshNamespace();
    await apply(claimTemplate("odd", 1, "no-such-class"));
    await createGang("odd", 1, {}, "odd");
    const { status } = await refused("odd");
    expect(status?.explanation).toContain("no-such-class");
  });

  test("with a CPU-only leader is bound whole; the leader is held to its planned node by the filter", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const constraints = [{ level: "rack" }];
    const podSets = [
      { name: "leader", count: 1 },
      { name: "ranks", count: 2 },
    ];
    await apply(gang("mixed", { podSets, constraints }));
    await apply(member("mixed", "leader", 0));
    await apply(member("mixed", "ranks", 0, "eight"), member("mixed", "ranks", 1, "eight"));
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
    await apply(claimTemplate("eight", 8));
    const rack = { constraints: [{ level: "rack" }] };
    for (const name of ["one", "two", "three"]) await createGang(name, 5, rack, "eight");
    const waiting = await until("two are scheduled and one is refused", () => {
      const phases = gangs().map((found) => found.status?.phase);
      const refused = gangs().find((found) =>
        found.status?.conditions?.some((c) => c.reason === "NoDomainFits" || c.reason === "InsufficientDevices"),
      );
      return phases.filter((phase) => phase === "Scheduled").length === 2 && refused !== undefined
        ? refused
        : undefined;
    });
    await inStep();
    expect(membersOf(waiting.metadata.name).filter(isBound)).toEqual([]);
    const leaving = ["one", "two", "three"].find((name) => name !== waiting.metadata.name) ?? "";
    await drop(gang(leaving, {}));
    for (const pod of membersOf(leaving)) await drop({ ...member(leaving, "ranks", 0), metadata: pod.metadata });
    await scheduled(waiting.metadata.name);
    await until("the follower is ready", () => membersOf(waiting.metadata.name).every(isReady));
  });

  test("twenty with room for five: exactly five are bound, each whole", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const names = Array.from({ length: 20 }, (_, index) => `rival-${index}`);
    await Promise.all(names.map((name) => createGang(name, 2, {}, "eight")));
    await until("five are scheduled and fifteen refused", () => {
      const placed = gangs().filter((each) => each.status?.phase === "Scheduled");
      return placed.length === 5 && gangs().filter(isRefused).length === 15;
    });
    await inStep();
    const bound = names.map((name) => membersOf(name).filter(isBound).length).filter((count) => count > 0);
    expect(bound).toEqual([2, 2, 2, 2, 2]);
    const allocated = claims().filter((claim) => claim.status?.allocation !== undefined);
    expect(allocated).toHaveLength(10);
  });
});

describe("a StatefulSet", () => {
  test("pod deleted and recreated returns to its own devices while another gang waits for them", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await apply(gang("set", { podSets: [{ name: "ranks", count: 10 }] }));
    await apply(statefulSet("set", 10, "eight"));
    await scheduled("set");
    await createGang("envious", 1, {}, "eight");
    await until("the other gang is refused, and told what would make room", () =>
      status("envious")
        ?.conditions?.find(({ type }) => type === "Planned")
        ?.message.includes("; it would fit if gang set leaves"),
    );
    const before = membersOf("set").find((pod) => pod.metadata.name === "set-3");
    const devices = devicesOf(before);
    await drop({ ...member("set", "ranks", 3), metadata: { name: "set-3" } });
    const after = await until("the pod is back and ready", () =>
      membersOf("set").find(
        (pod) => pod.metadata.name === "set-3" && pod.metadata.uid !== before?.metadata.uid && isReady(pod),
      ),
    );
    await inStep();
    expect(after.spec.nodeName).toBe(before?.spec.nodeName);
    expect(devicesOf(after)).toEqual(devices);
    expect(membersOf("envious").filter(isBound)).toEqual([]);
    await drop(statefulSet("set", 10, "eight"));
    await drop(gang("set", {}));
    await scheduled("envious");
  });
});

describe("the planner killed with SIGKILL", () => {
  test("between reserve and release: the restarted one releases what was reserved", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await restartWith("reserveClaim:3");
    await createGang("fallen", 4);
    await scene.stack.planner.exited();
    await inStep();
    expect(membersOf("fallen").filter(isBound)).toEqual([]);
    await scene.stack.planner.start();
    await scheduled("fallen");
    await until("all members are bound", () => membersOf("fallen").every(isBound));
  });

  test("between two bindings: the committed gang is finished within five seconds", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await restartWith("bind:1");
    await createGang("halfway", 4);
    await scene.stack.planner.exited();
    expect(status("halfway")?.phase).not.toBe("Scheduled");
    const { planner } = scene.stack;
    await planner.start();
    /** Without the time in line for a core. */
    const ownMs = (): number => performance.now() - queuedMs([planner.pid ?? 0]);
    const readyMs = ownMs();
    await until(
      "all members are bound",
      () => membersOf("halfway").length === 4 && membersOf("halfway").every(isBound),
    );
    expect(ownMs() - readyMs).toBeLessThan(5_000);
    await scheduled("halfway");
  });

  async function restartWith(failpoint: string): Promise<void> {
    await scene.stack.planner.kill("SIGTERM");
    await scene.stack.planner.start({ KLLAMA_FAILPOINT: failpoint });
  }
});

/** `npm run siege`: all of it, and what it does to the time of valid calls; else a slice of 15 s. */
const wholeSiege = process.env["KLLAMA_SIEGE"] === "whole";

describe("the door of the running planner", () => {
  test(
    "besieged with malformed and slow requests: no crash, no 5xx, valid calls are answered as ever",
    async () => {
      await freshNamespace();
      await apply(claimTemplate("one", 1));
      const podSets = ["leader", "ranks"].map((name) => ({ name, count: 1 }));
      await apply(gang("inside", { podSets }), member("inside", "leader", 0), member("inside", "ranks", 0, "one"));
      const { status } = await scheduled("inside");
      const valid = (status?.placement?.pods ?? []).flatMap((placed) => validCalls(pod(placed.pod), placed.node));
      const { pid } = scene.stack.planner;
      const size = wholeSiege
        ? { rounds: 5, idleCalls: 400, aside: true, malformed: 2_000, perSecond: 50, slow: 200 }
        : { rounds: 1, idleCalls: 50, aside: false, malformed: 450, perSecond: 50, slow: 70 };

      const { idle, attacked, reports } = await besiege(scene.stack, valid, size);

      const ratio = attacked.p99Ms / idle.p99Ms;
      const wallRatio = attacked.wallP99Ms / idle.wallP99Ms;
      process.stdout.write(`${JSON.stringify({ idle, attacked, ratio, wallRatio, reports })}\n`);
      expect([idle.wrong, attacked.wrong]).toEqual([[], []]);
      const { malformed, slow } = size;
      for (const report of reports) {
        expect(report).toMatchObject({ malformed, slow });
        expect([report.unexpected, report.neverClosed]).toEqual([{}, {}]);
      }
      expect(await metric("kllama_extender_requests_total", 'outcome="error"')).toBe(0);
      expect(() => process.kill(pid ?? 0, 0)).not.toThrow();
      expect(scene.stack.planner.pid).toBe(pid);
      // kube-scheduler still gets through.
      await createGang("after", 2, {}, "one");
      await scheduled("after");
      // On a machine that has nothing else to do.
      if (wholeSiege) expect(Math.max(ratio, wallRatio)).toBeLessThanOrEqual(2);
    },
    wholeSiege ? 600_000 : 120_000,
  );

  /** kube-scheduler's own for that pod: where may it go, and (again) that it goes there, which is bound already. */
  function validCalls(each: Pod | undefined, node: string): ValidCall[] {
    const { name = "", namespace = "", uid = "" } = each?.metadata ?? {};
    return [
      {
        path: "/filter",
        body: { Pod: { metadata: { name, namespace, uid } }, NodeNames: [node] },
        answer: { NodeNames: [node], FailedNodes: {}, FailedAndUnresolvableNodes: {}, Error: "" },
      },
      {
        path: "/bind",
        body: { PodName: name, PodNamespace: namespace, PodUID: uid, Node: node },
        answer: { Error: "" },
      },
    ];
  }
});
