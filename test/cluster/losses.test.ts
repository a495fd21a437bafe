import { afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangCondition, gangLabel } from "../../src/api/names.ts";
import { kubeconfigOf } from "../../src/cli/system/system.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { kllama } from "../support/cli.ts";
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
} from "../support/workloads.ts";

/** What a gang loses, and what others spoil: nodes, claims, bindings, devices. Eight nodes with eight GPUs each. */
const scene = useScene({ fleet: uniformFleet({ nodes: 8, nodesPerRack: 2 }) });
const {
  freshNamespace,
  returnTo,
  namespace,
  apply,
  drop,
  pod,
  claims,
  status,
  until,
  untilMetric,
  membersOf,
  scheduled,
  podPath,
  claimPath,
} = scene;
const admin = (): KubeClient => scene.stack.admin;
const isGuarded = ({ status }: ResourceClaim): boolean =>
  status?.reservedFor?.some(({ resource }) => resource === "gangs") ?? false;
const claimOf = (each: Pod | undefined): ResourceClaim | undefined =>
  claims().find((claim) => claim.metadata.ownerReferences?.[0]?.uid === each?.metadata.uid);
const degraded = (name: string, is: "True" | "False") =>
  status(name)?.conditions?.find((c) => c.type === "Degraded" && c.status === is);
const told = (reason: string, text = "") =>
  scene.seen
    .events()
    .filter((each) => each.regarding?.namespace === namespace() && each.reason === reason)
    .find(({ note }) => note?.includes(text))?.note;

async function liftForeignGate(name: string): Promise<void> {
  await admin().request("PATCH", podPath(name), {
    body: { spec: { schedulingGates: [{ $patch: "delete", name: foreignGate }] } },
    contentType: "application/strategic-merge-patch+json",
  });
}

/** A gang of two pods with eight GPUs each, of which the second cannot arrive yet; the first is at the barrier. */
async function createWaitingGang(): Promise<void> {
  await apply(claimTemplate("eight", 8), gang("waits", { podSets: [{ name: "ranks", count: 2 }] }));
  await apply(member("waits", "ranks", 0, "eight"), withForeignGate(member("waits", "ranks", 1, "eight")));
  await untilMetric("kllama_barrier_arrivals", 1);
}

async function isWhole(name: string, members = 2): Promise<void> {
  await until("all are ready", () => membersOf(name).length === members && membersOf(name).every(isReady));
  await until("guards are gone", () => claims().filter(isGuarded).length === 0);
  await scheduled(name);
}

const admission = "/apis/admissionregistration.k8s.io/v1";
const policyName = "refuse.test";

