import { describe, expect, test } from "vitest";
import { type GangStatus, gangSpec } from "../../../../src/api/gang.ts";
import { gangGate } from "../../../../src/api/names.ts";
import type { PlacedPod, Placement } from "../../../../src/api/placement.ts";
import {
  type Context,
  type Effect,
  type GangRecord,
  type GangState,
  heldPods,
  newGangState,
  type StepResult,
} from "../../../../src/gang/lifecycle/state.ts";
import { step } from "../../../../src/gang/lifecycle/step.ts";
import type { PodRecord } from "../../../../src/topology/records.ts";
import { gangRecord, lifecycleContext, podRecord } from "../../../builders.ts";

/** A gang `g` of two pods without claims, planned for nodes `n0` and `n1`. Its clock says 1000 s. */
const nowMs = 1_000_000;
const placed: PlacedPod[] = [0, 1].map((index) => ({
  pod: `g-${index}`,
  podSet: "ranks",
  index,
  node: `n${index}`,
  claims: [],
}));
const units = [
  { kind: "Gang" as const, uid: "other", attempts: 0 },
  { kind: "Gang" as const, uid: "another", attempts: 2 },
  { kind: "Pod" as const, uid: "alone" },
];

function gang(status: GangStatus, more: Partial<GangRecord> = {}, podSet: object = {}): GangRecord {
  return gangRecord({
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 2, ...podSet }] }),
    status: { observedGeneration: 1, placement: { pods: placed }, ...status },
    reservedAtMs: nowMs - 10_000,
    ...more,
  });
}

const waiting = (index: number, more: Partial<PodRecord> = {}) =>
  podRecord(`g-${index}`, { uid: `u-${index}`, gang: "g", index, gates: [gangGate], bindMarker: true, ...more });
const bound = (index: number, more: Partial<PodRecord> = {}) =>
  waiting(index, { gates: [], nodeName: `n${index}`, ...more });

function stateOf(record: GangRecord, pods: PodRecord[], more: Partial<GangState> = {}): GangState {
  return { ...newGangState("team/g"), gang: record, pods: new Map(pods.map((each) => [each.uid, each])), ...more };
}

const at = (state: GangState, more: Partial<Context> = {}): StepResult =>
  step(state, [{ type: "tick" }], lifecycleContext(more.nowMs ?? nowMs, more));

function said({ effects }: StepResult): string[] {
  return effects.map((effect) => {
    if (effect.type === "writeStatus") return `${effect.status.phase}: ${effect.status.explanation ?? ""}`;
    if (effect.type === "evictPod" || effect.type === "disruptPod") return `${effect.type} ${effect.pod.name}`;
    return effect.type === "event" ? `${effect.reason}: ${effect.note}` : effect.type;
  });
}

function written(result: StepResult): GangStatus {
  return result.effects.find(
    (effect): effect is Extract<Effect, { type: "writeStatus" }> => effect.type === "writeStatus",
  )!.status;
}

describe("a gang that preempts others", () => {
  const preempting = (more: GangStatus = {}) => gang({ phase: "Preempting", preempting: units, ...more });
  const pods = [waiting(0), waiting(1)];
  const leaving = (left: number): Partial<Context> => ({ leaving: () => ({ left, evict: [] }) });

  test("writes down the place and who has to leave before anybody is told", () => {
    const placement = {
      gang: "g",
      namespace: "team",
      pods: placed,
      domains: {},
      cost: { totalMs: 1 },
    } as unknown as Placement;
    const state = stateOf(gang({ phase: "Pending" }), pods, { planning: true });
    const result = step(state, [{ type: "planned", placement, preempting: units }], lifecycleContext(nowMs));
    expect(said(result)).toEqual([
      "Preempting: has a place, and waits until 2 gangs and 1 pod of lower priority, which the planner preempts, have left it",
    ]);
    expect(written(result).preempting).toEqual(units);
    expect(heldPods(result.state)).toEqual(placed);
    const reread = stateOf(gang(written(result)), pods);
    expect(heldPods(reread)).toEqual(placed);
  });

  test("evicts pods that are alone, once, and waits", () => {
    const evict = [{ namespace: "team", name: "alone", uid: "alone" }];
    const first = at(stateOf(preempting(), pods), { leaving: () => ({ left: 1, evict }) });
    expect(said(first)).toEqual(["evictPod alone"]);
    const answered = step(
      first.state,
      [{ type: "done", effect: first.effects[0]!, outcome: { ok: true } }],
      lifecycleContext(nowMs, { leaving: () => ({ left: 1, evict }) }),
    );
    expect(said(answered)).toEqual([]);
  });

  test("is reserved when all have left and its devices are free, not before", () => {
    expect(said(at(stateOf(preempting(), pods), leaving(1)))).toEqual([]);
    expect(said(at(stateOf(preempting(), pods), { ...leaving(0), devicesFree: () => false }))).toEqual([]);
    const result = at(stateOf(preempting(), pods), leaving(0));
    expect(said(result)).toEqual(["Reserved: "]);
    expect(written(result)).toMatchObject({ placement: { pods: placed } });
    expect(written(result).preempting).toBeUndefined();
  });

  const spec = gang({ phase: "Preempting", preempting: units }, { generation: 2 });
  test.each<[string, GangState, Partial<Context>, string]>([
    ["the spec changed", stateOf(spec, pods), leaving(1), "the Gang's spec changed"],
    [
      "a node is lost",
      stateOf(preempting(), pods),
      { ...leaving(1), nodeFits: (node) => node !== "n1" },
      "node n1 no longer fits pod g-1",
    ],
    [
      "a member is gone for five seconds",
      stateOf(preempting(), [waiting(0)], { missingSinceMs: nowMs - 5_000 }),
      leaving(1),
      "pod g-1 is gone",
    ],
    [
      "they do not leave",
      stateOf(preempting(), pods),
      { ...leaving(1), nowMs: nowMs + 590_000 },
      "those of lower priority did not leave within 600 s",
    ],
    [
      "they have left and the devices are not free",
      stateOf(preempting(), pods, { vacatedSinceMs: nowMs - 30_000 }),
      { ...leaving(0), devicesFree: () => false },
      "those of lower priority have left, and others hold the devices",
    ],
  ])("calls it off when %s, and holds nothing then", (_, state, context, why) => {
    const result = at(state, context);
    expect(said(result)).toEqual([`Pending: preemption was called off: ${why}`]);
    expect(written(result)).toMatchObject({ attempts: 1 });
    expect(heldPods(stateOf(gang({ ...written(result), placement: { pods: placed } }), pods))).toEqual([]);
    expect(result.state.replanAtMs).toBeGreaterThan(nowMs);
  });
});

