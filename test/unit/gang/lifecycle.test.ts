import { describe, expect, test } from "vitest";
import { type GangStatus, gangSpec } from "../../../src/api/gang.ts";
import { gangGate } from "../../../src/api/names.ts";
import type { PlacedPod, Placement } from "../../../src/api/placement.ts";
import { podConsumer } from "../../../src/gang/lifecycle/claims.ts";
import { keptPods } from "../../../src/gang/lifecycle/members.ts";
import {
  type Context,
  type Effect,
  type GangRecord,
  type GangState,
  heldPods,
  type LifecycleEvent,
  newGangState,
  type StepResult,
  waitsForRoom,
} from "../../../src/gang/lifecycle/state.ts";
import { step } from "../../../src/gang/lifecycle/step.ts";
import type { ClaimRecord, PodRecord } from "../../../src/topology/records.ts";
import { driver, exactly, gangRecord, lifecycleContext, podRecord } from "../../builders.ts";

/** A gang `g` of two pods `g-0` and `g-1`, planned for nodes `n0` and `n1` with one GPU each. Its clock says 100 s. */
const nowMs = 100_000;
const gangRef = { name: "g", uid: "gang-uid" };
const guard = { apiGroup: "scheduling.kllama.ai", resource: "gangs", ...gangRef };

const context = (more: Partial<Context> = {}): Context => lifecycleContext(more.nowMs ?? nowMs, more);

function gang(status: GangStatus = {}, more: Partial<GangRecord> = {}, spec: object = {}): GangRecord {
  return gangRecord({
    namespace: "d",
    ...gangRef,
    resourceVersion: "10",
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }], scheduleTimeoutSeconds: 60, ...spec }),
    status,
    ...more,
  });
}

function slot(index: number, node = `n${index}`): PlacedPod {
  const devices = [{ request: "gpus", driver, pool: node, device: "gpu-0" }];
  const claims = [{ claim: `c-${index}`, reference: "gpus", devices }];
  return { pod: `g-${index}`, podSet: "ranks", index, node, claims };
}

const planned = { pods: [slot(0), slot(1)] };

/** In a phase with the plan in its status, reserved ten seconds ago. */
function gangIn(phase: NonNullable<GangStatus["phase"]>, status: GangStatus = {}, more: Partial<GangRecord> = {}) {
  const full: GangStatus = { phase, observedGeneration: 1, members: "0/2", placement: planned, ...status };
  return gang(full, { reservedAtMs: nowMs - 10_000, ...more });
}

function pod(index: number, more: Partial<PodRecord> = {}): PodRecord {
  return podRecord(`g-${index}`, {
    uid: `u-${index}`,
    namespace: "d",
    gang: "g",
    index,
    gates: [gangGate],
    claims: [{ name: "gpus", claimName: `c-${index}` }],
    ...more,
  });
}

const released = (index: number, more: Partial<PodRecord> = {}) => pod(index, { gates: [], ...more });
const bound = (index: number, node = `n${index}`) => released(index, { nodeName: node });

function claim(index: number, more: Partial<ClaimRecord> = {}): ClaimRecord {
  return {
    uid: `claim-uid-${index}`,
    namespace: "d",
    name: `c-${index}`,
    resourceVersion: "5",
    spec: { devices: { requests: [exactly("gpus", 1)] } },
    reservedFor: [],
    finalizers: [],
    deleting: false,
    ownerPodUid: `u-${index}`,
    ...more,
  };
}

/** Allocated as `slot` says, for the pod and (`guarded`) for the gang. */
function held(
  index: number,
  { guarded = true, node = `n${index}`, more = {} as Partial<ClaimRecord> } = {},
): ClaimRecord {
  const consumer = podConsumer({ name: `g-${index}`, uid: `u-${index}` });
  return claim(index, {
    allocation: {
      devices: { results: slot(index, node).claims[0]!.devices },
      nodeSelector: {
        nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: [node] }] }],
      },
    },
    reservedFor: guarded ? [guard, consumer] : [consumer],
    ...more,
  });
}

function stateOf(
  record: GangRecord | undefined,
  pods: PodRecord[],
  claims: ClaimRecord[],
  more: object = {},
): GangState {
  return {
    ...newGangState("d/g"),
    ...(record === undefined ? {} : { gang: record }),
    pods: new Map(pods.map((each) => [each.uid, each])),
    claims: new Map(claims.map((each) => [each.name, each])),
    ...more,
  };
}

const arrived = (index: number, node = `n${index}`, call = index + 1): LifecycleEvent => ({
  type: "arrived",
  podUid: `u-${index}`,
  node,
  call,
});
const tick: LifecycleEvent = { type: "tick" };

/** Effects in short, in order. */
function said({ effects }: Pick<StepResult, "effects">): string[] {
  return effects.map((effect) => {
    switch (effect.type) {
      case "writeStatus":
        return `${effect.status.phase}${effect.status.explanation === undefined ? "" : `: ${effect.status.explanation}`}`;
      case "reserveClaim":
        return `reserve ${effect.claim.name} on ${effect.node}`;
      case "clearClaim":
        return `clear ${effect.claim.name}`;
      case "dropGuard":
        return `drop guard of ${effect.claim.name}`;
      case "releasePod":
        return `release ${effect.pod.name} to ${effect.node}`;
      case "bind":
        return `bind ${effect.pod.name} to ${effect.node}`;
      case "disruptPod":
        return `delete ${effect.pod.name}`;
      case "answer":
        return `answer ${effect.call}: ${effect.error ?? "bound"}`;
      default:
        return effect.type;
    }
  });
}

function statusIn({ effects }: StepResult): GangStatus | undefined {
  return effects.find((effect) => effect.type === "writeStatus")?.status;
}

const done = (effect: Effect | undefined): LifecycleEvent => ({ type: "done", effect: effect!, outcome: { ok: true } });
const failed = (effect: Effect | undefined, reason = "Unreachable"): LifecycleEvent => ({
  type: "done",
  effect: effect!,
  outcome: { ok: false, reason, message: "no" },
});

/** The effect is done and the watch shows the status that it wrote. */
function written(result: StepResult): LifecycleEvent[] {
  const effect = result.effects.find((each) => each.type === "writeStatus");
  const { gang: record } = result.state;
  const resourceVersion = String(Number(record!.resourceVersion) + 1);
  return [{ type: "gang", gang: { ...record!, status: effect!.status, resourceVersion } }, done(effect)];
}

const noPlace: LifecycleEvent = {
  type: "rejected",
  rejection: {
    gang: "g",
    namespace: "d",
    reason: "InsufficientDevices",
    message: "no room",
    blocking: [],
    counterfactuals: [],
  },
  capacityVersion: 1,
};
const plan = (...pods: PlacedPod[]): LifecycleEvent => ({
  type: "planned",
  placement: { gang: "g", namespace: "d", pods, domains: {}, cost: { totalMs: 1 } } as unknown as Placement,
});

