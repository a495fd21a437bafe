import { expect, test } from "vitest";
import { mayEvict } from "../../../src/gang/budgets.ts";
import type { BudgetRecord, LabelSelector, PodRecord } from "../../../src/topology/records.ts";
import { podRecord } from "../../builders.ts";

const pod = (name: string, more: Partial<PodRecord> = {}) =>
  podRecord(name, { labels: { app: "a", tier: "x" }, ...more });
const budget = (
  disruptionsAllowed: number,
  selector?: LabelSelector,
  more: Partial<BudgetRecord> = {},
): BudgetRecord => ({
  namespace: "team",
  name: "b",
  disruptionsAllowed,
  sparesReadyOnly: false,
  ...(selector && { selector }),
  ...more,
});
const app = { matchLabels: { app: "a" } };

test.each<[string, PodRecord[], BudgetRecord[], boolean]>([
  ["nobody asks", [pod("p")], [], true],
  ["as many as it allows", [pod("p"), pod("q")], [budget(2, app)], true],
  ["one more than it allows", [pod("p"), pod("q")], [budget(1, app)], false],
  ["none is allowed", [pod("p")], [budget(0, app)], false],
  ["one that covers others", [pod("p")], [budget(0, { matchLabels: { app: "b" } })], true],
  ["one of another namespace", [pod("p")], [budget(0, app, { namespace: "other" })], true],
  ["a selector that is absent covers nothing", [pod("p")], [budget(0)], true],
  ["an empty one covers everything", [pod("p")], [budget(0, {})], false],
  ["two cover one pod, whatever they allow", [pod("p")], [budget(9, app), budget(9, {})], false],
  ["who is ending counts for nothing", [pod("p", { deleting: true })], [budget(0, app)], true],
  ["who is not ready, where only ready ones are kept", [pod("p")], [budget(0, app, { sparesReadyOnly: true })], true],
  ["who is ready", [pod("p", { ready: true })], [budget(0, app, { sparesReadyOnly: true })], false],
  ["In", [pod("p")], [budget(0, { matchExpressions: [{ key: "tier", operator: "In", values: ["x"] }] })], false],
  ["NotIn", [pod("p")], [budget(0, { matchExpressions: [{ key: "tier", operator: "NotIn", values: ["x"] }] })], true],
  ["Exists", [pod("p")], [budget(0, { matchExpressions: [{ key: "none", operator: "Exists" }] })], true],
  ["DoesNotExist", [pod("p")], [budget(0, { matchExpressions: [{ key: "none", operator: "DoesNotExist" }] })], false],
])("%s", (_, pods, budgets, expected) => {
  expect(mayEvict(pods, budgets)).toBe(expected);
});
