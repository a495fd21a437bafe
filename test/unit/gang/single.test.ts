import { expect, test } from "vitest";
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
const context: SingleContext = { nowMs: 0, capacityVersion: 1, nodeFits: () => true, managed: true };
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

test("a claim that somebody deletes is let go of, so that another can be made", () => {
  expect(said(single(allocated({ deleting: true })))).toEqual(["clearClaim"]);
  const shared = [...reservedFor, { resource: "pods", name: "q", uid: "other" }];
  expect(said(single(allocated({ deleting: true, reservedFor: shared })))).toEqual([]);
});
