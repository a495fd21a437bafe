import { expect, test } from "vitest";
import { eventually } from "../../../src/kube/eventually.ts";
import type { Timing } from "../../../src/kube/timing.ts";

/** A clock that sleeping moves. */
function clock(): Timing & { sleeps: number[] } {
  let now = 0;
  const sleeps: number[] = [];
  return {
    sleeps,
    nowMs: () => now,
    wallClock: () => new Date(now),
    random: () => 0,
    sleep: async (delayMs) => {
      sleeps.push(delayMs);
      now += delayMs;
    },
  };
}

test("asks until nothing is missing", async () => {
  const timing = clock();
  const answers = ["a", "b", undefined];
  await eventually("it", async () => answers.shift(), { timeoutMs: 1000, timing });
  expect(timing.sleeps).toHaveLength(2);
});

test("says what was missing last when time is over", async () => {
  const timing = clock();
  const probe = async () => `missing at ${timing.nowMs()}`;
  await expect(eventually("it", probe, { timeoutMs: 300, timing })).rejects.toThrow(
    "it: not within 0.3 s; missing at 300",
  );
});

test("passes on a failure at once, and the reason of an abort", async () => {
  const timing = clock();
  const broken = async () => Promise.reject(new Error("broken"));
  await expect(eventually("it", broken, { timeoutMs: 300, timing })).rejects.toThrow("broken");
  const signal = AbortSignal.abort(new Error("stopped"));
  await expect(eventually("it", async () => "x", { timeoutMs: 300, timing, signal })).rejects.toThrow("stopped");
  expect(timing.sleeps).toEqual([]);
});
