import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KubernetesObject, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { bindMarker, claimFinalizer, gangGate, gangLabel, memberMarker } from "../../src/api/names.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { installManifests } from "../../src/kube/install.ts";
import { readManifests } from "../../src/kube/manifests.ts";
import { claimPath, podPath, resourcePath } from "../../src/kube/paths.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { follow } from "../support/follow.ts";
import { llmClusterChanges, llmClusterSpec, type ObjectCase, objectCases } from "./api-objects.ts";
import { accountRights, lease, type Right, userRights } from "./api-rights.ts";

const dryRun = { dryRun: "All" };

let controlPlane: ControlPlane;
let admin: KubeClient;
const open: KubeClient[] = [];

beforeAll(async () => {
  controlPlane = await startControlPlane({ components: ["kube-controller-manager"] });
  admin = await clientOf(controlPlane.admin.path);
  await installManifests(admin, ["crds", "deploy", "deploy/simulator"]);
  await waitForPolicies(admin);
  await createNamespace("team");
  await createNamespace("injected", { "scheduling.kllama.ai/inject": "enabled" });
  const accounts = await follow<KubernetesObject>(admin, "/api/v1/serviceaccounts");
  const made = ["team/default", "injected/default", "kube-system/resource-claim-controller"];
  await accounts.until("kube-controller-manager has made its accounts", (items) =>
    made.every((each) => items.has(each)) ? true : undefined,
  );
  await accounts.stop();
  for (const { account, may } of accountRights) await authorized(await accountClient("kllama-system", account), may);
});

afterAll(async () => {
  await Promise.all(open.map((client) => client.close()));
  await controlPlane?.stop();
});

describe("custom resources", () => {
  test.each(objectCases)("$plural: $name", async (entry) => {
    const created = create(admin, collectionOf(entry), manifestOf(entry), dryRun);
    if (entry.refusal === undefined) await expect(created).resolves.toBeDefined();
    else await expect(created).rejects.toThrow(entry.refusal);
  });

  test.each(llmClusterChanges)("a change of an LLMCluster: $name", async ({ spec, refusal }) => {
    const name = "changed";
    const entry: ObjectCase = { name, plural: "llmclusters", spec: llmClusterSpec(), objectName: name };
    const path = `${collectionOf(entry)}/${name}`;
    await create(admin, collectionOf(entry), manifestOf(entry));
    try {
      const change = admin.request("PATCH", path, { body: { spec } });
      if (refusal === undefined) await expect(change).resolves.toMatchObject({ spec });
      else await expect(change).rejects.toThrow(refusal);
    } finally {
      await admin.request("DELETE", path);
    }
  });

  test("the API server fills in defaults", async () => {
    const entry: ObjectCase = { name: "defaults", plural: "llmclusters", spec: llmClusterSpec() };
    await expect(create(admin, collectionOf(entry), manifestOf(entry), dryRun)).resolves.toMatchObject({
      spec: {
        port: 8000,
        startupTimeoutSeconds: 600,
        devices: { deviceClassName: "gpu.kllama.ai" },
        placement: { topology: "default" },
        podDisruptionBudget: { enabled: true, minAvailable: 1 },
      },
    });
  });

  test("a writer of spec cannot write status", async () => {
    const entry: ObjectCase = { name: "status", plural: "gangs", spec: { podSets: [{ name: "a", count: 1 }] } };
    const body = { ...manifestOf(entry), status: { phase: "Scheduled" } };
    const created = await create<{ status?: object }>(admin, collectionOf(entry), body, dryRun);
    expect(created.status).toBeUndefined();
  });

  test("kubectl shows columns, short names, categories and explanations", async () => {
    const gang: ObjectCase = {
      name: "",
      plural: "gangs",
      spec: { podSets: [{ name: "a", count: 4 }] },
      objectName: "shown",
    };
    const cluster: ObjectCase = { name: "", plural: "llmclusters", spec: llmClusterSpec(), objectName: "shown" };
    await create(admin, collectionOf(gang), manifestOf(gang));
    await create(admin, collectionOf(cluster), manifestOf(cluster));
    const lastTransitionTime = "2026-01-01T00:00:00Z";
    const condition = { type: "Scheduled", status: "False", reason: "NoDomainFits", message: "no", lastTransitionTime };
    await admin.request("PATCH", `${collectionOf(gang)}/shown/status`, {
      body: { status: { phase: "Pending", members: "4/4", conditions: [condition] } },
    });

    expect(await kubectl("get", "gangs", "-n", "team")).toMatch(
      /^NAME +PHASE +MEMBERS +REASON +AGE\nshown +Pending +4\/4 +NoDomainFits +\d+s\n$/,
    );
    expect(await kubectl("get", "llmc", "-n", "team")).toMatch(
      /^NAME +TP +READY +GANG +REASON +AGE\nshown +8 +\d+s\n$/,
    );
    expect(await kubectl("get", "kllama", "-n", "team")).toMatch(/gang\.scheduling[\s\S]*llmcluster\.serving/);
    expect(await kubectl("explain", "llmc.spec.replicas")).toContain("Pods of this one instance, not instances");
    expect(await kubectl("explain", "pgrp.spec.pairing.maxTransferMilliseconds")).toMatch(/in\s+milliseconds/);
    expect(await kubectl("explain", "ctopo.spec.levels.gigabytesPerSecond")).toContain("10^9 bytes per second");
  });
});

