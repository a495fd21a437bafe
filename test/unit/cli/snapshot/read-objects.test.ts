import { expect, test } from "vitest";
import { pruned } from "../../../../src/cli/snapshot/prune.ts";
import { readObjects } from "../../../../src/cli/snapshot/read-objects.ts";
import { type KubeClient, KubeError, type RequestOptions } from "../../../../src/kube/client.ts";

type Asked = { path: string; query: NonNullable<RequestOptions["query"]> };

/**
 * An API server with two pods on two pages, a DeviceTaintRule where it has that kind, and nothing else; `refuse` answers a
 * request with an error.
 */
function fakeClient(refuse: (asked: Asked) => KubeError | undefined, rulesIn?: "v1" | "v1beta2") {
  const asked: Asked[] = [];
  const pod = (name: string) => ({ metadata: { name, namespace: "team" }, spec: { containers: [] } });
  const request = async (_method: string, path: string, options: RequestOptions = {}) => {
    const each = { path, query: options.query ?? {} };
    asked.push(each);
    const error = refuse(each);
    if (error !== undefined) throw error;
    const versioned = /^\/apis\/resource\.k8s\.io\/(\w+)$/.exec(path)?.[1];
    if (versioned !== undefined) return { resources: versioned === rulesIn ? [{ name: "devicetaintrules" }] : [] };
    const metadata = { resourceVersion: "7" };
    if (path.endsWith(`/${rulesIn}/devicetaintrules`)) return { metadata, items: [{ metadata: { name: "r" } }] };
    if (path !== "/api/v1/pods") return { metadata, items: [] };
    return each.query["continue"] === undefined
      ? { metadata: { ...metadata, continue: "more" }, items: [pod("b")] }
      : { metadata, items: [pod("a")] };
  };
  return { client: { request } as unknown as KubeClient, asked };
}

const refusal = (status: number) => new KubeError("no", { status, reason: "Refused" });
const names = (objects: { kind: string; metadata: { name: string } }[]) =>
  objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);

test("all kinds are listed at the version of the first, in pages, in order of names", async () => {
  const { client, asked } = fakeClient(() => undefined);
  const { objects, resourceVersion } = await readObjects(client);
  expect([names(objects), resourceVersion]).toEqual([["Pod a", "Pod b"], "7"]);
  const [first, ...others] = asked.filter(({ path }) => !/\/v1(beta2)?$/.test(path));
  expect(first!.query["resourceVersion"]).toBeUndefined();
  expect(others.map(({ path }) => path)).toContain("/apis/policy/v1/poddisruptionbudgets");
  for (const { query } of others) {
    const exactly = { resourceVersion: "7", resourceVersionMatch: "Exact" };
    if (query["continue"] === undefined) expect(query).toMatchObject(exactly);
    else expect(query).not.toHaveProperty("resourceVersionMatch");
  }
});

test.for(["v1", "v1beta2"] as const)(
  "DeviceTaintRules are listed where the API server has them: %s",
  async (version) => {
    const { client } = fakeClient(() => undefined, version);
    const { objects, resourceVersion } = await readObjects(client);
    expect([names(objects), resourceVersion]).toEqual([["DeviceTaintRule r", "Pod a", "Pod b"], "7"]);
    expect(objects[0]!.apiVersion).toBe(`resource.k8s.io/${version}`);
    const { client: without } = fakeClient(({ path }) => (/\/v1beta2$/.test(path) ? refusal(404) : undefined));
    expect(names((await readObjects(without)).objects)).toEqual(["Pod a", "Pod b"]);
  },
);

test("of a rule nothing is kept but what it says", () => {
  const spec = { deviceSelector: { pool: "a" }, taint: { key: "k", effect: "NoSchedule" } };
  const kept = { apiVersion: "resource.k8s.io/v1", kind: "DeviceTaintRule", metadata: { name: "r" }, spec };
  expect(pruned({ ...kept, status: { conditions: [{ message: "3 pods" }] } } as never)).toEqual(kept);
});

test.for([400, 410, 504])("refused with %i: each list is as new as it was read, and that is told", async (status) => {
  const { client } = fakeClient(({ query }) => (query["resourceVersion"] === undefined ? undefined : refusal(status)));
  const { objects, resourceVersion } = await readObjects(client);
  expect([names(objects), resourceVersion]).toEqual([["Pod a", "Pod b"], undefined]);
});

test("a cluster without kllama has no Gangs; other refusals are told", async () => {
  const absent = fakeClient(({ path }) => (path.includes("kllama.ai") ? refusal(404) : undefined));
  expect(names((await readObjects(absent.client)).objects)).toEqual(["Pod a", "Pod b"]);
  const forbidden = fakeClient(({ path }) => (path === "/api/v1/pods" ? refusal(403) : undefined));
  await expect(readObjects(forbidden.client)).rejects.toThrow("no");
});

test("of a pod nothing is kept that may be secret, and all that plans rest on", () => {
  const spec = {
    nodeName: "n",
    priority: 7,
    tolerations: [{ key: "k" }],
    volumes: [{ name: "v", secret: { secretName: "s" } }],
    containers: [
      { name: "c", env: [{ name: "E", value: "x" }], args: ["--token=x"], resources: { requests: { cpu: "1" } } },
    ],
  };
  const annotations = { "kubectl.kubernetes.io/last-applied-configuration": "x", "pod-group-name": "g" };
  const metadata = { name: "p", namespace: "team", uid: "u", annotations, labels: { a: "b" }, managedFields: [{}] };
  expect(
    pruned({ apiVersion: "v1", kind: "Pod", metadata, spec, status: { phase: "Running", podIP: "1" } } as never),
  ).toEqual({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "p", namespace: "team", uid: "u", annotations: { "pod-group-name": "g" }, labels: { a: "b" } },
    spec: {
      nodeName: "n",
      priority: 7,
      tolerations: [{ key: "k" }],
      containers: [{ name: "c", resources: { requests: { cpu: "1" } } }],
    },
    status: { phase: "Running" },
  });
});
