import { describe, expect, onTestFinished, test } from "vitest";
import type { KubernetesObject, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import {
  claimTemplate,
  create,
  createNamespace,
  foreignGate,
  gang,
  member,
  removeAll,
  statefulSet,
  type Workload,
  withForeignGate,
} from "../support/workloads.ts";

/**
 * Pods that are not kllama's, pods that claim to be, and tenants beside one another on a real control plane: two nodes of
 * eight GPUs, and a planner with narrow limits.
 */
const scene = useScene({
  fleet: uniformFleet({ nodes: 2, nodesPerRack: 2 }),
  plannerFlags: [
    ...["--released-pods", "2", "--max-gang-pods", "6", "--max-namespace-pods", "8"],
    ...["--drain-after-seconds", "3"],
  ],
});
const { freshNamespace, namespace, apply, pods, claims, status, until, inStep, metric } = scene;
const { membersOf, scheduled, createGang } = scene;

const eventsOf = (name: string, reason: string) =>
  scene.seen
    .events()
    .filter((each) => each.regarding?.namespace === namespace() && each.regarding.name === name)
    .filter((each) => each.reason === reason);

const isOurs = ({ regarding }: { regarding?: { namespace?: string } }): boolean => regarding?.namespace === namespace();

const plannedReason = (name: string): string | undefined =>
  status(name)?.conditions?.find((condition) => condition.type === "Planned")?.reason;

/** A pod with a claim that carries no label of ours, in a namespace that does not gate it. */
const bypass = (name: string, template: string): Workload => ({
  ...member("none", "ranks", 0, template),
  metadata: { name },
});

/** 200 in `npm run neighbours`: kube-scheduler alone takes half a minute for those. */
const bypasses = Number(process.env["KLLAMA_BYPASSES"] ?? 40);
const many = bypasses > 40;

describe("bypass pods", () => {
  test("that can never fit, however many, are counted, told why once, and starve no gang", async () => {
    await freshNamespace();
    const before = await metric("kllama_bypasses_total");
    await apply(claimTemplate("nine", 9), claimTemplate("four", 4));
    const names = Array.from({ length: bypasses }, (_, index) => `bypass-${index}`);
    await Promise.all(names.map((name) => apply(bypass(name, "nine"))));
    await expect.poll(() => metric("kllama_bypasses_total"), { timeout: 60_000 }).toBe(before + bypasses);
    for (const name of ["one", "two"]) {
      await createGang(name, 2);
      await scheduled(name);
      await until(`gang ${name} is ready`, () => membersOf(name).every(isReady));
    }
    const event = await until(
      "a bypass pod is told why",
      () => eventsOf("bypass-0", "PodNoMatchingDevice")[0] ?? eventsOf("bypass-0", "PodInsufficientDevices")[0],
    );
    expect(event.note).toBeDefined();
    expect(pods().filter((each) => each.metadata.name.startsWith("bypass") && isBound(each))).toEqual([]);
  });
});

describe("drivers of others", () => {
  test("a claim on them is allocated by kube-scheduler and never written by kllama; mixed ones are refused", async () => {
    await freshNamespace();
    await createForeignClass();
    await publishForeignDevices(scene.fleet.nodes[0]!.name);
    await apply(claimTemplate("theirs", 1, "other.example.com"), mixedTemplate("mixed"));
    await apply(bypass("theirs", "theirs"));
    await until("kube-scheduler binds it", () => pods().length === 1 && pods().every(isBound));
    const claim = await until("its claim is allocated", () =>
      claims().find((each) => each.metadata.ownerReferences?.[0]?.name === "theirs" && each.status?.allocation),
    );
    expect(claim.status?.allocation?.devices?.results?.[0]?.driver).toBe("other.example.com");
    expectOfScheduler(claim);
    await createGang("mixed", 1, {}, "mixed");
    await until("the gang with a mixed claim is refused", () => plannedReason("mixed") === "MixedDrivers");
    expect(status("mixed")?.explanation).toContain("other.example.com");
    expect(membersOf("mixed").filter(isBound)).toEqual([]);
  });

  test("members that want them in claims of their own get GPUs from kllama and the rest from kube-scheduler, where both are; one too few is named", async () => {
    await freshNamespace();
    await apply(claimTemplate("two", 2), claimTemplate("theirs", 1, "other.example.com"));
    await apply(gang("short", { podSets: [{ name: "ranks", count: 3 }] }));
    await apply(...Array.from({ length: 3 }, (_, index) => withCard(member("short", "ranks", index, "two"))));
    // While the planner has not seen that those of before are free again, for fewer.
    const lack = "there are other.example.com devices (kube-scheduler gives them) for 2 pods only";
    await until("one card is short", () => status("short")?.explanation?.includes(lack));
    expect(plannedReason("short")).toBe("InsufficientDevices");
    await apply(gang("both", { podSets: [{ name: "ranks", count: 2 }] }));
    await apply(...[0, 1].map((index) => withCard(member("both", "ranks", index, "two"))));
    await scheduled("both");
    await until("both run", () => membersOf("both").every(isReady));
    for (const pod of membersOf("both")) {
      expect(pod.spec.nodeName).toBe(scene.fleet.nodes[0]?.name);
      const own = claims().filter((each) => each.metadata.ownerReferences?.[0]?.uid === pod.metadata.uid);
      const driversOf = ({ status: has }: ResourceClaim) =>
        has?.allocation?.devices?.results?.map(({ driver }) => driver);
      expect(own.map(driversOf).sort()).toEqual([["gpu.kllama.ai", "gpu.kllama.ai"], ["other.example.com"]]);
      for (const claim of own) if (driversOf(claim)?.length === 1) expectOfScheduler(claim);
      await until("the status tells both", () => told("both", pod.metadata.name) === scene.devicesOf(pod).join());
    }
    expect(membersOf("short").filter(isBound)).toEqual([]);
  });

  test("a pod of its own that wants both waits for a card, and gets it when one is free", async () => {
    await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
    await apply(claimTemplate("two", 2), claimTemplate("theirs", 1, "other.example.com"));
    for (const name of ["first", "second", "third"]) await apply(withCard(bypass(name, "two")));
    const waiting = await until("two run, and one is told what it lacks", () => {
      const left = pods().filter((pod) => !isReady(pod));
      return left.length === 1 && eventsOf(left[0]!.metadata.name, "PodInsufficientDevices").length > 0 && left[0];
    });
    const [leaver] = pods().filter(isReady);
    await scene.drop({ ...leaver!, apiVersion: "v1", kind: "Pod" });
    await until("the last one runs", () => pods().some((pod) => isReady(pod) && isSame(pod, waiting)));
  });

  test("members that want nothing else go where the plan says", async () => {
    await freshNamespace();
    await apply(claimTemplate("theirs", 1, "other.example.com"));
    await createGang("cards", 2, {}, "theirs");
    const { status: found } = await scheduled("cards");
    const places = found?.placement?.pods.map(({ pod, node }) => `${pod} ${node}`);
    const bound = membersOf("cards").map(({ metadata, spec }) => `${metadata.name} ${spec.nodeName}`);
    expect(places?.sort()).toEqual(bound.sort());
    expect(claims()).toHaveLength(2);
    for (const claim of claims()) expectOfScheduler(claim);
  });

  // It waits for kube-scheduler's next try, which takes up to 10 s.
  test.runIf(many)(
    "members of a gang that a killed planner left committed are bound once kube-scheduler has given them theirs",
    async () => {
      await freshNamespace();
      await apply(claimTemplate("two", 2), claimTemplate("theirs", 1, "other.example.com"));
      const { planner } = scene.stack;
      await planner.kill("SIGTERM");
      await planner.start({ KLLAMA_FAILPOINT: "bind:1" });
      await apply(gang("halfway", { podSets: [{ name: "ranks", count: 2 }] }));
      await apply(...[0, 1].map((index) => withCard(member("halfway", "ranks", index, "two"))));
      await planner.exited();
      await until("it is committed", () => status("halfway")?.phase === "Binding");
      await planner.start();
      await scheduled("halfway");
      await until("all run", () => membersOf("halfway").every(isReady));
      const unused = () =>
        claims().filter(({ metadata, status: has }) => {
          return !has?.reservedFor?.some(({ uid }) => uid === metadata.ownerReferences?.[0]?.uid);
        });
      await until("all use their claims", () => claims().length === 4 && unused().length === 0);
    },
  );

  test("a member that was given one there, and then had to go elsewhere, is given another one", async () => {
    await freshNamespace();
    await apply(claimTemplate("two", 2), claimTemplate("theirs", 1, "other.example.com"));
    const [home, other] = scene.fleet.nodes.map(({ name }) => name);
    await apply(gang("moved", { podSets: [{ name: "ranks", count: 2 }] }));
    const [first, second] = [0, 1].map((index) => withCard(member("moved", "ranks", index, "two")));
    await apply(first!, withForeignGate(second!));
    const cards = () =>
      claims()
        .flatMap(({ status: has }) => has?.allocation?.devices?.results ?? [])
        .filter(({ driver }) => driver !== "gpu.kllama.ai");
    await until("kube-scheduler gave the first one a card", () => cards().length === 1);
    expect(cards()[0]?.pool).toBe(home);
    const cordon = (unschedulable: boolean) =>
      scene.stack.admin.request("PATCH", `/api/v1/nodes/${home}`, {
        body: { spec: { unschedulable } },
        contentType: "application/merge-patch+json",
      });
    await publishForeignDevices(other!);
    onTestFinished(async () => void (await cordon(false)));
    await cordon(true);
    await until("it is given back", () => (status("moved")?.attempts ?? 0) > 0);
    await scene.stack.admin.request("PATCH", scene.podPath(second!.metadata.name), {
      body: { spec: { schedulingGates: [{ $patch: "delete", name: foreignGate }] } },
      contentType: "application/strategic-merge-patch+json",
    });
    await scheduled("moved");
    expect(membersOf("moved").map(({ spec }) => spec.nodeName)).toEqual([other, other]);
    expect(cards().map(({ pool }) => pool)).toEqual([other, other]);
  });
});

describe("labels and Gangs of others", () => {
  test("a forged member takes no place: the gang is scheduled with its own pods and says who was left out", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await apply(gang("victim", { podSets: [{ name: "ranks", count: 2 }] }));
    await apply(member("victim", "ranks", 0, "four"));
    await apply({
      ...member("victim", "ranks", 0, "four"),
      metadata: { ...member("victim", "ranks", 0).metadata, name: "a-forged" },
    });
    await until("both have claims", () => claims().length === 2);
    await apply(member("victim", "ranks", 1, "four"));
    const { status: found } = await scheduled("victim");
    expect(found?.placement?.pods.map((each) => each.pod).sort()).toHaveLength(2);
    const event = await until("an event says who was left out", () => eventsOf("victim", "GangPodIgnored")[0]);
    expect(event.note).toContain("both have index 0");
    expect(claims().filter((claim) => claim.status?.allocation !== undefined)).toHaveLength(2);
  });

  test("pods of another controller, of another scheduler, or that name a member's claim change nothing for a gang that waits or runs", async () => {
    await freshNamespace({ "scheduling.kllama.ai/inject": "enabled" });
    await apply(claimTemplate("four", 4), gang("victim", { podSets: [{ name: "ranks", count: 2 }] }));
    const debug = member("victim", "ranks", 1);
    const spec = { ...(debug["spec"] as object), schedulerName: "another" };
    await apply({ ...debug, metadata: { ...debug.metadata, name: "a-debug" }, spec });
    await apply(statefulSet("victim", 2, "four"));
    await scheduled("victim");
    const own = ["victim-0", "victim-1"];
    await until("its own pods run", () => own.every((name) => isReady(scene.pod(name) ?? ({} as Pod))));
    expect((await until("the pod is told", () => eventsOf("a-debug", "GangPodIgnored")[0])).note).toBe(
      "Gang victim leaves the pod out: pod a-debug (no controller) is no member: pod set ranks has the pods of StatefulSet victim; remove the label scheduling.kllama.ai/gang, or give it a pod set of its own",
    );
    const before = [scene.pod("victim-0")?.metadata.uid, scene.devicesOf(scene.pod("victim-0"))];

    await apply(statefulSet("rival", 3, "four", "victim"));
    await until("the rivals are told", () => eventsOf("rival-2", "GangPodIgnored")[0]);
    const claim = claims().find((each) => each.metadata.ownerReferences?.[0]?.uid === before[0]);
    const resourceClaims = [{ name: "gpus", resourceClaimName: claim?.metadata.name }];
    const thief = bypass("thief", "four");
    await apply({ ...thief, spec: { ...(thief["spec"] as object), resourceClaims } });
    await until("the one that names a claim is told", () => eventsOf("thief", "PodUnsupportedClaim")[0]);

    await scene.drop({ ...member("victim", "ranks", 0), metadata: { name: "victim-0" } });
    const back = await until("the member is back", () => {
      const found = scene.pod("victim-0");
      return found !== undefined && found.metadata.uid !== before[0] && isReady(found) ? found : undefined;
    });
    await inStep();
    expect(scene.devicesOf(back)).toEqual(before[1]);
    expect(
      pods()
        .filter(isBound)
        .map(({ metadata }) => metadata.name)
        .sort(),
    ).toEqual(own);
  });

  test("a label put on somebody's running pod makes it no member", async () => {
    await freshNamespace();
    await apply({ ...member("none", "ranks", 0), metadata: { name: "plain" } });
    await until("the pod runs", () => pods().length === 1 && pods().every(isReady));
    await apply(gang("grab", { podSets: [{ name: "ranks", count: 1 }] }));
    const path = resourcePath({ group: "", version: "v1", resource: "pods", namespace: namespace(), name: "plain" });
    await scene.stack.admin.request("PATCH", path, {
      body: { metadata: { labels: { "scheduling.kllama.ai/gang": "grab" } } },
      contentType: "application/merge-patch+json",
    });
    await until("the gang says that it has no member", () =>
      status("grab")?.explanation?.startsWith("pod set ranks: 0 of 1 pods exist; pod plain is no member"),
    );
    expect(pods().map(isReady)).toEqual([true]);
  });

  test("a Gang of the same name in another namespace has no power over the pods", async () => {
    await freshNamespace();
    const { admin } = scene.stack;
    await createNamespace(admin, "tenant-b");
    await apply(claimTemplate("four", 4), member("theirs", "ranks", 0, "four"));
    await create(admin, "tenant-b", gang("theirs", { podSets: [{ name: "ranks", count: 1 }] }));
    const said = await until(
      "the other Gang finds nobody",
      () => scene.seen.gang("tenant-b", "theirs")?.status?.explanation,
    );
    expect(said).toBe("pod set ranks: 0 of 1 pods exist");
    expect(membersOf("theirs").filter(isBound)).toEqual([]);
    await admin.request("DELETE", "/api/v1/namespaces/tenant-b");
  });
});