describe("mutation at creation", () => {
  const claims = { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: "gpus" }] };
  const member = { [gangLabel]: "g" };

  test.each([
    { name: "a plain pod", spec: {}, markers: [] },
    { name: "a plain pod in a namespace with injection", namespace: "injected", spec: {}, markers: [] },
    { name: "a pod with claims", spec: claims, markers: [] },
    {
      name: "a pod with claims in a namespace with injection",
      namespace: "injected",
      spec: claims,
      gates: [gangGate],
      markers: [],
    },
    {
      name: "a member without claims",
      labels: member,
      spec: {},
      gates: [gangGate],
      markers: [bindMarker, memberMarker],
    },
    { name: "a member with claims", labels: member, spec: claims, gates: [gangGate], markers: [bindMarker] },
    {
      name: "a member with claims in a namespace with injection",
      namespace: "injected",
      labels: member,
      spec: claims,
      gates: [gangGate],
      markers: [bindMarker],
    },
    {
      name: "a member that has gates already, ours among them",
      labels: member,
      spec: { schedulingGates: [{ name: "example.com/quota" }, { name: gangGate }] },
      gates: ["example.com/quota", gangGate],
      markers: [bindMarker, memberMarker],
    },
    {
      name: "a member for another scheduler",
      labels: member,
      spec: { schedulerName: "other", ...claims },
      gates: [gangGate],
      markers: [bindMarker],
    },
    { name: "a member that names its node", labels: member, spec: { nodeName: "node-0" }, markers: [] },
    {
      name: "a pod with claims that names its node",
      namespace: "injected",
      spec: { nodeName: "node-0", ...claims },
      markers: [],
    },
  ])("$name", async ({ namespace = "team", labels = {}, spec, gates, markers }) => {
    const created = await createPod({ namespace, labels, spec }, dryRun);
    expect(created.spec.schedulingGates?.map(({ name }) => name)).toEqual(gates);
    const [first, second] = created.spec.containers;
    const expected = Object.fromEntries(markers.map((marker) => [marker, "1"]));
    expect(first?.resources?.requests).toEqual({ cpu: "1", ...expected });
    expect(first?.resources?.limits ?? {}).toEqual(expected);
    expect(second?.resources).toEqual({});
  });

  test("a claim gets the finalizer beside its own, and kube-controller-manager takes it off an unused claim", async () => {
    const path = claimPath({ namespace: "team", name: "unused" });
    const body = claimManifest("team", "unused", { finalizers: ["example.com/own"] });
    const created = await create<ResourceClaim>(admin, claimPath({ namespace: "team" }), body);
    expect(created.metadata.finalizers?.toSorted()).toEqual(["example.com/own", claimFinalizer]);
    const claims = await follow<ResourceClaim>(admin, claimPath({ namespace: "team" }));
    await admin.request("DELETE", path);
    const left = await claims.until("kube-controller-manager gives the claim up", (items) => {
      const finalizers = items.get("team/unused")?.metadata.finalizers;
      return finalizers?.includes(claimFinalizer) ? undefined : finalizers;
    });
    await claims.stop();
    expect(left).toEqual(["example.com/own"]);
    await admin.request("PATCH", path, { body: { metadata: { finalizers: null } } });
  });
});

