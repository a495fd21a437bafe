import { describe, expect, test } from "vitest";
import { type GangStatus, gangSpec } from "../../../../src/api/gang.ts";
import { gangGate } from "../../../../src/api/names.ts";
import type { PlacedPod } from "../../../../src/api/placement.ts";
import { podConsumer } from "../../../../src/gang/lifecycle/claims.ts";
import { decideSingle } from "../../../../src/gang/lifecycle/single.ts";
import { type Effect, type GangState, newGangState } from "../../../../src/gang/lifecycle/state.ts";
import { step } from "../../../../src/gang/lifecycle/step.ts";
import type { ClaimRecord, PodRecord } from "../../../../src/topology/records.ts";
import { driver, gangRecord, lifecycleContext, podRecord } from "../../../builders.ts";
import { allocatedClaim, claimRecord } from "../../../support/cluster.ts";
import { allocatedNics, nicClaim, nicDriver } from "../../../support/nics.ts";

/** A gang of one pod, planned for `gpu-0` and, of a driver that kllama does not manage, `nic-0` of node `n`. */
const nowMs = 100_000;
const me = podConsumer({ name: "g-0", uid: "u" });
const guard = { apiGroup: "scheduling.kllama.ai", resource: "gangs", name: "g", uid: "gang-uid" };
const place: PlacedPod = {
  pod: "g-0",
  podSet: "ranks",
  index: 0,
  node: "n",
  claims: [
    { claim: "gpu", reference: "gpu", devices: [{ request: "gpu", driver, pool: "n", device: "gpu-0" }] },
    { claim: "nic", reference: "nic", devices: [{ request: "nic", driver: nicDriver, pool: "n", device: "nic-0" }] },
  ],
};
const references = place.claims.map(({ claim, reference }) => ({ name: reference, claimName: claim }));
const pod = (more: Partial<PodRecord> = {}): PodRecord =>
  podRecord("g-0", { uid: "u", gang: "g", index: 0, claims: references, ...more });
const gated = pod({ gates: [gangGate] });

const gpu = { ...allocatedClaim("gpu", "n", ["gpu-0"], []), reservedFor: [guard, me] };
const gpuPending = claimRecord("gpu", gpu.spec.devices!.requests!);
/** As kube-scheduler gives it: another card than was counted on. */
const nic = (reservedFor: ClaimRecord["reservedFor"], node = "n") => ({
  ...allocatedNics("nic", node, ["nic-7"]),
  reservedFor,
});

const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }] });

function decided(
  phase: NonNullable<GangStatus["phase"]>,
  member: PodRecord,
  claims: readonly ClaimRecord[],
  { arrived = false, ...more }: { arrived?: boolean } & Partial<GangState> = {},
): Effect[] {
  const status: GangStatus = { phase, observedGeneration: 1, members: "0/1", placement: { pods: [place] } };
  const state: GangState = {
    ...newGangState("team/g"),
    gang: gangRecord({ spec, status, reservedAtMs: nowMs }),
    pods: new Map([[member.uid, member]]),
    claims: new Map(claims.map((each) => [each.name, each])),
    ...more,
  };
  const call = { type: "arrived", podUid: member.uid, node: "n", call: 1 } as const;
  return step(state, arrived ? [call] : [{ type: "tick" }], lifecycleContext(nowMs)).effects;
}

const said = (effects: readonly Effect[]): string[] =>
  effects.map((effect) => {
    if (effect.type === "writeStatus") return effect.status.phase ?? "";
    return "claim" in effect ? `${effect.type} ${effect.claim.name}` : effect.type;
  });

describe("of a reserved gang", () => {
  test("the planner reserves its own claims alone, and lets the member go when those are", () => {
    expect(said(decided("Reserved", gated, [gpuPending, nicClaim("nic")]))).toEqual(["reserveClaim gpu"]);
    expect(said(decided("Reserved", gated, [gpu, nicClaim("nic")]))).toEqual(["releasePod"]);
  });

  test("no member is let go whose other claim is on its way out", () => {
    expect(said(decided("Reserved", gated, [gpu, nicClaim("nic", 1, { deleting: true })]))).toEqual([]);
  });

  test("what kube-scheduler gave, whatever it is, stops nothing", () => {
    expect(said(decided("Reserved", pod(), [gpu, nic([me])]))).toEqual([]);
    expect(said(decided("Reserved", pod(), [gpu, nic([me])], { arrived: true }))).toEqual(["Binding"]);
    const failed = { ...nic([me]), bindingFailure: "its driver says so" };
    expect(said(decided("Reserved", pod(), [gpu, failed]))).toEqual([]);
  });

  test("that is revoked the planner clears its own claims alone", () => {
    expect(said(decided("Revoked", pod(), [gpu, nic([me])]))).toEqual(["clearClaim gpu"]);
  });
});

