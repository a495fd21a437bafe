import type { FastifyInstance } from "fastify";
import { afterEach, describe, expect, test } from "vitest";
import type { CapacityOutput } from "../../../src/api/capacity.ts";
import { readWork } from "../../../src/cli/capacity/read-work.ts";
import { createCapacityDesk } from "../../../src/extender/capacity-desk.ts";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { buildServer } from "../../../src/extender/server.ts";
import { podRecord } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

const open: FastifyInstance[] = [];
afterEach(async () => {
  for (const app of open.splice(0)) await app.close();
});

/** A planner's door with four nodes of 8 GPUs behind it, of which another tenant has 4 on the first. */
function setUp(more: { notReady?: () => string | undefined; nowMs?: () => number } = {}) {
  const nodes = [0, 1, 2, 3].map((i) => ({ name: `n${i}`, zone: "z", rack: "r", gpus: 8, used: i === 0 ? 4 : 0 }));
  const model = clusterOf(nodes);
  model.upsertPod(podRecord("secret-pod", { namespace: "secret-team", gang: "secret-gang", nodeName: "n0" }));
  model.hold("secret-team/secret-gang", "secret-team", [
    { placed: { pod: "secret-rank", podSet: "secret-set", index: 0, node: "n1", claims: [] }, requests: { cpu: 1000 } },
  ]);
  let nowMs = 0;
  const desk = createCapacityDesk({
    model,
    readWork: async (body) => readWork(body),
    notReady: more.notReady ?? (() => undefined),
    viewAgeMs: () => 1234,
    nowMs: more.nowMs ?? (() => nowMs),
  });
  const metrics = createPlannerMetrics();
  const failures: Error[] = [];
  const backend = {
    bind: async () => undefined,
    plannedNode: () => ({ anyNode: true as const }),
    ready: () => ({ ready: true, reason: "planning" }),
    capacity: desk,
  };
  const app = buildServer(backend, metrics, { onError: (error) => failures.push(error) });
  open.push(app);
  const ask = (payload: unknown, query = "") => {
    const body = typeof payload === "string" ? payload : JSON.stringify(payload);
    return app.inject({
      method: "POST",
      url: `/capacity${query}`,
      headers: { "content-type": "application/json" },
      payload: body,
    });
  };
  return { app, ask, model, metrics, failures, pass: (ms: number) => (nowMs += ms) };
}

const llama = (gpusPerPod = 8, name = "llama") => ({
  apiVersion: "serving.ai/v1alpha1",
  kind: "LLMCluster",
  metadata: { name, namespace: "team-a" },
  spec: { image: "server", tensorParallelSize: 2 * gpusPerPod, replicas: 2, gpusPerPod },
});
const list = (...items: object[]) => ({ apiVersion: "v1", kind: "List", items });

describe("/capacity", () => {
  test("says how often an object fits, where, what is free, and how old that view is", async () => {
    const { ask } = setUp();
    const answer = await ask(llama());
    expect(answer.statusCode).toBe(200);
    const { answers, free, viewAgeMs } = answer.json() as CapacityOutput & { viewAgeMs: number };
    expect(answers).toMatchObject([
      { kind: "LLMCluster", namespace: "team-a", name: "llama", copies: 1, stoppedBy: "room" },
    ]);
    expect(answers[0]!.placements[0]![0]).toMatchObject({ gang: "llama", namespace: "team-a" });
    expect(answers[0]!.placements[0]![0]!.pods.map(({ pod, node }) => [pod, node])).toEqual([
      ["llama-0", "n1"],
      ["llama-1", "n2"],
    ]);
    expect(free).toMatchObject([{ total: 32, free: 28, nodesByFree: { 4: 1, 8: 3 } }]);
    expect(viewAgeMs).toBe(1234);
  });

  test("a GET tells what is free", async () => {
    const { app } = setUp();
    const answer = await app.inject({ method: "GET", url: "/capacity" });
    expect(answer.json()).toMatchObject({ answers: [], free: [{ total: 32, free: 28 }], viewAgeMs: 1234 });
  });

  test("asks for at most as many copies as ?limit says", async () => {
    const { ask } = setUp();
    expect((await ask(llama(1), "?limit=3")).json().answers[0]).toMatchObject({ copies: 3, stoppedBy: "limit" });
  });

  test("tells nothing of who holds the rest, whatever namespace is asked about", async () => {
    const { ask } = setUp();
    const asked = ["secret-team", "team-a"].flatMap((namespace, i) => {
      const { metadata, ...rest } = llama(8, `large-${i}`);
      return [1, 2].map((n) => ({ ...rest, metadata: { ...metadata, name: `${metadata.name}-${n}`, namespace } }));
    });
    const large = asked.map((each) => ({ ...each, spec: { ...each.spec, replicas: 5, tensorParallelSize: 40 } }));
    const answer = await ask(list(...large));
    expect(answer.json().answers).toHaveLength(4);
    for (const { copies } of answer.json().answers) expect(copies).toBe(0);
    expect(answer.body).not.toMatch(/secret-(pod|gang|rank|set)|other-n0/);
  });

  test("leaves no trace in the planner's model", async () => {
    const { ask, model } = setUp();
    const state = () => [
      model.capacityVersion,
      model.view.nodes.map((_, i) => [...model.view.usage(i).used]),
      model.claims.size,
    ];
    const before = state();
    await ask(list(llama(), llama(8, "other")));
    expect(state()).toEqual(before);
  });

  test("is asked once at a time, and gives the planner nine tenths of its time", async () => {
    let nowMs = 0;
    const { ask, metrics } = setUp({ nowMs: () => (nowMs += 10) });
    expect((await ask(llama())).statusCode).toBe(200);
    const took = nowMs;
    const refused = await ask(llama());
    expect([refused.statusCode, refused.headers["retry-after"]]).toEqual([429, "1"]);
    expect(refused.json().error).toMatch(/ask again in 1 s$/);
    nowMs += 9 * took;
    expect((await ask(llama())).statusCode).toBe(200);
    const { values } = await metrics.requests.get();
    expect(values.map(({ labels, value }) => [labels.verb, labels.outcome, value])).toEqual([
      ["capacity", "ok", 2],
      ["capacity", "refused", 1],
    ]);
  });

  test("begins no further copy after its slice of time, and says so", async () => {
    let nowMs = 0;
    const { ask } = setUp({ nowMs: () => (nowMs += 20) });
    expect((await ask(llama(1), "?limit=64")).json().answers[0]).toMatchObject({ stoppedBy: "time" });
  });

  test("is refused by a replica that does not plan", async () => {
    const { ask } = setUp({ notReady: () => "standing by; other plans" });
    const answer = await ask(llama());
    expect([answer.statusCode, answer.json()]).toEqual([503, { error: "standing by; other plans" }]);
  });
});