describe("a pending gang", () => {
  test("that lacks members says so once, after two seconds without news", () => {
    const first = step(stateOf(gang(), [pod(0)], [claim(0)]), [tick], context());
    expect(said(first)).toEqual([]);
    expect(first.wakeAtMs).toBe(nowMs + 2_000);
    const early = step(first.state, [tick], context({ nowMs: nowMs + 1_999 }));
    expect(said(early)).toEqual([]);
    const second = step(early.state, [tick], context({ nowMs: nowMs + 2_000 }));
    expect(said(second)).toEqual(["Pending: pod set ranks: 1 of 2 pods exist"]);
    expect(statusIn(second)?.conditions?.map(({ type, status, reason }) => [type, status, reason])).toEqual([
      ["Planned", "False", "WaitingForMembers"],
      ["Scheduled", "False", "WaitingForMembers"],
    ]);
    const third = step(second.state, written(second), context({ nowMs: nowMs + 9_000 }));
    expect(said(third)).toEqual([]);
    expect(third.wakeAtMs).toBeUndefined();
  });

  test("waits two seconds anew when a member comes", () => {
    const three = gang({}, {}, { podSets: [{ name: "ranks", count: 3 }] });
    const first = step(stateOf(three, [pod(0)], [claim(0)]), [tick], context());
    const more: LifecycleEvent[] = [
      { type: "pod", pod: pod(1) },
      { type: "claim", claim: claim(1) },
    ];
    const second = step(first.state, more, context({ nowMs: nowMs + 1_500 }));
    expect(second.wakeAtMs).toBe(nowMs + 3_500);
    expect(said(step(second.state, [tick], context({ nowMs: nowMs + 2_500 })))).toEqual([]);
  });

  const incomplete: Record<string, [PodRecord[], ClaimRecord[], string]> = {
    "a claim is not created yet": [[pod(0), pod(1)], [claim(0)], "1 of 2 pods have their ResourceClaims"],
    "a claim is on its way out": [
      [pod(0), pod(1)],
      [claim(0), claim(1, { deleting: true })],
      "1 of 2 pods have their ResourceClaims",
    ],
    "a pod has failed": [[pod(0), pod(1, { terminal: true })], [claim(0), claim(1)], "1 of 2 pods exist"],
    "a pod is being deleted": [[pod(0, { deleting: true }), pod(1)], [claim(0), claim(1)], "1 of 2 pods exist"],
  };
  for (const [title, [pods, claims, text]] of Object.entries(incomplete)) {
    test(`is not planned while ${title}`, () => {
      const first = step(stateOf(gang(), pods, claims), [tick], context());
      const second = step(first.state, [tick], context({ nowMs: nowMs + 2_000 }));
      expect(said(second)).toEqual([`Pending: pod set ranks: ${text}`]);
    });
  }

  test("that is complete asks for one plan, and for no other before it is answered", () => {
    const first = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
    expect(said(first)).toEqual(["plan"]);
    expect(said(step(first.state, [tick, tick], context()))).toEqual([]);
  });

  test("needs only minCount members to be planned", () => {
    const loose = gang({}, {}, { podSets: [{ name: "ranks", count: 2, minCount: 1 }] });
    expect(said(step(stateOf(loose, [pod(0)], [claim(0)]), [tick], context()))).toEqual(["plan"]);
  });

  test("with a fault says all of it and is not planned", () => {
    const record = gang({}, { problems: ["spec.constraints[0].level is blade; use one of rack, host"] });
    const first = step(stateOf(record, [pod(0), pod(7)], [claim(0), claim(7)]), [tick], context());
    expect(said(first)).toEqual([
      "Pending: spec.constraints[0].level is blade; use one of rack, host; " +
        "pod g-7 has index 7, but pod set ranks has count 2; raise the count or remove the pod",
    ]);
    expect(statusIn(first)?.conditions?.[0]?.reason).toBe("InvalidGang");
  });

  test("that was refused says why once, and asks again when capacity is freed, not sooner than after 250 ms", () => {
    const asking = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
    const refused = step(asking.state, [noPlace], context());
    expect(said(refused)).toEqual(["Pending: no room"]);
    const quiet = step(refused.state, written(refused), context({ nowMs: nowMs + 60_000 }));
    expect(said(quiet)).toEqual([]);
    const soon = step(quiet.state, [tick], context({ capacityVersion: 2, nowMs: nowMs + 100 }));
    expect(said(soon)).toEqual([]);
    expect(soon.wakeAtMs).toBe(nowMs + 250);
    expect(said(step(soon.state, [tick], context({ capacityVersion: 2, nowMs: nowMs + 250 })))).toEqual(["plan"]);
  });

  test.each([
    ["WaitingForPlacementGroup", "companionMoved", ["plan"]],
    ["InsufficientDevices", "companionMoved", []],
    ["WaitingForPlacementGroup", "groupChanged", ["plan"]],
    ["NoDomainFits", "groupChanged", ["plan"]],
    ["UnknownLevel", "groupChanged", ["plan"]],
  ] as const)("that was refused with %s, on %s, says %j", (reason, type, answer) => {
    const asking = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
    const refused = step(asking.state, [{ ...noPlace, rejection: { ...noPlace.rejection, reason } }], context());
    const quiet = step(refused.state, written(refused), context());
    const changed = step(quiet.state, [{ type }], context({ nowMs: nowMs + 250 }));
    expect(said(changed)).toEqual(answer);
  });

  test("that was refused says what would make room when it is known, and takes that back when it is known to be otherwise", () => {
    const outlook = (...counterfactuals: string[]): LifecycleEvent => ({ type: "outlook", counterfactuals });
    const refusal = (message: string): LifecycleEvent => {
      if (noPlace.type !== "rejected") throw new Error("it is one");
      return { ...noPlace, rejection: { ...noPlace.rejection, message }, capacityVersion: 2 };
    };
    const asking = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
    const refused = step(asking.state, [noPlace], context());
    expect(said(refused)).toEqual(["Pending: no room"]);
    const told = step(
      refused.state,
      [...written(refused), outlook("if gang a leaves", "if 1 node returns")],
      context(),
    );
    const text = "no room; it would fit if gang a leaves; it would fit if 1 node returns";
    expect(said(told)).toEqual([`Pending: ${text}`]);
    expect(statusIn(told)?.conditions?.map(({ message }) => message)).toEqual([text, text]);
    expect(told.state.outlookAtMs).toBe(nowMs);
    // Refused once more in the same words: what was said stands until it is known anew.
    const later = context({ capacityVersion: 2, nowMs: nowMs + 5_000 });
    const planned = step(told.state, [...written(told), tick], later);
    expect(said(planned)).toEqual(["plan"]);
    const again = step(planned.state, [refusal("no room")], later);
    expect(said(again)).toEqual([]);
    expect(said(step(again.state, [outlook("if gang a leaves", "if 1 node returns")], later))).toEqual([]);
    expect(said(step(again.state, [outlook()], later))).toEqual(["Pending: no room"]);
    expect(said(step(planned.state, [refusal("no room at all")], later))).toEqual(["Pending: no room at all"]);
  });

  const news: Record<string, LifecycleEvent[]> = {
    "a member is replaced": [
      { type: "podGone", uid: "u-1" },
      { type: "pod", pod: pod(1, { uid: "u-9" }) },
    ],
    "its spec changes": [{ type: "gang", gang: gang({}, { generation: 2, resourceVersion: "11" }) }],
  };
  for (const [title, events] of Object.entries(news)) {
    test(`that was refused asks again when ${title}`, () => {
      const asking = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
      const refused = step(asking.state, [noPlace], context());
      expect(said(step(refused.state, events, context({ nowMs: nowMs + 250 })))).toEqual(["plan"]);
    });
  }

  test("with a plan writes it as Reserved with the time, before anything else", () => {
    const state = stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]);
    const result = step(state, [plan(slot(0), slot(1))], context());
    expect(said(result)).toEqual(["Reserved"]);
    expect(statusIn(result)).toMatchObject({
      placement: { pods: [slot(0), slot(1)], costMs: 1 },
      reservedAt: "1970-01-01T00:01:40Z",
      observedGeneration: 1,
      members: "0/2",
    });
  });

  test("writes its plan again upon the newer object after a conflict, and keeps it", () => {
    const state = stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]);
    const first = step(state, [plan(slot(0), slot(1))], context());
    const conflict = step(first.state, [failed(first.effects[0], "Conflict")], context());
    expect(said(conflict)).toEqual([]);
    const newer: LifecycleEvent = { type: "gang", gang: gang({}, { resourceVersion: "11", labels: { a: "b" } }) };
    const again = step(conflict.state, [newer], context({ nowMs: nowMs + 50 }));
    expect(said(again)).toEqual(["Reserved"]);
    expect(again.effects[0]).toMatchObject({ gang: { resourceVersion: "11" } });
    expect(again.state.proposal?.pods).toHaveLength(2);
  });

  test("drops a plan that was made for an older spec", () => {
    const state = stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]);
    const first = step(state, [plan(slot(0), slot(1))], context());
    const changed: LifecycleEvent = { type: "gang", gang: gang({}, { generation: 2, resourceVersion: "11" }) };
    const second = step(first.state, [failed(first.effects[0], "Conflict"), changed], context());
    expect(second.state.proposal).toBeUndefined();
    expect(said(second)).toEqual(["plan"]);
  });

  test("asks for a plan of its own after a Gang of its name was deleted while it was planned", () => {
    const asking = step(stateOf(gang(), [pod(0), pod(1)], [claim(0), claim(1)]), [tick], context());
    const events: LifecycleEvent[] = [
      { type: "gangGone", uid: gangRef.uid },
      { type: "gang", gang: gang({}, { uid: "another" }) },
    ];
    expect(said(step(asking.state, events, context()))).toEqual(["plan"]);
  });

  test("whose pods run already is scheduled where they are", () => {
    const state = stateOf(gang(), [bound(0), bound(1)], [held(0, { guarded: false }), held(1, { guarded: false })]);
    const result = step(state, [tick], context());
    expect(said(result)).toEqual(["Scheduled"]);
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1)]);
    expect(statusIn(result)?.members).toBe("2/2");
  });

  test("whose pods run already holds their places while that is being written, whatever becomes of them", () => {
    const state = stateOf(gang(), [bound(0), bound(1)], [held(0, { guarded: false }), held(1, { guarded: false })]);
    const writing = step(state, [tick], context());
    const gone: LifecycleEvent[] = [0, 1].map((index) => ({ type: "podGone", uid: `u-${index}` }));
    const after = step(writing.state, gone, context());
    expect(heldPods(after.state)).toEqual([slot(0), slot(1)]);
    expect(heldPods(step(after.state, [failed(writing.effects[0], "Conflict")], context()).state)).toEqual([]);
  });

  test("whose pods run already holds their places until it is known whether that was written, and writes the same again", () => {
    const state = stateOf(gang(), [bound(0), bound(1)], [held(0, { guarded: false }), held(1, { guarded: false })]);
    const writing = step(state, [tick], context());
    const gone: LifecycleEvent[] = [0, 1].map((index) => ({ type: "podGone", uid: `u-${index}` }));
    const unknown = step(writing.state, [...gone, failed(writing.effects[0], "Timeout")], context());
    expect(heldPods(unknown.state)).toEqual([slot(0), slot(1)]);
    const again = step(unknown.state, [tick], context({ nowMs: unknown.wakeAtMs! }));
    expect(statusIn(again)).toEqual(statusIn(writing));
    // Somebody edits the Gang: a write that rests on the older version can come no more.
    const edited = step(again.state, [{ type: "gang", gang: gang({}, { resourceVersion: "11" }) }], context());
    expect(heldPods(step(edited.state, [failed(again.effects[0], "Conflict")], context()).state)).toEqual([]);
  });

  test("does not call a place complete whose pod has lost its claim", () => {
    const state = stateOf(gang(), [bound(0), bound(1)], [held(0, { guarded: false }), claim(1)]);
    const result = step(state, [tick], context());
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), { ...slot(1), claims: [] }]);
  });

  test("of which some run is planned around them", () => {
    const asking = step(
      stateOf(gang(), [bound(0), pod(1)], [held(0, { guarded: false }), claim(1)]),
      [tick],
      context(),
    );
    expect(said(asking)).toEqual(["plan"]);
    const result = step(asking.state, [plan(slot(1))], context());
    expect(said(result)).toEqual(["Reserved"]);
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1)]);
  });
});

