import { describe, expect, test } from "vitest";
import type { NodeSelectorRequirement, Toleration } from "../../../src/api/kubernetes.ts";
import { nodeRefusal } from "../../../src/gang/node-match.ts";
import { matchesNodeSelector } from "../../../src/topology/node-selector.ts";
import { nodeRecord } from "../../builders.ts";

const taint = { key: "k", value: "v", effect: "NoSchedule" };

describe("taints", () => {
  test.each<[string, Toleration, boolean]>([
    ["key and value", { key: "k", value: "v" }, true],
    ["another value", { key: "k", value: "w" }, false],
    ["Exists whatever the value", { key: "k", operator: "Exists" }, true],
    ["everything", { operator: "Exists" }, true],
    ["another effect", { key: "k", operator: "Exists", effect: "NoExecute" }, false],
    ["no key without Exists", { value: "v" }, false],
  ])("tolerating %s", (_, toleration, tolerated) => {
    const node = nodeRecord("n", { taints: [taint] });
    const refusal = nodeRefusal({ nodeSelector: {}, tolerations: [toleration] }, node);
    expect(refusal).toBe(tolerated ? undefined : "have taint k=v:NoSchedule");
  });

  test("a pod that tolerates the unschedulable taint may go to an unschedulable node", () => {
    const tolerations = [{ key: "node.kubernetes.io/unschedulable", operator: "Exists" }];
    expect(nodeRefusal({ nodeSelector: {}, tolerations }, nodeRecord("n", { unschedulable: true }))).toBeUndefined();
  });
});

describe("node selector terms", () => {
  const labels = { a: "1", size: "10" };
  test.each<[NodeSelectorRequirement, boolean]>([
    [{ key: "a", operator: "In", values: ["1", "2"] }, true],
    [{ key: "b", operator: "In", values: ["1"] }, false],
    [{ key: "a", operator: "NotIn", values: ["1"] }, false],
    [{ key: "b", operator: "NotIn", values: ["1"] }, true],
    [{ key: "a", operator: "Exists" }, true],
    [{ key: "b", operator: "DoesNotExist" }, true],
    [{ key: "size", operator: "Gt", values: ["9"] }, true],
    [{ key: "size", operator: "Lt", values: ["9"] }, false],
    [{ key: "a", operator: "Gt", values: ["x"] }, false],
    [{ key: "b", operator: "Gt", values: ["0"] }, false],
  ])("%j is %s", (requirement, expected) => {
    const selector = { nodeSelectorTerms: [{ matchExpressions: [requirement] }] };
    expect(matchesNodeSelector(selector, { name: "n", labels })).toBe(expected);
  });

  test("terms are alternatives, requirements hold together, an empty term matches nothing", () => {
    const name = (value: string) => ({
      matchFields: [{ key: "metadata.name", operator: "In" as const, values: [value] }],
    });
    const node = { name: "n", labels };
    expect(matchesNodeSelector({ nodeSelectorTerms: [name("m"), name("n")] }, node)).toBe(true);
    const both = { ...name("n"), matchExpressions: [{ key: "b", operator: "Exists" as const }] };
    expect(matchesNodeSelector({ nodeSelectorTerms: [both] }, node)).toBe(false);
    expect(matchesNodeSelector({ nodeSelectorTerms: [{}] }, node)).toBe(false);
    expect(matchesNodeSelector({ nodeSelectorTerms: [] }, node)).toBe(false);
  });
});
