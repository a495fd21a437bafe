import { request } from "undici";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { type BindRequest, buildServer, type ExtenderBackend } from "../../../src/extender/server.ts";

/** What reached the backend: nothing may, of a request that is refused. */
let asked: unknown[] = [];
let backend: ExtenderBackend;
let app: ReturnType<typeof buildServer>;

beforeEach(() => {
  asked = [];
  backend = {
    bind: async (call) => {
      asked.push(call);
      return call.podUid === "refused" ? "the gang is not complete" : undefined;
    },
    plannedNode: (podUid) => {
      asked.push(podUid);
      return podUid === "unplanned" ? { refusal: "the gang of this pod is not placed yet" } : { node: "n2" };
    },
    ready: () => ({ ready: false, reason: "not synced: pods" }),
  };
  // Looked up at each call, so that a test may replace a method.
  const current: ExtenderBackend = {
    bind: (...call) => backend.bind(...call),
    plannedNode: (podUid) => backend.plannedNode(podUid),
    ready: () => backend.ready(),
  };
  app = buildServer(current, createPlannerMetrics());
});

afterEach(() => app.close());

async function post(path: string, payload: string | object, contentType = "application/json") {
  const answer = await app.inject({ method: "POST", url: path, headers: { "content-type": contentType }, payload });
  return { status: answer.statusCode, body: answer.json() as Record<string, unknown> };
}

const pod = { metadata: { uid: "u", name: "p", namespace: "n" } };
const bindArgs = { PodName: "p", PodNamespace: "n", PodUID: "u", Node: "n2" };

describe("hostile or broken requests get a 4xx with a reason and reach nobody", () => {
  test.each<[string, string, string | object, number, RegExp]>([
    ["no JSON", "/bind", "{", 400, /JSON/],
    ["no body", "/bind", "", 400, /Body cannot be empty/],
    ["a list", "/bind", [], 400, /expected object/],
    ["null", "/filter", "null", 400, /expected object/],
    ["a prototype", "/bind", `{"__proto__":{"PodUID":"u"}}`, 400, /prototype|JSON/],
    ["no UID", "/bind", { ...bindArgs, PodUID: undefined }, 400, /poduid/],
    ["an empty UID", "/bind", { ...bindArgs, PodUID: "" }, 400, /poduid/],
    ["a UID of another type", "/filter", { Pod: { metadata: { uid: 7 } }, NodeNames: [] }, 400, /uid/],
    ["a long UID", "/filter", { Pod: { metadata: { uid: "u".repeat(129) } }, NodeNames: [] }, 400, /uid/],
    ["a long node name", "/bind", { ...bindArgs, Node: "n".repeat(254) }, 400, /node/],
    ["no node names", "/filter", { Pod: pod, Nodes: { items: [] } }, 400, /nodenames/],
    ["too many nodes", "/filter", { Pod: pod, NodeNames: Array(200_001).fill("n") }, 400, /nodenames/],
    ["no pod", "/preempt", {}, 400, /pod/],
    ["an unknown path", "/unbind", bindArgs, 404, /known: \/filter/],
    ["a long path", `/${"x".repeat(5_000)}`, bindArgs, 404, /no such path/],
    ["9 MiB", "/bind", { ...bindArgs, Node: "n".repeat(9 * 2 ** 20) }, 413, /large/i],
  ])("%s", async (_title, path, payload, status, reason) => {
    const answer = await post(path, payload);
    expect(answer).toMatchObject({ status, body: { error: expect.stringMatching(reason) } });
    expect(String(answer.body["error"]).length).toBeLessThan(1_000);
    expect(asked).toEqual([]);
  });

  test.each(["text/plain", "application/x-www-form-urlencoded"])("content type %s", async (type) => {
    expect(await post("/bind", JSON.stringify(bindArgs), type)).toMatchObject({ status: 415 });
    expect(asked).toEqual([]);
  });

  test("another method", async () => {
    expect((await app.inject({ method: "GET", url: "/bind" })).statusCode).toBe(404);
  });
});

test("a fault says nothing of its inside", async () => {
  backend.bind = async () => {
    throw new Error("token abc");
  };
  expect(await post("/bind", bindArgs)).toEqual({
    status: 500,
    body: { error: "internal error; see the planner's log" },
  });
});

