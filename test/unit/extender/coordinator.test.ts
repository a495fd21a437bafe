import { expect, test, vi } from "vitest";
import { gangSpec } from "../../../src/api/gang.ts";
import { gangGate } from "../../../src/api/names.ts";
import { placementGroupSpec } from "../../../src/api/placement-group.ts";
import { createCoordinator } from "../../../src/extender/coordinator.ts";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import { defaultLimits } from "../../../src/extender/limits.ts";
import type { GangRecord } from "../../../src/gang/lifecycle/state.ts";
import type { PodRecord } from "../../../src/topology/records.ts";
import { driver, exactly, gangRecord, podRecord } from "../../builders.ts";
import { allocatedClaim, claimRecord, clusterOf } from "../../support/cluster.ts";

/** A coordinator over one node, whose time is told and whose writes are noted and never answered. */
function setUp({ leads = true } = {}) {
  const model = clusterOf([{ name: "n0", gpus: 2 }]);
  const writes: [WriteEffect, string][] = [];
  let nowMs = 1_000_000;
  let wakeAtMs = Number.POSITIVE_INFINITY;
  const coordinator = createCoordinator(
    model,
    new Set([driver]),
    {
      write: (effect, owner) => void writes.push([effect, owner]),
      event: () => undefined,
      answer: () => undefined,
      nowMs: () => nowMs,
      nowIso: () => "2026-01-01T00:00:00Z",
      schedule: (delayMs) => {
        wakeAtMs = nowMs + delayMs;
      },
      planned: () => undefined,
      mayPlan: () => true,
      planRefused: () => undefined,
      bypassed: () => undefined,
      preempted: () => undefined,
    },
    defaultLimits,
  );
  if (leads) coordinator.activate();
  return {
    coordinator,
    model,
    writes,
    /** Whatever is to be done in that time is done. @returns in how many turns */
    pass(ms: number): number {
      const untilMs = nowMs + ms;
      let turns = 0;
      for (; wakeAtMs <= untilMs; turns++) {
        if (turns > 100) throw new Error("the coordinator never rests");
        nowMs = Math.max(nowMs, wakeAtMs);
        wakeAtMs = Number.POSITIVE_INFINITY;
        coordinator.flush();
      }
      nowMs = untilMs;
      return turns;
    },
  };
}

const gang = (name: string, more: Partial<GangRecord> = {}): GangRecord =>
  gangRecord({
    namespace: "team",
    name,
    uid: `gang-uid-${name}`,
    resourceVersion: "10",
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }] }),
    ...more,
  });

const member = (name: string, index: number, more: Partial<PodRecord> = {}): PodRecord =>
  podRecord(`${name}-${index}`, {
    gang: name,
    index,
    gates: [gangGate],
    claims: [{ name: "gpus", claimName: "shared" }],
    resourceVersion: "11",
    ...more,
  });

test("gangs are validated anew when a topology changes, and not for every slice of devices: thousands of them cost seconds of a start", () => {
  const { coordinator, model, writes, pass } = setUp();
  const asked = vi.spyOn(model.view, "fabric");
  const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }], topology: "late" });
  coordinator.observeGang(gang("g", { spec }));
  pass(5_000);
  const said = () => writes.flatMap(([effect]) => (effect.type === "writeStatus" ? [effect.status.explanation] : []));
  expect(said()).toEqual([expect.stringContaining("there is no ClusterTopology late")]);
  asked.mockClear();
  coordinator.observeInventory();
  expect(asked).not.toHaveBeenCalled();
  model.upsertTopology("late", model.topology("default")!);
  coordinator.observeTopology();
  expect(asked).toHaveBeenCalledWith("late");
  expect(coordinator.state("team/g")?.gang?.problems).toHaveLength(1);
  pass(5_000);
  expect(coordinator.state("team/g")?.gang?.problems).toEqual([]);
});

