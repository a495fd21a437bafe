import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import type { Gang } from "../../src/api/gang.ts";
import type { Pod } from "../../src/api/kubernetes.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import {
  claimTemplate,
  foreignGate,
  gang,
  member,
  statefulSet,
  type Workload,
  withForeignGate,
} from "../support/workloads.ts";

/**
 * What goes wrong between plan and running pod, on a real control plane: two racks of two nodes with eight GPUs each.
 * A gang is kept in `Reserved` by a scheduling gate of somebody else's on one of its members, which cannot arrive then.
 */
const scene = useScene({ fleet: uniformFleet({ nodes: 4, nodesPerRack: 2 }) });
const { freshNamespace, namespace, apply, drop, pods, pod, claims, status, until, inStep, podPath } = scene;
const { membersOf, scheduled, devicesOf, createGang, untilMetric } = scene;

const lost = new Set<string>();

afterEach(async () => {
  for (const node of lost) await scene.fleet.restoreNode(node);
  lost.clear();
});

async function loseNode(node: string, how: "delete" | "unreachable"): Promise<void> {
  lost.add(node);
  await scene.fleet.loseNode(node, how);
}

async function restoreNode(node: string): Promise<void> {
  lost.delete(node);
  await scene.fleet.restoreNode(node);
}

function onNode(workload: Workload, node: string): Workload {
  const nodeSelector = { "kubernetes.io/hostname": node };
  return { ...workload, spec: { ...(workload["spec"] as object), nodeSelector } };
}

async function liftForeignGate(name: string): Promise<void> {
  await scene.stack.admin.request("PATCH", podPath(name), {
    body: { spec: { schedulingGates: [{ $patch: "delete", name: foreignGate }] } },
    contentType: "application/strategic-merge-patch+json",
  });
}

/** As a person does with a pod on a dead node: gone from the API at once. */
async function forceDelete(each: Pod | undefined): Promise<void> {
  await scene.stack.admin.request("DELETE", podPath(each?.metadata.name ?? ""), {
    body: { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0 },
  });
}

/** A gang of `count` pods with eight GPUs each, of which the last cannot arrive yet. */
async function createHeldGang(name: string, count: number, spec: object = {}): Promise<void> {
  await apply(gang(name, { podSets: [{ name: "ranks", count }], ...spec }));
  for (let index = 0; index < count - 1; index++) await apply(member(name, "ranks", index, "eight"));
  await apply(withForeignGate(member(name, "ranks", count - 1, "eight")));
}

function reserved(name: string): Promise<Gang["status"]> {
  return until(`gang ${name} is reserved and holds its devices`, () => {
    const found = status(name);
    const placed = found?.placement?.pods ?? [];
    const holds = placed.length > 0 && placed.every((each) => devicesOf(pod(each.pod)).length === 8);
    return found?.phase === "Reserved" && holds ? found : undefined;
  });
}

const rackOf = (name: string): string | undefined => scene.fleet.nodes.find((node) => node.name === name)?.rack;
const nodesOf = (found: Gang["status"]): string[] => (found?.placement?.pods ?? []).map(({ node }) => node).sort();
const allocated = () => claims().filter((claim) => claim.status?.allocation !== undefined);
const guarded = () => claims().filter((claim) => claim.status?.reservedFor?.some((c) => c.resource === "gangs"));
const eventsOf = (name: string, reason: string) =>
  scene.seen
    .events()
    .filter((each) => each.regarding?.namespace === namespace() && each.regarding.name === name)
    .filter((each) => each.reason === reason);

describe("a node lost while a gang is reserved", () => {
  for (const how of ["delete", "unreachable"] as const) {
    test(`(${how}): everything is given back and the gang is planned on the others`, async () => {
      await freshNamespace();
      await apply(claimTemplate("eight", 8));
      await createHeldGang("held", 2);
      const [node = ""] = nodesOf(await reserved("held"));
      await loseNode(node, how);
      const again = await until("the gang is reserved elsewhere", () => {
        const found = status("held");
        return found?.phase === "Reserved" && !nodesOf(found).includes(node) ? found : undefined;
      });
      expect(again.attempts).toBe(1);
      const event = await until("an event says why", () => eventsOf("held", "GangRevoked")[0]);
      expect(event.note).toContain(node);
      expect(membersOf("held").filter(isBound)).toEqual([]);
      await liftForeignGate("held-ranks-1");
      const { status: final } = await scheduled("held");
      await until("all are ready", () => membersOf("held").every(isReady));
      expect(nodesOf(final)).not.toContain(node);
      expect(
        membersOf("held")
          .map((each) => each.spec.nodeName)
          .sort(),
      ).toEqual(nodesOf(final));
    });
  }
});