describe("a reserved gang", () => {
  const pods = [pod(0), pod(1)];

  test("reserves each claim for the gang and the pod, beside consumers that are there", () => {
    const other = { resource: "pods", name: "watcher", uid: "w" };
    const claims = [claim(0, { reservedFor: [other] }), claim(1)];
    const result = step(stateOf(gangIn("Reserved"), pods, claims), [tick], context());
    expect(said(result)).toEqual(["reserve c-0 on n0", "reserve c-1 on n1"]);
    expect(result.effects[0]).toMatchObject({
      claim: { uid: "claim-uid-0", resourceVersion: "5" },
      placed: slot(0).claims[0],
      reservedFor: [other, guard, podConsumer({ name: "g-0", uid: "u-0" })],
    });
    expect(said(step(result.state, [tick], context()))).toEqual([]);
  });

  test("reserves a claim that several members name for all of them in one write", () => {
    const shared = [pod(0), pod(1, { claims: pod(0).claims })];
    const { claims } = slot(0);
    const status = { placement: { pods: [slot(0), { ...slot(1, "n0"), claims }] } };
    const { ownerPodUid: _, ...named } = claim(0);
    const result = step(stateOf(gangIn("Reserved", status), shared, [named]), [tick], context());
    expect(said(result)).toEqual(["reserve c-0 on n0"]);
    const consumers = shared.map(podConsumer);
    expect(result.effects[0]).toMatchObject({ reservedFor: [guard, ...consumers] });
    const reserved: ClaimRecord = { ...named, ...held(0), reservedFor: [guard, ...consumers] };
    const next = step(result.state, [{ type: "claim", claim: reserved }, done(result.effects[0])], context());
    expect(said(next)).toEqual(["release g-0 to n0", "release g-1 to n0"]);
  });

  test("lifts no gate before every claim is reserved", () => {
    expect(said(step(stateOf(gangIn("Reserved"), pods, [held(0), claim(1)]), [tick], context()))).toEqual([
      "reserve c-1 on n1",
    ]);
    const result = step(stateOf(gangIn("Reserved"), pods, [held(0), held(1)]), [tick], context());
    expect(said(result)).toEqual(["release g-0 to n0", "release g-1 to n1"]);
  });

  test("reserves again a claim that lost its guard or its pod", () => {
    const claims = [held(0, { guarded: false }), held(1, { more: { reservedFor: [guard] } })];
    expect(said(step(stateOf(gangIn("Reserved"), pods, claims), [tick], context()))).toEqual([
      "reserve c-0 on n0",
      "reserve c-1 on n1",
    ]);
  });

  test("lets go of a claim that somebody deletes: kube-scheduler would take no pod with it", () => {
    const claims = [held(0), held(1, { more: { deleting: true } })];
    const result = step(stateOf(gangIn("Reserved"), pods, claims), [arrived(0), arrived(1)], context());
    expect(said(result)).toEqual(["clear c-1"]);
  });

  test("nominates the node unless it is nominated, and leaves gates of others alone", () => {
    const [first, second] = [pod(0, { nominatedNodeName: "n0" }), pod(1, { gates: ["example.com/wait"] })];
    const result = step(stateOf(gangIn("Reserved"), [first, second], [held(0), held(1)]), [tick], context());
    expect(result.effects).toMatchObject([{ type: "releasePod", pod: { name: "g-0" }, nominate: false }]);
    expect(result.effects).toHaveLength(1);
  });

  test("commits once all are at the barrier, and not before", () => {
    const state = stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]);
    const one = step(state, [arrived(0)], context());
    expect(said(one)).toEqual([]);
    const both = step(one.state, [arrived(1)], context());
    expect(said(both)).toEqual(["Binding"]);
    expect(statusIn(both)?.placement).toEqual(planned);
    expect(said(step(both.state, [tick], context()))).toEqual([]);
  });

  const notThere: Record<string, [LifecycleEvent[], Partial<Context>]> = {
    "one arrived for another node": [[arrived(0), arrived(1, "n7")], {}],
    "one hung up": [[arrived(0), arrived(1), { type: "left", podUid: "u-1", call: 2 }], {}],
    "one was deleted": [[arrived(0), arrived(1), { type: "podGone", uid: "u-1" }], {}],
    "its PlacementGroup is not complete at the barrier": [[arrived(0), arrived(1)], { groupReady: () => false }],
  };
  for (const [title, [events, more]] of Object.entries(notThere)) {
    test(`does not commit when ${title}`, () => {
      const state = stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]);
      expect(said(step(state, events, context(more)))).not.toContain("Binding");
    });
  }

  test("is revoked at the barrier when others of its PlacementGroup are elsewhere", () => {
    const state = stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]);
    const elsewhere: Partial<Context> = {
      outlying:
        () =>
        ({ index }) =>
          index === 1,
      groupReady: () => false,
    };
    expect(said(step(state, [arrived(0)], context(elsewhere)))).toEqual([]);
    expect(said(step(state, [arrived(0), arrived(1)], context(elsewhere)))).toEqual([
      "Revoked: pod g-1 is planned for node n1, and others of its PlacementGroup, which requires one domain, are elsewhere",
    ]);
  });

  test("does not commit while a node has no room for its members any more, and gives the places up after five seconds", () => {
    const asked: string[][] = [];
    const leavesRoomForAll = (node: string, comers: readonly PodRecord[]) => {
      asked.push([node, ...comers.map(({ name }) => name)]);
      return node !== "n1";
    };
    const state = stateOf(gangIn("Reserved"), [bound(0), released(1)], [held(0, { guarded: false }), held(1)]);
    const first = step(state, [arrived(1)], context({ leavesRoomForAll }));
    expect(said(first)).toEqual([]);
    expect(asked).toEqual([["n1", "g-1"]]);
    expect(first.wakeAtMs).toBe(nowMs + 5_000);
    const later = context({ leavesRoomForAll, nowMs: nowMs + 5_000 });
    expect(said(step(first.state, [tick], later))).toEqual([
      "Revoked: others took the room of g-1 on node n1 before all members arrived",
    ]);
    const again = step(first.state, [tick], context({ nowMs: nowMs + 4_999 }));
    expect(said(again)).toEqual(["Binding"]);
    expect(again.state.squeezedSinceMs).toBeUndefined();
  });

  test("keeps a member at the barrier when only an older call of it hangs up", () => {
    const state = stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]);
    const events = [
      arrived(0),
      arrived(1, "n1", 2),
      arrived(1, "n1", 3),
      { type: "left", podUid: "u-1", call: 2 } as const,
    ];
    expect(said(step(state, events, context()))).toEqual(["Binding"]);
  });

  test("is revoked when its time is over, not a millisecond earlier", () => {
    const state = stateOf(gangIn("Reserved", { attempts: 2 }), [released(0), released(1)], [held(0), held(1)]);
    const deadline = nowMs - 10_000 + 60_000;
    const before = step(state, [arrived(0)], context({ nowMs: deadline - 1 }));
    expect(said(before)).toEqual([]);
    expect(before.wakeAtMs).toBe(deadline);
    const after = step(before.state, [tick], context({ nowMs: deadline }));
    expect(said(after)).toEqual(["Revoked: not all members arrived within 60 s (spec.scheduleTimeoutSeconds)"]);
    expect(statusIn(after)).toMatchObject({ attempts: 3, conditions: [{ reason: "Revoked" }, { reason: "Revoked" }] });
    expect(statusIn(after)).not.toHaveProperty("placement");
    expect(statusIn(after)).not.toHaveProperty("reservedAt");
  });

  const troubles: Record<string, [GangState, Partial<Context>, string]> = {
    "its spec changes": [
      stateOf(gangIn("Reserved", {}, { generation: 2 }), pods, [held(0), held(1)]),
      {},
      "the Gang's spec changed",
    ],
    "its spec breaks a rule now": [
      stateOf(gangIn("Reserved", {}, { problems: ["there is no ClusterTopology t"] }), pods, [held(0), held(1)]),
      {},
      "there is no ClusterTopology t",
    ],
    "a node is lost": [
      stateOf(gangIn("Reserved"), pods, [held(0), held(1)]),
      { nodeFits: (node) => node !== "n1" },
      "node n1 no longer fits pod g-1",
    ],
    "a claim holds other devices": [
      stateOf(gangIn("Reserved"), pods, [held(0), held(1, { node: "n5" })]),
      {},
      "claim c-1 was allocated by somebody else",
    ],
    "a device cannot be made ready": [
      stateOf(gangIn("Reserved"), pods, [held(0), held(1, { more: { bindingFailure: "device p/d: lost: no cable" } })]),
      {},
      "pod g-1 cannot be bound: device p/d: lost: no cable",
    ],
    "a member is bound elsewhere": [
      stateOf(gangIn("Reserved"), [pod(0), bound(1, "n5")], [held(0), held(1)]),
      {},
      "pod g-1 was bound to node n5 by somebody else",
    ],
  };
  for (const [title, [state, more, reason]] of Object.entries(troubles)) {
    test(`is revoked at once when ${title}`, () => {
      expect(said(step(state, [tick], context(more)))).toEqual([`Revoked: ${reason}`]);
    });
  }

  test("is revoked when a claim that was made for a member is away for five seconds, and says what helps", () => {
    const own = pod(1, { claims: [{ name: "gpus", claimName: "c-1", templateName: "gpus" }] });
    const state = stateOf(gangIn("Reserved"), [pod(0), own], [held(0), held(1)]);
    const away = step(state, [{ type: "claimGone", name: "c-1" }], context());
    expect(away.wakeAtMs).toBe(nowMs + 5_000);
    const back = step(away.state, [{ type: "claim", claim: held(1) }], context({ nowMs: nowMs + 4_000 }));
    expect(said(back)).not.toContainEqual(expect.stringContaining("Revoked"));
    const lost =
      "ResourceClaim c-1 of pod g-1 was deleted; delete the pod, so that it is created anew with another claim";
    const late = step(away.state, [tick], context({ nowMs: nowMs + 5_000 }));
    expect(said(late)).toEqual([`Revoked: ${lost}`, "tellPod"]);
    const pending = stateOf(gang(), [pod(0), own], [claim(0)], { claimless: late.state.claimless });
    const settled = step(pending, [tick], context({ nowMs: nowMs + 5_000 }));
    expect(said(step(settled.state, [tick], context({ nowMs: nowMs + 9_000 })))).toEqual([
      `Pending: pod set ranks: 1 of 2 pods have their ResourceClaims; ${lost}`,
    ]);
  });

  test("is not revoked for the node of a member that runs there already", () => {
    const state = stateOf(gangIn("Reserved"), [bound(0), pod(1)], [held(0, { guarded: false }), held(1)]);
    const result = step(state, [tick], context({ nodeFits: (node) => node !== "n0" }));
    expect(said(result)).toEqual(["release g-1 to n1"]);
  });

  test("gives a missing member five seconds, and each absence its own", () => {
    const state = stateOf(gangIn("Reserved"), pods, [held(0), held(1)]);
    const gone = step(state, [{ type: "podGone", uid: "u-1" }], context());
    expect(gone.wakeAtMs).toBe(nowMs + 5_000);
    const back = step(gone.state, [{ type: "pod", pod: pod(1) }], context({ nowMs: nowMs + 4_000 }));
    expect(said(back)).not.toContainEqual(expect.stringContaining("Revoked"));
    const again = step(back.state, [{ type: "podGone", uid: "u-1" }], context({ nowMs: nowMs + 6_000 }));
    expect(again.wakeAtMs).toBe(nowMs + 11_000);
    const late = step(again.state, [tick], context({ nowMs: nowMs + 11_000 }));
    expect(said(late)).toEqual(["Revoked: pod g-1 is gone"]);
  });

  test("gives a missing member its five seconds in a later reservation too", () => {
    const gone = step(
      stateOf(gangIn("Reserved"), pods, [held(0), held(1)]),
      [{ type: "podGone", uid: "u-1" }],
      context(),
    );
    const revoked: LifecycleEvent = { type: "gang", gang: gangIn("Revoked", {}, { resourceVersion: "11" }) };
    const between = step(gone.state, [revoked], context({ nowMs: nowMs + 1_000 }));
    const later = nowMs + 30_000;
    const reserved = gangIn("Reserved", {}, { resourceVersion: "12", reservedAtMs: later });
    const again = step(between.state, [{ type: "gang", gang: reserved }], context({ nowMs: later }));
    expect(said(again)).not.toContainEqual(expect.stringContaining("Revoked"));
    expect(again.wakeAtMs).toBe(later + 5_000);
  });

  test("reserves for a recreated member only after its predecessor has let go", () => {
    const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const state = stateOf(gangIn("Reserved"), [pod(0), fresh], [held(0), held(1), claim(9)]);
    const waiting = step(state, [tick], context({ devicesFree: (_, placed) => placed.index !== 1 }));
    // The old claim loses its guard only: its consumer is a pod that is not known here any more.
    expect(said(waiting)).toEqual(["drop guard of c-1"]);
    const free = step(waiting.state, [done(waiting.effects[0]), { type: "claimGone", name: "c-1" }], context());
    expect(said(free)).toEqual(["reserve c-9 on n1"]);
  });

  test("does not reserve for a recreated member while a reservation for its predecessor is under way", () => {
    const before = step(stateOf(gangIn("Reserved"), pods, [held(0), claim(1)]), [tick], context());
    expect(said(before)).toEqual(["reserve c-1 on n1"]);
    const events: LifecycleEvent[] = [
      { type: "podGone", uid: "u-1" },
      { type: "pod", pod: pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] }) },
      { type: "claim", claim: claim(9) },
    ];
    expect(said(step(before.state, events, context()))).toEqual([]);
  });
});

