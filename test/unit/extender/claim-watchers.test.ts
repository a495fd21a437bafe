import { expect, test } from "vitest";
import { createClaimWatchers } from "../../../src/extender/claim-watchers.ts";

test("who looks at a claim, and who no longer does", () => {
  const watchers = createClaimWatchers();
  expect(watchers.add("team/a", "g")).toBe(true);
  expect(watchers.add("team/a", "g")).toBe(false);
  watchers.add("team/b", "g");
  watchers.add("team/a", "h");
  expect(watchers.of("team/a")).toEqual(["g", "h"]);
  watchers.remove("team/a", "h");
  watchers.forget("g");
  expect([watchers.of("team/a"), watchers.of("team/b")]).toEqual([[], []]);
  expect(watchers.add("team/a", "g")).toBe(true);
});