describe("tenants", () => {
  test("whose neighbour has everything are told so, without a name of the neighbour's", async () => {
    await freshNamespace();
    const { admin } = scene.stack;
    await createNamespace(admin, "hush-tenant");
    const ranks = Array.from({ length: 4 }, (_, index) => member("hush-gang", "ranks", index, "hush-four"));
    await create(admin, "hush-tenant", claimTemplate("hush-four", 4));
    await create(admin, "hush-tenant", gang("hush-gang", { podSets: [{ name: "ranks", count: 4 }] }), ...ranks);
    await until(
      "the neighbour has all devices",
      () => scene.seen.gang("hush-tenant", "hush-gang")?.status?.phase === "Scheduled",
    );
    await apply(claimTemplate("four", 4), bypass("alone", "four"));
    await createGang("mine", 2);
    const outlook = await until("the gang is refused, and told what would make room", () => {
      const said = status("mine")?.explanation;
      return plannedReason("mine") === "InsufficientDevices" && said?.includes("; it would fit if ") ? said : undefined;
    });
    expect(outlook).toContain("; it would fit if a gang of another namespace with 16 devices leaves");
    await until("the pod is refused", () => eventsOf("alone", "PodInsufficientDevices")[0]);
    await until("kube-scheduler has said something, too", () => scene.pod("alone")?.status?.conditions?.[0]);
    await until("an event says the same", () =>
      scene.seen
        .events()
        .some(({ regarding, note }) => regarding?.name === "mine" && note === status("mine")?.explanation),
    );
    const texts = [scene.gangs(), pods(), claims(), scene.seen.events().filter(isOurs)];
    expect(JSON.stringify(texts)).not.toContain("hush");
    await removeAll(admin, "hush-tenant");
    await admin.request("DELETE", "/api/v1/namespaces/hush-tenant");
  });

  test("have gangs of limited size, and limited room; who is over it is told the number, and enters when others leave", async () => {
    await freshNamespace();
    await apply(claimTemplate("one", 1));
    await createGang("large", 7, {}, "one");
    await until("the large one is refused", () => plannedReason("large") === "GangTooLarge");
    expect(status("large")?.explanation).toBe(
      "spec.podSets ask for 7 pods together, and a gang may have 6; lower their counts or split the gang",
    );
    for (const name of ["first", "second"]) {
      await createGang(name, 4, {}, "one");
      await scheduled(name);
    }
    await createGang("third", 1, {}, "one");
    await until("the third one is refused", () => plannedReason("third") === "NamespaceLimit");
    expect(status("third")?.explanation).toContain("hold places for 8 other pods, and 1 more exceed the 8");
    for (const pod of membersOf("first")) await scene.drop({ ...pod, apiVersion: "v1", kind: "Pod" });
    await scene.drop(gang("first", {}));
    await scheduled("third");
  });

  test("have no more members released and not bound at a time than the window holds, or one gang; all get in", async () => {
    await freshNamespace();
    await apply(claimTemplate("one", 1));
    /** Gangs of released members, at each change of a pod. */
    const crowds = new Set<string>();
    const look = (): false => {
      const released = pods().filter((pod) => !isBound(pod) && (pod.spec.schedulingGates ?? []).length === 0);
      crowds.add(
        released
          .map((pod) => pod.metadata.labels?.[gangLabel])
          .sort()
          .join(),
      );
      return false;
    };
    const over = new AbortController();
    const watching = until("the end", () => look() || over.signal.aborted, 110_000);
    const names = ["large", ...Array.from({ length: 4 }, (_, index) => `small-${index}`)];
    await Promise.all(names.map((name) => createGang(name, name === "large" ? 4 : 1, {}, "one")));
    for (const name of names) await scheduled(name);
    // The same where members of running gangs return.
    const members = names.flatMap((name) => membersOf(name)).map(({ metadata }) => metadata);
    await Promise.all(members.map((metadata) => scene.drop({ apiVersion: "v1", kind: "Pod", metadata })));
    await until("all are gone", () => pods().length === 0);
    const again = (name: string, index: number) => member(name, "ranks", index, "one");
    await apply(...names.flatMap((name) => (name === "large" ? [0, 1, 2, 3] : [0]).map((index) => again(name, index))));
    await until("all are back", () => names.every((name) => membersOf(name).length > 0) && pods().every(isBound));
    expect(pods()).toHaveLength(members.length);
    over.abort();
    await apply(gang("last-change", { podSets: [{ name: "ranks", count: 1 }] }));
    await watching;
    // The window has room for two; a gang of four goes alone.
    for (const crowd of [...crowds].map((each) => each.split(","))) {
      if (crowd.length > 2) expect(new Set(crowd)).toEqual(new Set(["large"]));
    }
    expect([...crowds].some((crowd) => crowd.includes("large"))).toBe(true);
  });
});

