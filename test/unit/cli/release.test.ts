import { describe, expect, test } from "vitest";
import type { Pod, ResourceClaim, ResourceClaimConsumer } from "../../../src/api/kubernetes.ts";
import { bindMarker, gangGate, gangLabel, schedulingGroup } from "../../../src/api/names.ts";
import { runningPlanner } from "../../../src/cli/release/planner-check.ts";
import { guardRelease, releaseAll } from "../../../src/cli/release/release-all.ts";
import { releasePod } from "../../../src/cli/release/release-pod.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";

const podUser = (uid: string): ResourceClaimConsumer => ({ resource: "pods", name: uid, uid });
const guard: ResourceClaimConsumer = { apiGroup: schedulingGroup, resource: "gangs", name: "g", uid: "gang-uid" };

function claim(name: string, reservedFor: ResourceClaimConsumer[]): ResourceClaim {
  const metadata = { name, namespace: "team", uid: `uid-${name}`, resourceVersion: "5" };
  return { metadata, spec: {}, status: { allocation: {}, reservedFor } };
}

function pod(name: string, more: { gates?: string[]; gang?: string; node?: string; deleting?: boolean } = {}): Pod {
  const { gates = [gangGate], gang, node, deleting } = more;
  const requests = gang === undefined ? {} : { [bindMarker]: "1" };
  return {
    metadata: {
      name,
      namespace: "team",
      uid: `uid-${name}`,
      resourceVersion: "7",
      ...(gang === undefined ? {} : { labels: { [gangLabel]: gang } }),
      ...(deleting === true ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
    },
    spec: {
      containers: [{ name: "main", resources: { requests } }],
      ...(gates.length > 0 ? { schedulingGates: gates.map((gate) => ({ name: gate })) } : {}),
      ...(node === undefined ? {} : { nodeName: node }),
    },
  };
}

interface Call {
  method: string;
  path: string;
  body?: unknown;
}

/** Answers GETs from `objects`, by path, and notes the writes; `refuse` may refuse one. */
function fakeClient(objects: Record<string, unknown>, refuse: (call: Call) => KubeError | undefined = () => undefined) {
  const writes: Call[] = [];
  const client = {
    async request(method: string, path: string, options: { body?: unknown } = {}) {
      const call: Call = { method, path, body: options.body };
      const error = refuse(call);
      if (error !== undefined) throw error;
      if (method !== "GET") {
        writes.push(call);
        return {};
      }
      if (!(path in objects)) throw new KubeError(`${path} not found`, { status: 404, reason: "NotFound" });
      return objects[path];
    },
  } as unknown as KubeClient;
  return { client, writes };
}

const podPath = "/api/v1/namespaces/team/pods/p";
const gangPath = "/apis/scheduling.kllama.ai/v1alpha1/namespaces/team/gangs/g";

describe("a pod is let go", () => {
  test("whose Gang does not exist: gate and label in one write that names what was read", async () => {
    const { client, writes } = fakeClient({ [podPath]: pod("p", { gang: "g" }) });
    expect(await releasePod(client, "team", "p")).toBe(
      "pod team/p is let go: it is no member of Gang g any more, and is scheduled alone\n",
    );
    expect(writes).toEqual([
      {
        method: "PATCH",
        path: podPath,
        body: {
          metadata: { uid: "uid-p", resourceVersion: "7", labels: { [gangLabel]: null } },
          spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] },
        },
      },
    ]);
  });

  test("that was gated for its claims alone; other gates are named", async () => {
    const { client } = fakeClient({ [podPath]: pod("p", { gates: [gangGate, "example.com/quota"] }) });
    expect(await releasePod(client, "team", "p")).toBe("pod team/p is let go\nit is still held by example.com/quota\n");
  });
});

test.for([
  ["that does not exist", {}, "pod team/p does not exist; name its namespace with -n"],
  ["being deleted", { [podPath]: pod("p", { deleting: true }) }, "is being deleted"],
  ["on a node", { [podPath]: pod("p", { node: "n0", gates: [] }) }, "is on node n0 already; nothing holds it"],
  ["without a gate", { [podPath]: pod("p", { gates: [] }) }, "has no scheduling gate; kllama does not hold it"],
  [
    "held by others",
    { [podPath]: pod("p", { gates: ["example.com/quota"] }) },
    "is held by example.com/quota, which kllama did not put there",
  ],
  [
    "of a Gang that exists",
    {
      [podPath]: pod("p", { gang: "g" }),
      [gangPath]: { metadata: { name: "g" }, status: { phase: "Pending", explanation: "1 of 2 pods exist" } },
    },
    "is a member of Gang g (Pending: 1 of 2 pods exist) and goes with it, all or nothing; delete the Gang",
  ],
] as const)("a pod %s is not let go: %j", async ([, objects, message]) => {
  const { client, writes } = fakeClient(objects);
  await expect(releasePod(client, "team", "p")).rejects.toThrow(message);
  expect(writes).toEqual([]);
});

