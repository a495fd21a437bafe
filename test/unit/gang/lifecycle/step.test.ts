import { expect, test } from "vitest";
import { pauseAfter } from "../../../../src/gang/lifecycle/step.ts";

test("a write that the API server puts off waits as long as it asks, and its own pause at least", () => {
  const pauses: number[] = [];
  let pace: { attempts: number; notBeforeMs: number } | undefined;
  for (const retryAfterMs of [undefined, 2_000, 2_000, 60_000, 0]) {
    pace = pauseAfter(pace, retryAfterMs === undefined ? {} : { retryAfterMs }, 1_000);
    pauses.push(pace.notBeforeMs - 1_000);
  }
  expect(pauses).toEqual([50, 2_000, 2_000, 60_000, 800]);
});