describe("one allocator", () => {
  const ours = { driver: "gpu.kllama.ai" };
  const theirs = { driver: "gpu.nvidia.com" };
  const onlyPlanner =
    "devices of gpu.kllama.ai are allocated by kllama's planner alone (system:serviceaccount:kllama-system:kllama-planner), not by";
  /** Of a kind that kube-controller-manager does not know: it would remove a pod that does not exist. */
  const guard = { apiGroup: "scheduling.kllama.ai", resource: "gangs", name: "g", uid: "u" };
  const reservation = { status: { reservedFor: [guard] } };
  let planner: KubeClient;
  let scheduler: KubeClient;
  let controllerManager: KubeClient;

  beforeAll(async () => {
    planner = await accountClient("kllama-system", "kllama-planner");
    scheduler = await clientOf((await controlPlane.kubeconfigFor("system:kube-scheduler")).path);
    controllerManager = await accountClient("kube-system", "resource-claim-controller");
  });

  test("the planner allocates, reserves, lets go and allocates anew", async () => {
    await createClaim("planned");
    await allocate(planner, "planned", ours);
    await planner.request("PATCH", claimPath({ namespace: "team", name: "planned" }, "status"), { body: reservation });
    await deallocate(planner, "planned");
    await allocate(planner, "planned", ours);
    await expect(allocate(planner, "planned", { ...ours, device: "gpu-1" })).rejects.toThrow(
      /field is immutable|field cannot be modified once set/,
    );
  });

  test.each([
    ["the administrator", () => admin],
    ["kube-scheduler", () => scheduler],
    ["kube-controller-manager", () => controllerManager],
  ])("%s cannot allocate our devices, and may clear them", async (_who, client) => {
    const name = await createClaim();
    await expect(allocate(client(), name, ours)).rejects.toThrow(onlyPlanner);
    await expect(allocate(client(), name, theirs, ours)).rejects.toThrow(onlyPlanner);
    await allocate(planner, name, ours);
    await deallocate(client(), name);
    await expect(allocate(client(), name, ours)).rejects.toThrow(
      "label their namespace scheduling.kllama.ai/inject=enabled",
    );
  });

  test.each([
    ["the administrator", () => admin],
    ["kube-scheduler", () => scheduler],
  ])("%s allocates another driver's devices", async (_who, client) => {
    const name = await createClaim();
    await allocate(client(), name, theirs, { driver: "gpu.amd.com" });
    await deallocate(client(), name);
  });

  test("others write the rest of a status that holds our devices", async () => {
    const name = await createClaim();
    await allocate(planner, name, ours);
    const path = claimPath({ namespace: "team", name }, "status");
    await expect(scheduler.request("PATCH", path, { body: reservation })).resolves.toMatchObject(reservation);
  });

  test("monitoring of our devices is anybody's to allocate", async () => {
    await createNamespace("monitoring", { "resource.kubernetes.io/admin-access": "true" });
    await create(
      admin,
      claimPath({ namespace: "monitoring" }),
      claimManifest("monitoring", "watch", {}, { adminAccess: true }),
    );
    const path = claimPath({ namespace: "monitoring", name: "watch" }, "status");
    await scheduler.request("PATCH", path, { body: allocationOf({ ...ours, adminAccess: true }) });
    await scheduler.request("PATCH", path, { body: { status: { allocation: null } } });
    await expect(
      scheduler.request("PATCH", path, { body: allocationOf({ ...ours, adminAccess: true }, ours) }),
    ).rejects.toThrow(onlyPlanner);
  });
});

describe("the finalizer of an allocated claim", () => {
  const strip = (client: KubeClient, name: string) =>
    client.request("PATCH", claimPath({ namespace: "team", name }), {
      query: dryRun,
      body: { metadata: { finalizers: null } },
    });
  const claimOn = async (driver: string) => {
    const planner = await accountClient("kllama-system", "kllama-planner");
    const name = await createClaim();
    await allocate(driver === "gpu.kllama.ai" ? planner : admin, name, { driver });
    return name;
  };

  test("stays while the claim holds our devices, whatever rights a user has", async () => {
    const name = await claimOn("gpu.kllama.ai");
    await expect(strip(admin, name)).rejects.toThrow(
      `finalizer resource.kubernetes.io/delete-protection of ResourceClaim ${name} stays while the claim holds devices of gpu.kllama.ai: delete the pod that uses it`,
    );
    const other = { metadata: { labels: { changed: "yes" }, finalizers: [claimFinalizer, "example.com/more"] } };
    await expect(
      admin.request("PATCH", claimPath({ namespace: "team", name }), { query: dryRun, body: other }),
    ).resolves.toBeDefined();
  });

  test("is taken off by those who deallocate", async () => {
    const name = await claimOn("gpu.kllama.ai");
    const scheduler = await clientOf((await controlPlane.kubeconfigFor("system:kube-scheduler")).path);
    await strip(scheduler, name);
    await strip(await accountClient("kube-system", "resource-claim-controller"), name);
    await strip(await accountClient("kllama-system", "kllama-planner"), name);
  });

  test("is anybody's on a claim without allocation, and on another driver's", async () => {
    await strip(admin, await createClaim());
    await strip(admin, await claimOn("gpu.nvidia.com"));
  });
});