describe("a gang that waited for too long", () => {
  test("has others kept off the devices it needs, those that run keep theirs, and it is next", async () => {
    await freshNamespace();
    await apply(claimTemplate("four", 4), claimTemplate("eight", 8));
    for (const name of ["first", "second"]) {
      await createGang(name, 2);
      await scheduled(name);
    }
    await createGang("large", 2, {}, "eight");
    const said = await until("others are kept off", () =>
      status("large")?.explanation?.includes("draining") ? status("large")?.explanation : undefined,
    );
    expect(said).toMatch(/; draining 2 nodes: waits for 2 gangs to leave$/);
    expect(await metric("kllama_draining_gangs")).toBe(1);
    const leave = async (name: string) => {
      for (const pod of membersOf(name)) await scene.drop({ ...pod, apiVersion: "v1", kind: "Pod" });
      await scene.drop(gang(name, {}));
    };
    await leave("first");
    await createGang("later", 2);
    await until("the later one is refused", () => plannedReason("later") === "InsufficientDevices");
    const [before] = membersOf("second").filter((pod) => pod.metadata.name.endsWith("-0"));
    const devices = scene.devicesOf(before);
    await scene.drop({ ...before!, apiVersion: "v1", kind: "Pod" });
    await until("the member is gone", () => scene.pod(before!.metadata.name) === undefined);
    await apply(member("second", "ranks", 0, "four"));
    const after = await until("its successor runs", () =>
      membersOf("second").find((pod) => pod.metadata.name.endsWith("-0") && isReady(pod)),
    );
    await inStep();
    expect(scene.devicesOf(after)).toEqual(devices);
    expect(membersOf("later").filter(isBound)).toEqual([]);
    await leave("second");
    await scheduled("large");
    expect(status("later")?.phase).toBe("Pending");
    expect(await metric("kllama_draining_gangs")).toBeLessThanOrEqual(1);
  });
});

