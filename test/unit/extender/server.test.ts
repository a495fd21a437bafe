import { connect } from "node:net";
import process from "node:process";
import type { FastifyInstance } from "fastify";
import { afterEach, describe, expect, test } from "vitest";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { type BindRequest, buildServer, type ExtenderBackend } from "../../../src/extender/server.ts";

/** What the planner was asked, and a bind call that is answered when the test says so. */
function setUp(more: Partial<ExtenderBackend> = {}) {
  const asked: string[] = [];
  const binds: { request: BindRequest; signal: AbortSignal; answer: (error?: string) => void }[] = [];
  const failures: unknown[] = [];
  const backend: ExtenderBackend = {
    bind(request, signal) {
      asked.push(`bind ${request.podUid}`);
      return new Promise((resolve) => binds.push({ request, signal, answer: resolve }));
    },
    plannedNode(podUid) {
      asked.push(`plannedNode ${podUid}`);
      return podUid === "planned" ? { node: "n1" } : { refusal: "the gang of this pod is not placed yet" };
    },
    ready: () => ({ ready: true, reason: "planning" }),
    ...more,
  };
  const metrics = createPlannerMetrics();
  const app = buildServer(backend, metrics, { onError: (error) => failures.push(error) });
  open.push(app);
  return { app, asked, binds, failures, metrics };
}

const open: FastifyInstance[] = [];
afterEach(async () => {
  for (const app of open.splice(0)) await app.close();
});

function post(app: FastifyInstance, url: string, payload: unknown, type = "application/json") {
  const raw = typeof payload === "string" || Buffer.isBuffer(payload);
  return app.inject({
    method: "POST",
    url,
    headers: { "content-type": type },
    payload: raw ? payload : JSON.stringify(payload),
  });
}

const args = (more: object = {}) => ({
  Pod: { metadata: { name: "p", namespace: "d", uid: "planned" } },
  NodeNames: ["n1", "n2"],
  ...more,
});
const bindArgs = (more: object = {}) => ({ PodName: "p", PodNamespace: "d", PodUID: "planned", Node: "n1", ...more });
const deep = (depth: number): string => `${"[".repeat(depth)}${"]".repeat(depth)}`;

interface Hostile {
  body: unknown;
  url?: string;
  type?: string;
  status?: number;
  says: RegExp;
}

