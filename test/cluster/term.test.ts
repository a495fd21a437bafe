import { isDeepStrictEqual } from "node:util";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KubernetesObject, Pod, ResourceClaim } from "../../src/api/kubernetes.ts";
import { driverName, gangLabel, plannerName } from "../../src/api/names.ts";
import type { PlannerTermSpec } from "../../src/api/planner-term.ts";
import { install } from "../../src/cli/system/system.ts";
import { startPlanner } from "../../src/extender/planner.ts";
import { createFence } from "../../src/extender/term.ts";
import { createClient, isNotFound, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { eventually } from "../../src/kube/eventually.ts";
import { inTerm } from "../../src/kube/field-manager.ts";
import { beginTerm, probeTerm, readHolder } from "../../src/kube/planner-term.ts";
import { policyFault } from "../../src/kube/policy-presence.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import { systemTiming, type Timing } from "../../src/kube/timing.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { createReplicaPod } from "../support/stack.ts";
import { createPolicySubjects, readTable, type Table, tables, type Writer } from "./policy-table.ts";

const dra = "/apis/resource.k8s.io/v1";
const admissionGroup = "/apis/admissionregistration.k8s.io/v1";
const admission = `${admissionGroup}/validatingadmissionpolicies`;
const rbac = "rbac.authorization.k8s.io";
const terms = "/apis/scheduling.kllama.ai/v1alpha1/plannerterms";
const gangs = "/apis/scheduling.kllama.ai/v1alpha1/namespaces/team/gangs";
const claims = `${dra}/namespaces/team/resourceclaims`;
const pods = "/api/v1/namespaces/team/pods";
const replaced = "this planner was replaced";
const dryRun = { dryRun: "All" };

/** A planner as the API server sees it: the account, with a token of its own pod, writing in the term that it began last. */
interface Replica {
  client: KubeClient;
  /** Says nothing of a term. */
  bare: KubeClient;
  holder: string;
  /** 0: it has begun none. */
  epoch: number;
}

let controlPlane: ControlPlane;
let admin: KubeClient;
let replicas: [Replica, Replica];
const open: KubeClient[] = [];

beforeAll(async () => {
  controlPlane = await startControlPlane({ components: [] });
  admin = await clientOf(controlPlane.admin.path);
  await install(admin);
  await waitForPolicies(admin);
  await post("/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: "team" } });
  replicas = [await replica("kllama-planner-0"), await replica("kllama-planner-1")];
  await createSubjects();
});

afterAll(async () => {
  await Promise.all(open.map((client) => client.close()));
  await controlPlane?.stop();
});

describe("a PlannerTerm", () => {
  const change = async (spec: PlannerTermSpec) => {
    const { metadata } = await admin.request<KubernetesObject>("GET", `${terms}/other`);
    return admin.request<{ spec: PlannerTermSpec }>("PUT", `${terms}/other`, { body: term("other", spec, metadata) });
  };

  beforeAll(() => post(terms, term("other", { holder: "a", epoch: 5 })));

  test("names a holder and an epoch from 1", async () => {
    await expect(post(terms, term("none", { holder: "", epoch: 1 }), dryRun)).rejects.toThrow("spec.holder");
    await expect(post(terms, term("none", { holder: "a", epoch: 0 }), dryRun)).rejects.toThrow("spec.epoch");
  });

  test("never goes back, and takes a new holder with a greater epoch only", async () => {
    const over = "a later term has begun: the epoch never falls, and a new holder needs a greater one";
    await expect(change({ holder: "a", epoch: 4 })).rejects.toThrow(over);
    await expect(change({ holder: "b", epoch: 5 })).rejects.toThrow(over);
    await expect(change({ holder: "a", epoch: 6 })).resolves.toMatchObject({ spec: { epoch: 6 } });
    await expect(change({ holder: "b", epoch: 7 })).resolves.toMatchObject({ spec: { holder: "b" } });
  });
});

describe("who we are", () => {
  test("is the pod that the token is bound to", async () => {
    const pod = await admin.request<Pod>("GET", "/api/v1/namespaces/kllama-system/pods/kllama-planner-0");
    const uid = pod.metadata.uid ?? "";
    expect(await readHolder(replicas[0].client)).toEqual({ id: uid, pod: `kllama-planner-0_${uid}` });
  });

  test("is the credential without a pod: two tokens of one account are two holders", async () => {
    const first = await readHolder(await account("kllama-planner"));
    const second = await readHolder(await account("kllama-planner"));
    expect(first).toEqual({ id: expect.stringMatching(/^JTI=/), pod: undefined });
    expect(second.id).not.toBe(first.id);
  });
});

describe("the fence", () => {
  test("without a PlannerTerm lets both planners write, and says that it does not stand", async () => {
    for (const replica of replicas) {
      expect(await outcomes(replica.client)).toEqual(allPass);
      expect(await probeTerm(replica.client, replica)).toEqual({
        kind: "missing",
        message: `there is no PlannerTerm ${plannerName}`,
      });
    }
  });

  test("through twenty changes of leader lets the holder write everything and the other nothing", async () => {
    for (let change = 0; change < 20; change += 1) {
      const leader = replicas[change % 2] as Replica;
      const deposed = replicas[(change + 1) % 2] as Replica;
      await begin(leader);
      expect(leader.epoch).toBe(change + 1);
      await standsFor(leader);
      expect(await outcomes(deposed.client)).toEqual(allRefused);
      expect(await outcomes(leader.client)).toEqual(allPass);
      expect(await probeTerm(deposed.client, deposed)).toEqual({
        kind: "taken",
        message: `term ${leader.epoch} is held by ${leader.holder}`,
      });
    }
  });

  test("lets a planner that was started again in its pod write, and nothing that its predecessor had under way", async () => {
    const [planner] = replicas;
    await begin(planner);
    await standsFor(planner);
    const predecessor = inTerm(planner.bare, () => planner.epoch - 1);
    expect(await outcomes(predecessor)).toEqual({
      ...allRefused,
      // A deletion cannot say of which term it is.
      disruption: "passes",
    });
    expect(await probeTerm(planner.client, { ...planner, epoch: planner.epoch - 1 })).toEqual({
      kind: "taken",
      message: `term ${planner.epoch} of ${planner.holder} is another process's`,
    });
    expect(await outcomes(planner.client)).toEqual(allPass);
  });

  test("lets the holder delete members of gangs, and no other pod", async () => {
    const [{ client }] = replicas;
    await begin(replicas[0]);
    await standsFor(replicas[0]);
    const refused = expect(client.request("DELETE", `${pods}/free`, { query: dryRun })).rejects;
    await refused.toThrow("the planner deletes members of gangs alone");
  });

  test("is not for anybody else: people, other schedulers and other drivers write as ever", async () => {
    await begin(replicas[0]);
    await standsFor(replicas[0]);
    expect(await outcomes(admin, "gpu.nvidia.com")).toEqual(allPass);
    const scheduler = await clientOf((await controlPlane.kubeconfigFor("system:kube-scheduler")).path);
    await expect(allocate(scheduler, "gpu.nvidia.com")).resolves.toBeDefined();
  });

  test("says so when its policy is gone, and follows the term again once it is back", async () => {
    const policy = await admin.request<KubernetesObject>("GET", `${admission}/term.scheduling.kllama.ai`);
    await admin.request("DELETE", `${admission}/term.scheduling.kllama.ai`);
    const [first, second] = replicas;
    await eventually(
      "the probe notices",
      async () =>
        (await probeTerm(first.client, first))?.message.includes("lets everybody write") ? undefined : "not",
      { timeoutMs: 30_000 },
    );
    const { name } = policy.metadata;
    await post(admission, { ...policy, metadata: { name } });
    await standsFor(first);
    await begin(second);
    await standsFor(second);
    expect(await outcomes(first.client)).toEqual(allRefused);
    expect(await outcomes(second.client)).toEqual(allPass);
  });

  test.each([
    [
      "account",
      "its policy",
      "validatingadmissionpolicies",
      undefined,
      /account\S+ is gone, so that any account may allocate devices: apply/,
    ],
    ["account", "its binding", "validatingadmissionpolicybindings", undefined, /account\S+ has no binding of its name/],
    [
      "finalizers",
      "its policy",
      "validatingadmissionpolicies",
      undefined,
      /finalizers\S+ is gone, so that claims that hold/,
    ],
    [
      "slices",
      "its policy",
      "validatingadmissionpolicies",
      undefined,
      /slices\S+ is gone, so that any account may publish/,
    ],
    [
      "extended-resources",
      "its binding",
      "validatingadmissionpolicybindings",
      undefined,
      /extended-resources\S+ has no binding of its name, so that devices may be asked for as extended resources/,
    ],
    [
      "device-classes",
      "its rule that a failure refuses",
      "validatingadmissionpolicies",
      { failurePolicy: "Ignore" },
      /device-classes\S+ has failurePolicy Ignore/,
    ],
    [
      "account",
      "its denial",
      "validatingadmissionpolicybindings",
      { validationActions: ["Warn"] },
      /account\S+ has a binding that does not deny/,
    ],
    [
      "account",
      "some namespaces",
      "validatingadmissionpolicybindings",
      { matchResources: { namespaceSelector: { matchLabels: { tenant: "a" } } } },
      /account\S+ has a binding that is narrowed to some objects/,
    ],
    [
      "account",
      "its drivers",
      "validatingadmissionpolicies",
      {
        variables: [
          { name: "managedDrivers", expression: "['gpu.nvidia.com']" },
          { name: "taken", expression: "['x']" },
        ],
      },
      /account\S+ does not name gpu\.kllama\.ai in its variable managedDrivers/,
    ],
  ] as const)("does not stand where policy %s lacks %s", async (policy, _what, resource, change, said) => {
    const { client } = replicas[0];
    const path = `/apis/admissionregistration.k8s.io/v1/${resource}`;
    const name = `${policy}.scheduling.kllama.ai`;
    expect(await policyFault(client, [driverName])).toBeUndefined();
    const object = await admin.request<KubernetesObject & { spec: object }>("GET", `${path}/${name}`);
    await admin.request("DELETE", `${path}/${name}`);
    if (change !== undefined) await post(path, { ...object, metadata: { name }, spec: { ...object.spec, ...change } });
    expect(await policyFault(client, [driverName])).toMatch(said);
    if (change !== undefined) await admin.request("DELETE", `${path}/${name}`);
    await post(path, { ...object, metadata: { name } });
    expect(await policyFault(client, [driverName])).toBeUndefined();
  });

  test("without its kind blocks nobody's claims, and a planner is told what to install", async () => {
    const crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/plannerterms.scheduling.kllama.ai";
    await admin.request("DELETE", crd);
    const [first] = replicas;
    await eventually(
      "the kind is gone",
      () =>
        admin.request("GET", terms).then(
          () => "not",
          (error) => (isNotFound(error) ? undefined : String(error)),
        ),
      { timeoutMs: 30_000 },
    );
    await expect(allocate(admin, "gpu.nvidia.com")).resolves.toBeDefined();
    await expect(beginTerm(first.client, first.holder, 1)).rejects.toThrow("kind PlannerTerm is not installed");
    await install(admin);
    await begin(first);
    await standsFor(first);
    expect(await outcomes(replicas[1].client)).toEqual(allRefused);
  });
});

describe("who may allocate a claim or take its finalizer off", () => {
  const bindings = `${admissionGroup}/validatingadmissionpolicybindings`;
  let writers: Record<Writer, KubeClient>;

  /** Policies are followed a moment after they changed. */
  async function becomes(state: keyof typeof tables): Promise<void> {
    const expected: Table = tables[state];
    let found: Table | string = "nothing";
    const same = async () => {
      // Roles are followed a moment later, too: until then somebody may be refused for another reason.
      found = await readTable(writers).catch(String);
      return isDeepStrictEqual(found, expected) ? undefined : "not yet";
    };
    await eventually(state, same, { timeoutMs: 60_000 }).catch(() => undefined);
    expect(found, state).toEqual(expected);
  }

  beforeAll(async () => {
    const [leader, deposed] = replicas;
    await begin(leader);
    await standsFor(leader);
    await createPolicySubjects(admin, leader.client);
    await bindRole("driver", "cluster-admin", { kind: "ServiceAccount", name: "default", namespace: "team" });
    // Kubernetes' role `edit` is these rights, put together by a controller that does not run here.
    await bindRole("editor", "system:aggregate-to-edit", { apiGroup: rbac, kind: "User", name: "editor" });
    writers = {
      leader: leader.client,
      predecessor: inTerm(leader.bare, () => leader.epoch - 1),
      deposed: deposed.client,
      account: await clientOf((await controlPlane.serviceAccountKubeconfig("team", "default")).path),
      editor: await clientOf((await controlPlane.kubeconfigFor("editor")).path),
      scheduler: await clientOf((await controlPlane.kubeconfigFor("system:kube-scheduler")).path),
    };
  });

  /** Slices, extended resources and DeviceClasses of drivers that kllama does not manage. */
  async function othersPass(): Promise<void> {
    const driver = "gpu.nvidia.com";
    const dra = "/apis/resource.k8s.io/v1";
    const limits = { [`deviceclass.resource.kubernetes.io/${driver}`]: "1", "nvidia.com/gpu": "1" };
    const pool = { name: "n", generation: 1, resourceSliceCount: 1 };
    const objects: [path: string, body: object][] = [
      [`${dra}/resourceslices`, { metadata: { name: "theirs" }, spec: { driver, nodeName: "n", pool, devices: [] } }],
      [`${dra}/deviceclasses`, { metadata: { name: driver }, spec: { extendedResourceName: "nvidia.com/gpu" } }],
      [
        "/api/v1/namespaces/team/pods",
        { metadata: { name: "theirs" }, spec: { containers: [{ name: "c", image: "i", resources: { limits } }] } },
      ],
    ];
    for (const [path, body] of objects) {
      await expect(admin.request("POST", path, { query: { dryRun: "All" }, body }), path).resolves.toBeDefined();
    }
  }

  test("with all installed, with all policies deleted and created again, and without one binding", async () => {
    await becomes("installed");
    await othersPass();
    await deletePolicies();
    await becomes("without policies");
    await othersPass();
    await install(admin);
    await becomes("installed");
    await waitForPolicies(admin);
    await othersPass();
    await admin.request("DELETE", `${bindings}/account.scheduling.kllama.ai`);
    await becomes("without the binding of policy account");
    await install(admin);
    await becomes("installed");
  });

  test("under another holder's PlannerTerm", async () => {
    await beginTerm(admin, "somebody-else", 1);
    await becomes("under another holder's PlannerTerm");
    await begin(replicas[0]);
    await becomes("installed");
  });

  test("without PlannerTerm, which its leader begins anew", async () => {
    const [leader] = replicas;
    const { bare: client, holder } = leader;
    await admin.request("DELETE", `${terms}/${plannerName}`);
    await becomes("without PlannerTerm");
    const hurried = (ms: number, signal: AbortSignal) => systemTiming.sleep(Math.min(ms, 100), signal);
    const timing = { ...systemTiming, sleep: hurried };
    const fence = createFence({ client, holder, log: { info: () => undefined, warn: () => undefined }, timing });
    const closing = new AbortController();
    await fence.raise(closing.signal, () => true, false);
    leader.epoch = fence.epoch() ?? 0;
    const { metadata } = await admin.request<KubernetesObject>("GET", `${terms}/${plannerName}`);
    await admin.request("DELETE", `${terms}/${plannerName}`);
    const another = async () =>
      (await probeTerm(client, leader))?.message ??
      ((await admin.request<KubernetesObject>("GET", `${terms}/${plannerName}`)).metadata.uid === metadata.uid
        ? "it is the old one"
        : undefined);
    await eventually("a term is begun anew", another, { timeoutMs: 30_000 });
    await becomes("installed");
    closing.abort();
  });
});

describe("a planner that leads", () => {
  const silent = pino({ level: "silent" });
  const put = (path: string) => async (object: KubernetesObject) => {
    await post(path, { ...object, metadata: { name: object.metadata.name } });
  };
  const bindings = `${admissionGroup}/validatingadmissionpolicybindings`;
  const faults = [
    {
      path: `${admission}/term.scheduling.kllama.ai`,
      reason: "policy term.scheduling.kllama.ai lets everybody write: apply deploy/policies.yaml",
      repair: put(admission),
    },
    {
      path: `${bindings}/account.scheduling.kllama.ai`,
      reason:
        "policy account.scheduling.kllama.ai has no binding of its name, so that any account may allocate devices",
      repair: put(bindings),
    },
    // Its leader begins it anew itself.
    {
      path: `${terms}/${plannerName}`,
      reason: `there is no PlannerTerm ${plannerName}`,
      repair: async () => undefined,
    },
  ];

  test("says in /readyz what of its fence is gone, and is ready again once it is back; it ends when somebody takes its term", async () => {
    const [{ bare: client, holder }] = replicas;
    const { timing, probe } = probesWhenTold();
    const lost: string[] = [];
    const planner = await startPlanner({
      client,
      log: silent,
      identity: holder,
      fence: createFence({ client, holder, policyFault: () => policyFault(client, [driverName]), log: silent, timing }),
      namespace: "kllama-system",
      listen: { host: "127.0.0.1", port: 0 },
      onLost: (why) => lost.push(why),
    });
    /** Policies are followed a moment after they changed. */
    const becomes = async (status: number, reason: string): Promise<void> =>
      eventually(
        `readyz: ${status} ${reason}`,
        async () => {
          await probe();
          const response = await fetch(`${planner.url}/readyz`);
          const text = await response.text();
          return response.status === status && text.includes(reason) ? undefined : `${response.status} ${text}`;
        },
        { timeoutMs: 30_000 },
      );
    try {
      await becomes(200, "planning");
      for (const { path, reason, repair } of faults) {
        const object = await admin.request<KubernetesObject>("GET", path);
        await admin.request("DELETE", path);
        await becomes(503, reason);
        await repair(object);
        await becomes(200, "planning");
      }
      expect(lost).toEqual([]);
      const { epoch } = await beginTerm(admin, "somebody-else", 1);
      await becomes(503, `term ${epoch} is held by somebody-else`);
      expect(lost).toEqual([
        expect.stringContaining("PlannerTerm kllama-planner was taken although the Lease is ours"),
      ]);
    } finally {
      await planner.stop();
    }
  });
});

/** Time for a fence that goes on, from one probe to the end of the next, when it is told to. */
function probesWhenTold(): { timing: Timing; probe(): Promise<void> } {
  let asleep = Promise.withResolvers<() => void>();
  const sleep = (_ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
      asleep.resolve(resolve);
    });
  async function probe(): Promise<void> {
    const wake = await asleep.promise;
    asleep = Promise.withResolvers();
    wake();
    await asleep.promise;
  }
  return { timing: { ...systemTiming, sleep }, probe };
}

const allPass = {
  claim: "passes",
  finalizer: "passes",
  gang: "passes",
  release: "passes",
  binding: "passes",
  eviction: "passes",
  disruption: "passes",
};
const allRefused = Object.fromEntries(Object.keys(allPass).map((write) => [write, "refused"]));

/** Tries every write that a planner makes, as dry runs. */
async function outcomes(client: KubeClient, driver = "gpu.kllama.ai"): Promise<Record<string, string>> {
  const strategic = { contentType: "application/strategic-merge-patch+json", query: dryRun };
  const lift = { spec: { schedulingGates: [{ $patch: "delete", name: "scheduling.kllama.ai/gang" }] } };
  const { metadata, spec } = await admin.request<KubernetesObject & { spec: object }>("GET", `${gangs}/g`);
  const binding = { apiVersion: "v1", kind: "Binding", metadata: { name: "free" }, target: { name: "node-0" } };
  const eviction = { apiVersion: "policy/v1", kind: "Eviction", metadata: { name: "member" } };
  const attempts = {
    claim: () => allocate(client, driver),
    finalizer: () =>
      client.request("PATCH", `${claims}/c`, {
        query: dryRun,
        body: { metadata: { finalizers: ["resource.kubernetes.io/delete-protection", "example.com/x"] } },
      }),
    gang: () =>
      client.request("PUT", `${gangs}/g/status`, {
        query: dryRun,
        body: { ...gang("g"), metadata, spec, status: { phase: "Pending" } },
      }),
    release: () => client.request("PATCH", `${pods}/member`, { ...strategic, body: lift }),
    binding: () => client.request("POST", `${pods}/free/binding`, { query: dryRun, body: binding }),
    eviction: () => client.request("POST", `${pods}/member/eviction`, { query: dryRun, body: eviction }),
    disruption: () => client.request("DELETE", `${pods}/member`, { query: dryRun }),
  };
  const results: Record<string, string> = {};
  for (const [name, attempt] of Object.entries(attempts)) {
    results[name] = await attempt().then(
      () => "passes",
      (error: Error) => (error.message.includes(replaced) ? "refused" : error.message),
    );
  }
  return results;
}

function allocate(client: KubeClient, driver: string): Promise<ResourceClaim> {
  const results = [{ request: "gpu", driver, pool: "node-0", device: "gpu-0" }];
  return client.request("PATCH", `${claims}/c/status`, {
    query: dryRun,
    body: { status: { allocation: { devices: { results } } } },
  });
}

/** It writes in this term from now on, which the policy follows a moment later. */
async function begin(replica: Replica): Promise<void> {
  replica.epoch = (await beginTerm(replica.client, replica.holder, 1)).epoch;
}

async function standsFor(replica: Replica): Promise<void> {
  await eventually("the fence stands", async () => (await probeTerm(replica.client, replica))?.message, {
    timeoutMs: 30_000,
  });
}

/** A claim to allocate, a Gang to write, a gated member to release, and a pod without a gate to bind. */
async function createSubjects(): Promise<void> {
  const requests = [{ name: "gpu", exactly: { deviceClassName: "gpu.kllama.ai" } }];
  await post(claims, {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaim",
    metadata: { name: "c" },
    spec: { devices: { requests } },
  });
  await post(gangs, gang("g"));
  const spec = { serviceAccountName: "default", automountServiceAccountToken: false };
  const containers = [{ name: "c", image: "i" }];
  await post("/api/v1/namespaces/team/serviceaccounts", {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: { name: "default" },
  });
  for (const [name, labels] of [
    ["member", { [gangLabel]: "g" }],
    ["free", {}],
  ] as const) {
    await post(pods, { apiVersion: "v1", kind: "Pod", metadata: { name, labels }, spec: { ...spec, containers } });
  }
}

/** All of deploy/policies.yaml. */
async function deletePolicies(): Promise<void> {
  const kinds = ["validatingadmissionpolicies", "mutatingadmissionpolicies"];
  for (const collection of [...kinds, ...kinds.map((kind) => kind.replace(/ies$/, "ybindings"))]) {
    const path = `${admissionGroup}/${collection}`;
    const { items } = await admin.request<{ items: KubernetesObject[] }>("GET", path);
    const ours = items.filter(({ metadata }) => metadata.name.endsWith(".scheduling.kllama.ai"));
    expect(ours.length).toBeGreaterThan(0);
    for (const { metadata } of ours) await admin.request("DELETE", `${path}/${metadata.name}`);
  }
}

async function bindRole(name: string, role: string, subject: object): Promise<void> {
  await post(`/apis/${rbac}/v1/clusterrolebindings`, {
    apiVersion: `${rbac}/v1`,
    kind: "ClusterRoleBinding",
    metadata: { name },
    roleRef: { apiGroup: rbac, kind: "ClusterRole", name: role },
    subjects: [subject],
  });
}

function gang(name: string): object {
  return {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "Gang",
    metadata: { name, namespace: "team" },
    spec: { podSets: [{ name: "ranks", count: 1 }] },
  };
}

function term(name: string, spec: PlannerTermSpec, metadata: object = {}): object {
  return {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "PlannerTerm",
    metadata: { ...metadata, name },
    spec,
  };
}

async function replica(name: string): Promise<Replica> {
  const pod = await createReplicaPod(admin, name);
  const { path } = await controlPlane.serviceAccountKubeconfig("kllama-system", "kllama-planner", { pod });
  const bare = await clientOf(path);
  const self: Replica = { client: inTerm(bare, () => self.epoch), bare, holder: pod.uid, epoch: 0 };
  return self;
}

async function account(name: string): Promise<KubeClient> {
  return clientOf((await controlPlane.serviceAccountKubeconfig("kllama-system", name)).path);
}

async function clientOf(kubeconfigPath: string): Promise<KubeClient> {
  const client = createClient(await loadConnection({ kubeconfigPath }));
  open.push(client);
  return client;
}

function post(path: string, body: object, query = {}): Promise<KubernetesObject> {
  return admin.request("POST", path, { body, query });
}