async function running(replicas: number): Promise<{ victim: Pod; others: Pod[] }> {
  await freshNamespace();
  await apply(claimTemplate("eight", 8));
  await apply(gang("set", { podSets: [{ name: "ranks", count: replicas }] }), statefulSet("set", replicas, "eight"));
  await scheduled("set");
  await until("all are ready", () => membersOf("set").length === replicas && membersOf("set").every(isReady));
  const [victim, ...others] = membersOf("set");
  if (victim === undefined) throw new Error("a StatefulSet without pods is ready");
  return { victim, others };
}

const replacement = (victim: Pod) => {
  const found = pod(victim.metadata.name);
  return found?.metadata.uid === victim.metadata.uid ? undefined : found;
};

describe("a node lost under a scheduled gang", () => {
  for (const how of ["delete", "unreachable"] as const) {
    test(`(${how}): its member is placed elsewhere once it is recreated; the others stay`, async () => {
      const { victim, others } = await running(2);
      const node = victim.spec.nodeName ?? "";
      await loseNode(node, how);
      await forceDelete(victim);
      const back = await until("the member is ready elsewhere", () => {
        const found = replacement(victim);
        return found !== undefined && isReady(found) ? found : undefined;
      });
      await inStep();
      expect(back.spec.nodeName).not.toBe(node);
      expect(devicesOf(back)).toHaveLength(8);
      expect(devicesOf(back).every((device) => device.startsWith(`${back.spec.nodeName}/`))).toBe(true);
      for (const other of others) {
        expect(pod(other.metadata.name)?.metadata.uid).toBe(other.metadata.uid);
        expect(pod(other.metadata.name)?.spec.nodeName).toBe(other.spec.nodeName);
      }
      const whole = await until("the gang says that it is whole", () =>
        status("set")?.conditions?.some((c) => c.type === "Degraded" && c.status === "False")
          ? status("set")
          : undefined,
      );
      expect(whole.phase).toBe("Scheduled");
      expect(nodesOf(whole)).toEqual(
        membersOf("set")
          .map((each) => each.spec.nodeName)
          .sort(),
      );
      await until("guards are gone", () => guarded().length === 0);
    });
  }

  test("without room elsewhere: it waits, the gang is degraded, and it returns with the node", async () => {
    const { victim } = await running(4);
    const node = victim.spec.nodeName ?? "";
    await loseNode(node, "unreachable");
    await forceDelete(victim);
    const degraded = await until("the gang is degraded", () =>
      status("set")?.conditions?.find((c) => c.type === "Degraded" && c.status === "True"),
    );
    expect(degraded.message).toBe("pod set ranks: 3 of 4 members are bound");
    await until("the member is recreated", () => replacement(victim));
    expect(replacement(victim)?.spec.nodeName).toBeUndefined();
    await restoreNode(node);
    const back = await until("the member is ready", () => {
      const found = replacement(victim);
      return found !== undefined && isReady(found) ? found : undefined;
    });
    expect(back.spec.nodeName).toBe(node);
    await until("the gang is whole", () =>
      status("set")?.conditions?.some((c) => c.type === "Degraded" && c.status === "False"),
    );
  });
});

describe("a device lost under a scheduled gang", () => {
  test("its member, evicted, goes elsewhere once it is recreated; the others stay", async () => {
    const { victim, others } = await running(2);
    const node = victim.spec.nodeName ?? "";
    onTestFinished(() => scene.fleet.restoreDevice(node, "gpu-3"));
    await scene.fleet.loseDevice(node, "gpu-3");
    const back = await until("the member is ready elsewhere", () => {
      const found = replacement(victim);
      return found !== undefined && isReady(found) ? found : undefined;
    });
    await inStep();
    expect(back.spec.nodeName).not.toBe(node);
    expect(devicesOf(back)).toHaveLength(8);
    expect(devicesOf(back).every((device) => device.startsWith(`${back.spec.nodeName}/`))).toBe(true);
    for (const other of others) {
      expect(pod(other.metadata.name)?.metadata.uid).toBe(other.metadata.uid);
      expect(pod(other.metadata.name)?.spec.nodeName).toBe(other.spec.nodeName);
    }
  });

  test("without room elsewhere: it waits, and returns with the device", async () => {
    const { victim } = await running(4);
    const node = victim.spec.nodeName ?? "";
    onTestFinished(() => scene.fleet.restoreDevice(node, "gpu-3"));
    const refusals = () => scene.metric("kllama_gang_plans_total", 'outcome="rejected"');
    const before = await refusals();
    await scene.fleet.loseDevice(node, "gpu-3");
    await until("the member is recreated", () => replacement(victim));
    const degraded = await until("the gang is degraded", () =>
      status("set")?.conditions?.find((c) => c.type === "Degraded" && c.status === "True"),
    );
    expect(degraded.message).toBe("pod set ranks: 3 of 4 members are bound");
    await eventually(
      "it was planned anew, in vain",
      async () => ((await refusals()) === before ? "no plan was refused" : undefined),
      { timeoutMs: 60_000 },
    );
    await inStep();
    expect(replacement(victim)?.spec.nodeName).toBeUndefined();
    await scene.fleet.restoreDevice(node, "gpu-3");
    const back = await until("the member is ready", () => {
      const found = replacement(victim);
      return found !== undefined && isReady(found) ? found : undefined;
    });
    await inStep();
    expect([back.spec.nodeName, devicesOf(back)]).toEqual([node, expect.arrayContaining([`${node}/gpu-3`])]);
  });
});