describe("slices of our driver", () => {
  const path = "/apis/resource.k8s.io/v1/resourceslices";
  interface SliceInput {
    driver?: string;
    node?: string;
    pool?: string;
    more?: object;
  }
  const slice = ({ driver = "gpu.kllama.ai", node = "node-9", pool = node, more = {} }: SliceInput) => ({
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: `${driver}-${node}` },
    spec: {
      driver,
      nodeName: node,
      pool: { name: pool, generation: 1, resourceSliceCount: 1 },
      devices: [{ name: "gpu-0" }],
      ...more,
    },
  });
  const oneNode = { matchFields: [{ key: "metadata.name", operator: "In", values: ["node-9"] }] };
  let agent: KubeClient;

  beforeAll(async () => {
    agent = await nodeAgent("node-9");
  });

  test("are written and deleted by the agent of their node", async () => {
    const { metadata, ...body } = await create<KubernetesObject & { spec: object }>(agent, path, slice({}));
    const spec = { ...body.spec, devices: [{ name: "gpu-0" }, { name: "gpu-1" }] };
    await expect(
      agent.request("PUT", `${path}/${metadata.name}`, { body: { ...body, metadata, spec } }),
    ).resolves.toMatchObject({ spec });
    await agent.request("DELETE", `${path}/${metadata.name}`);
  });

  test.each<[string, SliceInput]>([
    ["another node's", { node: "node-8" }],
    ["another pool's", { pool: "node-8" }],
    ["another driver's", { driver: "gpu.nvidia.com" }],
    ["all nodes'", { more: { nodeName: undefined, allNodes: true } }],
    ["a selection of nodes'", { more: { nodeName: undefined, nodeSelector: { nodeSelectorTerms: [oneNode] } } }],
  ])("%s are refused to it", async (_whose, input) => {
    await expect(create(agent, path, slice(input), dryRun)).rejects.toThrow(
      "a node agent writes slices of its own node, driver and pool alone: this one runs on node 'node-9'",
    );
  });

  test("of another node are not deleted by it", async () => {
    const simulator = await accountClient("kllama-system", "kllama-simulator");
    const { metadata } = await create(simulator, path, slice({ node: "node-10" }));
    await expect(agent.request("DELETE", `${path}/${metadata.name}`)).rejects.toThrow("its own node");
    await admin.request("DELETE", `${path}/${metadata.name}`);
  });

  test("are nobody else's to write; other drivers' are", async () => {
    await expect(create(admin, path, slice({}), dryRun)).rejects.toThrow(
      "slices of driver gpu.kllama.ai are written by kllama's node agents alone, not by",
    );
    await expect(create(admin, path, slice({ driver: "gpu.nvidia.com" }), dryRun)).resolves.toBeDefined();
    const unbound = await accountClient("kllama-system", "kllama-node-agent");
    await expect(create(unbound, path, slice({}), dryRun)).rejects.toThrow("this one runs on node ''");
  });
});

describe("extended resources", () => {
  const refusal =
    "cannot be requested as an extended resource: kllama plans devices before the pod is scheduled. Remove it from the containers' resources, create a ResourceClaimTemplate with deviceClassName";
  const asking = (resource: string) => ({ name: "c", image: "i", resources: { limits: { [resource]: "1" } } });

  test.each(["containers", "initContainers"])("a managed class in %s is refused", async (field) => {
    for (const deviceClass of ["gpu.kllama.ai", "mig.kllama.ai"]) {
      const spec = { [field]: [asking(`deviceclass.resource.kubernetes.io/${deviceClass}`)] };
      await expect(createPod({ spec }, dryRun)).rejects.toThrow(`${deviceClass} ${refusal} ${deviceClass}`);
    }
  });

  test.each(["deviceclass.resource.kubernetes.io/gpu.nvidia.com", "nvidia.com/gpu"])("%s is not", async (resource) => {
    await expect(createPod({ spec: { containers: [asking(resource)] } }, dryRun)).resolves.toBeDefined();
  });

  test("a managed DeviceClass lends its devices under no other name; another class may", async () => {
    const path = "/apis/resource.k8s.io/v1/deviceclasses";
    const body = { spec: { extendedResourceName: "example.com/gpu" } };
    await expect(admin.request("PATCH", `${path}/gpu.kllama.ai`, { body })).rejects.toThrow(
      "a DeviceClass that kllama manages sets no spec.extendedResourceName",
    );
    const other = { apiVersion: "resource.k8s.io/v1", kind: "DeviceClass", metadata: { name: "gpu.example.com" } };
    await expect(create(admin, path, { ...other, ...body }, dryRun)).resolves.toBeDefined();
  });
});

