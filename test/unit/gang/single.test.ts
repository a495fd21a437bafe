import { describe, expect, test } from "vitest";
import { gangGate } from "../../../src/api/names.ts";
import type { PlacedPod } from "../../../src/api/placement.ts";
import { decideSingle, type SingleContext, type SingleState } from "../../../src/gang/lifecycle/single.ts";
import type { ClaimRecord } from "../../../src/topology/records.ts";
import { driver, exactly, podRecord } from "../../builders.ts";

/** A pod `p` without a Gang, with one claim `c`, planned for node `n1`. */
const devices = [{ request: "gpus", driver, pool: "n1", device: "gpu-0" }];
const proposal: PlacedPod = {
  pod: "p",
  podSet: "p",
  index: 0,
  node: "n1",
  claims: [{ claim: "c", reference: "gpus", devices }],
};
const context: SingleContext = {
  nowMs: 0,
  capacityVersion: 1,
  nodeFits: () => true,
  isLeft: () => false,
  intrudes: false,
};
const pod = podRecord("p", { claims: [{ name: "gpus", claimName: "c" }] });

function claim(more: Partial<ClaimRecord> = {}): ClaimRecord {
  return {
    uid: "claim-uid",
    namespace: pod.namespace,
    name: "c",
    resourceVersion: "1",
    spec: { devices: { requests: [exactly("gpus", 1)] } },
    reservedFor: [],
    finalizers: [],
    deleting: false,
    ownerPodUid: pod.uid,
    ...more,
  };
}

const reservedFor = [{ resource: "pods", name: "p", uid: pod.uid }];
const allocated = (more: Partial<ClaimRecord> = {}) =>
  claim({ allocation: { devices: { results: devices } }, reservedFor, ...more });

function single(record: ClaimRecord): SingleState {
  const claims = new Map([["c", record]]);
  return { pod, claims, proposal, planning: false, avoided: new Map(), inFlight: new Set(), pace: new Map() };
}

const said = (state: SingleState): string[] => decideSingle(state, context).effects.map(({ type }) => type);

test("its claim is reserved where it was planned", () => {
  expect(said(single(claim()))).toEqual(["reserveClaim"]);
});

test("a place that kube-scheduler gave back is planned anew instead of reserved again", () => {
  const state = single(allocated());
  expect(said(state)).toEqual([]);
  state.claims.set("c", claim({ resourceVersion: "2" }));
  expect(said(state)).toEqual(["plan"]);
});

test("a pod that names a claim of others is planned, which refuses it, and never let go onto their devices", () => {
  const state = { ...single(allocated({ reservedFor: [] })), pod: { ...pod, gates: [gangGate] } };
  const types = (intrudes: boolean) => decideSingle(state, { ...context, intrudes }).effects.map(({ type }) => type);
  expect([types(true), types(false)]).toEqual([["plan"], ["releasePod"]]);
});

test("a pod that waits behind a gate of somebody else has no devices until that is lifted", () => {
  const { proposal: _, ...waiting } = single(claim());
  expect(said({ ...waiting, pod: { ...pod, gates: [gangGate, "example.com/quota"] } })).toEqual([]);
  expect(said({ ...waiting, pod: { ...pod, gates: ["example.com/quota"] } })).toEqual([]);
  expect(said({ ...waiting, pod: { ...pod, gates: [gangGate] } })).toEqual(["plan"]);
});

describe("a claim that somebody deletes", () => {
  const gated = { ...pod, gates: [gangGate] };

  test("is let go of, so that another can be made, unless others use it", () => {
    expect(said({ ...single(allocated({ deleting: true })), pod: gated })).toEqual(["clearClaim"]);
    const shared = [...reservedFor, { resource: "pods", name: "q", uid: "other" }];
    expect(said({ ...single(allocated({ deleting: true, reservedFor: shared })), pod: gated })).toEqual([]);
  });

  test("is left alone for a minute when kube-scheduler may be binding its pod at this moment", () => {
    const state = single(allocated({ deleting: true }));
    const at = (nowMs: number) => decideSingle(state, { ...context, nowMs });
    expect(at(1_000)).toEqual({ effects: [], wakeAtMs: 61_000 });
    expect(at(60_999)).toEqual({ effects: [], wakeAtMs: 61_000 });
    expect(at(61_000).effects).toMatchObject([{ type: "clearClaim" }]);
  });

  test("is left alone while the write that lifts its pod's gate may have passed", () => {
    const state = { ...single(allocated({ deleting: true })), pod: gated };
    expect(said({ ...state, inFlight: new Set([`release/${pod.uid}`]) })).toEqual([]);
    expect(said({ ...state, pace: new Map([[`release/${pod.uid}`, { attempts: 1, notBeforeMs: 0 }]]) })).toEqual([]);
  });

  test("has its minute anew when it is another claim of that name", () => {
    const state = single(allocated({ deleting: true }));
    decideSingle(state, context);
    state.claims.set("c", claim({ uid: "other", resourceVersion: "2" }));
    decideSingle(state, { ...context, nowMs: 50_000 });
    state.claims.set("c", allocated({ uid: "other", resourceVersion: "3", deleting: true }));
    expect(decideSingle(state, { ...context, nowMs: 70_000 })).toEqual({ effects: [], wakeAtMs: 130_000 });
  });
});