const hostile: Record<string, Hostile> = {
  "a null body": { body: "null", says: /invalid filter request/ },
  "an empty body": { body: "", says: /empty|body/i },
  "a body that is no JSON": { body: "{Pod:", says: /JSON/ },
  "a truncated body": { body: '{"Pod":{"metadata"', says: /JSON/ },
  "a list": { body: "[]", says: /invalid filter request/ },
  "a number": { body: "1", says: /invalid filter request/ },
  "a number too large for a double": { body: "1e400", says: /invalid filter request/ },
  "such a number for the nodes": { body: '{"Pod":{"metadata":{"uid":"u"}},"NodeNames":1e400}', says: /nodenames/i },
  "Pod null": { body: args({ Pod: null }), says: /pod/i },
  "no Pod": { body: { NodeNames: ["n1"] }, says: /pod/i },
  "a Pod without metadata": { body: args({ Pod: {} }), says: /metadata/i },
  "a Pod without UID": { body: args({ Pod: { metadata: { name: "p" } } }), says: /uid/i },
  "an empty UID": { body: args({ Pod: { metadata: { uid: "" } } }), says: /uid/i },
  "a UID that is a number": { body: args({ Pod: { metadata: { uid: 7 } } }), says: /uid/i },
  "a UID that is a list": { body: args({ Pod: { metadata: { uid: ["planned"] } } }), says: /uid/i },
  "an endless UID": { body: args({ Pod: { metadata: { uid: "u".repeat(10_000) } } }), says: /uid/i },
  "NodeNames null": { body: args({ NodeNames: null }), says: /nodenames/i },
  "Nodes instead of NodeNames": { body: { Pod: args().Pod, Nodes: { items: [] } }, says: /nodenames/i },
  "NodeNames that is an object": { body: args({ NodeNames: { n1: true } }), says: /nodenames/i },
  "a node name that is null": { body: args({ NodeNames: ["n1", null] }), says: /nodenames/i },
  "a node name that is empty": { body: args({ NodeNames: [""] }), says: /nodenames/i },
  "an endless node name": { body: args({ NodeNames: ["n".repeat(300)] }), says: /nodenames/i },
  "a BOM": { body: `\uFEFF${JSON.stringify(args())}`, says: /JSON|byte order/i },
  "bad UTF-8": {
    body: Buffer.concat([
      Buffer.from('{"Pod":{"metadata":{"uid":"'),
      Buffer.from([0xff, 0xc0, 0x80]),
      Buffer.from('"}},"NodeNames":[]}'),
    ]),
    says: /UTF-8/,
  },
  "a list 100,000 deep": { body: deep(100_000), says: /invalid filter request/ },
  "such a list for the nodes": {
    body: `{"Pod":{"metadata":{"uid":"u"}},"NodeNames":${deep(100_000)}}`,
    says: /nodenames/i,
  },
  __proto__: { body: '{"__proto__":{"metadata":{"uid":"planned"}},"NodeNames":["n1"]}', says: /proto/ },
  __PROTO__: { body: '{"__PROTO__":{"pod":{"metadata":{"uid":"planned"}}},"NodeNames":["n1"]}', says: /pod/i },
  "constructor.prototype": { body: '{"constructor":{"prototype":{"x":1}}}', says: /JSON|prototype/ },
  "9 MiB": { body: `"${"x".repeat(9 * 1024 * 1024)}"`, status: 413, says: /large/i },
  "millions of wrong names": {
    body: `{"Pod":{"metadata":{"uid":"u"}},"NodeNames":[${"1,".repeat(3_000_000)}1]}`,
    says: /nodenames/i,
  },
  "as many wrong names as there may be nodes": {
    body: args({ NodeNames: Array.from({ length: 200_000 }, () => 1) }),
    says: /nodenames/i,
  },
  "text/plain": { body: JSON.stringify(args()), type: "text/plain", status: 415, says: /media type/i },
  "a form": { body: "Pod=1", type: "application/x-www-form-urlencoded", status: 415, says: /media type/i },
  "an unknown path": { body: args(), url: "/evict", status: 404, says: /no such path \/evict; known: \/filter/ },
  "a path with a bad escape": { body: args(), url: "/%E0%A4%A", status: 400, says: /./ },
  "bind: a null body": { body: "null", url: "/bind", says: /invalid bind request/ },
  "bind: no UID": { body: bindArgs({ PodUID: undefined }), url: "/bind", says: /poduid/i },
  "bind: UID null": { body: bindArgs({ PodUID: null }), url: "/bind", says: /poduid/i },
  "bind: no node": { body: bindArgs({ Node: "" }), url: "/bind", says: /node/i },
  "bind: a node that is an object": { body: bindArgs({ Node: { name: "n1" } }), url: "/bind", says: /node/i },
  "prioritize: NodeNames null": { body: args({ NodeNames: null }), url: "/prioritize", says: /nodenames/i },
  "preempt: Pod null": { body: { Pod: null }, url: "/preempt", says: /pod/i },
};

describe("a hostile or broken request gets a 4xx with a JSON reason and reaches nobody", () => {
  for (const [title, { body, url = "/filter", type, status = 400, says }] of Object.entries(hostile)) {
    test(title, async () => {
      const { app, asked, failures } = setUp();
      const before = process.threadCpuUsage();
      const answer = await post(app, url, body, type);
      expect(answer.statusCode).toBe(status);
      expect(answer.headers["content-type"]).toMatch(/^application\/json/);
      expect(answer.json().error).toMatch(says);
      expect(answer.body.length).toBeLessThan(2_000);
      const { user, system } = process.threadCpuUsage(before);
      // Of the core's time, not of the clock's: other programs take theirs.
      expect((user + system) / 1_000).toBeLessThan(2_000);
      expect(asked).toEqual([]);
      expect(failures).toEqual([]);
      expect(Object.prototype).not.toHaveProperty("metadata");
    });
  }

  test("a GET where a POST is expected", async () => {
    const { app, asked } = setUp();
    const answer = await app.inject({ method: "GET", url: "/bind" });
    expect(answer.statusCode).toBe(404);
    expect(asked).toEqual([]);
  });

  test("is counted as invalid, under its verb", async () => {
    const { app, metrics } = setUp();
    await post(app, "/filter", "null");
    await post(app, "/bind", "{");
    const { values } = await metrics.requests.get();
    expect(values.map(({ labels, value }) => [labels.verb, labels.outcome, value])).toEqual([
      ["filter", "invalid", 1],
      ["bind", "invalid", 1],
    ]);
  });
});