test("a replica that stands by keeps what is, not what was", () => {
  const { coordinator, pass } = setUp({ leads: false });
  coordinator.observeGang(gang("g"));
  for (let version = 20; version < 1_000; version++) {
    coordinator.observePod(member("g", 0, { resourceVersion: `${version}`, ready: version % 2 === 0 }));
  }
  pass(10_000);
  expect(coordinator.state("team/g")?.pods.get("pod-uid-g-0")?.resourceVersion).toBe("999");
  coordinator.observePodGone("pod-uid-g-0");
  coordinator.observeGangGone(gang("g"));
  pass(10_000);
  expect(coordinator.stats().gangs).toBe(0);
});

test("a replica that stands by takes in once a second what is news, one that leads at once", () => {
  for (const [leads, expected] of [
    [false, 3],
    [true, 300],
  ] as const) {
    const { coordinator, pass } = setUp({ leads });
    pass(1_000);
    let turns = 0;
    for (let version = 20; version < 320; version++) {
      coordinator.observeGang(gang("g", { resourceVersion: `${version}` }));
      turns += pass(10);
    }
    expect(Math.abs(turns - expected), `${turns} turns`).toBeLessThanOrEqual(1);
  }
});

test("gangs that are gone are forgotten, although a claim that they named is still there", () => {
  const { coordinator, pass } = setUp();
  coordinator.observeClaim(claimRecord("shared", [exactly("gpus", 1)], { resourceVersion: "5" }));
  for (const name of ["g0", "g1", "g2"]) {
    coordinator.observeGang(gang(name));
    coordinator.observePod(member(name, 0));
    pass(10);
    coordinator.observePodGone(`pod-uid-${name}-0`);
    coordinator.observeGangGone(gang(name));
  }
  pass(10);
  expect(coordinator.stats().gangs).toBe(0);
  coordinator.observeClaim(claimRecord("shared", [exactly("gpus", 1)], { resourceVersion: "6" }));
  pass(10);
  expect(coordinator.stats().gangs).toBe(0);
});

const grouped = (name: string) =>
  gang(name, {
    spec: gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }], placementGroup: "group", role: "server" }),
  });

const groupIn = (namespace: string, spec: object = {}) => ({
  namespace,
  name: "group",
  spec: placementGroupSpec.parse({ members: [{ role: "server", minInstances: 1 }], ...spec }),
});

test("a PlacementGroup concerns its own gangs alone", () => {
  const { coordinator, pass } = setUp();
  coordinator.observeGang(grouped("mine"));
  coordinator.observeGang(gang("other"));
  pass(10);
  const [mine, other] = ["team/mine", "team/other"].map((key) => coordinator.state(key));
  coordinator.observeGroup("other/group", groupIn("other"));
  pass(10);
  expect(coordinator.state("team/mine")).toBe(mine);
  coordinator.observeGroup("team/group", groupIn("team"));
  pass(10);
  expect(coordinator.state("team/mine")).not.toBe(mine);
  expect(coordinator.state("team/other")).toBe(other);
});

test.for([
  ["UnknownLevel", { constraints: [{ level: "aisle" }] }],
  ["InvalidGang", { members: [{ role: "client", minInstances: 1 }] }],
  ["NoDomainFits", { constraints: [{ level: "rack" }] }],
  ["WaitingForPlacementGroup", undefined],
] as const)(
  "a gang that was refused with %s of a PlacementGroup is planned when that is corrected, and nothing else happens",
  ([reason, spec]) => {
    const { coordinator, writes, pass } = setUp();
    if (spec !== undefined) coordinator.observeGroup("team/group", groupIn("team", spec));
    coordinator.observeClaim(claimRecord("shared", [exactly("gpus", 1)], { resourceVersion: "5" }));
    coordinator.observePod(member("mine", 0, { bindMarker: true }));
    coordinator.observeGang(grouped("mine"));
    pass(1_000);
    expect(coordinator.state("team/mine")?.rejection?.reason).toBe(reason);
    for (const [effect, owner] of writes.splice(0)) {
      if (effect.type !== "writeStatus") continue;
      const written = { ...grouped("mine"), resourceVersion: "20", status: effect.status };
      coordinator.written(effect, owner, { outcome: { ok: true }, gang: written });
    }
    coordinator.observeGroup("team/group", groupIn("team"));
    pass(1_000);
    expect(writes.map(([effect]) => effect.type === "writeStatus" && effect.status.phase)).toEqual(["Reserved"]);
  },
);