describe("accounts", () => {
  test.each(accountRights)("$account", async ({ account, may, mayNot }) => {
    const client = await accountClient("kllama-system", account);
    await authorized(client, may);
    expect(await allowed(client, [...may, ...mayNot])).toEqual(may.map(nameOf));
    expect(await granted(client, lease.namespace)).toEqual(may.map(ruleOf).sort());
    expect(await notForbidden(client, mayNot)).toEqual([]);
  });

  test.each(userRights)("a user with role $role", async ({ role, may, mayNot }) => {
    const client = await clientOf((await controlPlane.kubeconfigFor(`user-${role}`)).path);
    await bindRole(role, `user-${role}`);
    await authorized(client, may);
    expect(await allowed(client, [...may, ...mayNot])).toEqual(may.map(nameOf));
    const ours = (await granted(client, "team")).filter((rule) => / (scheduling\.kllama|serving)\.ai /.test(rule));
    expect(ours).toEqual(may.map(ruleOf).sort());
    expect(await notForbidden(client, mayNot)).toEqual([]);
  });

  test("the planner lifts the gate, nominates and binds; the operator does none of it", async () => {
    const labels = { [gangLabel]: "g" };
    const pod = await createPod({ name: "member", labels, spec: {} });
    const path = "/api/v1/namespaces/team/pods/member";
    const strategic = "application/strategic-merge-patch+json";
    const lift = { spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] } };
    const binding = { apiVersion: "v1", kind: "Binding", metadata: { name: "member" }, target: { name: "node-0" } };
    const operator = await accountClient("kllama-system", "kllama-operator");
    const planner = await accountClient("kllama-system", "kllama-planner");

    await expect(operator.request("PATCH", path, { body: lift, contentType: strategic })).rejects.toThrow(
      'cannot patch resource "pods"',
    );
    const lifted = await planner.request<Pod>("PATCH", path, { body: lift, contentType: strategic });
    expect(lifted.spec.schedulingGates).toBeUndefined();
    const nomination = { body: { status: { nominatedNodeName: "node-0" } }, contentType: strategic };
    const nominated = await planner.request<Pod>("PATCH", `${path}/status`, nomination);
    expect(nominated.status?.nominatedNodeName).toBe("node-0");
    await expect(operator.request("POST", `${path}/binding`, { body: binding })).rejects.toThrow("pods/binding");
    await planner.request("POST", `${path}/binding`, { body: binding });
    const bound = await admin.request<Pod>("GET", path);
    expect([bound.metadata.uid, bound.spec.nodeName]).toEqual([pod.metadata.uid, "node-0"]);
  });

  test("the simulator reports devices of its driver and touches no allocation", async () => {
    const simulator = await accountClient("kllama-system", "kllama-simulator");
    const planner = await accountClient("kllama-system", "kllama-planner");
    const name = await createClaim();
    await allocate(planner, name, { driver: "gpu.kllama.ai" }, { driver: "gpu.nvidia.com" });
    const path = claimPath({ namespace: "team", name }, "status");
    const device = (driver: string) => ({ driver, pool: "node-0", device: "gpu-0" });

    await simulator.request("PATCH", path, { body: { status: { devices: [device("gpu.kllama.ai")] } } });
    await expect(
      simulator.request("PATCH", path, { body: { status: { devices: [device("gpu.nvidia.com")] } } }),
    ).rejects.toThrow('resource="resourceclaims/driver"');
    await expect(deallocate(simulator, name)).rejects.toThrow('resource="resourceclaims/binding"');
    await deallocate(planner, name);
    const cleared = await admin.request<ResourceClaim>("GET", claimPath({ namespace: "team", name }));
    expect(cleared.status).toEqual({});
  });

  test("the node agent reports for claims of its own node only", async () => {
    const planner = await accountClient("kllama-system", "kllama-planner");
    const agent = await nodeAgent("node-7");
    const device = { status: { devices: [{ driver: "gpu.kllama.ai", pool: "node-0", device: "gpu-0" }] } };
    const here = await createClaim();
    const there = await createClaim();
    await allocateOn(planner, here, "node-7");
    await allocateOn(planner, there, "node-8");

    await expect(
      agent.request("PATCH", claimPath({ namespace: "team", name: here }, "status"), { body: device }),
    ).resolves.toMatchObject(device);
    await expect(
      agent.request("PATCH", claimPath({ namespace: "team", name: there }, "status"), { body: device }),
    ).rejects.toThrow('resource="resourceclaims/driver"');
  });

  test("the node agent's DaemonSet is taken as it stands; it has a pod on a node with any taint, which nobody gates and whose token speaks for that node", async () => {
    const [manifest] = await readManifests(["deploy/node-agent"]);
    const name = "node-of-daemon-set";
    const taints = [{ key: "example.com/broken", effect: "NoExecute" }];
    const metadata = { name, labels: { "kubernetes.io/os": "linux" } };
    await create(admin, "/api/v1/nodes", { apiVersion: "v1", kind: "Node", metadata, spec: { taints } });
    const pods = await follow<Pod>(admin, podPath({ namespace: "kllama-system" }));
    await installManifests(admin, ["deploy/node-agent"]);
    const path = "/apis/apps/v1/namespaces/kllama-system/daemonsets/kllama-node-agent";
    try {
      // Every field of it: nothing is unknown, and nothing is dropped.
      expect(await admin.request("GET", path)).toMatchObject(manifest!.object);
      // One of another node would be taken away again once it is bound to this one.
      const pod = await pods.until("the DaemonSet has a pod for the node", (items) =>
        [...items.values()].find(({ metadata, spec }) => {
          const { affinity } = spec as { affinity?: object };
          return metadata.ownerReferences?.[0]?.kind === "DaemonSet" && JSON.stringify(affinity).includes(`"${name}"`);
        }),
      );
      expect(pod.spec).toMatchObject({ serviceAccountName: "kllama-node-agent", priority: 2_000_001_000 });
      expect(pod.spec.schedulingGates).toBeUndefined();
      await admin.request("POST", podPath(pod.metadata as { namespace: string; name: string }, "binding"), {
        body: { apiVersion: "v1", kind: "Binding", metadata: { name: pod.metadata.name }, target: { name } },
      });
      const agent = await clientOf(await tokenOf(pod));
      const planner = await accountClient("kllama-system", "kllama-planner");
      const claim = await createClaim();
      await allocateOn(planner, claim, name);
      const device = { status: { devices: [{ driver: "gpu.kllama.ai", pool: "node-0", device: "gpu-0" }] } };
      const told = agent.request("PATCH", claimPath({ namespace: "team", name: claim }, "status"), { body: device });
      await expect(told).resolves.toMatchObject(device);
    } finally {
      await pods.stop();
      await admin.request("DELETE", path);
    }
  });
});

