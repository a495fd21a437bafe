import { describe, expect, test } from "vitest";
import { covers } from "../../../src/serving/covers.ts";

describe("covers", () => {
  test.each([
    { what: "equal", live: { a: 1, b: ["x"] }, desired: { a: 1, b: ["x"] }, is: true },
    {
      what: "defaults and status of the live object",
      live: { a: 1, more: 2, status: {} },
      desired: { a: 1 },
      is: true,
    },
    { what: "another value", live: { a: { b: 2 } }, desired: { a: { b: 1 } }, is: false },
    { what: "a missing field", live: {}, desired: { a: 1 }, is: false },
    { what: "a missing object", live: undefined, desired: { a: 1 }, is: false },
    { what: "an empty map that the API server leaves out", live: {}, desired: { a: {}, b: [] }, is: true },
    { what: "a number is not its text", live: { a: "1" }, desired: { a: 1 }, is: false },
    {
      what: "named elements in another order",
      live: [
        { name: "b", v: 2 },
        { name: "a", v: 1, extra: true },
      ],
      desired: [
        { name: "a", v: 1 },
        { name: "b", v: 2 },
      ],
      is: true,
    },
    { what: "an element too many", live: [{ name: "a" }, { name: "b" }], desired: [{ name: "a" }], is: false },
    { what: "plain lists in another order", live: ["b", "a"], desired: ["a", "b"], is: false },
    { what: "a list where a map was asked for", live: [1], desired: { a: 1 }, is: false },
    { what: "a map where a list was asked for", live: { 0: 1 }, desired: [1], is: false },
  ])("$what: $is", ({ live, desired, is }) => {
    expect(covers(live, desired)).toBe(is);
  });
});
