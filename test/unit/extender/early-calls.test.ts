import { expect, test } from "vitest";
import { holdEarlyCalls } from "../../../src/extender/early-calls.ts";
import type { ExtenderBackend } from "../../../src/extender/server.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

const request = { podName: "p", podNamespace: "d", podUid: "u", node: "n1" };

/** A planner that starts, with one bind call at its door. */
function setup() {
  const timing = createVirtualTiming();
  const active = Promise.withResolvers<void>();
  const passedOnMs: number[] = [];
  const planner = { ready: false };
  const backend: ExtenderBackend = {
    bind: async () => {
      passedOnMs.push(timing.nowMs() - startMs);
      return "answered";
    },
    plannedNode: () => ({ node: "n1" }),
    ready: () => ({ ready: planner.ready, reason: "" }),
  };
  const startMs = timing.nowMs();
  const caller = new AbortController();
  const door = holdEarlyCalls(backend, active.promise, timing);
  const answer = door.bind(request, caller.signal);
  return { timing, active, planner, caller, door, answer, passedOnMs };
}

test("a bind call that comes while the planner starts waits until it decides", async () => {
  const { timing, active, door, caller, answer, passedOnMs } = setup();
  await timing.advance(2_500);
  expect(passedOnMs).toEqual([]);
  active.resolve();
  expect(await answer).toBe("answered");
  expect(passedOnMs).toEqual([2_500]);
  // A planner that decides and says that it is not ready (its fence is broken) brings to its end what it has begun.
  await door.bind(request, caller.signal);
  expect(passedOnMs).toHaveLength(2);
});

test("one at a replica that turns out to stand by is passed on, to be refused, within a second", async () => {
  const { timing, planner, passedOnMs } = setup();
  await timing.advance(2_500);
  planner.ready = true;
  await timing.advance(1_000);
  expect(passedOnMs).toEqual([3_000]);
});

test("one that is given up meanwhile reaches nobody", async () => {
  const { timing, active, caller, answer, passedOnMs } = setup();
  caller.abort();
  expect(await answer).toBe("the call was given up");
  active.resolve();
  await timing.advance(1_000);
  expect(passedOnMs).toEqual([]);
});

test("one at a planner that never gets ready is passed on after a minute", async () => {
  const { timing, passedOnMs } = setup();
  await timing.advance(120_000);
  expect(passedOnMs).toEqual([60_000]);
});
