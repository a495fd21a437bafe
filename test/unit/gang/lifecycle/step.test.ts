import { expect, test } from "vitest";
import { gangSpec } from "../../../../src/api/gang.ts";
import { gangGate } from "../../../../src/api/names.ts";
import type { PlacedPod } from "../../../../src/api/placement.ts";
import { type GangState, newGangState } from "../../../../src/gang/lifecycle/state.ts";
import { pauseAfter, step } from "../../../../src/gang/lifecycle/step.ts";
import { driver, gangRecord, lifecycleContext, podRecord } from "../../../builders.ts";
import { claimRecord } from "../../../support/cluster.ts";

test("a write that the API server puts off waits as long as it asks, and its own pause at least", () => {
  const pauses: number[] = [];
  let pace: { attempts: number; notBeforeMs: number } | undefined;
  for (const retryAfterMs of [undefined, 2_000, 2_000, 60_000, 0]) {
    pace = pauseAfter(pace, retryAfterMs === undefined ? {} : { retryAfterMs }, 1_000);
    pauses.push(pace.notBeforeMs - 1_000);
  }
  expect(pauses).toEqual([50, 2_000, 2_000, 60_000, 800]);
});

/** A reserved gang whose claims are all being written. */
function reserving(count: number): GangState {
  const indexes = Array.from({ length: count }, (_, index) => index);
  const pods = indexes.map((index): PlacedPod => {
    const devices = [{ request: "gpu", driver, pool: `n${index}`, device: "gpu-0" }];
    const claims = [{ claim: `c-${index}`, reference: "gpu", devices }];
    return { pod: `g-${index}`, podSet: "ranks", index, node: `n${index}`, claims };
  });
  const gang = gangRecord({
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count }] }),
    status: { phase: "Reserved", observedGeneration: 1, placement: { pods } },
    reservedAtMs: 0,
  });
  const state = newGangState("team/g");
  state.gang = gang;
  for (const index of indexes) {
    const claims = [{ name: "gpu", claimName: `c-${index}` }];
    const pod = podRecord(`g-${index}`, { gang: "g", podSet: "ranks", index, gates: [gangGate], claims });
    state.pods.set(pod.uid, pod);
    state.claims.set(`c-${index}`, claimRecord(`c-${index}`, [], { ownerPodUid: pod.uid }));
  }
  const { state: next, effects } = step(state, [], lifecycleContext(0));
  expect(effects.filter(({ type }) => type === "reserveClaim")).toHaveLength(count);
  return next;
}

/** How often a decision looks at a write under way, all of them together. */
function looksAtWrites(state: GangState): number {
  let looks = 0;
  for (const [id, effect] of state.inFlight) {
    const { type } = effect;
    const watched = Object.defineProperty({ ...effect }, "type", {
      get() {
        looks++;
        return type;
      },
    });
    state.inFlight.set(id, watched);
  }
  step(state, [{ type: "tick" }], lifecycleContext(1));
  return looks;
}

test("a decision looks at each write under way a few times at most, however many members are being reserved", () => {
  // With each member looking at all writes under way it is once per member.
  expect(looksAtWrites(reserving(500))).toBeLessThan(500 * 5);
});