describe("a reserved gang that kube-scheduler refuses", () => {
  const claims = [held(0), held(1)];
  const refusal = "0/2 nodes are available: 1 node(s) didn't have free ports";
  const says = (unschedulableMessage: string): LifecycleEvent => ({
    type: "pod",
    pod: released(1, { unschedulableMessage }),
  });
  const trying = () =>
    step(stateOf(gangIn("Reserved"), [released(0), released(1)], claims), [tick], context({ nowMs }));

  test("is revoked once the refusal stood for longer than the back-off, and avoids the node from then on", () => {
    const refused = step(trying().state, [says(refusal)], context());
    expect([said(refused), refused.wakeAtMs]).toEqual([[], nowMs + 15_000]);
    expect(said(step(refused.state, [tick], context({ nowMs: nowMs + 14_999 })))).toEqual([]);
    const over = step(refused.state, [tick], context({ nowMs: nowMs + 15_000 }));
    expect(said(over)).toEqual(["planRefused", `Revoked: kube-scheduler refuses pod g-1 on node n1: ${refusal}`]);
    expect([...over.state.avoided]).toEqual([["n1", nowMs + 315_000]]);
  });

  test("waits for the barrier when the member arrives after all", () => {
    const refused = step(trying().state, [says(refusal)], context());
    const there = step(refused.state, [arrived(1)], context({ nowMs: nowMs + 5_000 }));
    expect(said(step(there.state, [tick], context({ nowMs: nowMs + 30_000 })))).toEqual([]);
  });

  test("is taken at its word as soon when the refusal is seen together with the release", () => {
    const gated = step(stateOf(gangIn("Reserved"), [released(0), pod(1)], claims), [tick], context());
    const refused = step(gated.state, [says(refusal)], context({ nowMs: nowMs + 100 }));
    expect(refused.wakeAtMs).toBe(nowMs + 15_100);
    expect(said(step(refused.state, [tick], context({ nowMs: nowMs + 15_100 })))).toContain("planRefused");
  });

  test("is given a minute when the condition may be left over from before its release", () => {
    const pods = [released(0), released(1, { unschedulableMessage: refusal })];
    const first = step(stateOf(gangIn("Reserved", {}, { reservedAtMs: nowMs }), pods, claims), [tick], context());
    const spec = { nowMs: nowMs + 59_000 };
    expect(said(step(first.state, [tick], context(spec)))).toEqual([]);
    const changed = step(first.state, [says("something else")], context());
    expect(said(step(changed.state, [tick], context({ nowMs: nowMs + 15_000 })))).toContain("planRefused");
  });

  test("is given a minute for a refusal of the place that a Gang of its name had there before it", () => {
    const refused = step(trying().state, [says(refusal)], context());
    const { uid } = gangIn("Reserved");
    const anew: LifecycleEvent[] = [
      { type: "gangGone", uid },
      { type: "gang", gang: gang({}, { uid: "another" }) },
    ];
    const waiting = step(refused.state, anew, context({ nowMs: nowMs + 10_000 }));
    const again = gangIn("Reserved", {}, { reservedAtMs: nowMs + 20_000, uid: "another" });
    const reserved = step(waiting.state, [{ type: "gang", gang: again }], context({ nowMs: nowMs + 20_000 }));
    expect(said(reserved)).not.toContain("planRefused");
    expect(said(step(reserved.state, [tick], context({ nowMs: nowMs + 79_000 })))).not.toContain("planRefused");
  });

  test("has a member without claims tried at its new place: nothing that is written for it would have that done", () => {
    const router = { ...slot(1, "n2"), claims: [] };
    const record = gangIn("Reserved", { placement: { pods: [slot(0), router] } }, { reservedAtMs: nowMs });
    const member = (more: Partial<PodRecord> = {}) =>
      released(1, { claims: [], unschedulableMessage: refusal, ...more });
    const first = step(stateOf(record, [released(0), member()], [held(0)]), [tick], context());
    expect(first.effects).toMatchObject([{ type: "releasePod", pod: { name: "g-1" }, node: "n2", nominate: true }]);
    const nominated: LifecycleEvent = { type: "pod", pod: member({ nominatedNodeName: "n2" }) };
    const told = step(first.state, [done(first.effects[0]), nominated], context());
    expect(said(told)).toEqual([]);
    // kube-scheduler tried, and dropped the nomination.
    expect(step(told.state, [{ type: "pod", pod: member() }], context()).effects).toMatchObject([{ node: "n2" }]);
    const heard: LifecycleEvent = { type: "pod", pod: member({ unschedulableMessage: "something else" }) };
    expect(said(step(told.state, [heard], context()))).toEqual([]);
  });

  test("is planned again when its refused plan was for want of nodes that it avoids no longer", () => {
    const avoided = new Map([["n1", nowMs + 1_000]]);
    const rejection = { reason: "NoNodeMatches", message: "no", capacityVersion: 1, members: "u-0,u-1" };
    const pending = stateOf(gang(), [released(0), released(1)], [claim(0), claim(1)], { avoided, rejection });
    const waiting = step(pending, [tick], context());
    expect(said(waiting)).not.toContain("plan");
    expect(waiting.wakeAtMs).toBe(nowMs + 1_000);
    expect(said(step(waiting.state, [tick], context({ nowMs: nowMs + 1_000 })))).toContain("plan");
  });
});

describe("a reserved gang that waits for room in the release window", () => {
  const reserved = stateOf(gangIn("Reserved"), [pod(0), pod(1)], [held(0), held(1)]);
  const full = { mayRelease: () => false };

  test("lifts no gate, and no deadline runs meanwhile", () => {
    const late = step(reserved, [tick], context({ ...full, nowMs: nowMs + 3_600_000 }));
    expect(said(late)).toEqual([]);
  });

  test("has its whole time from its release on", () => {
    const atMs = nowMs + 3_600_000;
    const released = step(reserved, [tick], context({ nowMs: atMs }));
    expect(said(released)).toEqual(["release g-0 to n0", "release g-1 to n1"]);
    expect(said(step(released.state, [tick], context({ nowMs: atMs + 59_999 })))).toEqual([]);
    expect(said(step(released.state, [tick], context({ nowMs: atMs + 60_000 })))[0]).toMatch(/^Revoked/);
  });
});