/** From now on the API server refuses to bind the pod, as somebody's webhook might. */
async function refuseBinding(name: string): Promise<void> {
  const policy = { apiVersion: "admissionregistration.k8s.io/v1", metadata: { name: policyName } };
  const rule = { apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods/binding"] };
  const validation = { expression: `object.metadata.name != "${name}"`, message: "not this one" };
  const spec = { failurePolicy: "Fail", matchConstraints: { resourceRules: [rule] }, validations: [validation] };
  const binding = { policyName, validationActions: ["Deny"] };
  await admin().request("POST", `${admission}/validatingadmissionpolicies`, {
    body: { ...policy, kind: "ValidatingAdmissionPolicy", spec },
  });
  await admin().request("POST", `${admission}/validatingadmissionpolicybindings`, {
    body: { ...policy, kind: "ValidatingAdmissionPolicyBinding", spec: binding },
  });
  const target = { apiVersion: "v1", kind: "Node", name: "nowhere" };
  const body = { apiVersion: "v1", kind: "Binding", metadata: { name }, target };
  const query = { dryRun: "All" };
  const trial = () => admin().request("POST", podPath(name, "binding"), { body, query }).then(String, String);
  await expect.poll(trial, { timeout: 60_000 }).toContain("not this one");
}

async function allowBindings(): Promise<void> {
  for (const kind of ["validatingadmissionpolicybindings", "validatingadmissionpolicies"]) {
    await admin()
      .request("DELETE", `${admission}/${kind}/${policyName}`)
      .catch(() => undefined);
  }
}

/** Of the two members of a gang that is being bound `half-1` may not be. @returns the other one */
async function halfBound(spec: object = {}): Promise<Pod> {
  await refuseBinding("half-1");
  const podSets = [{ name: "ranks", count: 2 }];
  await apply(claimTemplate("eight", 8), gang("half", { podSets, ...spec }), statefulSet("half", 2, "eight"));
  await until("the gang is being bound", () => status("half")?.phase === "Binding");
  return until("one is bound", () => membersOf("half").find(isBound));
}

/** The half minute of the pods without a Gang passes while others are tested. */
let orphans = "";

beforeAll(async () => {
  orphans = await freshNamespace();
  await apply(claimTemplate("two", 2), member("nobody", "ranks", 0, "two"), member("nobody", "ranks", 1));
  await apply(member("late", "ranks", 0, "two"));
});

const lost = new Set<string>();
afterEach(async () => {
  await allowBindings();
  for (const node of lost) await scene.fleet.restoreNode(node);
  lost.clear();
});

test("a claim that somebody deletes: the gang is given up, holds nothing and says what helps, and that does", async () => {
  await freshNamespace();
  await createWaitingGang();
  const name = claimOf(pod("waits-ranks-0"))?.metadata.name ?? "";
  await admin().request("DELETE", claimPath(name));
  const note = await until("the gang is given up", () => told("GangRevoked"));
  expect(note).toBe(
    `ResourceClaim ${name} of pod waits-ranks-0 was deleted; delete the pod, so that it is created anew with another claim`,
  );
  expect(await until("the pod has an event", () => told("ClaimMissing"))).toBe(note);
  await until("nothing is held", () => claims().every((claim) => claim.status?.allocation === undefined));
  await drop(member("waits", "ranks", 0));
  await until("it is gone", () => pod("waits-ranks-0") === undefined);
  await apply(member("waits", "ranks", 0, "eight"));
  await liftForeignGate("waits-ranks-1");
  await isWhole("waits");
});

describe("a node lost with half a gang on it", () => {
  test.for(["bound", "unbound"])(
    "(that of a member %s yet): the committed gang becomes whole elsewhere",
    async (whose) => {
      await freshNamespace();
      await halfBound();
      const name = whose === "bound" ? "half-0" : "half-1";
      const node = status("half")?.placement?.pods.find((each) => each.pod === name)?.node ?? "";
      lost.add(node);
      await scene.fleet.loseNode(node, "delete");
      // Who is not bound yet could still be bound there, until the planner has heard of it.
      if (whose === "unbound") await until("the gang goes on without it", () => degraded("half", "True"));
      await allowBindings();
      // Kubernetes removes pods of a node that does not exist after its own time: a person may be faster.
      if (whose === "bound") await drop({ ...member("half", "ranks", 0), metadata: { name } });
      await until("nobody is where the node was", () => membersOf("half").every(({ spec }) => spec.nodeName !== node));
      await isWhole("half");
      expect(membersOf("half").map(({ spec }) => spec.nodeName)).not.toContain(node);
      await until("the gang is not degraded", () => degraded("half", "False"));
    },
  );
});

describe("a committed gang whose last binding the API server refuses", () => {
  test("until its time is over fails whole: the bound member is deleted, nothing is held; then it starts again", async () => {
    await freshNamespace();
    const bound = await halfBound({ scheduleTimeoutSeconds: 12 });
    const note = await until("the gang is given up", () => told("GangRevoked", "could be bound"));
    expect(note).toMatch(/could be bound within 12 s \(spec.scheduleTimeoutSeconds\): pod half-1: .*not this one/);
    await until("its member too", () => membersOf("half").every(({ metadata }) => metadata.uid !== bound.metadata.uid));
    await allowBindings();
    await isWhole("half");
  });

  test("killed after it deleted the first of two bound members: the planner deletes the other too, then it starts again", async () => {
    await freshNamespace();
    await refuseBinding("half-2");
    const { planner } = scene.stack;
    await planner.kill("SIGTERM");
    await planner.start({ KLLAMA_FAILPOINT: "disruptPod:1" });
    const spec = { podSets: [{ name: "ranks", count: 3 }], scheduleTimeoutSeconds: 8 };
    await apply(claimTemplate("two", 2), gang("half", spec), statefulSet("half", 3, "two"));
    await until("two are bound", () => membersOf("half").filter(isBound).length === 2);
    const before = new Set(membersOf("half").map(({ metadata }) => metadata.uid));
    await planner.exited();
    await planner.start();
    await until(
      "no member is as it was",
      () => !membersOf("half").some((each) => isBound(each) && before.has(each.metadata.uid)),
    );
    await allowBindings();
    await isWhole("half", 3);
  });

  test("a member that its kubelet refuses meanwhile is made anew, and the gang becomes whole with it", async () => {
    await freshNamespace();
    // Else it might run before it is refused.
    scene.fleet.failPrepare(namespace(), "half-0", "not yet");
    const refused = await halfBound();
    await admin().request("PATCH", podPath("half-0", "status"), {
      body: { status: { phase: "Failed", reason: "OutOfcpu", message: "Pod was rejected: not enough cpu" } },
    });
    await until("it is made anew", () => ![undefined, refused.metadata.uid].includes(pod("half-0")?.metadata.uid));
    scene.fleet.failPrepare(namespace(), "half-0", undefined);
    await allowBindings();
    await isWhole("half");
  });

  test("is whole as soon as it may, without a further call of kube-scheduler", async () => {
    await freshNamespace();
    const before = await halfBound();
    await allowBindings();
    await isWhole("half");
    expect(pod("half-0")?.metadata.uid).toBe(before.metadata.uid);
  });
});

describe("a claim that somebody edits while its gang is reserved", () => {
  test.for([
    ["takes the guard and the pod off", "status", { status: { reservedFor: null } }],
    ["labels", undefined, { metadata: { labels: { edited: "yes" } } }],
  ] as const)("(%s): the gang becomes whole on its plan", async ([, subresource, body]) => {
    await freshNamespace();
    await createWaitingGang();
    const plan = status("waits")?.placement?.pods;
    const name = claimOf(pod("waits-ranks-0"))?.metadata.name ?? "";
    await admin().request("PATCH", claimPath(name, subresource), { body });
    await liftForeignGate("waits-ranks-1");
    await isWhole("waits");
    expect(status("waits")?.placement?.pods).toEqual(plan);
  });
});

test("a device that its driver cannot make ready: the gang is given up with the driver's reason, and holds nothing", async () => {
  const connection = await loadConnection({ kubeconfigPath: await kubeconfigOf(scene.stack.plane, "simulate-fleet") });
  const driver = createClient(connection, { userAgent: "test" });
  const dra = "/apis/resource.k8s.io/v1";
  const device = {
    name: "module",
    attributes: { type: { string: "module" } },
    bindingConditions: ["example.com/attached"],
    bindingFailureConditions: ["example.com/attach-failed"],
  };
  const slice: Workload = {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: "shelf" },
    spec: {
      driver: "gpu.kllama.ai",
      pool: { name: "shelf", generation: 1, resourceSliceCount: 1 },
      allNodes: true,
      devices: [device],
    },
  };
  const expression = `device.attributes["gpu.kllama.ai"].type == "module" && device.driver == "gpu.kllama.ai"`;
  const spec = { selectors: [{ cel: { expression } }] };
  const deviceClass = { apiVersion: "resource.k8s.io/v1", kind: "DeviceClass", metadata: { name: "module" }, spec };
  await freshNamespace();
  await admin().request("POST", `${dra}/deviceclasses`, { body: deviceClass });
  await driver.request("POST", `${dra}/resourceslices`, { body: slice });
  await apply(claimTemplate("module", 1, "module"), gang("late", { podSets: [{ name: "ranks", count: 1 }] }));
  await apply(member("late", "ranks", 0, "module"));
  const name = await until("its claim is allocated", () => {
    const claim = claimOf(pod("late-ranks-0"));
    return claim?.status?.allocation === undefined ? undefined : claim.metadata.name;
  });
  const failed = { type: "example.com/attach-failed", status: "True", reason: "NoCable", message: "no cable" };
  const conditions = [{ ...failed, lastTransitionTime: new Date().toISOString() }];
  const devices = [{ driver: "gpu.kllama.ai", pool: "shelf", device: "module", conditions }];
  // Until the gang is planned anew, which may be there again.
  const givenBack = until("nothing is held", () => claims().every((claim) => claim.status?.allocation === undefined));
  await admin().request("PATCH", claimPath(name, "status"), { body: { status: { devices } } });
  expect(await until("the gang is given up", () => told("GangRevoked"))).toBe(
    "pod late-ranks-0 cannot be bound: device shelf/module: example.com/attach-failed: no cable",
  );
  await givenBack;
  await driver.request("DELETE", `${dra}/resourceslices/shelf`);
  await admin().request("DELETE", `${dra}/deviceclasses/module`);
  await driver.close();
});