describe("a Gang deleted", () => {
  test("while it is reserved: devices and guards are given back, nothing is bound; created again it is placed", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await createHeldGang("brief", 2);
    await reserved("brief");
    await drop(gang("brief", {}));
    await until("nothing is held", () => allocated().length === 0 && guarded().length === 0);
    expect(membersOf("brief").filter(isBound)).toEqual([]);
    await apply(gang("brief", { podSets: [{ name: "ranks", count: 2 }] }));
    await reserved("brief");
    await liftForeignGate("brief-ranks-1");
    await scheduled("brief");
    await until("all are bound", () => membersOf("brief").every(isBound));
  });

  test("while it waits for a member holds nothing and wakes nobody; its pods stay gated", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await apply(gang("early", { podSets: [{ name: "ranks", count: 2 }] }), member("early", "ranks", 0, "eight"));
    await until("the gang says what it waits for", () => status("early")?.explanation?.includes("1 of 2"));
    await drop(gang("early", {}));
    await until("it is gone", () => status("early") === undefined);
    await apply(member("early", "ranks", 1, "eight"));
    await until("claims exist", () => claims().length === 2);
    await createGang("other", 4, {}, "eight");
    await scheduled("other");
    expect(membersOf("early").filter((each) => isBound(each) || each.spec.schedulingGates === undefined)).toEqual([]);
    expect(allocated()).toHaveLength(4);
  });

  test("while it runs: its pods go on, and a Gang created again finds them where they are", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await createGang("again", 2, {}, "eight");
    await scheduled("again");
    await until("all are ready", () => membersOf("again").every(isReady));
    await inStep();
    const before = membersOf("again").map((each) => [each.metadata.uid, each.spec.nodeName, devicesOf(each)]);
    await drop(gang("again", {}));
    await until("it is gone", () => status("again") === undefined);
    await apply(gang("again", { podSets: [{ name: "ranks", count: 2 }] }));
    const { status: found } = await scheduled("again");
    expect(found?.members).toBe("2/2");
    expect(nodesOf(found)).toEqual(before.map(([, node]) => node).sort());
    expect(membersOf("again").map((each) => [each.metadata.uid, each.spec.nodeName, devicesOf(each)])).toEqual(before);
    await until("no guard is on running pods", () => guarded().length === 0);
  });
});

describe("a reservation that runs out", () => {
  test("is given back whole, lets another gang in, and is planned again", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    // Long enough for the rival to come, and to be refused, whatever else the machine does.
    await createHeldGang("slow", 4, { scheduleTimeoutSeconds: 10 });
    await reserved("slow");
    await createGang("rival", 1, {}, "eight");
    await until("the rival has no room", () =>
      status("rival")?.conditions?.some((c) => c.type === "Planned" && c.reason === "InsufficientDevices"),
    );
    await scheduled("rival");
    const event = await until("an event says why", () => eventsOf("slow", "GangRevoked")[0]);
    expect(event.note).toBe("not all members arrived within 10 s (spec.scheduleTimeoutSeconds)");
    const waiting = await until("the slow gang waits and holds nothing", () => {
      const found = status("slow");
      return found?.phase === "Pending" && allocated().length === 1 ? found : undefined;
    });
    expect(waiting.attempts).toBe(1);
    expect(membersOf("slow").filter(isBound)).toEqual([]);
    await drop(gang("rival", {}));
    await drop(member("rival", "ranks", 0));
    await liftForeignGate("slow-ranks-3");
    await scheduled("slow");
    await until("all are ready", () => membersOf("slow").length === 4 && membersOf("slow").every(isReady));
  });
});

