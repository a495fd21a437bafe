import { describe, expect, test } from "vitest";
import type { RejectionReason } from "../../../src/api/placement.ts";
import { createOutlooks } from "../../../src/extender/outlooks.ts";
import type { GangRejection, GangState } from "../../../src/gang/lifecycle/state.ts";
import { memberKey, newGangState } from "../../../src/gang/lifecycle/state.ts";
import { plan } from "../../../src/gang/plan.ts";
import { gangRecord } from "../../builders.ts";
import { clusterOf, gangIn, rejectionsOf } from "../../support/cluster.ts";

/** Twelve nodes of 8 GPUs, all but one of them cordoned, and gangs of two pods of 8; time passes by the calls that ask for it. */
function world({ msPerLook = 0 } = {}) {
  const model = clusterOf([
    { name: "n0", gpus: 8 },
    ...Array.from({ length: 11 }, (_, i) => ({ name: `n${i + 1}`, gpus: 8, more: { unschedulable: true } })),
  ]);
  let nowMs = 1_000_000;
  const states = new Map<string, GangState>();
  const told: string[] = [];
  const outlooks = createOutlooks({
    model,
    nowMs: () => (nowMs += msPerLook),
    stateOf: (key) => states.get(key),
    tell(key, event) {
      if (event.type !== "outlook") return;
      told.push(`${key}: ${event.counterfactuals.join(", ")}`);
      states.set(key, { ...states.get(key)!, outlookAtMs: nowMs });
    },
    turn: (_, act) => act(),
  });
  return {
    model,
    outlooks,
    states,
    pass: (ms: number) => {
      nowMs += ms;
    },
    /** What was told since the last look. */
    told: () => told.splice(0),
    nextMs: () => outlooks.nextMs() - nowMs,
    refuse(name: string, reason?: RejectionReason) {
      const key = `team/${name}`;
      const request = gangIn(model, name, { ranks: { count: 2, gpus: 8 } });
      const unit = { gangs: [request] };
      const [found] = rejectionsOf(plan(model, unit));
      const rejection = { ...found!, ...(reason && { reason }) };
      const pods = new Map(request.pods.map((pod) => [pod.uid, pod]));
      const state = { ...newGangState(key), ...states.get(key), gang: gangRecord({ name }), pods };
      const refusal: GangRejection = {
        reason: rejection.reason,
        message: rejection.message,
        capacityVersion: model.capacityVersion,
        members: memberKey(state),
      };
      states.set(key, { ...state, rejection: refusal });
      outlooks.refused({ unit, keys: [key], rejections: [rejection] });
    },
  };
}

describe("a gang that was refused", () => {
  test("is told what would make room when that has stood for two seconds, and not again", () => {
    const { outlooks, refuse, pass, told, nextMs } = world();
    refuse("a");
    expect(nextMs()).toBe(2_000);
    pass(1_999);
    outlooks.work();
    expect(told()).toEqual([]);
    pass(1);
    outlooks.work();
    expect(told()).toEqual(["team/a: if 1 node returns"]);
    expect(nextMs()).toBe(Number.POSITIVE_INFINITY);
    pass(3_600_000);
    outlooks.work();
    expect(told()).toEqual([]);
  });

  test("anew, however often, is told anew every ten seconds at most", () => {
    const { outlooks, refuse, pass, told } = world();
    const times: number[] = [];
    for (let second = 0; second < 60; second++) {
      refuse("a");
      outlooks.work();
      if (told().length > 0) times.push(second);
      pass(1_000);
    }
    expect(times.length).toBeGreaterThan(3);
    for (const [i, time] of times.entries()) if (i > 0) expect(time - times[i - 1]!).toBeGreaterThanOrEqual(10);
  });

  test.each<[string, (gang: ReturnType<typeof world>) => void]>([
    ["was placed meanwhile", ({ states }) => delete states.get("team/a")!.rejection],
    ["has other members now", ({ states }) => states.get("team/a")!.pods.clear()],
    ["is gone", ({ states }) => states.delete("team/a")],
    ["waits for its group now", ({ refuse }) => refuse("a", "WaitingForPlacementGroup")],
  ])("and %s is told nothing", (_, change) => {
    const it = world();
    it.refuse("a");
    change(it);
    it.pass(2_000);
    it.outlooks.work();
    expect([it.told(), it.nextMs()]).toEqual([[], Number.POSITIVE_INFINITY]);
  });
});

describe("looking for what would make room", () => {
  test("stops after a slice of time, rests for nineteen times as long, and goes on where it was", () => {
    const { outlooks, refuse, pass, told, nextMs } = world({ msPerLook: 5 });
    refuse("a");
    pass(2_000);
    let turns = 0;
    for (; turns < 50; turns++) {
      outlooks.work();
      if (told().length > 0) break;
      expect(nextMs()).toBeGreaterThan(150);
      // Sooner nothing is done.
      pass(100);
      outlooks.work();
      expect(told()).toEqual([]);
      pass(200);
    }
    expect(turns).toBeGreaterThan(0);
    expect(turns).toBeLessThan(50);
  });

  test("ends when the gang is refused no more", () => {
    const { outlooks, states, refuse, pass, told, nextMs } = world({ msPerLook: 5 });
    refuse("a");
    pass(2_000);
    outlooks.work();
    states.delete("team/a");
    pass(10_000);
    outlooks.work();
    expect([told(), nextMs()]).toEqual([[], Number.POSITIVE_INFINITY]);
  });
});
