import { expect, test } from "vitest";
import { beginComparison, confirmedDrift, type Drift } from "../../../src/topology/drift.ts";

interface Thing {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion: string;
  color?: string;
}

const thing = (name: string, resourceVersion: string, color?: string): Thing => ({
  uid: `uid-${name}`,
  namespace: "team",
  name,
  resourceVersion,
  ...(color === undefined ? {} : { color }),
});

const mapOf = (things: readonly Thing[]) => new Map(things.map((each) => [each.uid, each]));

/** One list in one page, with nothing happening meanwhile. */
function compare(known: readonly Thing[], listed: readonly Thing[], unreadable: string[] = []): Drift<Thing>[] {
  const comparison = beginComparison(mapOf(known));
  comparison.page(listed, mapOf(known));
  return comparison.finish(mapOf(known), new Set(unreadable));
}

const said = (drift: readonly Drift<Thing>[]) => drift.map((each) => `${each.key} ${each.problem}: ${each.difference}`);

test.for([
  ["the same on both sides", [thing("a", "1")], [thing("a", "1")], []],
  [
    "an object that only the API server has",
    [],
    [thing("a", "1")],
    ["team/a missing: the API server has it, here it is not known"],
  ],
  ["one that only we have", [thing("a", "1")], [], ["team/a leftover: the API server does not have it any more"]],
  [
    "a newer version",
    [thing("a", "1", "red")],
    [thing("a", "2", "blue")],
    ['team/a differs: color is "blue", known as "red"; resourceVersion is "2", known as "1"'],
  ],
  [
    "other content under the same version",
    [thing("a", "1", "red")],
    [thing("a", "1")],
    ['team/a differs: color is absent, known as "red"'],
  ],
  [
    "a version from before a restored backup",
    [thing("a", "7")],
    [thing("a", "3")],
    ['team/a differs: resourceVersion is "3", known as "7"'],
  ],
  [
    "an object created again under its name",
    [{ ...thing("a", "1"), uid: "old" }],
    [thing("a", "2")],
    [
      "team/a missing: the API server has it, here it is not known",
      "team/a leftover: the API server does not have it any more",
    ],
  ],
] as const)("%s", ([, known, listed, expected]) => {
  expect(said(compare(known, listed))).toEqual(expected);
});

test("what could not be read is not left over", () => {
  expect(compare([thing("a", "1")], [], ["team/a"])).toEqual([]);
});

test("long values are cut", () => {
  const [drift] = compare([thing("a", "1", "x".repeat(500))], [thing("a", "1")]);
  expect(drift?.difference.length).toBeLessThan(200);
});

test("what is made and unmade while pages come is judged by what is known then", () => {
  const before = [thing("old", "1"), thing("going", "2")];
  const comparison = beginComparison(mapOf(before));
  comparison.page([thing("old", "1")], mapOf([thing("old", "1"), thing("new", "3")]));
  // `new` came after the list was asked for; `going` has gone since.
  expect(comparison.finish(mapOf([thing("old", "1"), thing("new", "3")]), new Set())).toEqual([]);
});

test("a sum that does not follow from its record is a difference", () => {
  const comparison = beginComparison(mapOf([thing("a", "1")]), () => "the sum is wrong");
  comparison.page([thing("a", "1")], mapOf([thing("a", "1")]));
  expect(said(comparison.finish(mapOf([thing("a", "1")]), new Set()))).toEqual(["team/a differs: the sum is wrong"]);
});

test.for([
  ["still missing", [], [thing("a", "1")], [], [thing("a", "1")], 1],
  ["still missing, and changed meanwhile", [], [thing("a", "1")], [], [thing("a", "2")], 1],
  ["missing, then brought by the watch", [], [thing("a", "1")], [thing("a", "1")], [thing("a", "1")], 0],
  ["missing, then deleted", [], [thing("a", "1")], [], [], 0],
  ["missing only the second time: made a moment ago", [], [], [], [thing("a", "1")], 0],
  ["still left over", [thing("a", "1")], [], [thing("a", "1")], [], 1],
  ["left over, then gone", [thing("a", "1")], [], [], [], 0],
  ["known in the same old version", [thing("a", "1")], [thing("a", "2")], [thing("a", "1")], [thing("a", "2")], 1],
  [
    "behind both times, and moving: only late",
    [thing("a", "1")],
    [thing("a", "2")],
    [thing("a", "5")],
    [thing("a", "6")],
    0,
  ],
  ["left over at first, another version later", [thing("a", "1")], [], [thing("a", "1")], [thing("a", "2")], 0],
] as const)("%s: %j", ([, known1, listed1, known2, listed2, count]) => {
  expect(confirmedDrift(compare(known1, listed1), compare(known2, listed2))).toHaveLength(count);
});
