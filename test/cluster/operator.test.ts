import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KubernetesObject, Pod } from "../../src/api/kubernetes.ts";
import { type LLMClusterStatus, llmClusterSpec } from "../../src/api/llm-cluster.ts";
import { createClient, isNotFound, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { type Operator, startOperator } from "../../src/serving/controller.ts";
import { covers } from "../../src/serving/covers.ts";
import { desired } from "../../src/serving/desired.ts";
import {
  type OwnedKind,
  type OwnedObject,
  ownedKinds,
  revisionLabel,
  type StatefulSet,
} from "../../src/serving/owned.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { counted } from "../support/counted.ts";
import { type Followed, follow } from "../support/follow.ts";

type RawCluster = KubernetesObject & { spec: Record<string, unknown>; status?: LLMClusterStatus };
type EventObject = KubernetesObject & { regarding: { name: string; kind: string }; reason: string };
type AnyObject = KubernetesObject & { spec?: Record<string, unknown> };

const namespace = "serving";
const llmClusters = { group: "serving.ai", version: "v1alpha1", resource: "llmclusters" };
const pods = { group: "", version: "v1", resource: "pods" };

let controlPlane: ControlPlane;
let admin: KubeClient;
let operator: Operator;
let account: KubeClient;
/** What the operator has logged as an error: nothing, ever. */
const defects: unknown[] = [];
/** Everything the operator's account has asked to change. */
const writes: string[] = [];
const followed: { clusters: Followed<RawCluster>; pods: Followed<Pod>; sets: Followed<StatefulSet> } = {} as never;

const pathOf = (kind: OwnedKind, name: string) => resourcePath({ ...ownedKinds[kind], namespace, name });
const clusterPath = (name: string, subresource?: string) =>
  resourcePath({ ...llmClusters, namespace, name, subresource });
const podPath = (name: string, subresource?: string) => resourcePath({ ...pods, namespace, name, subresource });

beforeAll(async () => {
  controlPlane = await startControlPlane({ components: ["kube-controller-manager"] });
  const kubectl = (...args: string[]) =>
    promisify(execFile)(controlPlane.binaries.kubectl, ["--kubeconfig", controlPlane.admin.path, ...args]);
  await kubectl("apply", "--server-side", "-f", "crds", "-f", "deploy/rbac.yaml");
  await kubectl("wait", "--for=condition=Established", "crd", "--all");
  await kubectl("create", "namespace", namespace);
  admin = createClient(await loadConnection({ kubeconfigPath: controlPlane.admin.path }));
  for (const name of ["node-0", "node-1"]) {
    await admin.request("POST", "/api/v1/nodes", { body: { apiVersion: "v1", kind: "Node", metadata: { name } } });
  }
  followed.clusters = await follow(admin, resourcePath(llmClusters));
  followed.pods = await follow(admin, resourcePath(pods));
  followed.sets = await follow(admin, resourcePath(ownedKinds.StatefulSet));
  const { path } = await controlPlane.serviceAccountKubeconfig("kllama-system", "kllama-operator");
  account = counted(createClient(await loadConnection({ kubeconfigPath: path })), writes);
  operator = start();
  await operator.synced;
});

afterAll(async () => {
  await operator?.stop();
  await Promise.all(Object.values(followed).map((collection) => collection.stop()));
  await Promise.all([account?.close(), admin?.close()]);
  await controlPlane?.stop();
});

function start(): Operator {
  return startOperator({
    client: account,
    log: { info: () => {}, warn: () => {}, error: (fields, message) => defects.push([message, fields]) },
  });
}

async function create(name: string, spec: Record<string, unknown> = {}, labels = {}): Promise<void> {
  const body = {
    apiVersion: "serving.ai/v1alpha1",
    kind: "LLMCluster",
    metadata: { name, namespace, labels },
    spec: { image: "vllm:v1", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4, ...spec },
  };
  await admin.request("POST", resourcePath({ ...llmClusters, namespace }), { body });
}

const patch = (path: string, body: unknown) => admin.request<AnyObject>("PATCH", path, { body });

/** Waits for one condition to have this reason; gives the status. */
function reason(name: string, type: string, wanted: string): Promise<LLMClusterStatus> {
  return followed.clusters.until(`${name}: ${type} for ${wanted}`, (items) => {
    const status = items.get(`${namespace}/${name}`)?.status;
    return status?.conditions?.some((c) => c.type === type && c.reason === wanted) ? status : undefined;
  });
}

const message = (status: LLMClusterStatus, type: string) => status.conditions?.find((c) => c.type === type)?.message;

/** Both members, as soon as they exist and suit. */
function members(name: string, what: string, suits: (pod: Pod) => boolean): Promise<Pod[]> {
  return followed.pods.until(`members of ${name}: ${what}`, (items) => {
    const found = [0, 1].map((rank) => items.get(`${namespace}/${name}-${rank}`));
    const all = found.filter((pod): pod is Pod => pod !== undefined && suits(pod));
    return all.length === 2 ? all : undefined;
  });
}

/** What scheduler and kubelet would do. */
async function bind(pod: Pod, node: string): Promise<void> {
  const { name, uid } = pod.metadata;
  const body = {
    apiVersion: "v1",
    kind: "Binding",
    metadata: { name, namespace, uid },
    target: { apiVersion: "v1", kind: "Node", name: node },
  };
  await admin.request("POST", podPath(name, "binding"), { body });
}

async function setReady(pod: Pod, status: "True" | "False"): Promise<void> {
  const body = { status: { phase: "Running", conditions: [{ type: "Ready", status }] } };
  await admin.request("PATCH", podPath(pod.metadata.name, "status"), {
    contentType: "application/strategic-merge-patch+json",
    body,
  });
}

/** Creates an instance and makes its members ready. */
async function ready(name: string, spec: Record<string, unknown> = {}): Promise<Pod[]> {
  await create(name, spec);
  const made = await members(name, "exist", () => true);
  for (const [rank, pod] of made.entries()) {
    await bind(pod, `node-${rank}`);
    await setReady(pod, "True");
  }
  await reason(name, "Ready", "AllMembersReady");
  return made;
}

async function get<T = AnyObject>(path: string): Promise<T | undefined> {
  try {
    return await admin.request<T>("GET", path);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** What the operator should have written for the LLMCluster as the API server holds it. */
async function wantedFor(name: string): Promise<OwnedObject[]> {
  const raw = await admin.request<RawCluster>("GET", clusterPath(name));
  return desired({ ...raw, spec: llmClusterSpec.parse(raw.spec) });
}

/** Without what kube-controller-manager writes, and when it does: the status. */
function withoutStatus(object: AnyObject | undefined): unknown {
  const { status: _, metadata, ...rest } = (object ?? { metadata: {} }) as AnyObject & { status?: unknown };
  const {
    resourceVersion: __,
    managedFields = [],
    ...kept
  } = metadata as KubernetesObject["metadata"] & {
    managedFields?: { subresource?: string }[];
  };
  return {
    ...rest,
    metadata: { ...kept, managedFields: managedFields.filter((each) => each.subresource !== "status") },
  };
}

/** The watch has shown this write, or a later one. */
const isSince = (found: KubernetesObject | undefined, written: KubernetesObject): boolean =>
  BigInt(found?.metadata.resourceVersion ?? "0") >= BigInt(written.metadata.resourceVersion ?? "0");

const live = (object: OwnedObject) => get(pathOf(object.kind as OwnedKind, object.metadata.name));

describe("operator", () => {
  test("an LLMCluster becomes Services, claim template, Gang, StatefulSet, budget, pods and claims", async () => {
    await create("made", { placement: { constraints: [{ level: "nvlink-domain" }] } }, { app: "llama" });
    await reason("made", "Progressing", "WaitingForPlacement");
    const wanted = await wantedFor("made");
    expect(wanted.map((object) => object.kind).sort()).toEqual(
      ["Gang", "PodDisruptionBudget", "ResourceClaimTemplate", "Service", "Service", "StatefulSet"].sort(),
    );
    for (const object of wanted) {
      const found = await live(object);
      expect(covers(found, object), `${object.kind} ${object.metadata.name}: ${JSON.stringify(found)}`).toBe(true);
    }
    expect(await get(pathOf("Gang", "made"))).toMatchObject({
      metadata: { ownerReferences: [{ kind: "LLMCluster", name: "made", controller: true }] },
      spec: {
        podSets: [{ name: "workers", count: 2, minCount: 2 }],
        constraints: [{ type: "colocate", level: "nvlink-domain", mode: "required" }],
      },
    });
    const pods = await members("made", "with claims", (pod) => (pod.status?.resourceClaimStatuses ?? []).length === 1);
    for (const [rank, pod] of pods.entries()) {
      expect(pod.metadata.labels).toMatchObject({
        app: "llama",
        "scheduling.kllama.ai/gang": "made",
        "scheduling.kllama.ai/pod-set": "workers",
        "apps.kubernetes.io/pod-index": String(rank),
      });
      const claim = await get(
        resourcePath({
          group: "resource.k8s.io",
          version: "v1",
          resource: "resourceclaims",
          namespace,
          name: pod.status?.resourceClaimStatuses?.[0]?.resourceClaimName,
        }),
      );
      expect(claim?.spec).toMatchObject({
        devices: { requests: [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 4 } }] },
      });
    }
  });

  test("status follows placement and readiness, and an instance with a missing member is not Ready", async () => {
    await create("followed");
    await reason("followed", "Progressing", "WaitingForPlacement");
    await patch(`${pathOf("Gang", "followed")}/status`, { status: { explanation: "rack r1: 8 GPUs needed, 5 free" } });
    await followed.clusters.until("the Gang's explanation is told", (items) => {
      const status = items.get(`${namespace}/followed`)?.status;
      return status && message(status, "Progressing") === "rack r1: 8 GPUs needed, 5 free" ? status : undefined;
    });
    const [first, second] = (await members("followed", "exist", () => true)) as [Pod, Pod];
    await bind(first, "node-0");
    await setReady(first, "True");
    await bind(second, "node-1");
    const half = await reason("followed", "Progressing", "StartingPods");
    expect(half).toMatchObject({ ready: "1/2", url: "http://followed.serving.svc.cluster.local" });
    expect(message(half, "Ready")).toBe("1 of 2 pods are ready: followed-1 is not ready on node-1");
    await setReady(second, "True");
    const whole = await reason("followed", "Ready", "AllMembersReady");
    expect(whole).toMatchObject({ ready: "2/2", readyReplicas: 2, gang: "followed", observedGeneration: 1 });
    const since = whole.conditions?.[0]?.lastTransitionTime;
    await setReady(second, "False");
    const lost = await reason("followed", "Ready", "MembersNotReady");
    expect(Date.parse(lost.conditions?.[0]?.lastTransitionTime ?? "")).toBeGreaterThanOrEqual(Date.parse(since ?? ""));
    const events = await follow<EventObject>(admin, `/apis/events.k8s.io/v1/namespaces/${namespace}/events`);
    // They are written one after the other: with the last one all are there.
    const reasons = await events.until("the last event", (items) => {
      const told = [...items.values()].filter((event) => event.regarding.name === "followed");
      const said = told.filter((event) => event.regarding.kind === "LLMCluster").map((event) => event.reason);
      return said.includes("MembersNotReady") ? said : undefined;
    });
    await events.stop();
    expect(reasons).toEqual(expect.arrayContaining(["WaitingForPlacement", "AllMembersReady"]));
    expect(reasons.filter((reason) => reason === "AllMembersReady")).toHaveLength(1);
  });

  test("a settled instance causes no writes, also not from an operator that starts anew", async () => {
    await ready("idle", { resources: { requests: { cpu: "2" } } });
    // The API server stores 2000m as 2: the object never looks like what was asked for.
    await ready("odd", { resources: { requests: { cpu: "2000m" } } });
    const objects = [...(await wantedFor("idle")), ...(await wantedFor("odd"))];
    const stored = async () => (await Promise.all(objects.map(live))).map(withoutStatus);
    const before = await stored();
    await operator.stop();
    writes.length = 0;
    operator = start();
    await operator.synced;
    // Another look at what has not changed; by the time an instance that comes later is ready, it has been taken.
    for (const name of ["idle", "odd"]) {
      await patch(clusterPath(name), { metadata: { annotations: { touched: "yes" } } });
    }
    await ready("marker");
    expect(writes.filter((write) => write.includes("/idle"))).toEqual([]);
    expect(writes.filter((write) => write.includes("/odd")).length).toBeLessThanOrEqual(1);
    expect(await stored()).toEqual(before);
  });

  test("what somebody edits or deletes is put back, without disturbing the pods", async () => {
    const pods = await ready("healed");
    const set = pathOf("StatefulSet", "healed");
    await patch(set, { spec: { replicas: 3 } });
    await followed.sets.until("replicas are 2 again", (items) => {
      const found = items.get(`${namespace}/healed`);
      return found?.spec.replicas === 2 && (found.metadata.generation ?? 0) >= 3 ? found : undefined;
    });
    const images = (found: StatefulSet | undefined) =>
      (found?.spec.template.spec.containers as { image?: string }[] | undefined)?.map(({ image }) => image);
    const edited = await admin.request<AnyObject>("PATCH", set, {
      contentType: "application/strategic-merge-patch+json",
      body: { spec: { template: { spec: { containers: [{ name: "server", image: "other:1" }] } } } },
    });
    await followed.sets.until("the image is ours again", (items) => {
      const found = items.get(`${namespace}/healed`);
      const isLater = (found?.metadata.generation ?? 0) > (edited.metadata.generation ?? 0);
      return isLater && images(found)?.[0] === "vllm:v1" ? found : undefined;
    });

    const services = await follow<AnyObject>(admin, resourcePath(ownedKinds.Service));
    const service = await patch(pathOf("Service", "healed"), {
      spec: { ports: [{ name: "http", port: 81, targetPort: 8000 }] },
    });
    const mended = await services.until("the Service's port is ours again", (items) => {
      const found = items.get(`${namespace}/healed`);
      const [port, ...more] = (found?.spec?.["ports"] ?? []) as { port: number }[];
      return isSince(found, service) && port?.port === 80 && more.length === 0 ? found : undefined;
    });
    expect(mended.metadata.uid).toBe(service.metadata.uid);
    await services.stop();

    const budgets = await follow<AnyObject>(admin, resourcePath(ownedKinds.PodDisruptionBudget));
    const budget = budgets.items.get(`${namespace}/healed`);
    await admin.request("DELETE", pathOf("PodDisruptionBudget", "healed"));
    await budgets.until("the budget is there again", (items) => {
      const found = items.get(`${namespace}/healed`);
      return found !== undefined && found.metadata.uid !== budget?.metadata.uid ? found : undefined;
    });
    const path = pathOf("PodDisruptionBudget", "healed");
    const bare = await patch(path, { metadata: { labels: { "serving.ai/llm-cluster": null } } });
    await budgets.until("its label is there again", (items) => {
      const found = items.get(`${namespace}/healed`);
      return isSince(found, bare) && found?.metadata.labels?.["serving.ai/llm-cluster"] === "healed" ? true : undefined;
    });
    await patch(clusterPath("healed"), { spec: { podDisruptionBudget: { enabled: false } } });
    await budgets.until("a budget that is switched off is gone", (items) =>
      items.has(`${namespace}/healed`) ? undefined : true,
    );
    await budgets.stop();

    const after = await members("healed", "exist", (pod) => pod.metadata.deletionTimestamp === undefined);
    expect(after.map((pod) => pod.metadata.uid)).toEqual(pods.map((pod) => pod.metadata.uid));
  });

  test("another image or other devices replace all members together, once", async () => {
    const old = await ready("rolled");
    const templateOf = (pod: Pod | undefined) => pod?.spec.resourceClaims?.[0]?.resourceClaimTemplateName ?? "";
    const oldTemplate = templateOf(old[0]);
    await patch(clusterPath("rolled"), { spec: { image: "vllm:v2", devices: { selectors: ["true"] } } });
    // There is no kubelet, so pods on a node stay until they are deleted by force.
    const leaving = await members(
      "rolled",
      "all are on their way out",
      (pod) => pod.metadata.deletionTimestamp !== undefined,
    );
    expect(leaving.map((pod) => pod.metadata.uid)).toEqual(old.map((pod) => pod.metadata.uid));
    await reason("rolled", "Progressing", "CreatingPods");
    // The first replacement runs while the other old pod is still leaving: it must be left alone.
    const force = (pod: Pod) =>
      admin.request("DELETE", podPath(pod.metadata.name), { query: { gracePeriodSeconds: 0 } });
    await force(leaving[0]!);
    const isNew = (pod: Pod | undefined) => old.every((other) => other.metadata.uid !== pod?.metadata.uid);
    const early = await followed.pods.until("the first replacement", (items) => {
      const pod = items.get(`${namespace}/rolled-0`);
      return pod !== undefined && isNew(pod) ? pod : undefined;
    });
    expect(await get(pathOf("ResourceClaimTemplate", oldTemplate)), "in use by the pod that leaves").toBeDefined();
    await force(leaving[1]!);
    const made = await members("rolled", "replaced", isNew);
    expect(made[0]?.metadata.uid).toBe(early.metadata.uid);
    const set = await admin.request<StatefulSet>("GET", pathOf("StatefulSet", "rolled"));
    for (const [rank, pod] of made.entries()) {
      expect(pod.metadata.labels?.[revisionLabel]).toBe(set.status?.updateRevision);
      expect(templateOf(pod)).not.toBe(oldTemplate);
      await bind(pod, `node-${rank}`);
      await setReady(pod, "True");
    }
    const status = await reason("rolled", "Progressing", "Complete");
    expect(status.ready).toBe("2/2");
    const templates = await follow<AnyObject>(admin, resourcePath(ownedKinds.ResourceClaimTemplate));
    await templates.until("the old claim template is gone", (items) =>
      items.has(`${namespace}/${oldTemplate}`) ? undefined : true,
    );
    await templates.stop();
    const final = await members("rolled", "exist", (pod) => pod.metadata.deletionTimestamp === undefined);
    expect(final.map((pod) => pod.metadata.uid)).toEqual(made.map((pod) => pod.metadata.uid));
  });

  test("an object that cannot work says which field and what to do", async () => {
    await expect(create("a".repeat(53))).rejects.toThrow(/its name has at most 52 characters/);
    await expect(create("uneven", { gpusPerPod: 3 })).rejects.toThrow(/8 is not 2 × 3 = 6; change one of the three/);

    await create("bad-cel", { devices: { selectors: ["device.nonsense &&"] } });
    const refused = await reason("bad-cel", "Degraded", "InvalidSpec");
    expect(message(refused, "Degraded")).toMatch(
      /^ResourceClaimTemplate [^\n]* is invalid: [\s\S]*; change spec\.devices [^\n]*of the LLMCluster$/,
    );
    expect(await get(pathOf("StatefulSet", "bad-cel"))).toBeUndefined();
    await patch(clusterPath("bad-cel"), { spec: { devices: { selectors: ["true"] } } });
    await reason("bad-cel", "Degraded", "AsExpected");
  });

  test("an object of somebody else is left alone, and taken note of", async () => {
    const service = {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "taken", namespace },
      spec: { ports: [{ port: 1234 }] },
    };
    await admin.request("POST", resourcePath({ ...ownedKinds.Service, namespace }), { body: service });
    await create("taken");
    const status = await reason("taken", "Degraded", "NameConflict");
    expect(message(status, "Degraded")).toMatch(
      /^Service serving\/taken exists and does not belong to LLMCluster taken/,
    );
    expect(await get(pathOf("Service", "taken"))).toMatchObject({ spec: { ports: [{ port: 1234 }] } });
    await admin.request("DELETE", pathOf("Service", "taken"));
    await reason("taken", "Degraded", "AsExpected");
    expect(await get(pathOf("Service", "taken"))).toMatchObject({ spec: { ports: [{ port: 80 }] } });
  });

  test("an instance that does not become Ready in time is Degraded, and recovers", async () => {
    await create("late", { startupTimeoutSeconds: 1 });
    const status = await reason("late", "Degraded", "StartupTimeout");
    expect(message(status, "Degraded")).toMatch(/^Startup timeout: not Ready within 1 s; 0 of 2 pods are ready/);
    for (const [rank, pod] of (await members("late", "exist", () => true)).entries()) {
      await bind(pod, `node-${rank}`);
      await setReady(pod, "True");
    }
    await reason("late", "Degraded", "AsExpected");
  });

  test("a deleted LLMCluster takes everything with it", async () => {
    await create("gone");
    await reason("gone", "Progressing", "WaitingForPlacement");
    const objects = await wantedFor("gone");
    await admin.request("DELETE", clusterPath("gone"));
    for (const kind of new Set(objects.map((object) => object.kind as OwnedKind))) {
      const collection = await follow<AnyObject>(admin, resourcePath(ownedKinds[kind]));
      await collection.until(`no ${kind} is left`, (items) =>
        [...items.values()].some((object) => object.metadata.labels?.["serving.ai/llm-cluster"] === "gone")
          ? undefined
          : true,
      );
      await collection.stop();
    }
    await followed.pods.until("no pod is left", (items) => (items.has(`${namespace}/gone-0`) ? undefined : true));
    expect(defects).toEqual([]);
  });
});