test.for([
  ["no guard", [podUser("bound")], undefined],
  ["a guard and a pod that is bound", [guard, podUser("bound")], { keep: [podUser("bound")] }],
  ["a guard and a pod that waits", [guard, podUser("waiting")], "clear"],
  ["a guard alone", [guard], "clear"],
  [
    "a guard and one of two pods bound",
    [podUser("waiting"), guard, podUser("bound")],
    { keep: [podUser("waiting"), podUser("bound")] },
  ],
  [
    "a guard and a consumer of another kind",
    [guard, { apiGroup: "example.com", resource: "jobs", name: "j", uid: "j" }],
    { keep: [{ apiGroup: "example.com", resource: "jobs", name: "j", uid: "j" }] },
  ],
] as const)("a claim with %s: %j", ([, reservedFor, expected]) => {
  expect(guardRelease(claim("c", [...reservedFor]), (uid) => uid === "bound")).toEqual(expected);
});

describe("everything is let go", () => {
  const lists = {
    "/api/v1/pods": { items: [pod("waits", { gang: "g" }), pod("runs", { gates: [], node: "n0" }), pod("single")] },
    "/apis/resource.k8s.io/v1/resourceclaims": {
      items: [claim("a", [guard, podUser("uid-waits")]), claim("b", [guard, podUser("uid-runs")]), claim("c", [])],
    },
  };

  test("guards before gates, and nothing that runs is touched", async () => {
    const { client, writes } = fakeClient(lists);
    expect(await releaseAll(client)).toEqual({ unguarded: 1, cleared: 1, ungated: 2, marked: 1, failures: [] });
    expect(writes.map(({ path }) => path.replace(/.*namespaces\/team\//, ""))).toEqual([
      "resourceclaims/a/status",
      "resourceclaims/b/status",
      "pods/waits",
      "pods/single",
    ]);
    expect(writes[0]?.body).toMatchObject({ status: { allocation: null, reservedFor: null } });
    expect(writes[1]?.body).toMatchObject({ status: { reservedFor: [podUser("uid-runs")] } });
  });

  test("what is refused is named, and the rest goes on", async () => {
    const { client } = fakeClient(lists, ({ method, path }) =>
      method === "PATCH" && path.includes("resourceclaims/a")
        ? new KubeError("no right to patch", { status: 403, reason: "Forbidden" })
        : undefined,
    );
    expect(await releaseAll(client)).toEqual({
      unguarded: 1,
      cleared: 0,
      ungated: 2,
      marked: 1,
      failures: ["ResourceClaim team/a: no right to patch"],
    });
  });

  test("a claim that changed meanwhile is read and judged anew", async () => {
    const objects = {
      ...lists,
      "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/a": claim("a", [podUser("uid-waits")]),
    };
    let conflicts = 1;
    const { client } = fakeClient(objects, ({ method, path }) =>
      method === "PATCH" && path.includes("resourceclaims/a") && conflicts-- > 0
        ? new KubeError("the object has been modified", { status: 409, reason: "Conflict" })
        : undefined,
    );
    // The planner took the guard off itself: nothing is left to do.
    expect(await releaseAll(client)).toMatchObject({ cleared: 0, unguarded: 1, failures: [] });
  });
});

test.for([
  ["renewed a moment ago", { holderIdentity: "a", renewTime: "2026-01-01T00:00:50Z", leaseDurationSeconds: 15 }, "a"],
  ["that ran out", { holderIdentity: "a", renewTime: "2026-01-01T00:00:30Z", leaseDurationSeconds: 15 }, undefined],
  ["given up", { holderIdentity: "", renewTime: "2026-01-01T00:00:59Z", leaseDurationSeconds: 1 }, undefined],
] as const)("a Lease %s tells who plans", async ([, spec, planner]) => {
  const path = "/apis/coordination.k8s.io/v1/namespaces/kllama-system/leases/kllama-planner";
  const { client } = fakeClient({ [path]: { spec } });
  expect(await runningPlanner(client, "kllama-system", Date.parse("2026-01-01T00:01:00Z"))).toBe(planner);
});

test.for([404, 403])("a Lease answered with %i tells of nobody", async (status) => {
  const { client } = fakeClient({}, () => new KubeError("no", { status, reason: "" }));
  expect(await runningPlanner(client, "kllama-system", 0)).toBeUndefined();
});