test("installing again changes nothing", async () => {
  const admission = { group: "admissionregistration.k8s.io", version: "v1" };
  const generations = async () => {
    const lists = await Promise.all(
      [
        { ...admission, resource: "validatingadmissionpolicies" },
        { ...admission, resource: "mutatingadmissionpolicies" },
        { group: "apiextensions.k8s.io", version: "v1", resource: "customresourcedefinitions" },
      ].map((location) => admin.request<{ items: KubernetesObject[] }>("GET", resourcePath(location))),
    );
    return lists.map(({ items }) => items.map(({ metadata }) => `${metadata.uid} ${metadata.generation}`));
  };
  const before = await generations();
  await installManifests(admin, ["crds", "deploy", "deploy/simulator"]);
  expect(await generations()).toEqual(before);
  expect(before.map(({ length }) => length)).toEqual([6, 3, 5]);
});

test("installing names file and object of what the API server refuses", async () => {
  const folder = await mkdtemp(join(tmpdir(), "kllama-manifests-"));
  const install = async (body: object) => {
    await writeFile(join(folder, "one.yaml"), JSON.stringify(body));
    await installManifests(admin, [folder]);
  };
  try {
    const metadata = { name: "refused", namespace: "team" };
    const gang = { apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "Gang", metadata, spec: { podSets: [] } };
    await expect(install(gang)).rejects.toThrow(/one\.yaml:1: Gang refused: .*spec\.podSets/);
    await expect(install({ apiVersion: "v1", kind: "Gang", metadata })).rejects.toThrow("no kind Gang in v1");
    await expect(install({ apiVersion: "x.example/v1", kind: "X", metadata })).rejects.toThrow("no x.example/v1");
  } finally {
    await rm(folder, { recursive: true });
  }
});

async function clientOf(kubeconfigPath: string): Promise<KubeClient> {
  const client = createClient(await loadConnection({ kubeconfigPath }));
  open.push(client);
  return client;
}

async function accountClient(namespace: string, name: string): Promise<KubeClient> {
  return clientOf((await controlPlane.serviceAccountKubeconfig(namespace, name)).path);
}

/** A client with the token of a node agent's pod on `node`: the API server knows the node from it. */
async function nodeAgent(node: string): Promise<KubeClient> {
  await create(admin, "/api/v1/nodes", { apiVersion: "v1", kind: "Node", metadata: { name: node } });
  const spec = { nodeName: node, serviceAccountName: "kllama-node-agent" };
  return clientOf(await tokenOf(await createPod({ namespace: "kllama-system", name: `agent-of-${node}`, spec })));
}