test("members that return to a running gang wait for room in the release window together", () => {
  const state = stateOf(gangIn("Scheduled"), [bound(0), pod(1)], [held(0, { guarded: false }), held(1)]);
  const asked: number[] = [];
  const mayRelease = (_: GangState, pods: number): boolean => asked.push(pods) > 1;
  const waiting = step(state, [tick], context({ mayRelease }));
  expect(said(waiting)).not.toContain("release g-1 to n1");
  expect(said(step(waiting.state, [tick], context({ mayRelease })))).toContain("release g-1 to n1");
  expect(asked).toEqual([1, 1]);
});

describe("a reserved gang whose time is shorter than kube-scheduler's back-off", () => {
  const spec = { ...gang().spec, scheduleTimeoutSeconds: 3 };
  const lateAfter = (attempts: number | undefined, afterMs: number) => {
    const status = { ...gangIn("Reserved").status, ...(attempts === undefined ? {} : { attempts }) };
    const reserved = { ...gangIn("Reserved", {}, { reservedAtMs: nowMs }), spec, status };
    const state = stateOf(reserved, [released(0), released(1)], [held(0), held(1)]);
    return said(step(state, [tick], context({ nowMs: nowMs + afterMs })));
  };

  test("is given that time at first, and once its members were tried before as long as the next try takes", () => {
    expect(lateAfter(undefined, 3_000)[0]).toMatch(/^Revoked: not all members arrived within 3 s/);
    expect(lateAfter(1, 14_999)).toEqual([]);
    expect(lateAfter(1, 15_000)[0]).toMatch(/^Revoked: not all members arrived within 15 s/);
  });
});