describe("members that differ", () => {
  const differing = (name: string, index: number, more: object): Workload => {
    const each = member(name, "ranks", index, "one");
    return { ...each, spec: { ...(each["spec"] as object), ...more } };
  };

  test("in their scheduler are refused by name, and hold nothing", async () => {
    await freshNamespace();
    await apply(claimTemplate("one", 1), gang("mixed", { podSets: [{ name: "ranks", count: 2 }] }));
    await apply(differing("mixed", 0, {}), differing("mixed", 1, { schedulerName: "batch" }));
    await until("the gang says why", () =>
      status("mixed")?.explanation?.includes(
        "pod mixed-ranks-1 has spec.schedulerName batch; give all members the same",
      ),
    );
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toEqual([]);
  });

  test("in their priority are placed together", async () => {
    await freshNamespace();
    await createPriorityClass(admin(), "high", 1000);
    await apply(claimTemplate("one", 1), gang("mixed", { podSets: [{ name: "ranks", count: 2 }] }));
    await apply(differing("mixed", 0, {}), differing("mixed", 1, { priorityClassName: "high" }));
    await scheduled("mixed");
    await isWhole("mixed");
  });
});

describe("a gated pod without a Gang", () => {
  const conditionOf = (found: Pod | undefined) => found?.status?.conditions?.find(({ type }) => type === gangCondition);
  const asAdmin = (line: string) => kllama(...line.split(" "), "--kubeconfig", scene.stack.plane.admin.path);

  test("is told so once after half a minute; let go by hand it is bound alone, with a late Gang it goes, also if the planner dies as it says so", async () => {
    const { planner } = scene.stack;
    returnTo(orphans);
    const told = await until("the pod carries the condition", () => conditionOf(pod("nobody-ranks-0")), 60_000);
    expect(told).toMatchObject({ status: "False", reason: "GangNotFound" });
    expect(told.message).toContain(`kllama release nobody-ranks-0 -n ${namespace()}`);
    const events = () =>
      scene.seen.events().filter((each) => each.regarding?.namespace === namespace() && each.reason === "GangNotFound");
    await until("all three have an event", () => events().length === 3);

    for (const index of [0, 1]) {
      const released = await asAdmin(`release nobody-ranks-${index} -n ${namespace()}`);
      expect(released).toMatchObject({ code: 0, stderr: "" });
    }
    const alone = () => [0, 1].map((index) => pod(`nobody-ranks-${index}`));
    await until("both are ready", () => alone().every((each) => each !== undefined && isReady(each)));
    expect(alone().map((each) => each?.metadata.labels?.[gangLabel])).toEqual([undefined, undefined]);
    await until("nobody is told any more that they wait", () =>
      alone().every((each) => conditionOf(each)?.reason === "Released"),
    );
    expect(await asAdmin(`release nobody-ranks-0 -n ${namespace()}`)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/is on node .* already; nothing holds it/),
    });

    await until("the third one carries it, too", () => conditionOf(pod("late-ranks-0"))?.status === "False");
    // Killed with what it had to say just written, it says it once, and the gang goes on.
    await planner.kill("SIGTERM");
    await planner.start({ KLLAMA_FAILPOINT: "tellPod:1" });
    await apply(gang("late", { podSets: [{ name: "ranks", count: 2 }] }));
    await planner.exited();
    await planner.start();
    await until("it is told that its Gang is there", () => conditionOf(pod("late-ranks-0"))?.reason === "GangFound");
    const refused = await asAdmin(`release late-ranks-0 -n ${namespace()}`);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/is a member of Gang late \(Pending.*and goes with it, all or nothing/);
    await apply(member("late", "ranks", 1, "two"));
    await scheduled("late");
    expect(events()).toHaveLength(3);
  });
});
