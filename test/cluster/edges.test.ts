import { beforeAll, describe, expect, test } from "vitest";
import type { Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import {
  claimTemplate,
  createPriorityClass,
  foreignGate,
  gang,
  member,
  statefulSet,
  type Workload,
  withForeignGate,
  withPriority,
} from "../support/workloads.ts";

/** What happens to a gang from outside: by kube-scheduler's death and by people. Four nodes with eight GPUs each. */
const scene = useScene({ fleet: uniformFleet({ nodes: 4, nodesPerRack: 2 }) });
const { freshNamespace, apply, drop, pod, pods, claims, status, until, inStep, metric, podPath, claimPath } = scene;
const { membersOf, scheduled, devicesOf, createGang, untilMetric } = scene;
const guarded = (): ResourceClaim[] =>
  claims().filter((claim) => claim.status?.reservedFor?.some((c) => c.resource === "gangs"));
const claimOf = (each: Pod | undefined): ResourceClaim | undefined =>
  claims().find((claim) => claim.metadata.ownerReferences?.[0]?.uid === each?.metadata.uid);
const degraded = (name: string, is: "True" | "False") =>
  status(name)?.conditions?.find((c) => c.type === "Degraded" && c.status === is);

/** The pod of this name, once it is another one than `before`. */
function replacement(before: Pod): Pod | undefined {
  const found = pod(before.metadata.name);
  return found?.metadata.uid === before.metadata.uid ? undefined : found;
}

async function liftForeignGate(name: string): Promise<void> {
  await scene.stack.admin.request("PATCH", podPath(name), {
    body: { spec: { schedulingGates: [{ $patch: "delete", name: foreignGate }] } },
    contentType: "application/strategic-merge-patch+json",
  });
}

/** A gang of three pods with eight GPUs each, of which the last cannot arrive yet; the others are at the barrier. */
async function createWaitingGang(name: string): Promise<void> {
  await apply(claimTemplate("eight", 8));
  await apply(gang(name, { podSets: [{ name: "ranks", count: 3 }] }));
  await apply(...[0, 1].map((index) => member(name, "ranks", index, "eight")));
  await apply(withForeignGate(member(name, "ranks", 2, "eight")));
  await untilMetric("kllama_barrier_arrivals", 2);
}

async function wholeOnItsPlan(name: string): Promise<void> {
  const { status: found } = await scheduled(name);
  await until("all are ready", () => membersOf(name).every(isReady));
  for (const placed of found?.placement?.pods ?? []) {
    const each = pod(placed.pod);
    expect(each?.spec.nodeName).toBe(placed.node);
    const planned = placed.claims.flatMap(({ devices }) => devices.map((d) => `${d.pool}/${d.device}`));
    expect(devicesOf(each)).toEqual(planned.sort());
  }
  await until("guards are gone", () => guarded().length === 0);
}

/** A StatefulSet of which all pods are ready. */
async function running(replicas: number): Promise<Pod[]> {
  await apply(claimTemplate("eight", 8));
  await apply(gang("set", { podSets: [{ name: "ranks", count: replicas }] }), statefulSet("set", replicas, "eight"));
  await scheduled("set");
  await until("all are ready", () => membersOf("set").length === replicas && membersOf("set").every(isReady));
  await until("guards are gone", () => guarded().length === 0);
  await inStep();
  return membersOf("set");
}

describe("kube-scheduler killed with SIGKILL while members wait at the barrier", () => {
  test("makes its calls again when it is back; the plan stays", async () => {
    await freshNamespace();
    await createWaitingGang("waiting");
    const before = status("waiting")?.placement;
    const scheduler = scene.stack.plane.component("kube-scheduler");
    await scheduler.kill("SIGKILL");
    await scheduler.exited;
    await untilMetric("kllama_barrier_arrivals", 0);
    await liftForeignGate("waiting-ranks-2");
    expect(membersOf("waiting").filter(isBound)).toEqual([]);
    await scheduler.restart();
    await wholeOnItsPlan("waiting");
    expect(status("waiting")?.placement?.pods).toEqual(before?.pods);
  });
});

describe("a member that its kubelet refuses", () => {
  test("after the commit is recreated and returns to its devices; the others stay", async () => {
    await freshNamespace();
    const [victim, ...others] = await running(2);
    const devices = devicesOf(victim);
    await scene.stack.admin.request("PATCH", podPath(victim!.metadata.name, "status"), {
      body: { status: { phase: "Failed", reason: "OutOfcpu", message: "Pod was rejected: not enough cpu" } },
    });
    const back = await until("it is ready again", () => {
      const found = replacement(victim!);
      return found !== undefined && isReady(found) ? found : undefined;
    });
    await inStep();
    expect(back.spec.nodeName).toBe(victim!.spec.nodeName);
    expect(devicesOf(back)).toEqual(devices);
    for (const other of others) expect(pod(other.metadata.name)?.metadata.uid).toBe(other.metadata.uid);
    await until("the gang is whole", () => degraded("set", "False"));
  });
});

describe("a member preempted by an ordinary pod", () => {
  /** Takes all CPUs of a node for itself. */
  function bully(node: string): Workload {
    const { spec, ...rest } = member("none", "ranks", 0) as Workload & { spec: { containers: object[] } };
    const containers = [{ ...spec.containers[0], resources: { requests: { cpu: "192" } } }];
    const nodeSelector = { "kubernetes.io/hostname": node };
    return {
      ...rest,
      metadata: { name: "bully" },
      spec: { ...spec, containers, nodeSelector, priorityClassName: "urgent" },
    };
  }

  test("waits for its own place, which the gang keeps, and returns when the other leaves", async () => {
    await freshNamespace();
    await createPriorityClass(scene.stack.admin, "urgent", 1000);
    await apply(claimTemplate("eight", 8));
    await createGang("set", 4, {}, "eight");
    await scheduled("set");
    await until("all are ready", () => membersOf("set").every(isReady));
    await until("guards are gone", () => guarded().length === 0);
    await inStep();
    const victim = pod("set-ranks-0");
    const devices = devicesOf(victim);
    await apply(bully(victim?.spec.nodeName ?? ""));
    await until("the member is evicted and the other runs", () => {
      const found = pod("bully");
      return pod("set-ranks-0") === undefined && found !== undefined && isReady(found);
    });
    // Not before: kube-scheduler knows its victim by name, and may take the one that follows for one that does not go. Then it lets
    // the other wait for minutes.
    await apply(member("set", "ranks", 0, "eight"));
    const lacking = await until("the gang says so", () => degraded("set", "True"));
    expect(lacking.message).toBe("pod set ranks: 3 of 4 members are bound");
    await drop({ ...member("none", "ranks", 0), metadata: { name: "bully" } });
    const back = await until("it is ready again", () => {
      const found = replacement(victim!);
      return found !== undefined && isReady(found) ? found : undefined;
    });
    await inStep();
    expect(devicesOf(back)).toEqual(devices);
    await until("the gang is whole", () => degraded("set", "False"));
  });
});

describe("a claim that somebody", () => {
  const wipe = { status: { allocation: null, reservedFor: null, devices: null } };

  test("wipes while its gang is reserved is reserved again", async () => {
    await freshNamespace();
    await createWaitingGang("wiped");
    const name = claimOf(pod("wiped-ranks-0"))?.metadata.name ?? "";
    const before = status("wiped")?.placement;
    await scene.stack.admin.request("PATCH", claimPath(name, "status"), { body: wipe });
    await liftForeignGate("wiped-ranks-2");
    await wholeOnItsPlan("wiped");
    expect(status("wiped")?.placement?.pods).toEqual(before?.pods);
  });

  test("takes its guard off, with its Gang, gives its devices back all the same", async () => {
    await freshNamespace();
    await createWaitingGang("stripped");
    const name = claimOf(pod("stripped-ranks-0"))?.metadata.name ?? "";
    // A planner that runs puts it back at once.
    await scene.stack.planner.kill("SIGKILL");
    await scene.stack.admin.request("PATCH", claimPath(name, "status"), { body: { status: { reservedFor: null } } });
    await drop(gang("stripped", { podSets: [{ name: "ranks", count: 3 }] }));
    await scene.stack.planner.start();
    await createGang("next", 4, {}, "eight");
    await scheduled("next");
    expect(claims().find(({ metadata }) => metadata.name === name)?.status?.allocation).toBeUndefined();
  });

  test("wipes under a running member, and under a pod alone, frees its devices for nobody, also not after a restart", async () => {
    const namespace = await freshNamespace();
    const [victim] = await running(3);
    const loner: Workload = { ...member("none", "ranks", 0, "eight"), metadata: { name: "loner" } };
    await apply(loner);
    await until("the pod alone runs", () => pods().some((each) => each.metadata.name === "loner" && isReady(each)));
    await inStep();
    for (const each of [victim, pod("loner")]) {
      const name = claimOf(each)?.metadata.name ?? "";
      await scene.stack.admin.request("PATCH", claimPath(name, "status"), { body: wipe });
    }
    await scene.stack.planner.kill("SIGKILL");
    await scene.stack.planner.start();
    await createGang("greedy", 1, {}, "eight");
    await until("nobody gets its devices", () =>
      status("greedy")?.conditions?.some((c) => c.type === "Planned" && c.reason === "InsufficientDevices"),
    );
    await inStep();
    const claim = claimOf(pod("greedy-ranks-0"));
    expect(claim).toBeDefined();
    expect(claim?.status?.allocation).toBeUndefined();
    expect(pod(victim!.metadata.name)?.metadata.uid).toBe(victim!.metadata.uid);
    const told = await until("an event says so", () => {
      const found = scene.seen
        .events()
        .filter(({ reason, regarding }) => reason === "DevicesUnknown" && regarding?.namespace === namespace);
      return found.length > 0 ? found : undefined;
    });
    expect(new Set(told.map((each) => each.regarding?.name))).toEqual(new Set(["loner"]));
    await drop(loner);
    await scheduled("greedy");
  });
});

describe("a user whose pods run with a claim of nothing, and who takes that away", () => {
  const nothing: Workload = {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaim",
    metadata: { name: "nothing" },
    spec: { devices: {} },
  };

  function hollow(index: number): Workload {
    const container = { name: "main", image: "registry.k8s.io/pause:3.10", resources: { claims: [{ name: "none" }] } };
    return {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: `hollow-${index}`, labels: { hollow: "" } },
      spec: {
        terminationGracePeriodSeconds: 0,
        containers: [container],
        resourceClaims: [{ name: "none", resourceClaimName: "nothing" }],
        topologySpreadConstraints: [
          {
            maxSkew: 1,
            topologyKey: "kubernetes.io/hostname",
            whenUnsatisfiable: "DoNotSchedule",
            labelSelector: { matchLabels: { hollow: "" } },
          },
        ],
      },
    };
  }

  test("keeps the devices of no node from others, be the claim gone or another one of ours, also not after a restart", async () => {
    const namespace = await freshNamespace();
    const hollows = [0, 1, 2, 3].map(hollow);
    await apply(claimTemplate("eight", 8), nothing, ...hollows);
    await until("one runs on each node", () => {
      const running = pods().filter(isReady);
      return running.length === 4 && new Set(running.map(({ spec }) => spec.nodeName)).size === 4;
    });
    await scene.stack.admin.request("PATCH", claimPath("nothing"), { body: { metadata: { finalizers: null } } });
    await drop(nothing);
    await until("it is gone", () => claims().length === 0);
    await scene.stack.planner.kill("SIGKILL");
    await scene.stack.planner.start();
    await createGang("all", 4, {}, "eight");
    await scheduled("all");
    await drop(gang("all", {}));
    await Promise.all(membersOf("all").map(({ metadata }) => drop({ ...hollow(0), metadata })));
    await until("its claims are gone", () => claims().length === 0);
    const requests = [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 1 } }];
    await apply({ ...nothing, spec: { devices: { requests } } });
    await createGang("again", 4, {}, "eight");
    await scheduled("again");
    const told = scene.seen.events().filter(({ regarding }) => regarding?.namespace === namespace);
    expect(told.filter(({ reason }) => reason === "DevicesUnknown")).toEqual([]);
  });
});