describe("pods that carry the label and are no members", () => {
  const members = [pod(0), pod(1)];
  const claimed = [claim(0), claim(1)];
  const forged = (more: object) => pod(1, { uid: "forged", name: "forged", claims: [], createdAtMs: 5, ...more });

  test.each([
    ["has the index of a member", {}, /both have index 1/],
    ["has an index beyond the count", { index: 9 }, /index 9/],
    ["names a pod set that there is not", { podSet: "x" }, /pod-set=x/],
    ["got the label after its creation", { bindMarker: false }, /no member: it was created without the gang's label/],
    ["runs, and got the label after its creation", { bindMarker: false, nodeName: "n9" }, /no member/],
  ])("a pod that %s does not stop the gang, which says so once", (_title, more, reason) => {
    const first = step(stateOf(gang(), [...members, forged(more)], claimed), [tick], context());
    expect(first.effects.map((effect) => effect.type)).toEqual(["event", "event", "plan"]);
    expect(first.effects[0]).toMatchObject({ reason: "GangPodIgnored", note: expect.stringMatching(reason) });
    expect(first.effects[1]).toMatchObject({ reason: "GangPodIgnored", pod: { uid: "forged" } });
    expect(step(first.state, [tick], context()).effects).toEqual([]);
  });

  test("of another controller neither stops a gang that waits for members nor makes it whole", () => {
    const owner = { kind: "StatefulSet", name: "g", uid: "set" };
    const copy = { kind: "Deployment", name: "copy", uid: "copy" };
    const waits = stateOf(
      gangIn("Scheduled"),
      [{ ...bound(0), owner }, forged({ owner: copy })],
      [held(0, { guarded: false }), claim(1)],
    );
    const result = step(waits, [tick], context());
    expect(said(result).filter((each) => !each.startsWith("event"))).toEqual(["Scheduled"]);
    expect(result.effects.flatMap((effect) => (effect.type === "event" ? (effect.pod?.name ?? "gang") : []))).toEqual([
      "gang",
      "forged",
    ]);
    expect(said(step(result.state, written(result), context()))).toEqual([]);
    const short = stateOf(gang(), [pod(0, { owner }), forged({ owner: copy, createdAtMs: nowMs })], claimed);
    const first = step(short, [tick], context());
    expect(said(first).filter((each) => !each.startsWith("event"))).toEqual([]);
    const later = step(first.state, [tick], context({ nowMs: nowMs + 2_000 }));
    expect(said(later)[0]).toMatch(
      /^Pending: pod set ranks: 1 of 2 pods exist; pod forged \(Deployment copy\) is no member/,
    );
  });

  test("of low priority do not make the gang's lower", () => {
    const owner = { kind: "StatefulSet", name: "g", uid: "set" };
    const members = [0, 1].map((index) => ({ ...bound(index), owner, priority: 10 }));
    const running = stateOf(
      gangIn("Scheduled"),
      [...members, forged({ priority: 1 })],
      [0, 1].map((index) => held(index, { guarded: false })),
    );
    expect(step(running, [tick], context()).state.priority).toBe(10);
  });

  test("a pod without the marker fills no place", () => {
    const short = stateOf(gang(), [pod(0), pod(1, { bindMarker: false })], claimed);
    const later = step(step(short, [tick], context()).state, [tick], context({ nowMs: nowMs + 2_000 }));
    expect(said(later)[0]).toMatch(/^Pending: pod set ranks: 1 of 2 pods exist; pod g-1 is no member/);
  });
});

describe("a revoked gang", () => {
  const revoked = (attempts = 1) =>
    gangIn("Revoked", { placement: undefined, explanation: "node n1 no longer fits pod g-1", attempts } as GangStatus);

  test("refuses every held call with the reason and gives every reservation back in one update each", () => {
    const state = stateOf(revoked(), [released(0), released(1)], [held(0), held(1)]);
    const result = step(state, [arrived(0), arrived(1)], context());
    expect(said(result)).toEqual([
      "answer 1: gang d/g was revoked: node n1 no longer fits pod g-1",
      "answer 2: gang d/g was revoked: node n1 no longer fits pod g-1",
      "clear c-0",
      "clear c-1",
    ]);
    expect(result.state.arrivals.size).toBe(0);
  });

  test("takes only its guard from claims of pods that run, or that it does not know", () => {
    const stranger = held(1, { more: { reservedFor: [guard, { resource: "pods", name: "x", uid: "x" }] } });
    const state = stateOf(revoked(), [bound(0), released(1)], [held(0), stranger]);
    const result = step(state, [tick], context());
    expect(said(result)).toEqual(["drop guard of c-0", "drop guard of c-1"]);
    expect(result.effects).toMatchObject([{ reservedFor: [{ uid: "u-0" }] }, { reservedFor: [{ uid: "x" }] }]);
  });

  describe("of which somebody took the guard off a claim", () => {
    const stripped = (more: Partial<ClaimRecord> = {}): ClaimRecord =>
      held(0, { more: { allocatedByPlanner: true, reservedFor: [], ownerPodUid: "u-0", ...more } });
    const consumer = podConsumer({ name: "g-0", uid: "u-0" });
    const swept = (pod: PodRecord, claim: ClaimRecord, more: object = {}): string[] =>
      said(step(stateOf(revoked(), [pod], [claim]), [tick], context(more))).filter((line) => line.includes(" c-0"));

    test("gives it back before it is pending again, also while kube-scheduler tries the member", () => {
      for (const reservedFor of [[], [consumer]]) {
        const first = step(stateOf(revoked(), [released(0)], [stripped({ reservedFor })]), [tick], context());
        expect(said(first)).toEqual(["clear c-0"]);
        const cleared = step(first.state, [{ type: "claim", claim: claim(0) }, done(first.effects[0])], context());
        expect(said(cleared)).toEqual(["Pending: node n1 no longer fits pod g-1"]);
      }
    });

    test("and that was deleted gives it back as well", () => {
      expect(said(step(stateOf(undefined, [released(0)], [stripped()]), [tick], context()))).toEqual(["clear c-0"]);
    });

    test("leaves what may be in use, or is not its own", () => {
      const stranger = { resource: "pods", name: "x", uid: "x" };
      expect(swept(released(0), stripped())).toEqual(["clear c-0"]);
      expect(swept(bound(0), stripped())).toEqual([]);
      expect(swept({ ...released(0), bindMarker: false }, stripped())).toEqual([]);
      expect(swept(released(0), stripped({ reservedFor: [stranger] }))).toEqual([]);
      expect(swept(released(0), stripped({ ownerPodUid: "x" }))).toEqual([]);
      expect(swept(released(0), stripped(), { sharersOf: () => [{ ...bound(1), uid: "x" }] })).toEqual([]);
      expect(swept(released(0), stripped(), { manages: () => false })).toEqual([]);
      const { allocatedByPlanner: _, ...other } = stripped();
      expect(swept(released(0), other)).toEqual([]);
    });
  });

  test("becomes pending only when nothing is held any more", () => {
    const first = step(stateOf(revoked(), [released(0)], [held(0), claim(1)]), [tick], context());
    expect(said(first)).toEqual(["clear c-0"]);
    expect(said(step(first.state, [done(first.effects[0])], context()))).toEqual(["clear c-0"]);
    const cleared = step(first.state, [{ type: "claim", claim: claim(0) }, done(first.effects[0])], context());
    expect(said(cleared)).toEqual(["Pending: node n1 no longer fits pod g-1"]);
  });

  for (const [attempts, pauseMs] of [
    [1, 1_000],
    [2, 2_000],
    [5, 16_000],
    [7, 60_000],
    [50, 60_000],
  ] as const) {
    test(`is planned again ${pauseMs} ms after attempt ${attempts}`, () => {
      const state = stateOf(revoked(attempts), [released(0), released(1)], [claim(0), claim(1)]);
      const pending = step(state, [tick], context());
      const waiting = step(pending.state, written(pending), context({ nowMs: nowMs + 1 }));
      expect(said(waiting)).toEqual([]);
      expect(waiting.wakeAtMs).toBe(nowMs + pauseMs);
      expect(said(step(waiting.state, [tick], context({ nowMs: nowMs + pauseMs })))).toEqual(["plan"]);
    });
  }
});

describe("a claim that another gang has reserved, and that this one names as well", () => {
  const others = [{ ...guard, name: "h", uid: "other-gang" }, podConsumer({ name: "h-0", uid: "other-pod" })];
  const { ownerPodUid: _, ...contested } = held(0, { more: { reservedFor: others } });

  test.each(["Pending", "Revoked", "Preempted", undefined] as const)("keeps its guard (%s)", (phase) => {
    const record = phase === undefined ? undefined : gangIn(phase);
    const { effects } = step(stateOf(record, [pod(0), pod(1)], [contested, claim(1)]), [tick], context());
    expect(effects.map(({ type }) => type)).not.toContain("dropGuard");
    expect(effects.map(({ type }) => type)).not.toContain("clearClaim");
  });

  test("is nothing that a revoked gang has to give back first", () => {
    const revoked = gangIn("Revoked", { explanation: "why" });
    const result = step(stateOf(revoked, [pod(0), pod(1)], [contested, claim(1)]), [tick], context());
    expect(said(result)).toEqual(["Pending: why"]);
  });
});

describe("a committed gang", () => {
  test("binds all its members, also those whose calls were lost with an older process", () => {
    const state = stateOf(gangIn("Binding"), [released(0), released(1)], [held(0), held(1)]);
    expect(said(step(state, [arrived(0)], context()))).toEqual(["bind g-0 to n0", "bind g-1 to n1"]);
  });

  test("answers each call when its binding is known, and is scheduled when all are", () => {
    const state = stateOf(gangIn("Binding"), [released(0), released(1)], [held(0), held(1)]);
    const first = step(state, [arrived(0), arrived(1)], context());
    const one = step(first.state, [done(first.effects[0])], context());
    expect(said(one)).toEqual(["drop guard of c-0", "answer 1: bound"]);
    const both = step(one.state, [done(first.effects[1])], context());
    expect(said(both)).toEqual(["drop guard of c-1", "answer 2: bound", "Scheduled"]);
    expect(statusIn(both)).toMatchObject({ members: "2/2", placement: planned });
    expect(statusIn(both)?.conditions?.map(({ type, status }) => [type, status])).toEqual([
      ["Degraded", "False"],
      ["Planned", "True"],
      ["Scheduled", "True"],
    ]);
  });

  test("is not revoked any more, neither by time nor by a change of its spec", () => {
    const state = stateOf(gangIn("Binding", {}, { generation: 2 }), [released(0), released(1)], [held(0), held(1)]);
    expect(said(step(state, [tick], context({ nowMs: nowMs + 3_600_000 })))).toEqual([
      "bind g-0 to n0",
      "bind g-1 to n1",
    ]);
  });

  test("lifts a gate that a crash left before it binds", () => {
    const state = stateOf(gangIn("Binding"), [pod(0), released(1)], [held(0), held(1)]);
    const first = step(state, [tick], context());
    expect(said(first)).toEqual(["release g-0 to n0", "bind g-1 to n1"]);
    const next = step(first.state, [done(first.effects[0]), { type: "pod", pod: released(0) }], context());
    expect(said(next)).toEqual(["bind g-0 to n0"]);
  });

  test("does not bind a member that was recreated since: its devices are not reserved", () => {
    const fresh = released(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const state = stateOf(gangIn("Binding"), [released(0), fresh], [held(0), claim(9)]);
    const first = step(state, [tick], context());
    expect(said(first)).toEqual(["bind g-0 to n0"]);
    const next = step(first.state, [done(first.effects[0])], context());
    expect(said(next)).toEqual(["drop guard of c-0", "Scheduled"]);
    expect(statusIn(next)?.conditions?.find(({ type }) => type === "Degraded")).toMatchObject({
      status: "True",
      message: "pod set ranks: 1 of 2 members are bound",
    });
  });

  test("binds without a further call a member that kube-scheduler took off its claim when its call broke off", () => {
    const takenOff = held(1, { more: { reservedFor: [guard] } });
    const first = step(stateOf(gangIn("Binding"), [released(0), released(1)], [held(0), takenOff]), [tick], context());
    expect(said(first)).toEqual(["reserve c-1 on n1", "bind g-0 to n0"]);
    const reserving = first.effects[0];
    const bound = step(first.state, [done(first.effects[1])], context());
    expect(said(bound)).toEqual(["drop guard of c-0"]);
    const back = step(bound.state, [done(reserving), { type: "claim", claim: held(1) }], context());
    expect(said(back)).toEqual(["bind g-1 to n1"]);
  });

  test("puts a bound member back on its claim when the guard goes, and never clears its claim", () => {
    const takenOff = held(1, { more: { reservedFor: [guard] } });
    for (const phase of ["Binding", "Scheduled"] as const) {
      const state = stateOf(gangIn(phase), [bound(0), bound(1)], [held(0, { guarded: false }), takenOff]);
      const { effects } = step(state, [tick], context());
      expect(effects).toContainEqual(
        expect.objectContaining({ type: "dropGuard", reservedFor: [podConsumer({ name: "g-1", uid: "u-1" })] }),
      );
      expect(effects.map(({ type }) => type)).not.toContain("clearClaim");
    }
  });

  test("tries a failed binding again after 50 ms, 100 ms, … at most 3 s, and only that", () => {
    let result = step(
      stateOf(gangIn("Binding"), [released(0), bound(1)], [held(0), held(1, { guarded: false })]),
      [tick],
      context(),
    );
    let at = nowMs;
    const pauses: number[] = [];
    for (let attempt = 0; attempt < 9; attempt++) {
      expect(said(result)).toEqual(["bind g-0 to n0"]);
      const paused = step(result.state, [failed(result.effects[0])], context({ nowMs: at }));
      expect(said(paused)).toEqual([]);
      pauses.push((paused.wakeAtMs ?? 0) - at);
      at = paused.wakeAtMs ?? 0;
      expect(said(step(paused.state, [tick], context({ nowMs: at - 1 })))).toEqual([]);
      result = step(paused.state, [tick], context({ nowMs: at }));
    }
    expect(pauses).toEqual([50, 100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]);
  });
});

describe("a committed gang of which a member cannot be bound", () => {
  const deadlineMs = nowMs - 10_000 + 60_000;
  const claims = [held(0, { guarded: false }), held(1)];

  /** Its binding was refused again and again, until the time is over. */
  function overdue(spec: object = {}, pods = [bound(0), released(1)]): StepResult {
    const record = { ...gangIn("Binding"), spec: gang({}, {}, spec).spec };
    const first = step(stateOf(record, pods, claims), [tick], context());
    expect(first.wakeAtMs).toBe(deadlineMs);
    const refused: LifecycleEvent = {
      type: "done",
      effect: first.effects.find(({ type }) => type === "bind")!,
      outcome: { ok: false, reason: "Forbidden", message: "not this one" },
    };
    return step(first.state, [refused], context({ nowMs: deadlineMs - 50 }));
  }

  test("fails whole when its time is over: whoever is bound is deleted first, then the rest is given back", () => {
    const before = overdue();
    expect(said(before)).toEqual([]);
    const failing = step(before.state, [tick], context({ nowMs: deadlineMs }));
    expect(said(failing)).toEqual(["delete g-0"]);
    expect(said(step(failing.state, [tick], context({ nowMs: deadlineMs + 1 })))).toEqual([]);
    const ending: LifecycleEvent[] = [done(failing.effects[0]), { type: "pod", pod: { ...bound(0), deleting: true } }];
    const revoked = step(failing.state, ending, context({ nowMs: deadlineMs + 2 }));
    expect(said(revoked)).toEqual([
      "Revoked: not all members could be bound within 60 s (spec.scheduleTimeoutSeconds): pod g-1: not this one",
    ]);
    expect(statusIn(revoked)).not.toHaveProperty("placement");
    const after = step(revoked.state, written(revoked), context({ nowMs: deadlineMs + 3 }));
    expect(said(after)).toEqual(["clear c-1"]);
  });

  test("is scheduled when enough members are bound", () => {
    const before = overdue({ podSets: [{ name: "ranks", count: 2, minCount: 1 }] });
    const after = step(before.state, [tick], context({ nowMs: deadlineMs }));
    expect(said(after)).toEqual(["Scheduled"]);
    expect(statusIn(after)?.placement).toEqual(planned);
  });

  test("deletes nobody while a binding may still come to pass", () => {
    const before = overdue();
    const [, pace] = [...before.state.pace].find(([id]) => id === "bind/u-1")!;
    const unknown = new Map([["bind/u-1", { ...pace, notBeforeMs: deadlineMs + 500 }]]);
    const waiting = step({ ...before.state, pace: unknown }, [tick], context({ nowMs: deadlineMs }));
    expect(said(waiting)).toEqual([]);
    expect(waiting.wakeAtMs).toBe(deadlineMs + 500);
    expect(said(step(waiting.state, [tick], context({ nowMs: deadlineMs + 500 })))).toEqual(["delete g-0"]);
  });

  test("deletes nobody before a binding whose answer was lost is answered, however late the watch is", () => {
    const record = { ...gangIn("Binding"), spec: gang({}, {}, {}).spec };
    const first = step(stateOf(record, [bound(0), released(1)], claims), [tick], context());
    const binding = first.effects.find(({ type }) => type === "bind")!;
    const lost = { ok: false as const, reason: "Unreachable", message: "connection reset" };
    const unsure = step(first.state, [{ type: "done", effect: binding, outcome: lost }], context());
    // The planner was paused until long after the deadline.
    const woken = step(unsure.state, [tick], context({ nowMs: deadlineMs + 60_000 }));
    expect(said(woken)).toEqual(["bind g-1 to n1"]);
    const passed = step(woken.state, [done(binding)], context({ nowMs: deadlineMs + 60_001 }));
    expect(said(passed)).toEqual(["drop guard of c-1", "Scheduled"]);
    const refusal = { ok: false as const, reason: "Forbidden", message: "not this one" };
    const refused = step(
      woken.state,
      [{ type: "done", effect: binding, outcome: refusal }],
      context({ nowMs: deadlineMs + 60_001 }),
    );
    const later = step(refused.state, [tick], context({ nowMs: deadlineMs + 70_000 }));
    expect(said(later)).toEqual(["delete g-0"]);
  });

  test("deletes nobody while its status may say that it is scheduled, without a member that was deleted meanwhile", () => {
    const first = step(stateOf(gangIn("Binding"), [bound(0)], claims.slice(0, 1)), [tick], context());
    expect(said(first)).toEqual(["Scheduled"]);
    const late = { nowMs: deadlineMs + 60_000 };
    expect(said(step(first.state, [tick], context(late)))).toEqual([]);
    const lost = { ok: false as const, reason: "Unreachable", message: "connection reset" };
    const unsure = step(first.state, [{ type: "done", effect: first.effects[0]!, outcome: lost }], context());
    expect(said(step(unsure.state, [tick], context(late)))).toEqual(["Scheduled"]);
  });

  test("has ten seconds in a planner that finds it after its time", () => {
    const lateMs = deadlineMs + 3_600_000;
    const first = step(stateOf(gangIn("Binding"), [bound(0), released(1)], claims), [tick], context({ nowMs: lateMs }));
    expect(said(first)).toEqual(["bind g-1 to n1"]);
    expect(first.wakeAtMs).toBe(lateMs + 10_000);
  });

  test("is given back when none of its pods exists any more", () => {
    const first = step(stateOf(gangIn("Binding"), [], []), [tick], context());
    expect(said(first)).toEqual([]);
    expect(first.wakeAtMs).toBe(deadlineMs);
    expect(said(step(first.state, [tick], context({ nowMs: deadlineMs })))).toEqual([
      "Revoked: not all members could be bound within 60 s (spec.scheduleTimeoutSeconds)",
    ]);
  });
});

describe("a scheduled gang", () => {
  const whole = { members: "2/2", reservedAt: "1970-01-01T00:01:30Z" };
  /** At rest: what `writeScheduled` says of it stands in its status. */
  function rested(pods: PodRecord[], claims: ClaimRecord[], status: GangStatus = {}, at = context()): GangState {
    const first = step(stateOf(gangIn("Scheduled", { ...whole, ...status }), pods, claims), [tick], at);
    return statusIn(first) === undefined ? first.state : step(first.state, written(first), at).state;
  }
  const running = [bound(0), bound(1)];
  const own = [held(0, { guarded: false }), held(1, { guarded: false })];
  const lost: Partial<Context> = { nodeFits: (node) => node !== "n1" };

  test("at rest asks for nothing and needs no clock", () => {
    const result = step(rested(running, own), [tick], context({ nowMs: nowMs + 3_600_000, capacityVersion: 9 }));
    expect(said(result)).toEqual([]);
    expect(result.wakeAtMs).toBeUndefined();
  });

  test("loses the guards of its running pods", () => {
    const state = rested(running, own);
    const result = step(state, [{ type: "claim", claim: held(0) }], context());
    expect(said(result)).toEqual(["drop guard of c-0"]);
  });

  test("keeps the place of a member that comes back: reserve, release, bind at its call", () => {
    const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const reservation = [guard, podConsumer({ name: "g-1", uid: "u-9" })];
    const taken = held(1, { more: { name: "c-9", uid: "claim-uid-9", reservedFor: reservation } });
    const gone = step(
      rested(running, own),
      [
        { type: "podGone", uid: "u-1" },
        { type: "claimGone", name: "c-1" },
      ],
      context(),
    );
    expect(said(gone)).toEqual(["Scheduled"]);
    const back = step(
      gone.state,
      [...written(gone), { type: "pod", pod: fresh }, { type: "claim", claim: claim(9) }],
      context(),
    );
    expect(said(back)).toEqual(["reserve c-9 on n1"]);
    const reserved = step(back.state, [done(back.effects[0]), { type: "claim", claim: taken }], context());
    expect(said(reserved)).toEqual(["release g-1 to n1"]);
    const called: LifecycleEvent[] = [
      done(reserved.effects[0]),
      { type: "pod", pod: { ...fresh, gates: [] } },
      { type: "arrived", podUid: "u-9", node: "n1", call: 7 },
    ];
    expect(said(step(reserved.state, called, context()))).toEqual(["bind g-1 to n1"]);
  });

  test("says once that it is degraded, and once that it is whole again", () => {
    const gone = step(rested(running, own), [{ type: "podGone", uid: "u-1" }], context());
    expect(statusIn(gone)).toMatchObject({ members: "1/2" });
    expect(statusIn(gone)?.conditions?.find(({ type }) => type === "Degraded")).toMatchObject({
      status: "True",
      reason: "MembersMissing",
      message: "pod set ranks: 1 of 2 members are bound",
    });
    const quiet = step(gone.state, written(gone), context());
    expect(said(quiet)).toEqual([]);
    const back = step(quiet.state, [{ type: "pod", pod: bound(1) }], context({ nowMs: nowMs + 7_000 }));
    expect(statusIn(back)?.conditions?.map(({ type, lastTransitionTime }) => [type, lastTransitionTime])).toEqual([
      ["Degraded", "1970-01-01T00:01:47Z"],
      ["Planned", "1970-01-01T00:01:40Z"],
      ["Scheduled", "1970-01-01T00:01:40Z"],
    ]);
    expect(statusIn(back)?.conditions?.find(({ type }) => type === "Degraded")?.status).toBe("False");
  });

  test("reserves nothing at its old place while a new place for it is being written", () => {
    const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const state = rested([bound(0), fresh], [own[0]!, claim(9)]);
    const moving = step({ ...state, inFlight: new Map() }, [plan(slot(1, "n5"))], context(lost));
    expect(said(moving)).toEqual(["Scheduled"]);
    // The node is back before the status is written.
    expect(said(step(moving.state, [tick], context()))).toEqual([]);
  });

  test("places a member anew whose node is gone, beside those that run", () => {
    const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const events: LifecycleEvent[] = [
      { type: "pod", pod: fresh },
      { type: "claim", claim: claim(9) },
    ];
    const asking = step(rested([bound(0)], [own[0]!]), events, context(lost));
    expect(said(asking)).toEqual(["plan"]);
    const moved = { ...slot(1, "n5"), claims: [{ ...slot(1, "n5").claims[0]!, claim: "c-9" }] };
    const result = step(asking.state, [plan(moved)], context(lost));
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), moved]);
    const next = step(result.state, written(result), context(lost));
    expect(next.state.proposal).toBeUndefined();
    expect(said(next)).toEqual(["reserve c-9 on n5"]);
  });

  const withoutClaim: PlacedPod = { ...slot(1), claims: [] };
  const tooSmall: PlacedPod = { ...slot(1), claims: [{ ...slot(1).claims[0]!, devices: [] }] };
  for (const [title, place] of [
    ["was written without its claim", withoutClaim],
    ["has fewer devices than its claim asks for", tooSmall],
  ] as const) {
    test(`places a member anew whose place ${title}, and lets it go nowhere before`, () => {
      const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
      const status = { ...whole, placement: { pods: [slot(0), place] } };
      const asking = step(rested([bound(0)], [own[0]!], status), [{ type: "pod", pod: fresh }], context());
      expect(said(asking)).toEqual([]);
      const complete = step(asking.state, [{ type: "claim", claim: claim(9) }, arrived(9, "n1")], context());
      expect(said(complete)).toEqual([
        "answer 10: its place on node n1 lacks devices; the pod is planned anew",
        "plan",
      ]);
      expect(keptPods(complete.state, () => true)).toEqual([slot(0)]);
      const result = step(complete.state, [plan(slot(1, "n5"))], context());
      expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1, "n5")]);
    });
  }

  test("places a member anew whose devices are gone or tainted; who is bound stays, and when they are right again it returns", () => {
    const spoiled: Partial<Context> = { isSpoiled: () => true };
    const fresh = pod(1, { uid: "u-9", claims: [{ name: "gpus", claimName: "c-9" }] });
    const events: LifecycleEvent[] = [
      { type: "pod", pod: fresh },
      { type: "claim", claim: claim(9) },
    ];
    const asking = step(rested([bound(0)], [own[0]!]), events, context(spoiled));
    expect(said(asking)).toEqual(["plan"]);
    expect(keptPods(asking.state, () => true)).toEqual([slot(0)]);
    const result = step(asking.state, [plan(slot(1, "n5"))], context(spoiled));
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1, "n5")]);
    const back = step(rested([bound(0)], [own[0]!]), events, context());
    expect(said(back)).toEqual(["reserve c-9 on n1"]);
    // A place that was taken again, and spoiled before its pod was bound.
    const state = rested([bound(0), released(1)], [own[0]!, held(1)]);
    expect(said(step(state, [arrived(1)], context(spoiled)))).toEqual([
      "clear c-1",
      "answer 2: devices of its place on node n1 are gone, or have taints that it does not tolerate; the pod is planned anew",
    ]);
  });

  test("gives back what a member holds on its lost node, and refuses its call, before it is planned", () => {
    const state = rested([bound(0), released(1)], [own[0]!, held(1)]);
    const first = step(state, [arrived(1)], context(lost));
    expect(said(first)).toEqual(["clear c-1", "answer 2: node n1 is gone; the pod is planned anew"]);
    const next = step(first.state, [done(first.effects[0]), { type: "claim", claim: claim(1) }], context(lost));
    expect(said(next)).toContain("plan");
  });

  test("places a member anew whose place is not where its group is by now, unless its group has come there before", () => {
    const elsewhere: Partial<Context> = {
      outlying:
        () =>
        ({ index }) =>
          index === 1,
    };
    const state = rested([bound(0), released(1)], [own[0]!, held(1)]);
    const first = step(state, [arrived(1)], context(elsewhere));
    expect(said(first)).toEqual([
      "clear c-1",
      "answer 2: the others of its PlacementGroup are elsewhere than node n1; the pod is planned anew",
    ]);
    expect(keptPods(first.state, () => true)).toEqual([slot(0)]);
    const cleared: LifecycleEvent[] = [done(first.effects[0]), { type: "claim", claim: claim(1) }];
    const next = step(first.state, cleared, context(elsewhere));
    expect(said(next)).toContain("plan");
    const moved = step(next.state, [plan(slot(1, "n5"))], context(elsewhere));
    expect(statusIn(moved)?.placement?.pods).toEqual([slot(0), slot(1, "n5")]);
    expect(said(step(first.state, cleared, context()))).toContain("reserve c-1 on n1");
  });

  test("keeps no place of a missing member beside a new plan if its group is elsewhere by now", () => {
    const elsewhere: Partial<Context> = {
      outlying:
        () =>
        ({ node }) =>
          node !== "n5",
    };
    const asking = step(rested([pod(0)], [claim(0)]), [tick], context(elsewhere));
    expect(said(asking)).toContain("plan");
    expect(keptPods(asking.state, () => true)).toEqual([slot(1)]);
    const moved = step(asking.state, [...written(asking), plan(slot(0, "n5"))], context(elsewhere));
    expect(statusIn(moved)?.placement?.pods).toEqual([slot(0, "n5")]);
  });

  test("leaves members that run on a lost node alone", () => {
    expect(said(step(rested(running, own), [tick], context({ nodeFits: () => false })))).toEqual([]);
  });

  test("asks for room for surplus members and writes their places beside the others", () => {
    const record = gang(
      { phase: "Scheduled", observedGeneration: 1, members: "1/2", placement: { pods: [slot(0)] } },
      {},
      {
        podSets: [{ name: "ranks", count: 2, minCount: 1 }],
      },
    );
    const first = step(stateOf(record, [bound(0), pod(1)], [own[0]!, claim(1)]), [tick], context());
    expect(said(first)).toContain("plan");
    const result = step(first.state, [...written(first), plan(slot(1))], context());
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1)]);
  });

  test.each([
    ["a place on a node that is gone, whose member is away,", [], []],
    [
      "a place on a node that is gone, whose member has no claim yet,",
      [pod(2, { claims: [{ name: "gpus", templateName: "t" }] })],
      [],
    ],
    ["a place on a node that is gone, where its member runs,", [bound(2)], [slot(2)]],
  ])("gives up, or keeps, %s when others are planned", (_title, third, kept) => {
    const spec = { podSets: [{ name: "ranks", count: 3, minCount: 1 }] };
    const status = { observedGeneration: 1, members: "1/3", placement: { pods: [slot(0), slot(2)] } };
    const record = gang({ phase: "Scheduled", ...status }, {}, spec);
    const lost = context({ nodeFits: (node) => node !== "n2" });
    const first = step(stateOf(record, [bound(0), pod(1), ...third], [own[0]!, claim(1)]), [tick], lost);
    expect(said(first)).toContain("plan");
    const result = step(first.state, [...(statusIn(first) === undefined ? [] : written(first)), plan(slot(1))], lost);
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), ...kept, slot(1)]);
  });

  test("gives up a place that lacks devices of the member that waits for it when only others are planned", () => {
    const spec = { podSets: [{ name: "ranks", count: 3, minCount: 1 }] };
    const placement = { pods: [slot(0), { ...slot(2), claims: [] }] };
    const record = gang({ phase: "Scheduled", observedGeneration: 1, members: "1/3", placement }, {}, spec);
    const first = step(stateOf(record, [bound(0), pod(1), pod(2)], [own[0]!, claim(1), claim(2)]), [tick], context());
    expect(said(first)).toContain("plan");
    const news = statusIn(first) === undefined ? [] : written(first);
    const result = step(first.state, [...news, plan(slot(1))], context());
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0), slot(1)]);
  });

  test("whose count shrinks lets go of the highest places", () => {
    const smaller = gangIn("Scheduled", whole, { generation: 2 });
    const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }] });
    const result = step(stateOf({ ...smaller, spec }, [bound(0)], [own[0]!]), [tick], context());
    expect(statusIn(result)?.placement?.pods).toEqual([slot(0)]);
    expect(statusIn(result)).toMatchObject({ observedGeneration: 2, members: "1/1" });
  });

  test("keeps the live name of a member that came back under another", () => {
    const renamed = { ...bound(1), uid: "u-9", name: "g-x7k2p" };
    const result = step(rested([bound(0)], [own[0]!]), [{ type: "pod", pod: renamed }], context());
    expect(statusIn(result)?.placement?.pods.map((each) => each.pod)).toEqual(["g-0", "g-x7k2p"]);
  });

  describe("of which a member comes back to a node that has no room for it", () => {
    const crowded = (more: Partial<Context> = {}) => context({ leavesRoom: (node) => node !== "n1", ...more });
    const back = () => step(rested([bound(0), pod(1)], [own[0]!, claim(1)], {}, crowded()), [tick], crowded());

    test("reserves nothing until there is", () => {
      const waiting = back();
      expect(said(waiting)).toEqual([]);
      expect(waiting.wakeAtMs).toBe(nowMs + 60_000);
      expect(waitsForRoom(waiting.state)).toBe(true);
      const fits = step(waiting.state, [tick], context({ nowMs: nowMs + 50_000 }));
      expect(said(fits)).toEqual(["reserve c-1 on n1"]);
      expect(waitsForRoom(fits.state)).toBe(false);
    });

    test("plans it anew after a minute, writes nothing when that is refused, and takes its own place as soon as it can", () => {
      const due = step(back().state, [tick], crowded({ nowMs: nowMs + 60_000 }));
      expect(said(due)).toEqual(["plan"]);
      expect(keptPods(due.state, () => true).map(({ pod }) => pod)).toEqual(["g-0"]);
      const refused = step(due.state, [noPlace], crowded({ nowMs: nowMs + 60_000 }));
      const later = step(refused.state, [tick], crowded({ nowMs: nowMs + 3_600_000 }));
      expect([said(refused), said(later), later.wakeAtMs]).toEqual([[], [], undefined]);
      expect(heldPods(later.state)).toEqual(planned.pods);
      expect(said(step(later.state, [tick], context({ nowMs: nowMs + 3_600_001 })))).toEqual(["reserve c-1 on n1"]);
    });
  });

  test("plans a recreated member anew that kube-scheduler refuses at its own place for a minute", () => {
    const back = released(1, { unschedulableMessage: "0/2 nodes are available: 1 Insufficient cpu" });
    const first = step(rested([bound(0), back], [own[0]!, held(1)]), [tick], context());
    expect(said(first)).toEqual([]);
    const refused = step(first.state, [tick], context({ nowMs: first.wakeAtMs! }));
    expect(first.wakeAtMs).toBe(nowMs + 60_000);
    expect(said(refused)).toEqual(["planRefused", "clear c-1"]);
    const cleared = step(
      refused.state,
      [done(refused.effects[1]), { type: "claim", claim: claim(1) }],
      context({ nowMs: nowMs + 60_100 }),
    );
    expect(said(cleared)).toContain("plan");
    expect(keptPods(cleared.state, () => true).map(({ pod }) => pod)).toEqual(["g-0"]);
  });
});

