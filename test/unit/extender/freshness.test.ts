import { expect, test } from "vitest";
import { createFreshness } from "../../../src/extender/freshness.ts";

test("an object is believed in newer versions only, and no more once it was deleted", () => {
  const fresh = createFreshness();
  expect(["5", "5", "4", "10"].map((version) => fresh.accept("a", version, "gang team/g"))).toEqual([
    true,
    false,
    false,
    true,
  ]);
  fresh.forget("a");
  expect(fresh.accept("a", "11", "gang team/g")).toBe(false);
});

test("whoever had the name before is not believed, however late a watch tells of it; whoever has it next is", () => {
  const fresh = createFreshness();
  expect(fresh.accept("second", "74", "gang team/g")).toBe(true);
  expect(["14", "60"].map((version) => fresh.accept("first", version, "gang team/g"))).toEqual([false, false]);
  fresh.forget("first");
  expect(fresh.accept("second", "103", "gang team/g")).toBe(true);
  expect(fresh.accept("other", "14", "gang team/h")).toBe(true);
  expect(fresh.accept("third", "120", "gang team/g")).toBe(true);
  fresh.forget("second");
  expect(fresh.accept("second", "130", "gang team/g")).toBe(false);
  expect(fresh.accept("third", "131", "gang team/g")).toBe(true);
});