describe("a member of a committed gang", () => {
  test("is bound when it has called, or when kube-scheduler has given it all; not before", () => {
    expect(said(decided("Binding", pod(), [gpu, nicClaim("nic")], { arrived: true }))).toEqual(["bind"]);
    expect(said(decided("Binding", pod(), [gpu, nic([me])]))).toEqual(["bind"]);
    expect(said(decided("Binding", pod(), [gpu, nicClaim("nic")]))).toEqual([]);
    expect(said(decided("Binding", pod(), [gpu, nic([])]))).toEqual([]);
  });

  test("that kube-scheduler took off its claims is put back on those of the planner, and awaited", () => {
    const off = { ...gpu, reservedFor: [guard] };
    expect(said(decided("Binding", pod(), [off, nic([])]))).toEqual(["reserveClaim gpu"]);
  });
});

describe("a member that has no other claims", () => {
  const cardOnly = { ...place, claims: place.claims.slice(1) };
  const placement = { pods: [cardOnly] };
  const roaming = (phase: "Reserved" | "Binding", more: Partial<PodRecord>, node?: string) => {
    const member = pod({ claims: references.slice(1), ...more });
    const status: GangStatus = { phase, observedGeneration: 1, members: "0/1", placement };
    const arrivals = new Map(node === undefined ? [] : [[member.uid, { node, call: 1 }]]);
    const record = gangRecord({ spec, status, reservedAtMs: nowMs });
    return decided(phase, member, [nic([me], "elsewhere")], { gang: record, arrivals });
  };

  test("is nominated again for its place, and may not go elsewhere", () => {
    expect(said(roaming("Reserved", { nominatedNodeName: "n" }))).toEqual([]);
    expect(roaming("Reserved", {})).toMatchObject([{ type: "releasePod", node: "n", nominate: true }]);
    const refused = { type: "answer", error: "gang team/g: the place of pod g-0 is on node n" };
    expect(roaming("Reserved", { nominatedNodeName: "n" }, "elsewhere")).toMatchObject([refused]);
    expect(roaming("Binding", { nominatedNodeName: "n" }, "elsewhere")).toMatchObject([refused]);
    expect(said(roaming("Binding", { nominatedNodeName: "n" }))).toEqual([]);
  });
});

describe("of a gang that runs", () => {
  test("the status tells the devices that kube-scheduler gave", () => {
    const [written] = decided("Binding", pod({ nodeName: "n" }), [gpu, nic([me])]).filter(
      (effect) => effect.type === "writeStatus",
    );
    expect(written?.status.phase).toBe("Scheduled");
    expect(
      written?.status.placement?.pods[0]?.claims.map(({ devices }) => devices.map(({ device }) => device)),
    ).toEqual([["gpu-0"], ["nic-7"]]);
  });

  test("the status is corrected when it is given others, and then never again", () => {
    const running = pod({ nodeName: "n" });
    const given = [{ ...gpu, reservedFor: [me] }, nic([me])];
    const [first] = decided("Scheduled", running, given).flatMap((effect) =>
      effect.type === "writeStatus" ? effect.status : [],
    );
    expect(first?.placement?.pods[0]?.claims[1]?.devices[0]?.device).toBe("nic-7");
    expect(
      decided("Scheduled", running, given, { gang: gangRecord({ spec, status: first!, reservedAtMs: nowMs }) }),
    ).toEqual([]);
  });

  test("a member that is recreated is reserved its own claims", () => {
    expect(said(decided("Scheduled", gated, [gpuPending, nicClaim("nic")]))).toContain("reserveClaim gpu");
    expect(said(decided("Scheduled", gated, [gpu, nicClaim("nic")]))).toContain("releasePod");
  });

  test("a member whose place kube-scheduler refused is planned anew, though it has a card there", () => {
    const avoided = new Map([["n", nowMs + 60_000]]);
    expect(said(decided("Scheduled", pod(), [gpuPending, nic([])], { avoided }))).toContain("plan");
    expect(said(decided("Scheduled", pod(), [gpu, nic([])], { avoided }))).not.toContain("plan");
  });
});

describe("of a pod of its own", () => {
  const effects = (member: PodRecord, claims: readonly ClaimRecord[], reserved = false) => {
    const single = {
      pod: member,
      claims: new Map(claims.map((each) => [each.name, each])),
      proposal: place,
      ...(reserved ? { reserved } : {}),
      planning: false,
      avoided: new Map(),
      inFlight: new Set<string>(),
      pace: new Map(),
    };
    const isLeft = ({ name }: ClaimRecord) => name === "nic";
    return said(
      decideSingle(single, { nowMs, capacityVersion: 1, nodeFits: () => true, isLeft, intrudes: false }).effects,
    );
  };
  const own = { ...gpu, reservedFor: [me] };

  test("the planner reserves its own claims alone, and lets it go when those are", () => {
    expect(effects(gated, [gpuPending, nicClaim("nic")])).toEqual(["reserveClaim gpu"]);
    expect(effects(gated, [own, nicClaim("nic")])).toEqual(["releasePod"]);
  });

  test("what kube-scheduler gave is never taken back", () => {
    expect(effects(pod(), [gpuPending, nic([me])], true)).toEqual(["plan"]);
    expect(effects(gated, [own, { ...nic([me]), deleting: true }])).toEqual([]);
  });
});