describe("a question that cannot be answered gets a 4xx with object, field and reason, and is counted as invalid", () => {
  const set = (replicas: number) => ({
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: { name: "s" },
    spec: { replicas, template: { spec: { containers: [{ name: "c" }] } } },
  });
  const deep = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
  const asked: [string, unknown, number, RegExp, string?][] = [
    ["an empty body", "", 400, /empty/],
    ["no JSON", "{", 400, /JSON/],
    ["null", "null", 400, /empty/],
    ["a number", "7", 400, /expected a Kubernetes object/],
    ["no kind", { apiVersion: "v1" }, 400, /kind is missing/],
    [
      "a field that is wrong",
      { ...llama(), spec: { ...llama().spec, replicas: 0 } },
      400,
      /LLMCluster team-a\/llama: spec\.replicas/,
    ],
    [
      "a rule that is broken",
      { ...llama(), spec: { ...llama().spec, replicas: 3 } },
      400,
      /tensorParallelSize must equal/,
    ],
    [
      "a node",
      { apiVersion: "v1", kind: "Node", metadata: { name: "mine" } },
      400,
      /Node mine: the cluster is the planner's own/,
    ],
    ["a billion pods", set(1e9), 400, /spec\.replicas is 1000000000; at most 1024/],
    [
      "too many pods in sum",
      list(set(1000), { ...set(1000), metadata: { name: "t" } }),
      400,
      /2000 pods; at most 1024/,
    ],
    [
      "too many objects",
      list(...Array.from({ length: 65 }, (_, i) => llama(1, `l${i}`))),
      400,
      /65 objects; at most 64/,
    ],
    ["too many questions", list(...Array.from({ length: 17 }, (_, i) => llama(1, `l${i}`))), 400, /17 things/],
    [
      "a depth of 50,000",
      `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":${deep(50_000)}}`,
      400,
      /deeper than 64/,
    ],
    ["300 KiB", `"${"x".repeat(300 * 1024)}"`, 413, /large/i],
    ["a limit of 0", llama(), 400, /limit is not a whole number from 1 to 64/, "?limit=0"],
    ["a limit of many", llama(), 400, /limit is not/, "?limit=1e9"],
    ["two limits", llama(), 400, /limit is not/, "?limit=1&limit=2"],
  ];
  test.for(asked)("%s", async ([, body, status, says, query]) => {
    const { ask, failures, metrics } = setUp();
    const answer = await ask(body, query);
    expect([answer.statusCode, answer.json().error]).toEqual([status, expect.stringMatching(says)]);
    expect(answer.body.length).toBeLessThan(4_000);
    expect(failures).toEqual([]);
    const { values } = await metrics.requests.get();
    expect(values.map(({ labels }) => [labels.verb, labels.outcome])).toEqual([["capacity", "invalid"]]);
  });
});
