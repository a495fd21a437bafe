import { describe, expect, test } from "vitest";
import { expectedOf, progressOf } from "../../../src/cli/demo/expected.ts";
import { searchStats } from "../../../src/cli/demo/observe.ts";
import { readManifests } from "../../../src/kube/manifests.ts";
import { gangRecord, podRecord } from "./builders.ts";

test("the examples lead to a Gang per LLMCluster and Gang, and to single pods", async () => {
  const expected = expectedOf(await readManifests(["examples"]));
  expect(expected.gangs).toEqual([
    "llama-3-70b/llama-3-70b-a",
    "llama-pd/decode-1",
    "llama-pd/decode-2",
    "llama-pd/decode-3",
    "llama-pd/decode-4",
    "llama-pd/prefill-a",
    "llama-pd/prefill-b",
    "plain/workers",
  ]);
  expect(expected.pods).toEqual(["mig/small-model"]);
  expect([...expected.namespaces]).toEqual(expect.arrayContaining(["mig", "plain", "llama-pd", "llama-3-70b"]));
});

describe("progress", () => {
  const expected = { gangs: ["ns/g"], pods: ["ns/single"], namespaces: new Set(["ns"]) };
  const scheduled = gangRecord("g", [{ name: "workers", count: 2 }], { phase: "Scheduled" });
  const ready = (name: string, more = {}) => podRecord(name, { nodeName: "a", ready: true, ...more });
  const members = [ready("g-0", { gang: "g", index: 0 }), ready("g-1", { gang: "g", index: 1 })];
  const single = ready("single");

  test("has no reasons left when gangs are scheduled and pods ready", () => {
    expect(progressOf(expected, [scheduled], [...members, single])).toEqual({
      reasons: [],
      gangsScheduled: 1,
      podsReady: 3,
      pods: 3,
    });
  });

  test.for([
    { name: "a gang that nobody made", gangs: [], pods: [single], reason: "gang ns/g: does not exist yet" },
    {
      name: "a gang that waits, with its explanation",
      gangs: [gangRecord("g", [{ name: "workers", count: 2 }], { phase: "Pending", explanation: "no rack" })],
      pods: [podRecord("g-0", { gang: "g" }), podRecord("g-1", { gang: "g" }), single],
      reason: "gang ns/g: Pending: no rack; not bound: g-0, g-1",
    },
    {
      name: "a bound member that is not ready",
      gangs: [scheduled],
      pods: [members[0]!, { ...members[1]!, ready: false }, single],
      reason: "gang ns/g: Scheduled, but 1 of 2 pods of workers are ready; g-1 is bound to a and not ready",
    },
    {
      name: "a member that is gone",
      gangs: [scheduled],
      pods: [members[0]!, { ...members[1]!, deleting: true }, single],
      reason: "gang ns/g: Scheduled, but 1 of 2 pods of workers are ready",
    },
    {
      name: "a single pod that is missing",
      gangs: [scheduled],
      pods: members,
      reason: "pod ns/single: does not exist",
    },
    {
      name: "a single pod behind its gate",
      gangs: [scheduled],
      pods: [...members, podRecord("single", { gates: ["scheduling.kllama.ai/gang"] })],
      reason: "pod ns/single: is not bound: it waits behind gate scheduling.kllama.ai/gang",
    },
    {
      name: "a pod that somebody made in the namespace",
      gangs: [scheduled],
      pods: [...members, single, podRecord("other", { unschedulableMessage: "0/3 nodes" })],
      reason: "pod ns/other: is not bound: 0/3 nodes",
    },
  ])("names $name", ({ gangs, pods, reason }) => {
    expect(progressOf(expected, gangs, pods).reasons).toEqual([reason]);
  });

  test("does not wait for surplus, nor for other namespaces", () => {
    const elastic = gangRecord("g", [{ name: "workers", count: 3, minCount: 2 }], { phase: "Scheduled" });
    const surplus = podRecord("g-2", { gang: "g", index: 2 });
    const foreign = podRecord("foreign", { namespace: "kube-system" });
    expect(progressOf(expected, [elastic], [...members, surplus, single, foreign]).reasons).toEqual([]);
  });
});

test("search figures are summed over labels of the planner's metrics", () => {
  const text = [
    "# TYPE kllama_gang_plan_duration_seconds histogram",
    'kllama_gang_plan_duration_seconds_sum{outcome="placed"} 0.0025',
    'kllama_gang_plan_duration_seconds_sum{outcome="rejected"} 0.001',
    'kllama_gang_plan_duration_seconds_count{outcome="placed"} 9',
    "kllama_gang_plan_explored_total 41",
    'kllama_gang_plans_total{outcome="placed",reason=""} 9',
  ].join("\n");
  expect(searchStats(text)).toEqual({ planMs: 3.5, explored: 41, budgetExceeded: false });
  const exceeded = `${text}\nkllama_gang_plans_total{outcome="rejected",reason="BudgetExceeded"} 1`;
  expect(searchStats(exceeded).budgetExceeded).toBe(true);
  expect(searchStats("")).toEqual({ planMs: 0, explored: 0, budgetExceeded: false });
});