describe("a valid request", () => {
  test("may write its keys in any case, as Go reads them", async () => {
    const { app, asked } = setUp();
    const body = { pod: { metadata: { uid: "planned" } }, nodenames: ["n1"] };
    const answer = await post(app, "/filter", body);
    expect(answer.json()).toMatchObject({ NodeNames: ["n1"], Error: "" });
    expect((await post(app, "/filter", { POD: { METADATA: { UID: "planned" } }, nodeNames: ["n1"] })).statusCode).toBe(
      200,
    );
    expect(asked).toEqual(["plannedNode planned", "plannedNode planned"]);
  });

  test("may carry whatever else a pod has, however deep", async () => {
    const { app } = setUp();
    const payload = `{"Pod":{"metadata":{"uid":"planned"},"spec":${deep(5_000)}},"Nodes":null,"NodeNames":["n1"],"x":1e400}`;
    expect((await post(app, "/filter", payload)).json().NodeNames).toEqual(["n1"]);
  });

  test("filter keeps the planned node alone and calls the others unresolvable", async () => {
    const { app } = setUp();
    const answer = await post(app, "/filter", args({ NodeNames: ["n0", "n1", "n2", "n1"] }));
    expect(answer.json()).toEqual({
      NodeNames: ["n1"],
      FailedNodes: {},
      FailedAndUnresolvableNodes: {
        n0: "the gang's plan places this pod on another node",
        n2: "the gang's plan places this pod on another node",
      },
      Error: "",
    });
  });

  test("filter refuses every node while the pod has no place, and says why", async () => {
    const { app } = setUp();
    const answer = await post(app, "/filter", args({ Pod: { metadata: { uid: "other" } } }));
    expect(answer.statusCode).toBe(200);
    expect(answer.json()).toEqual({
      NodeNames: [],
      FailedNodes: {},
      FailedAndUnresolvableNodes: {
        n1: "the gang of this pod is not placed yet",
        n2: "the gang of this pod is not placed yet",
      },
      Error: "",
    });
  });

  test("filter with no node is no error: kube-scheduler asks again", async () => {
    const { app } = setUp();
    const answer = await post(app, "/filter", args({ NodeNames: [] }));
    expect(answer.json()).toEqual({ NodeNames: [], FailedNodes: {}, FailedAndUnresolvableNodes: {}, Error: "" });
  });

  test("filter believes the UID and nothing else that the request says of the pod", async () => {
    const { app, asked } = setUp();
    await post(
      app,
      "/filter",
      args({ Pod: { metadata: { uid: "other", name: "planned", annotations: { uid: "planned" } } } }),
    );
    expect(asked).toEqual(["plannedNode other"]);
  });

  test("filter takes a hundred thousand nodes", async () => {
    const { app } = setUp();
    const payload = JSON.stringify(args({ NodeNames: Array.from({ length: 100_000 }, (_, node) => `node-${node}`) }));
    const answer = await post(app, "/filter", payload);
    expect(Object.keys(answer.json().FailedAndUnresolvableNodes)).toHaveLength(100_000);
  });

  test("prioritize scores the planned node 10 and the others 0", async () => {
    const { app } = setUp();
    const answer = await post(app, "/prioritize", args());
    expect(answer.json()).toEqual([
      { Host: "n1", Score: 10 },
      { Host: "n2", Score: 0 },
    ]);
  });

  test("preempt offers no victims: preemption for members is vetoed", async () => {
    const { app, asked } = setUp();
    const victims = { n1: { Pods: [{ UID: "v" }], NumPDBViolations: 0 } };
    const answer = await post(app, "/preempt", { Pod: args().Pod, NodeNameToMetaVictims: victims });
    expect(answer.json()).toEqual({ NodeNameToMetaVictims: {} });
    expect(asked).toEqual([]);
  });

  for (const [url, body] of Object.entries({
    "/filter": args(),
    "/prioritize": args(),
    "/preempt": args(),
  })) {
    test(`${url} answers with a Content-Length`, async () => {
      const { app } = setUp();
      const answer = await post(app, url, body);
      expect(answer.headers["content-length"]).toBe(String(Buffer.byteLength(answer.body)));
      expect(answer.headers).not.toHaveProperty("transfer-encoding");
    });
  }
});