const isSame = (a: KubernetesObject, b: KubernetesObject): boolean => a.metadata.uid === b.metadata.uid;

/** The pod wants a device of another driver in a claim of its own besides. */
function withCard(pod: Workload): Workload {
  const spec = pod["spec"] as { resourceClaims: object[]; containers: { resources: { claims: object[] } }[] };
  const [container] = spec.containers;
  const resources = { ...container!.resources, claims: [...container!.resources.claims, { name: "card" }] };
  const resourceClaims = [...spec.resourceClaims, { name: "card", resourceClaimTemplateName: "theirs" }];
  return { ...pod, spec: { ...spec, resourceClaims, containers: [{ ...container, resources }] } };
}

/** Nothing of it was written by kllama. */
function expectOfScheduler({ metadata }: ResourceClaim): void {
  const managers = metadata.managedFields?.map(({ manager }) => manager);
  expect(managers).toContain("kube-scheduler");
  expect(managers?.filter((manager) => manager?.includes("kllama"))).toEqual([]);
}

/** The devices of a member as the Gang's status tells them. */
function told(name: string, pod: string): string | undefined {
  const placed = status(name)?.placement?.pods.find((each) => each.pod === pod);
  const devices = placed?.claims.flatMap((claim) => claim.devices.map((each) => `${each.pool}/${each.device}`));
  return devices?.sort().join();
}

/** Two devices of another driver, on a node. */
async function publishForeignDevices(nodeName: string): Promise<void> {
  const spec = {
    driver: "other.example.com",
    nodeName,
    pool: { name: nodeName, generation: 1, resourceSliceCount: 1 },
    devices: [{ name: "card-0" }, { name: "card-1" }],
  };
  await scene.stack.admin.request("POST", "/apis/resource.k8s.io/v1/resourceslices", {
    body: { apiVersion: "resource.k8s.io/v1", kind: "ResourceSlice", metadata: { name: `${nodeName}-cards` }, spec },
  });
}

async function createForeignClass(): Promise<void> {
  const spec = { selectors: [{ cel: { expression: 'device.driver == "other.example.com"' } }] };
  await scene.stack.admin.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", {
    body: { apiVersion: "resource.k8s.io/v1", kind: "DeviceClass", metadata: { name: "other.example.com" }, spec },
  });
}

function mixedTemplate(name: string): Workload {
  const requests = ["gpu.kllama.ai", "other.example.com"].map((deviceClassName, index) => ({
    name: `r${index}`,
    exactly: { deviceClassName, count: 1 },
  }));
  return { ...claimTemplate(name, 1), spec: { spec: { devices: { requests } } } };
}