describe("a PlacementGroup", () => {
  const group = (name: string): Workload => ({
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "PlacementGroup",
    metadata: { name },
    spec: { members: [{ role: "prefill" }, { role: "decode" }], constraints: [{ level: "rack" }] },
  });
  const half = (role: string): Workload =>
    gang(role, { podSets: [{ name: "ranks", count: 1 }], placementGroup: "pair", role });

  async function blockOneNodePerRack(): Promise<void> {
    const racks = new Map(scene.fleet.nodes.map((node) => [rackOf(node.name), node.name]));
    expect(racks.size).toBe(2);
    let blockers = 0;
    for (const node of racks.values()) {
      const name = `blocker-${blockers++}`;
      await apply(gang(name, { podSets: [{ name: "ranks", count: 1 }] }));
      await apply(onNode(member(name, "ranks", 0, "eight"), node));
      await scheduled(name);
    }
  }

  test("is placed in one rack or not at all, and follows when there is room", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await blockOneNodePerRack();
    await apply(group("pair"), half("prefill"), half("decode"));
    await apply(member("prefill", "ranks", 0, "eight"), member("decode", "ranks", 0, "eight"));
    await until("both are refused, though each would fit alone", () =>
      ["prefill", "decode"].every((name) =>
        status(name)?.conditions?.some((c) => c.type === "Planned" && c.reason === "NoDomainFits"),
      ),
    );
    await inStep();
    expect(status("prefill")?.phase).toBe("Pending");
    expect(allocated()).toHaveLength(2);
    await drop(gang("blocker-0", {}));
    await drop(member("blocker-0", "ranks", 0));
    const placed = await Promise.all([scheduled("prefill"), scheduled("decode")]);
    const [a = "", b = ""] = placed.flatMap((each) => nodesOf(each.status));
    expect(rackOf(a)).toBe(rackOf(b));
    expect(a).not.toBe(b);
  });

  test("commits none of its gangs before all of them are at the barrier", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await apply(group("pair"), half("prefill"), half("decode"));
    await apply(member("prefill", "ranks", 0, "eight"), withForeignGate(member("decode", "ranks", 0, "eight")));
    await reserved("prefill");
    await reserved("decode");
    await untilMetric("kllama_barrier_arrivals", 1);
    expect(status("prefill")?.phase).toBe("Reserved");
    expect(pods().filter(isBound)).toEqual([]);
    await liftForeignGate("decode-ranks-0");
    await Promise.all([scheduled("prefill"), scheduled("decode")]);
    await until("both are bound", () => pods().every(isBound));
  });
});

describe("a pod that bypasses the gate", () => {
  test("is kept from binding by the API server while no planner runs, and bound by the planner's allocation then", async () => {
    await freshNamespace();
    await scene.stack.planner.kill("SIGTERM");
    await apply(claimTemplate("two", 2), { ...member("none", "ranks", 0, "two"), metadata: { name: "bypass" } });
    const refusal = await until("kube-scheduler may not allocate", () =>
      eventsOf("bypass", "FailedScheduling").find((each) => each.note?.includes("kllama's planner alone")),
    );
    await inStep();
    expect(refusal.note).toContain("scheduling.kllama.ai/inject=enabled");
    expect(allocated()).toEqual([]);
    await scene.stack.planner.start();
    const bound = await until("it is ready", () => {
      const found = pod("bypass");
      return found !== undefined && isReady(found) ? found : undefined;
    });
    await inStep();
    expect(bound.spec.schedulingGates).toBeUndefined();
    expect(devicesOf(bound)).toHaveLength(2);
    const allocation = allocated()[0]?.status?.allocation;
    // What kube-scheduler allocates itself names no node by metadata.name.
    expect(allocation?.nodeSelector?.nodeSelectorTerms[0]?.matchFields?.[0]).toMatchObject({
      key: "metadata.name",
      values: [bound.spec.nodeName],
    });
  });
});

describe("a planner that is asked to end", () => {
  test("gives its Lease away, and the next takes over a reserved gang at once", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    await createHeldGang("handed", 2);
    const before = await reserved("handed");
    await scene.stack.planner.kill("SIGTERM");
    const lease = await scene.stack.admin.request<{ spec: { holderIdentity?: string } }>(
      "GET",
      "/apis/coordination.k8s.io/v1/namespaces/kllama-system/leases/kllama-planner",
    );
    expect(lease.spec.holderIdentity ?? "").toBe("");
    await liftForeignGate("handed-ranks-1");
    await scene.stack.planner.start();
    const { status: after } = await scheduled("handed");
    await until("all are ready", () => membersOf("handed").every(isReady));
    expect(after?.placement?.pods).toEqual(before?.placement?.pods);
  });
});