test("a refused gang of higher priority preempts one that was being bound as soon as that one is Scheduled", () => {
  const { coordinator, writes, pass } = setUp();
  const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }] });
  const podOf = (name: string, more: Partial<PodRecord>) =>
    member(name, 0, { podSet: "ranks", claims: [{ name: "gpu", claimName: name }], bindMarker: true, ...more });
  const devices = ["gpu-0", "gpu-1"];
  const claim = { claim: "low", devices: devices.map((device) => ({ request: "gpu", driver, pool: "n0", device })) };
  const placement = { pods: [{ pod: "low-0", podSet: "ranks", index: 0, node: "n0", claims: [claim] }] };
  coordinator.observeClaim({ ...allocatedClaim("low", "n0", devices, ["pod-uid-low-0"]), resourceVersion: "5" });
  coordinator.observePod(podOf("low", { nodeName: "n0", gates: [] }));
  coordinator.observeGang(
    gang("low", { spec, status: { phase: "Binding", observedGeneration: 1, placement } as never }),
  );
  coordinator.observeClaim(claimRecord("high", [exactly("gpu", 2)], { resourceVersion: "6" }));
  coordinator.observePod(podOf("high", { priority: 10 }));
  coordinator.observeGang(gang("high", { spec }));
  const phases: string[] = [];
  /** Writes of statuses are answered, those up to now. */
  const answer = () => {
    for (const [effect, owner] of writes.splice(0)) {
      if (effect.type !== "writeStatus") continue;
      phases.push(`${owner} ${effect.status.phase}`);
      const written = gang(owner.slice("team/".length), {
        spec,
        resourceVersion: `${20 + phases.length}`,
        status: effect.status,
      });
      coordinator.written(effect, owner, { outcome: { ok: true }, gang: written });
    }
  };
  pass(1_000);
  expect(coordinator.state("team/high")?.rejection?.reason).toBe("InsufficientDevices");
  for (let turn = 0; turn < 5; turn++) {
    answer();
    pass(1_000);
  }
  expect(phases).toEqual(["team/low Scheduled", "team/high Pending", "team/high Preempting", "team/low Preempted"]);
});

test.for([
  ["is gone", undefined],
  ["has ended", { terminal: true, resourceVersion: "9" }],
] as const)(
  "a reserved gang goes on when a pod that had its devices %s, whose claim was emptied before",
  ([, ended]) => {
    const { coordinator, writes, pass } = setUp();
    const devices = [{ request: "gpu", driver, pool: "n0", device: "gpu-0" }];
    const before = { ...allocatedClaim("before", "n0", ["gpu-0"], ["pod-uid-before"]), resourceVersion: "5" };
    const pod = podRecord("before", {
      nodeName: "n0",
      claims: [{ name: "gpu", claimName: "before" }],
      resourceVersion: "6",
    });
    coordinator.observeClaim(before);
    coordinator.observePod(pod);
    const { allocation: _, ...emptied } = before;
    coordinator.observeClaim({ ...emptied, reservedFor: [], resourceVersion: "7" });
    coordinator.observeClaim(claimRecord("own", [exactly("gpu", 1)], { resourceVersion: "8" }));
    coordinator.observePod(member("g", 0, { claims: [{ name: "gpu", claimName: "own" }], podSet: "ranks" }));
    const claims = [{ reference: "gpu", claim: "own", devices }];
    const placement = { pods: [{ pod: "g-0", podSet: "ranks", index: 0, node: "n0", claims }] };
    const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }] });
    const status = { phase: "Reserved", observedGeneration: 1, placement } as never;
    coordinator.observeGang(gang("g", { spec, status, reservedAtMs: 1_000_000 }));
    const reserving = () => writes.filter(([{ type }]) => type === "reserveClaim").length;
    pass(1_000);
    expect(reserving()).toBe(0);
    if (ended === undefined) coordinator.observePodGone(pod.uid);
    else coordinator.observePod({ ...pod, ...ended });
    pass(1_000);
    expect(reserving()).toBe(1);
  },
);
