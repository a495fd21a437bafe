import { expect, test } from "vitest";
import { claimFinalizer } from "../../../src/api/names.ts";
import { createDoubts } from "../../../src/extender/doubts.ts";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import type { Outcome } from "../../../src/gang/lifecycle/state.ts";
import { driver } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

const conflict: Outcome = { ok: false, reason: "Conflict", message: "" };
const noAnswer: Outcome = { ok: false, reason: "Unreachable", message: "" };

/** Claim `c`, for which `owner` holds device `gpu-0` of `n0` in the model. */
function setUp(owner = "team/a") {
  const model = clusterOf([{ name: "n0", rack: "r0", gpus: 2 }]);
  const doubts = createDoubts(model);
  const write = (
    resourceVersion = "1",
    device = "gpu-0",
    finalizers = [claimFinalizer],
  ): Extract<WriteEffect, { type: "reserveClaim" }> => ({
    type: "reserveClaim",
    id: "reserve/c",
    claim: { namespace: "team", name: "c", uid: "c", resourceVersion, finalizers, allocated: false },
    placed: { claim: "c", reference: "gpus", devices: [{ request: "gpu", driver, pool: "n0", device }] },
    node: "n0",
    reservedFor: [],
  });
  const first = write();
  const placed = { pod: "a-0", podSet: "", index: 0, node: "n0", claims: [first.placed] };
  model.hold(owner, "team", [{ placed, requests: {} }]);
  return {
    doubts,
    first,
    write,
    /** The owner gives its place up. */
    giveUp() {
      doubts.releasing(owner);
      model.release(owner);
    },
    holders: (device = "gpu-0") => model.holdersOf(driver, "n0", device),
  };
}

test("devices of a reservation that is under way stay held when its owner gives them up, until it is answered", () => {
  const { doubts, first, giveUp, holders } = setUp();
  doubts.sent(first, "team/a");
  expect(holders()).toEqual(["hold:team/a"]);
  giveUp();
  expect(holders()).toEqual(["hold:doubt:c"]);
  doubts.answered(first, conflict, 1_000);
  expect(holders()).toEqual([]);
});

test("without an answer they stay held until the claim is seen in another version, or for a minute", () => {
  for (const end of ["version", "gone", "minute"] as const) {
    const { doubts, first, giveUp, holders } = setUp();
    doubts.sent(first, "team/a");
    doubts.answered(first, noAnswer, 1_000);
    giveUp();
    expect(doubts.settle("c", "1")).toEqual([]);
    expect(doubts.expire(60_999)).toEqual([]);
    expect(holders()).toEqual(["hold:doubt:c"]);
    expect(doubts.next()).toBe(61_000);
    const freed = end === "minute" ? doubts.expire(61_000) : doubts.settle("c", end === "version" ? "2" : undefined);
    expect(freed).toEqual(first.placed.devices);
    expect(holders()).toEqual([]);
    expect(doubts.next()).toBe(Number.POSITIVE_INFINITY);
  }
});

test("a second attempt in the same version may be refused: the first may still come to pass", () => {
  const { doubts, first, write, giveUp, holders } = setUp();
  const second = write("1", "gpu-1");
  doubts.sent(first, "team/a");
  doubts.answered(first, noAnswer, 0);
  doubts.sent(second, "team/a");
  giveUp();
  expect(holders("gpu-1")).toEqual(["hold:doubt:c"]);
  doubts.answered(second, { ok: false, reason: "Invalid", message: "" }, 0);
  expect(holders("gpu-1")).toEqual([]);
  expect(holders()).toEqual(["hold:doubt:c"]);
});

test("a claim that gets its finalizer first is seen in another version before its devices are written: they stay held", () => {
  for (const outcome of [conflict, noAnswer]) {
    const { doubts, write, giveUp, holders } = setUp();
    const first = write("1", "gpu-0", []);
    doubts.sent(first, "team/a");
    expect(doubts.settle("c", "2", true)).toEqual([]);
    giveUp();
    expect(holders()).toEqual(["hold:doubt:c"]);
    doubts.answered(first, outcome, 0);
    expect(holders()).toEqual(outcome === conflict ? [] : ["hold:doubt:c"]);
    expect(doubts.settle("c", "3", true)).toEqual(outcome === conflict ? [] : first.placed.devices);
    expect(holders()).toEqual([]);
  }
});

test("an attempt in a newer version refuses those before it", () => {
  const { doubts, first, write, giveUp, holders } = setUp();
  doubts.sent(first, "team/a");
  doubts.answered(first, noAnswer, 0);
  giveUp();
  doubts.sent(write("2", "gpu-1"), "team/b");
  expect(holders()).toEqual([]);
  doubts.releasing("team/b");
  expect(holders("gpu-1")).toEqual(["hold:doubt:c"]);
});