describe("bind", () => {
  test("is held until the planner answers, then says bound with an empty Error", async () => {
    const { app, binds } = setUp();
    let answered = false;
    const answer = post(app, "/bind", bindArgs()).then((response) => {
      answered = true;
      return response;
    });
    await expect.poll(() => binds.length, { timeout: 10_000 }).toBe(1);
    expect(binds[0]?.request).toEqual({ podName: "p", podNamespace: "d", podUid: "planned", node: "n1" });
    expect(answered).toBe(false);
    binds[0]?.answer();
    const response = await answer;
    expect(response.json()).toEqual({ Error: "" });
    expect(response.headers["content-length"]).toBe(String(response.body.length));
  });

  test("that is refused says why with status 200, as kube-scheduler expects", async () => {
    const { app, binds, metrics } = setUp();
    const answer = post(app, "/bind", bindArgs());
    await expect.poll(() => binds.length, { timeout: 10_000 }).toBe(1);
    binds[0]?.answer("gang d/g was revoked");
    expect((await answer).statusCode).toBe(200);
    expect((await answer).json()).toEqual({ Error: "gang d/g was revoked" });
    expect((await metrics.requests.get()).values[0]?.labels).toEqual({ verb: "bind", outcome: "refused" });
  });

  test("that breaks inside is a 500 which tells nothing, and is reported", async () => {
    const broken = new Error("secret detail");
    const { app, failures } = setUp({ bind: () => Promise.reject(broken) });
    const answer = await post(app, "/bind", bindArgs());
    expect(answer.statusCode).toBe(500);
    expect(answer.body).not.toContain("secret");
    expect(failures).toEqual([broken]);
  });

  test("is given up when kube-scheduler hangs up, and others on the server are not", async () => {
    const { app, binds } = setUp();
    await app.listen({ host: "127.0.0.1", port: 0 });
    const address = app.server.address();
    const port = typeof address === "object" ? (address?.port ?? 0) : 0;
    const call = (uid: string) => {
      const body = JSON.stringify(bindArgs({ PodUID: uid }));
      const socket = connect(port, "127.0.0.1");
      socket.write(
        `POST /bind HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
      return socket;
    };
    const leaving = call("leaving");
    const staying = call("staying");
    await expect.poll(() => binds.length, { timeout: 10_000 }).toBe(2);
    const of = (uid: string) => binds.find(({ request }) => request.podUid === uid);
    const aborted = new Promise((resolve) => of("leaving")?.signal.addEventListener("abort", resolve));
    leaving.destroy();
    await aborted;
    expect(of("staying")?.signal.aborted).toBe(false);
    of("leaving")?.answer("the call was given up");
    of("staying")?.answer();
    const answer = await new Promise<string>((resolve) => staying.once("data", (data) => resolve(String(data))));
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    expect(answer).toContain('{"Error":""}');
    staying.destroy();
  });
});

describe("health", () => {
  test("/healthz and /readyz answer; not ready is a 503 with the reason", async () => {
    const ready = setUp();
    expect((await ready.app.inject({ url: "/healthz" })).json()).toEqual({ status: "ok" });
    expect((await ready.app.inject({ url: "/readyz" })).statusCode).toBe(200);
    const waiting = setUp({ ready: () => ({ ready: false, reason: "not synced: pods" }) });
    const answer = await waiting.app.inject({ url: "/readyz" });
    expect(answer.statusCode).toBe(503);
    expect(answer.json()).toEqual({ status: "not ready", reason: "not synced: pods" });
  });

  test("/metrics is text for Prometheus and counts requests by verb", async () => {
    const { app } = setUp();
    await post(app, "/filter", args());
    const answer = await app.inject({ url: "/metrics" });
    expect(answer.headers["content-type"]).toMatch(/^text\/plain/);
    expect(answer.body).toContain('kllama_extender_requests_total{verb="filter",outcome="ok"} 1');
  });
});
