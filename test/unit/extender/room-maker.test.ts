import { describe, expect, test } from "vitest";
import { createGangGroups } from "../../../src/extender/gang-groups.ts";
import { createRoomMaker } from "../../../src/extender/room-maker.ts";
import type { PlanUnit } from "../../../src/gang/plan.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { podRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf, gangIn } from "../../support/cluster.ts";

const names = ["a", "b", "c", "d"];

/** Four nodes, on each a pod alone that has all 4 GPUs; the younger, the cheaper. */
function scene() {
  const model = clusterOf(names.map((name) => ({ name, gpus: 4 })));
  for (const [age, name] of names.entries()) run(model, name, { age });
  let nowMs = 0;
  const makeRoom = createRoomMaker({
    model,
    groups: createGangGroups(() => []),
    states: () => [],
    stateOf: () => undefined,
    budgets: () => [],
    nowMs: () => nowMs,
  });
  /** Asks in one turn after the other, of which each has time for one step. */
  const inTurns = (unit: PlanUnit, between: (turn: number) => void = () => undefined) => {
    for (let turn = 1; turn < 100; turn++) {
      const answer = makeRoom(unit, [], [], { inTime: () => false });
      if (answer !== "later") return { leaving: leavingOf(answer), turns: turn };
      between(turn);
    }
    throw new Error("no answer in 100 turns");
  };
  const atOnce = (unit: PlanUnit) => leavingOf(makeRoom(unit, [], [], { inTime: () => true }));
  return { model, inTurns, atOnce, wait: (ms: number) => (nowMs += ms) };
}

function run(model: ClusterModel, node: string, { age = 0, priority = 1 }): void {
  const name = `on-${node}`;
  const pod = podRecord(name, {
    nodeName: node,
    priority,
    createdAtMs: age,
    claims: [{ name: "gpu", claimName: name }],
  });
  const devices = [0, 1, 2, 3].map((gpu) => `gpu-${gpu}`);
  model.upsertClaim({ ...allocatedClaim(name, node, devices, [pod.uid]), allocatedByPlanner: true });
  model.upsertPod(pod);
}

function leave(model: ClusterModel, node: string): void {
  model.removePod(`pod-uid-on-${node}`);
  model.removeClaim(`claim-uid-on-${node}`);
}

function newcomer(model: ClusterModel, count: number, name = "new"): PlanUnit {
  return { gangs: [gangIn(model, name, { w: { count, gpus: 4, more: { priority: 5 } } })] };
}

function leavingOf(answer: ReturnType<ReturnType<typeof createRoomMaker>>): string[] | undefined {
  if (answer === "later") throw new Error("there was time");
  return answer?.preempting.map(({ uid }) => uid.replace("pod-uid-on-", "")).sort();
}

describe("who leaves, chosen in many turns", () => {
  test("are the same as in one", () => {
    const { model, inTurns, atOnce } = scene();
    expect(atOnce(newcomer(model, 2))).toEqual(["c", "d"]);
    const { leaving, turns } = inTurns(newcomer(model, 2));
    expect(leaving).toEqual(["c", "d"]);
    expect(turns).toBeGreaterThan(3);
  });

  test("are fewer when one of them has left meanwhile by itself", () => {
    const { model, inTurns } = scene();
    const { leaving } = inTurns(newcomer(model, 2), (turn) => turn === 2 && leave(model, "d"));
    expect(leaving).toEqual(["c"]);
  });

  test.each([1, 2, 3, 4])("are never those who are worth as much by now (turn %i)", (at) => {
    const { model, inTurns, atOnce } = scene();
    const { leaving = [] } = inTurns(newcomer(model, 2), (turn) => turn === at && run(model, "d", { priority: 5 }));
    expect(leaving).not.toContain("d");
    expect(atOnce(newcomer(model, 2))).toEqual(["b", "c"]);
  });

  test("are chosen anew for a gang that has changed, and where nobody has asked for long", () => {
    const { model, inTurns, atOnce, wait } = scene();
    let turns = 0;
    inTurns(newcomer(model, 2), () => turns++ === 2 && expect(atOnce(newcomer(model, 1))).toEqual(["d"]));
    inTurns(newcomer(model, 2), (turn) => {
      if (turn === 2) wait(5_000);
    });
    expect(atOnce(newcomer(model, 3))).toEqual(["b", "c", "d"]);
  });
});