describe("a place that kube-scheduler refuses for something that the planner does not judge", () => {
  /** A host port that the planner knows nothing of: two pods with it cannot be on one node. */
  function withHostPort(pod: Workload): Workload {
    const { containers, ...spec } = pod["spec"] as { containers: object[] };
    const ports = [{ containerPort: 9000, hostPort: 9000 }];
    return { ...pod, spec: { ...spec, containers: [{ ...containers[0], ports }] } };
  }

  function on(pod: Workload, nodeSelector: Record<string, string>, name = pod.metadata.name): Workload {
    const metadata = name === pod.metadata.name ? pod.metadata : { name };
    return { ...pod, metadata, spec: { ...(pod["spec"] as object), nodeSelector } };
  }

  const inRack = (rack: string) => ({ "fabric.topograph.run/tier-0": rack });

  /** Takes the port on the node where the planner puts who may have any node of the rack. */
  async function squat(rack: string): Promise<string> {
    const name = `probe-${rack}`;
    await apply(gang(name, { podSets: [{ name: "ranks", count: 1 }] }));
    await apply(on(member(name, "ranks", 0, "eight"), inRack(rack)));
    const { status: found } = await scheduled(name);
    const node = found?.placement?.pods[0]?.node ?? "";
    await drop(gang(name, {}));
    await drop(member(name, "ranks", 0));
    await until("the probe is gone", () => claims().length === 0);
    const squatter = `squatter-${rack}`;
    await apply(withHostPort(on(member("none", "ranks", 0), { "kubernetes.io/hostname": node }, squatter)));
    await until("the port is taken", () => pod(squatter)?.spec.nodeName === node);
    return node;
  }

  const time = { timeout: 300_000 };
  test("is given back, counted, and planned anew on another node, for a gang and for a pod alone", time, async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    // Two racks of two nodes: the gang goes to one, the pod alone to the other, and each is refused once.
    const [one = "", two = ""] = new Set(scene.fleet.nodes.map(({ rack }) => rack));
    const taken = [await squat(one), await squat(two)];
    const before = await metric("kllama_gang_plans_refused_total");
    await apply(gang("ports", { podSets: [{ name: "ranks", count: 1 }] }));
    await apply(withHostPort(on(member("ports", "ranks", 0, "eight"), inRack(one))));
    await apply(withHostPort(on(member("none", "ranks", 0, "eight"), inRack(two), "loner")));
    // A refusal counts after 15 s, and kube-scheduler may pause for 10 s before and after each of its tries.
    await scheduled("ports", 120_000);
    await until("the pod alone is bound", () => pod("loner")?.spec.nodeName !== undefined, 120_000);
    const nodes = ["ports-ranks-0", "loner"].map((name) => pod(name)?.spec.nodeName);
    for (const node of nodes) expect(scene.fleet.nodes.map(({ name }) => name)).toContain(node);
    for (const node of nodes) expect(taken).not.toContain(node);
    expect(await metric("kllama_gang_plans_refused_total")).toBe(before + 2);
  });
});

