import { describe, expect, test } from "vitest";
import { createDoubts } from "../../../src/extender/doubts.ts";
import { createGangHolds } from "../../../src/extender/gang-holds.ts";
import { createHeldPlaces } from "../../../src/extender/limits.ts";
import { type GangState, newGangState } from "../../../src/gang/lifecycle/state.ts";
import { gangRecord, podRecord } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

const places = [
  { pod: "g-ranks-0", podSet: "ranks", index: 0, node: "n0", claims: [] },
  { pod: "g-ranks-1", podSet: "ranks", index: 1, node: "n0", claims: [] },
  { pod: "g-router", podSet: "router", index: 0, node: "n0", claims: [] },
];
const gang = gangRecord({ status: { phase: "Scheduled", placement: { pods: places } as never } });

/** The running gang `team/g`, with the pods of those names. */
function stateWith(...names: string[]): GangState {
  const cpu: Record<string, number> = { "g-ranks-0": 4000, "g-ranks-1": 4000, "g-router": 1000 };
  const pods = names.map((name) => podRecord(name, { nodeName: "n0", requests: { cpu: cpu[name]! } }));
  return { ...newGangState("team/g"), gang, pods: new Map(pods.map((pod) => [pod.uid, pod])) };
}

function world() {
  const model = clusterOf([{ name: "n0", gpus: 4 }]);
  const holds = createGangHolds(model, createHeldPlaces(), createDoubts(model));
  const cpu = () => model.view.heldUnder("team/g").map(({ placed, requests }) => [placed.pod, requests["cpu"] ?? 0]);
  return { model, holds, cpu };
}

describe("places of a running gang are held", () => {
  test("with what the first of its pod set asks for, while a member is missing", () => {
    const { holds, cpu } = world();
    holds.settle(stateWith("g-ranks-0", "g-ranks-1", "g-router"));
    holds.settle(stateWith("g-ranks-0", "g-router"));
    expect(cpu()).toEqual([
      ["g-ranks-0", 4000],
      ["g-ranks-1", 4000],
      ["g-router", 1000],
    ]);
  });

  test.each([
    ["all are there", ["g-ranks-0", "g-ranks-1", "g-router"]],
    ["one is missing", ["g-ranks-1", "g-router"]],
    ["a pod set is missing", ["g-router"]],
    ["all are missing", []],
  ])("by a planner that saw members go as by one that starts now: %s", (_, names) => {
    const [lived, started] = [world(), world()];
    lived.holds.settle(stateWith("g-ranks-0", "g-ranks-1", "g-router"));
    lived.holds.settle(stateWith("g-ranks-1", "g-router"));
    lived.holds.settle(stateWith(...names));
    started.holds.settle(stateWith(...names));
    expect(lived.cpu()).toEqual(started.cpu());
  });

  test("anew only when a member comes or goes: no news for those who were refused", () => {
    const { model, holds } = world();
    holds.settle(stateWith("g-ranks-0", "g-ranks-1"));
    const { version } = model;
    holds.settle(stateWith("g-ranks-0", "g-ranks-1"));
    expect(model.version).toBe(version);
    holds.settle(stateWith("g-ranks-0"));
    holds.settle(stateWith());
    expect(model.version).toBeGreaterThan(version);
  });
});