describe("a Gang that is gone", () => {
  for (const [title, record] of Object.entries({
    deleted: undefined,
    "being deleted": gangIn("Reserved", {}, { deleting: true }),
  })) {
    test(`(${title}) refuses calls and gives back what was reserved`, () => {
      const state = stateOf(record, [released(0), bound(1)], [held(0), held(1)]);
      expect(said(step(state, [arrived(0)], context()))).toEqual([
        "answer 1: Gang d/g does not exist; create it or remove the label from the pod",
        "clear c-0",
        "drop guard of c-1",
      ]);
    });
  }

  test("leaves the claim of a member alone that is being bound at this moment, until that is known", () => {
    const binding = step(stateOf(gangIn("Binding"), [released(0), bound(1)], [held(0), held(1)]), [tick], context());
    expect(said(binding)).toContain("bind g-0 to n0");
    const gone = step(binding.state, [{ type: "gangGone", uid: gangRef.uid }], context());
    expect(said(gone)).toEqual([]);
    const bind = binding.effects.find(({ type }) => type === "bind");
    expect(said(step(gone.state, [done(bind)], context()))).toEqual(["drop guard of c-0"]);
    const unclear = step(gone.state, [failed(bind)], context());
    expect(said(unclear)).toEqual([]);
    expect(unclear.wakeAtMs).toBe(nowMs + 50);
    expect(said(step(unclear.state, [tick], context({ nowMs: nowMs + 50 })))).toEqual(["clear c-0"]);
  });

  test("is not taken for another of its name: events of the older one change nothing", () => {
    const result = step(
      stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]),
      [{ type: "gangGone", uid: "an older one" }],
      context(),
    );
    expect(result.state.gang?.uid).toBe(gangRef.uid);
    expect(said(result)).toEqual([]);
  });
});

describe("step", () => {
  test("changes nothing in the state that it is given", () => {
    const state = stateOf(gangIn("Reserved"), [pod(0), pod(1)], [claim(0), claim(1)]);
    const copy = structuredClone(state);
    step(state, [arrived(0), { type: "podGone", uid: "u-1" }, { type: "claimGone", name: "c-0" }], context());
    expect(state).toEqual(copy);
  });

  test("gives the same effects for an event seen twice", () => {
    const state = stateOf(gangIn("Reserved"), [released(0), released(1)], [held(0), held(1)]);
    expect(said(step(state, [arrived(0), arrived(0), arrived(1), arrived(1)], context()))).toEqual(["Binding"]);
  });

  test("asks for no effect twice while it is under way, and again once it is done without news", () => {
    const first = step(stateOf(gangIn("Reserved"), [pod(0), pod(1)], [held(0), claim(1)]), [tick], context());
    expect(said(first)).toEqual(["reserve c-1 on n1"]);
    expect(said(step(first.state, [tick], context()))).toEqual([]);
    expect(said(step(first.state, [done(first.effects[0])], context()))).toEqual(["reserve c-1 on n1"]);
  });
});