describe("gangs of lower priority", () => {
  const classes = { low: 100, middle: 200, high: 1000, patient: 2000 };

  beforeAll(async () => {
    for (const [name, value] of Object.entries(classes)) {
      const preemptionPolicy = name === "patient" ? "Never" : "PreemptLowerPriority";
      await createPriorityClass(scene.stack.admin, name, value, preemptionPolicy);
    }
  });

  /** A StatefulSet of pods that take a node each. */
  async function runningSet(name: string, replicas: number, priority: string): Promise<Pod[]> {
    await apply(gang(name, { podSets: [{ name: "ranks", count: replicas }] }));
    await apply(withPriority(statefulSet(name, replicas, "eight"), priority));
    await scheduled(name);
    await until(`${name} is ready`, () => membersOf(name).length === replicas && membersOf(name).every(isReady));
    return membersOf(name);
  }

  async function newGang(name: string, pods: number, priority: string): Promise<void> {
    await apply(gang(name, { podSets: [{ name: "ranks", count: pods }] }));
    const members = Array.from({ length: pods }, (_, index) => member(name, "ranks", index, "eight"));
    await apply(...members.map((each) => withPriority(each, priority)));
  }

  const uidsOf = (name: string) => membersOf(name).map(({ metadata }) => metadata.uid);
  const waits = (name: string) => status(name)?.conditions?.find((c) => c.type === "Planned" && c.status === "False");

  test("leave for one of higher priority: the cheapest, whole, while equal ones and those above stay", async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const low = await runningSet("low", 2, "low");
    const middle = await runningSet("middle", 1, "middle");
    const equal = await runningSet("equal", 1, "high");
    const places = low.map(({ spec }) => spec.nodeName);
    const counts = () => Promise.all([metric("kllama_preemptions_total"), metric("kllama_preemption_victims_total")]);
    const [decisions = 0, victims = 0] = await counts();
    // Whoever never preempts waits, however high its priority.
    await newGang("patient", 2, "patient");
    await until("the patient one is refused", () => waits("patient")?.reason === "InsufficientDevices");

    await newGang("urgent", 1, "high");
    const { status: found } = await scheduled("urgent");
    expect(places).toContain(found?.placement?.pods[0]?.node);
    await until("the set is made anew", () => {
      const uids = new Set(low.map(({ metadata }) => metadata.uid));
      return membersOf("low").length === 2 && membersOf("low").every(({ metadata }) => !uids.has(metadata.uid));
    });
    await until(
      "it waits again",
      () => status("low")?.phase === "Pending" && waits("low")?.reason === "InsufficientDevices",
    );
    await inStep();
    expect(membersOf("low").filter(isBound)).toEqual([]);
    expect(uidsOf("middle")).toEqual(middle.map(({ metadata }) => metadata.uid));
    expect(uidsOf("equal")).toEqual(equal.map(({ metadata }) => metadata.uid));
    expect(status("patient")?.phase).toBe("Pending");
    expect(await counts()).toEqual([decisions + 1, victims + 1]);
  });

  test("stay as long as a budget forbids their eviction, and leave when it is gone, also if the planner dies meanwhile", {
    timeout: 180_000,
  }, async () => {
    await freshNamespace();
    await apply(claimTemplate("eight", 8));
    const budget = {
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata: { name: "keep" },
      spec: { minAvailable: 4, selector: { matchLabels: { app: "low" } } },
    };
    await apply(budget);
    const low = await runningSet("low", 4, "low");
    await newGang("urgent", 2, "high");
    await until("it is refused", () => waits("urgent")?.reason === "InsufficientDevices");
    expect(uidsOf("low")).toEqual(low.map(({ metadata }) => metadata.uid));
    // One life ends after the decision, one after the gang gave up its places, one after an eviction.
    const { planner } = scene.stack;
    await planner.kill("SIGKILL");
    const lives = ["writeStatus/Preempting:1", "writeStatus/Preempted:1", "evictPod:1"];
    for (const [life, failpoint] of lives.entries()) {
      const starting = planner.start({ KLLAMA_FAILPOINT: failpoint }).catch(() => undefined);
      if (life === 0) await starting.then(() => drop(budget));
      await planner.exited();
    }
    await planner.start();
    const { status: found } = await scheduled("urgent");
    const places = low.map(({ spec }) => spec.nodeName);
    for (const { node } of found?.placement?.pods ?? []) expect(places).toContain(node);
    await until("the other is made anew and waits", () => {
      const uids = new Set(low.map(({ metadata }) => metadata.uid));
      const anew = membersOf("low").filter(
        ({ metadata, spec }) => !uids.has(metadata.uid) && spec.nodeName === undefined,
      );
      return anew.length === 4 && status("low")?.phase === "Pending";
    });
  });
});