describe("a gang that is preempted", () => {
  const condemned: Partial<Context> = { condemned: () => true };
  const preempted = (more: GangStatus = {}) => {
    const { placement: _, ...status } = gang({ phase: "Preempted", attempts: 1, ...more }).status;
    return gangRecord({ spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }] }), status });
  };

  test.each(["Scheduled", "Reserved", "Preempting"] as const)("gives up its places first, from %s", (phase) => {
    const result = at(stateOf(gang({ phase }), [bound(0), bound(1)]), condemned);
    expect(said(result)).toEqual([
      "Preempted: preempted: its nodes and devices are for a gang of higher priority; it is planned again when its pods are gone",
    ]);
    expect(written(result).placement).toBeUndefined();
    expect(written(result).attempts).toBe(1);
  });

  test("is left alone while it is being bound", () => {
    const result = at(stateOf(gang({ phase: "Binding" }), [bound(0), bound(1)]), condemned);
    expect(written(result).phase).toBe("Scheduled");
    const binding: Effect = {
      type: "bind",
      id: "bind/u-1",
      pod: { namespace: "team", name: "g-1", uid: "u-1" },
      node: "n1",
    };
    const state = stateOf(gang({ phase: "Scheduled" }), [bound(0), waiting(1)], {
      inFlight: new Map([[binding.id, binding]]),
    });
    expect(said(at(state, condemned))).toEqual([]);
  });

  test("has every bound member evicted, holds nothing, and is planned again when all are gone", () => {
    const first = at(stateOf(preempted(), [bound(0), bound(1)]));
    expect(said(first)).toEqual(["evictPod g-0", "evictPod g-1"]);
    expect(heldPods(first.state)).toEqual([]);
    // One is ending, the other is gone and was made anew.
    const anew = waiting(1, { uid: "u-9" });
    expect(said(at(stateOf(preempted(), [bound(0, { deleting: true }), anew])))).toEqual([]);
    expect(said(at(stateOf(preempted(), [waiting(0), anew])))[0]).toMatch(/^Pending: preempted/);
  });

  test("does not wait for a member that is ending on a lost node", () => {
    const state = stateOf(preempted(), [bound(0, { deleting: true }), waiting(1)]);
    expect(said(at(state, { nodeFits: () => false }))[0]).toMatch(/^Pending/);
  });

  const refused = (attempts: number, ...uids: string[]) =>
    new Map(
      uids.map((uid) => [
        `evict/${uid}`,
        { attempts, notBeforeMs: 0, message: "would violate the budget", mayHavePassed: false },
      ]),
    );

  test("says once that its pods are not let go", () => {
    const pace = refused(8, "u-0", "u-1");
    const first = at(stateOf(preempted(), [bound(0), bound(1)], { pace }));
    expect(said(first)).toEqual([
      "evictPod g-0",
      "evictPod g-1",
      "GangEvictionRefused: pod g-0 is to make room and is not evicted: would violate the budget",
    ]);
    expect(said(at({ ...first.state, inFlight: new Map() }))).toEqual(["evictPod g-0", "evictPod g-1"]);
  });

  test("stays whole when none of its pods is let go", () => {
    const state = stateOf(preempted(), [bound(0), bound(1)], { pace: refused(14, "u-0", "u-1"), evictionTold: true });
    expect(said(at(state))).toEqual([
      "Pending: was to be preempted, and the API server evicts none of its pods: it stays",
    ]);
    const back = at(stateOf(gang({ phase: "Pending", attempts: 1 }), [bound(0), bound(1)]));
    expect(written(back).phase).toBe("Scheduled");
  });

  test("is not left half: what the others left alone is deleted when it is not let go", () => {
    const state = stateOf(preempted(), [bound(0), waiting(1)], { pace: refused(14, "u-0"), evictionTold: true });
    expect(said(at(state))).toEqual(["disruptPod g-0"]);
    const early = stateOf(preempted(), [bound(0), waiting(1)], { pace: refused(13, "u-0"), evictionTold: true });
    expect(said(at(early))).toEqual(["evictPod g-0"]);
  });
});
