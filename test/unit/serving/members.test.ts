import { describe, expect, test } from "vitest";
import { podsToReplace, templatesInUse } from "../../../src/serving/members.ts";
import { llmCluster, pod, statefulSet } from "./builders.ts";

const old = { revision: "old" };

describe("podsToReplace", () => {
  test.each([
    { what: "all of the newest revision: none", pods: [pod(0), pod(1)], replaced: [] },
    { what: "all old: all, together", pods: [pod(0, old), pod(1, old)], replaced: ["pod-0", "pod-1"] },
    { what: "old and new cannot work together: both", pods: [pod(0), pod(1, old)], replaced: ["pod-0", "pod-1"] },
    { what: "one exists and is old", pods: [pod(1, old)], replaced: ["pod-1"] },
    {
      what: "all on their way out: nothing a second time",
      pods: [pod(0, { ...old, deleting: true }), pod(1, { ...old, deleting: true })],
      replaced: [],
    },
    {
      what: "a replacement waits while an old one is still on its way out",
      pods: [pod(0), pod(1, { ...old, deleting: true })],
      replaced: [],
    },
    { what: "pods of another StatefulSet are not ours", pods: [pod(0, { ...old, setUid: "other" })], replaced: [] },
  ])("$what", ({ pods, replaced }) => {
    const doomed = podsToReplace(llmCluster(), { statefulSet: statefulSet(), templateSettled: true, pods });
    expect(doomed.map((member) => member.metadata.uid)).toEqual(replaced);
  });

  test("nothing before the controller has seen the newest template: its revision is the old one's", () => {
    const set = statefulSet({ observedGeneration: 1, updateRevision: "other" }, 2);
    expect(podsToReplace(llmCluster(), { statefulSet: set, templateSettled: true, pods: [pod(0), pod(1)] })).toEqual(
      [],
    );
  });

  test("nothing while somebody's edit of the template is being undone: the pods are of the right revision", () => {
    const observed = { statefulSet: statefulSet(), templateSettled: false, pods: [pod(0, old), pod(1, old)] };
    expect(podsToReplace(llmCluster(), observed)).toEqual([]);
  });

  test("nothing without a StatefulSet or without its status", () => {
    const { status: _, ...bare } = statefulSet();
    expect(podsToReplace(llmCluster(), { templateSettled: true, pods: [pod(0, old)] })).toEqual([]);
    expect(podsToReplace(llmCluster(), { statefulSet: bare, templateSettled: true, pods: [pod(0, old)] })).toEqual([]);
  });
});

test("a claim template is in use for as long as a pod that names it exists, on its way out or not", () => {
  const pods = [pod(0, { template: "a" }), pod(1, { template: "b", deleting: true })];
  expect([...templatesInUse(pods)].sort()).toEqual(["a", "b"]);
});
