import { describe, expect, test } from "vitest";
import type { Pod } from "../../src/api/kubernetes.ts";
import { gangLabel } from "../../src/api/names.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, isReady, useScene } from "../support/scene.ts";
import {
  claimTemplate,
  create,
  createNamespace,
  gang,
  member,
  removeAll,
  statefulSet,
  type Workload,
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
const { freshNamespace, namespace, apply, pods, claims, status, until, metric } = scene;
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
    await publishForeignDevices("foreign-node-devices");
    await apply(claimTemplate("theirs", 1, "other.example.com"), mixedTemplate("mixed"));
    await apply(bypass("theirs", "theirs"));
    await until("kube-scheduler binds it", () => pods().length === 1 && pods().every(isBound));
    const claim = await until("its claim is allocated", () =>
      claims().find((each) => each.metadata.ownerReferences?.[0]?.name === "theirs" && each.status?.allocation),
    );
    expect(claim.status?.allocation?.devices?.results?.[0]?.driver).toBe("other.example.com");
    const managers = (claim.metadata as { managedFields?: { manager?: string }[] }).managedFields;
    expect(managers?.map(({ manager }) => manager)).toContain("kube-scheduler");
    expect(managers?.filter(({ manager }) => manager?.includes("kllama"))).toEqual([]);
    await createGang("mixed", 1, {}, "mixed");
    const refused = await until("the gang with a mixed claim is refused", () => status("mixed")?.explanation);
    expect(status("mixed")?.conditions?.find((c) => c.type === "Planned")?.reason).toBe("MixedDrivers");
    expect(refused).toContain("other.example.com");
    expect(membersOf("mixed").filter(isBound)).toEqual([]);
    const path = resourcePath({
      group: "resource.k8s.io",
      version: "v1",
      resource: "resourceslices",
      name: "foreign-node-devices",
    });
    await scene.stack.admin.request("DELETE", path);
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
    const said = await until("the gang says that it has no member", () => status("grab")?.explanation);
    expect(said).toMatch(/^pod set ranks: 0 of 1 pods exist; pod plain is no member/);
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
    await until("the gang is refused", () => plannedReason("mine") === "InsufficientDevices");
    await until("the pod is refused", () => eventsOf("alone", "PodInsufficientDevices")[0]);
    await until("kube-scheduler has said something, too", () => scene.pod("alone")?.status?.conditions?.[0]);
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
    expect(scene.devicesOf(after)).toEqual(devices);
    expect(membersOf("later").filter(isBound)).toEqual([]);
    await leave("second");
    await scheduled("large");
    expect(status("later")?.phase).toBe("Pending");
    expect(await metric("kllama_draining_gangs")).toBeLessThanOrEqual(1);
  });
});

async function publishForeignDevices(name: string): Promise<void> {
  const deviceClass = {
    apiVersion: "resource.k8s.io/v1",
    kind: "DeviceClass",
    metadata: { name: "other.example.com" },
    spec: { selectors: [{ cel: { expression: 'device.driver == "other.example.com"' } }] },
  };
  await scene.stack.admin.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", { body: deviceClass });
  const nodeName = scene.fleet.nodes[0]?.name;
  const slice = {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name },
    spec: {
      driver: "other.example.com",
      nodeName,
      pool: { name: nodeName, generation: 1, resourceSliceCount: 1 },
      devices: [{ name: "card-0" }, { name: "card-1" }],
    },
  };
  await scene.stack.admin.request("POST", "/apis/resource.k8s.io/v1/resourceslices", { body: slice });
}

function mixedTemplate(name: string): Workload {
  const requests = ["gpu.kllama.ai", "other.example.com"].map((deviceClassName, index) => ({
    name: `r${index}`,
    exactly: { deviceClassName, count: 1 },
  }));
  return { ...claimTemplate(name, 1), spec: { spec: { devices: { requests } } } };
}