/** Path of a kubeconfig with the token of a node agent's pod. */
async function tokenOf({ metadata }: Pod): Promise<string> {
  const pod = { name: metadata.name, uid: metadata.uid! };
  return (await controlPlane.serviceAccountKubeconfig("kllama-system", "kllama-node-agent", { pod })).path;
}

async function kubectl(...args: string[]): Promise<string> {
  const kubeconfig = ["--kubeconfig", controlPlane.admin.path];
  return (await promisify(execFile)(controlPlane.binaries.kubectl, [...kubeconfig, ...args])).stdout;
}

function create<T = KubernetesObject>(client: KubeClient, path: string, body: object, query = {}): Promise<T> {
  return client.request<T>("POST", path, { body, query });
}

async function createNamespace(name: string, labels: Record<string, string> = {}): Promise<void> {
  await create(admin, "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name, labels } });
}

const kinds = {
  gangs: { group: "scheduling.kllama.ai", kind: "Gang" },
  placementgroups: { group: "scheduling.kllama.ai", kind: "PlacementGroup" },
  clustertopologies: { group: "scheduling.kllama.ai", kind: "ClusterTopology" },
  llmclusters: { group: "serving.ai", kind: "LLMCluster" },
};

function collectionOf({ plural }: ObjectCase): string {
  const namespace = plural === "clustertopologies" ? undefined : "team";
  return resourcePath({ group: kinds[plural].group, version: "v1alpha1", resource: plural, namespace });
}

function manifestOf({ plural, spec, objectName = "example" }: ObjectCase): object {
  const { group, kind } = kinds[plural];
  return { apiVersion: `${group}/v1alpha1`, kind, metadata: { name: objectName }, spec };
}

interface PodInput {
  namespace?: string;
  name?: string;
  labels?: Record<string, string>;
  spec: object;
}

function createPod({ namespace = "team", name = "pod", labels = {}, spec }: PodInput, query = {}): Promise<Pod> {
  const containers = [
    { name: "first", image: "i", resources: { requests: { cpu: "1" } } },
    { name: "second", image: "i" },
  ];
  const body = { apiVersion: "v1", kind: "Pod", metadata: { name, labels }, spec: { containers, ...spec } };
  return create<Pod>(admin, podPath({ namespace }), body, query);
}

function claimManifest(namespace: string, name: string, metadata = {}, exactly = {}): object {
  const request = { name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", allocationMode: "All", ...exactly } };
  return {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaim",
    metadata: { name, namespace, ...metadata },
    spec: { devices: { requests: [request] } },
  };
}

let claimCount = 0;

async function createClaim(name = `claim-${claimCount++}`): Promise<string> {
  await create(admin, claimPath({ namespace: "team" }), claimManifest("team", name));
  return name;
}

interface Result {
  driver: string;
  device?: string;
  adminAccess?: boolean;
}

function allocationOf(...results: Result[]): object {
  const allocated = results.map((result) => ({ request: "gpus", pool: "node-0", device: "gpu-0", ...result }));
  return { status: { allocation: { devices: { results: allocated }, allocationTimestamp: "2026-01-01T00:00:00Z" } } };
}

async function allocate(client: KubeClient, name: string, ...results: Result[]): Promise<void> {
  await client.request("PATCH", claimPath({ namespace: "team", name }, "status"), { body: allocationOf(...results) });
}

async function allocateOn(client: KubeClient, name: string, node: string): Promise<void> {
  const matchFields = [{ key: "metadata.name", operator: "In", values: [node] }];
  const results = [{ request: "gpus", pool: "node-0", device: "gpu-0", driver: "gpu.kllama.ai" }];
  const allocation = {
    devices: { results },
    nodeSelector: { nodeSelectorTerms: [{ matchFields }] },
    allocationTimestamp: "2026-01-01T00:00:00Z",
  };
  await client.request("PATCH", claimPath({ namespace: "team", name }, "status"), { body: { status: { allocation } } });
}

async function deallocate(client: KubeClient, name: string): Promise<void> {
  const body = { status: { allocation: null, reservedFor: null } };
  await client.request("PATCH", claimPath({ namespace: "team", name }, "status"), { body });
}

async function bindRole(role: string, user: string): Promise<void> {
  const apiGroup = "rbac.authorization.k8s.io";
  await create(admin, resourcePath({ group: apiGroup, version: "v1", resource: "rolebindings", namespace: "team" }), {
    apiVersion: `${apiGroup}/v1`,
    kind: "RoleBinding",
    metadata: { name: user },
    roleRef: { apiGroup, kind: "ClusterRole", name: role },
    subjects: [{ apiGroup, kind: "User", name: user }],
  });
}

/** The API server's authorizer follows roles and bindings (and kube-controller-manager aggregates roles) a moment later. */
async function authorized(client: KubeClient, may: readonly Right[]): Promise<void> {
  const missing = async () => {
    const granted = await allowed(client, may);
    return granted.length === may.length ? undefined : `granted so far: ${granted.join(", ")}`;
  };
  await eventually("the rights take effect", missing, { timeoutMs: 60_000 });
}

/** @returns names of those rights that the client's user has. */
async function allowed(client: KubeClient, rights: readonly Right[]): Promise<string[]> {
  const answers = await Promise.all(
    rights.map((right) =>
      create<{ status: { allowed: boolean } }>(client, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {
        apiVersion: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: { resourceAttributes: right },
      }),
    ),
  );
  return rights.filter((_, index) => answers[index]?.status.allowed).map(nameOf);
}

/** `verb group resource name`, wherever it may be done. */
function ruleOf({ verb, group, resource, subresource, name = "" }: Right): string {
  return `${verb} ${group} ${resource}${subresource === undefined ? "" : `/${subresource}`} ${name}`;
}

interface ResourceRule {
  verbs: string[];
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
}

/** Every right that the API server knows of for the client's user in that namespace, but for what every user has. */
async function granted(client: KubeClient, namespace: string): Promise<string[]> {
  const review = await create<{ status: { incomplete: boolean; resourceRules: ResourceRule[] } }>(
    client,
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    { apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectRulesReview", spec: { namespace } },
  );
  expect(review.status.incomplete).toBe(false);
  const rules = review.status.resourceRules.flatMap(({ verbs, apiGroups, resources, resourceNames = [""] }) =>
    verbs.flatMap((verb) =>
      apiGroups.flatMap((group) =>
        resources.flatMap((resource) => resourceNames.map((name) => `${verb} ${group} ${resource} ${name}`)),
      ),
    ),
  );
  return [...new Set(rules)].filter((rule) => !/^create \S+ selfsubject\w*reviews $/.test(rule)).sort();
}

const httpMethods: Record<string, "GET" | "POST" | "PUT" | "PATCH" | "DELETE"> = {
  get: "GET",
  list: "GET",
  watch: "GET",
  create: "POST",
  update: "PUT",
  patch: "PATCH",
  delete: "DELETE",
  deletecollection: "DELETE",
};

const clusterScoped =
  /^(nodes|resourceslices|deviceclasses|devicetaintrules|clustertopologies|plannerterms|clusterroles|clusterrolebindings|validatingadmissionpolicies|validatingadmissionpolicybindings|mutatingadmissionpolicies|customresourcedefinitions)$/;

/** Does what the client's user must not. @returns what the API server did not answer with 403 */
async function notForbidden(client: KubeClient, rights: readonly Right[]): Promise<string[]> {
  const answers = await Promise.all(rights.map((right) => forbidden(client, right)));
  return rights.filter((_, index) => answers[index] === false).map(nameOf);
}

/** @returns undefined for a right that no request of its own stands for, such as impersonation */
async function forbidden(client: KubeClient, right: Right): Promise<boolean | undefined> {
  const { verb, group, resource, subresource, namespace = "team", name = "somebody-s" } = right;
  const method = httpMethods[verb];
  // Checked beside a write of resourceclaims/status only.
  if (method === undefined || (subresource === "binding" && group !== "") || subresource === "driver") return undefined;
  const collection = verb === "list" || verb === "watch" || verb === "deletecollection";
  const path = resourcePath({
    group,
    version: group === "scheduling.kllama.ai" || group === "serving.ai" ? "v1alpha1" : "v1",
    resource,
    ...(clusterScoped.test(resource) ? {} : { namespace }),
    ...(collection || (verb === "create" && subresource === undefined) ? {} : { name }),
    ...(subresource === undefined ? {} : { subresource }),
  });
  const query = verb === "watch" ? { watch: true, timeoutSeconds: 1 } : method === "GET" ? {} : dryRun;
  const body = method === "GET" ? {} : { body: {} };
  return client.request(method, path, { query, ...body }).then(
    () => false,
    (error: { status?: number }) => error.status === 403,
  );
}

function nameOf({ verb, group, resource, subresource, namespace, name }: Right): string {
  const path = [resource, ...(subresource === undefined ? [] : [subresource])].join("/");
  return [verb, group, path, namespace, name].filter((part) => part !== undefined && part !== "").join(" ");
}