describe("the four verbs", () => {
  test("bind takes keys as Go writes them or in lower case, and hands on what identifies the pod", async () => {
    const call: BindRequest = { podName: "p", podNamespace: "n", podUid: "u", node: "n2" };
    expect(await post("/bind", bindArgs)).toEqual({ status: 200, body: { Error: "" } });
    const lower = { podname: "p", podnamespace: "n", poduid: "u", node: "n2", more: "is ignored" };
    expect(await post("/bind", lower)).toEqual({ status: 200, body: { Error: "" } });
    expect(asked).toEqual([call, call]);
  });

  test("a refused bind is an answer, not a failure of the call", async () => {
    const refused = await post("/bind", { ...bindArgs, PodUID: "refused" });
    expect(refused).toEqual({ status: 200, body: { Error: "the gang is not complete" } });
  });

  test("filter keeps the planned node alone; preemption cannot help on the others", async () => {
    const { body } = await post("/filter", { Pod: pod, NodeNames: ["n1", "n2", "n3"] });
    expect(body).toMatchObject({ NodeNames: ["n2"], FailedNodes: {}, Error: "" });
    expect(Object.keys(body["FailedAndUnresolvableNodes"] as object)).toEqual(["n1", "n3"]);
    expect(asked).toEqual(["u"]);
  });

  test("filter keeps no node when the planned one is not offered, or there is none", async () => {
    expect((await post("/filter", { Pod: pod, NodeNames: ["n1"] })).body).toMatchObject({ NodeNames: [] });
    const unplanned = { Pod: { metadata: { uid: "unplanned" } }, NodeNames: ["n1", "n2"] };
    const refusal = "the gang of this pod is not placed yet";
    expect((await post("/filter", unplanned)).body).toMatchObject({
      NodeNames: [],
      FailedAndUnresolvableNodes: { n1: refusal, n2: refusal },
    });
  });

  test("a node's name may be any word of JavaScript", async () => {
    const NodeNames = ["constructor", "toString", "n2"];
    const { body } = await post("/filter", { Pod: pod, NodeNames });
    expect(Object.keys(body["FailedAndUnresolvableNodes"] as object)).toEqual(["constructor", "toString"]);
  });

  test("prioritize prefers the planned node", async () => {
    const { body } = await post("/prioritize", { Pod: pod, NodeNames: ["n1", "n2"] });
    expect(body).toEqual([
      { Host: "n1", Score: 0 },
      { Host: "n2", Score: 10 },
    ]);
  });

  test("preempt is a veto", async () => {
    const NodeNameToMetaVictims = { n1: { Pods: [{ UID: "v" }], NumPDBViolations: 0 } };
    const answer = await post("/preempt", { Pod: pod, NodeNameToMetaVictims });
    expect(answer).toEqual({ status: 200, body: { NodeNameToMetaVictims: {} } });
  });
});

test("a caller that hangs up is told to the backend, so that it leaves the barrier", async () => {
  const held = Promise.withResolvers<AbortSignal>();
  const left = Promise.withResolvers<void>();
  backend.bind = (_call, signal) => {
    held.resolve(signal);
    return new Promise((resolve) =>
      signal.addEventListener("abort", () => {
        left.resolve();
        resolve("the call was given up");
      }),
    );
  };
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  const caller = new AbortController();
  const body = JSON.stringify(bindArgs);
  const headers = { "content-type": "application/json" };
  const call = request(`${url}/bind`, { method: "POST", headers, body, signal: caller.signal });
  expect((await held.promise).aborted).toBe(false);
  caller.abort();
  await expect(call).rejects.toThrow();
  await left.promise;
});

test("health, readiness with its reason, metrics", async () => {
  const get = (url: string) => app.inject({ method: "GET", url });
  expect((await get("/healthz")).statusCode).toBe(200);
  expect(await get("/readyz").then((a) => [a.statusCode, a.json()])).toEqual([
    503,
    { status: "not ready", reason: "not synced: pods" },
  ]);
  await post("/bind", bindArgs);
  await post("/bind", "{");
  await post("/bind", { ...bindArgs, PodUID: "refused" });
  const metrics = (await get("/metrics")).body;
  for (const outcome of ["ok", "invalid", "refused"]) {
    expect(metrics).toContain(`kllama_extender_requests_total{verb="bind",outcome="${outcome}"} 1`);
  }
});
