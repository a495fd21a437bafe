import { describe, expect, test } from "vitest";
import type { GangConstraint, GangStatus } from "../../../src/api/gang.ts";
import type { PlacementGroupSpec } from "../../../src/api/placement-group.ts";
import type { ClusterState } from "../../../src/cli/cluster-state.ts";
import { devicesHeldTwice, placementsOf } from "../../../src/cli/placements.ts";
import { claimSpec, deviceClasses, exactly, gpus, nodeRecord, sliceRecord } from "../../builders.ts";
import { claimRecord, gangRecord, gpuNames, placement, planOutput, podRecord, podWithClaim } from "./builders.ts";

const labels = (rack: string) => ({ "topology.kubernetes.io/zone": "z", "fabric.topograph.run/tier-0": rack });

/** Two racks; a and b in one, c in the other; four GPUs each, two per NUMA node. */
function state(more: Partial<ClusterState> = {}): ClusterState {
  const nodes = [
    nodeRecord("a", { labels: labels("r0") }),
    nodeRecord("b", { labels: labels("r0") }),
    nodeRecord("c", { labels: labels("r1") }),
  ];
  const numa = (index: number) => ({ "resource.kubernetes.io/numaNode": Math.floor(index / 2) });
  const slices = nodes.map((node) => sliceRecord(node.name, gpus(4, numa)));
  const none = { gangs: [], groups: [], pods: [], claims: [], budgets: [], deviceClasses: [], topologies: [] };
  return { ...none, nodes, slices, taintRules: [], ...more };
}

const two = [{ name: "workers", count: 2 }];

/** The reservation in the status of a gang of two. */
function reserved(first: string, second: string, phase: GangStatus["phase"] = "Reserved"): GangStatus {
  const pods = [first, second].map((node, index) => ({
    pod: `g-${index}`,
    podSet: "workers",
    index,
    node,
    claims: [{ claim: `g-${index}-gpus`, reference: "gpus", devices: [] }],
  }));
  return { phase, placement: { pods, costMs: 1.5 } };
}

const member = (index: number, more = {}) => podWithClaim(`g-${index}`, { gang: "g", index, ...more });

describe("a gang", () => {
  test("that is bound is a placement by nodes of pods and devices of claims, whatever its status says", () => {
    const { placements, rejections, stats } = placementsOf(
      state({
        gangs: [gangRecord("g", two, reserved("c", "c", "Scheduled"))],
        pods: [member(1, { nodeName: "b" }), member(0, { nodeName: "a" })],
        claims: [claimRecord("g-0", "a", gpuNames(0, 4)), claimRecord("g-1", "b", gpuNames(0, 2))],
      }),
    );
    expect(rejections).toEqual([]);
    const [found] = placements;
    expect(found?.pods.map((pod) => [pod.pod, pod.index, pod.node, pod.claims[0]?.devices.length])).toEqual([
      ["g-0", 0, "a", 4],
      ["g-1", 1, "b", 2],
    ]);
    expect(found?.pods[1]?.claims).toEqual([
      {
        claim: "g-1-gpus",
        reference: "gpus",
        devices: gpuNames(0, 2).map((device) => ({ request: "gpus", driver: "gpu.kllama.ai", pool: "b", device })),
      },
    ]);
    expect(found?.domains).toEqual({ zone: "z", rack: "z/r0" });
    // Six ranks over one rack, whose link is assumed to carry 50 GB/s with 6 µs: (10/6 × 16 MiB) / 50 GB/s + 10 × 6 µs.
    expect(found?.cost.byLink).toEqual([{ from: "workers", to: "workers", level: "rack", milliseconds: 0.619 }]);
    expect(found?.cost.totalMs).toBe(0.619);
    expect(found?.cost.assumes[0]).toContain("ring all-reduce of 16 MiB");
    expect(stats).toMatchObject({ nodes: 3, devices: 12, gangs: 1 });
  });

  test("that is reserved and not bound counts with the reserved nodes once all claims are allocated", () => {
    const gangs = [gangRecord("g", two, reserved("a", "b"))];
    const pods = [member(0), member(1)];
    const first = claimRecord("g-0", "a", ["gpu-0"]);
    const whole = placementsOf(state({ gangs, pods, claims: [first, claimRecord("g-1", "b", ["gpu-0"])] }));
    expect(whole.placements[0]?.pods.map((pod) => pod.node)).toEqual(["a", "b"]);
    const half = placementsOf(state({ gangs, pods, claims: [first, claimRecord("g-1")] }));
    expect(half.placements).toEqual([]);
    expect(half.rejections[0]).toMatchObject({ gang: "g", reason: "WaitingForMembers" });
  });

  test("with surplus waiting is a placement of what it has", () => {
    const gangs = [gangRecord("g", [{ name: "workers", count: 3, minCount: 1 }], reserved("a", "b", "Scheduled"))];
    const pods = [member(0, { nodeName: "a" }), member(1), member(2)];
    const { placements } = placementsOf(state({ gangs, pods, claims: [claimRecord("g-0", "a", ["gpu-0"])] }));
    expect(placements[0]?.pods.map((pod) => pod.pod)).toEqual(["g-0"]);
  });

  test("on one node names the device domains that all of its devices share", () => {
    const gangs = [gangRecord("g", two, reserved("a", "a", "Scheduled"))];
    const pods = [member(0, { nodeName: "a" }), member(1, { nodeName: "a" })];
    const at = (first: string, second: string) =>
      placementsOf(
        state({ gangs, pods, claims: [claimRecord("g-0", "a", [first]), claimRecord("g-1", "a", [second])] }),
      ).placements[0]?.domains;
    expect(at("gpu-2", "gpu-3")).toMatchObject({ host: "z/r0/a", numa: "z/r0/a/1" });
    expect(at("gpu-1", "gpu-2")).not.toHaveProperty("numa");
  });

  test("in two racks shares what is broader", () => {
    const gangs = [gangRecord("g", two, reserved("b", "c", "Scheduled"))];
    const pods = [member(0, { nodeName: "b" }), member(1, { nodeName: "c" })];
    const claims = [claimRecord("g-0", "b", ["gpu-0"]), claimRecord("g-1", "c", ["gpu-0"])];
    expect(placementsOf(state({ gangs, pods, claims })).placements[0]?.domains).toEqual({ zone: "z" });
  });

  test("speaks of the levels of its own topology", () => {
    const record = gangRecord("g", two, reserved("a", "b", "Scheduled"));
    const gangs = [{ ...record, spec: { ...record.spec, topology: "mine" } }];
    const pods = [member(0, { nodeName: "a" }), member(1, { nodeName: "b" })];
    const topologies = [
      { name: "mine", spec: { levels: [{ name: "hall", nodeLabels: ["topology.kubernetes.io/zone"] }] } },
    ];
    expect(placementsOf(state({ gangs, pods, topologies })).placements[0]?.domains).toEqual({ hall: "z" });
  });

  const conditions = (reason: string): GangStatus["conditions"] => [
    { type: "Planned", status: "False", reason, message: "", lastTransitionTime: "2026-01-01T00:00:00Z" },
  ];
  test("is being deleted: its pods wait for another one", () => {
    const gangs = [{ ...gangRecord("g", two, { phase: "Scheduled" }), deleting: true }];
    const waiting = placementsOf(state({ gangs, pods: [member(0, { nodeName: "a" }), member(1)] }));
    expect(waiting.rejections).toMatchObject([{ gang: "g", reason: "WaitingForMembers" }]);
    expect(waiting.rejections[0]!.message).toMatch(/Gang g, which is being deleted; create it again when it is gone/);
  });

  test.for([
    {
      name: "refused",
      status: { phase: "Pending", explanation: "no rack", conditions: conditions("NoDomainFits") },
      reason: "NoDomainFits",
      message: "Pending: no rack; 2 pods exist, 1 of 2 are bound",
    },
    {
      name: "between two plans",
      status: { phase: "Revoked", explanation: "timeout", conditions: conditions("Revoked") },
      reason: "Revoked",
      message: "Revoked: timeout; 2 pods exist, 1 of 2 are bound",
    },
    {
      name: "never looked at",
      status: {},
      reason: "WaitingForMembers",
      message: "no status yet: 2 pods exist, 1 of 2 are bound",
    },
  ] as const)("$name is a rejection", ({ status, reason, message }) => {
    const gangs = [gangRecord("g", two, status as GangStatus)];
    const pods = [member(0, { nodeName: "a" }), member(1)];
    const { placements, rejections } = placementsOf(state({ gangs, pods }));
    expect(placements).toEqual([]);
    expect(rejections).toEqual([{ gang: "g", namespace: "ns", reason, message, blocking: [], counterfactuals: [] }]);
  });
});

describe("what the status of a gang leaves out", () => {
  const asking = (pod: string, gpusPerPod: number) => ({
    ...claimRecord(pod),
    spec: claimSpec([exactly("gpus", gpusPerPod)]),
  });
  const refused = (reason: string): GangStatus => ({
    phase: "Pending",
    explanation: "no rack",
    conditions: [{ type: "Planned", status: "False", reason, message: "", lastTransitionTime: "2026-01-01T00:00:00Z" }],
  });
  const pendingIn = (status: GangStatus, gpusPerPod: number) => {
    const record = gangRecord("g", two, status);
    const constraints: GangConstraint[] = [{ type: "colocate", level: "rack", mode: "required" }];
    const pods = [member(0), member(1)];
    const claims = [asking("g-0", gpusPerPod), asking("g-1", gpusPerPod), claimRecord("other", "a", ["gpu-0"])];
    const gangs = [{ ...record, spec: { ...record.spec, constraints } }];
    return placementsOf(state({ gangs, pods, claims, deviceClasses: [...deviceClasses().values()] })).rejections[0];
  };

  test("what blocks a refused gang, is asked of the planner again", () => {
    const rejection = pendingIn(refused("NoDomainFits"), 4);
    expect(rejection).toMatchObject({
      reason: "NoDomainFits",
      message: "Pending: no rack; 2 pods exist, 0 of 2 are bound",
    });
    expect(rejection?.blocking).toEqual([
      { level: "rack", domain: "z/r0", resource: "gpu.kllama.ai", needed: 8, available: 4 },
    ]);
  });

  test.for([
    { name: "another reason now", status: refused("NoDomainFits"), gpusPerPod: 5 },
    { name: "a place now", status: refused("NoDomainFits"), gpusPerPod: 2 },
  ])("is left out when the planner has $name", ({ status, gpusPerPod }) => {
    expect(pendingIn(status, gpusPerPod)).toMatchObject({ reason: "NoDomainFits", blocking: [] });
  });

  test("what a gang sends to another role of its PlacementGroup, is charged to the sender", () => {
    const spec: PlacementGroupSpec = {
      members: ["prefill", "decode"].map((role) => ({ role, minInstances: 1 })),
      pairing: [{ from: "prefill", to: "decode", bytesPerRequest: 1_000_000_000 }],
      topology: "default",
    };
    const one = [{ name: "workers", count: 1 }];
    const gangOf = (name: string, role: string) => {
      const record = gangRecord(name, one, { phase: "Scheduled" });
      return { ...record, spec: { ...record.spec, role, placementGroup: "llama" } };
    };
    const { placements } = placementsOf(
      state({
        gangs: [gangOf("p", "prefill"), gangOf("d", "decode")],
        groups: [{ namespace: "ns", name: "llama", spec }],
        pods: [
          podWithClaim("p-0", { gang: "p", index: 0, nodeName: "a" }),
          podWithClaim("d-0", { gang: "d", index: 0, nodeName: "b" }),
        ],
        claims: [claimRecord("p-0", "a", ["gpu-0"]), claimRecord("d-0", "b", ["gpu-0"])],
      }),
    );
    expect(placements.map(({ gang, role, placementGroup, cost }) => [gang, role, placementGroup, cost.byLink])).toEqual(
      [
        ["d", "decode", "llama", []],
        ["p", "prefill", "llama", [{ from: "p", to: "d", level: "rack", milliseconds: 20.006 }]],
      ],
    );
  });
});

describe("a pod without a Gang", () => {
  test("is a gang by its own name when it has claims, and nothing when it has none", () => {
    const pods = [podWithClaim("single", { nodeName: "a" }), podRecord("plain", { nodeName: "a" })];
    const { placements, stats } = placementsOf(state({ pods, claims: [claimRecord("single", "a", ["gpu-3"])] }));
    expect(placements.map((each) => [each.gang, each.pods[0]?.claims[0]?.devices[0]?.device])).toEqual([
      ["single", "gpu-3"],
    ]);
    expect(stats.gangs).toBe(1);
  });

  test("that waits is a rejection with the planner's reason, else the scheduler's", () => {
    const pods = [
      podWithClaim("refused"),
      podWithClaim("waiting", { unschedulableMessage: "0/3 nodes are available" }),
    ];
    const refusals = new Map([["uid-refused", { reason: "InsufficientDevices", message: "2 free, 4 needed" }]]);
    const { rejections } = placementsOf(state({ pods }), { refusals });
    expect(rejections.map(({ gang, reason, message }) => [gang, reason, message])).toEqual([
      ["refused", "InsufficientDevices", "2 free, 4 needed"],
      ["waiting", "WaitingForMembers", "0/3 nodes are available"],
    ]);
  });

  test("labelled with a Gang that does not exist is told so once per gang", () => {
    const pods = [podWithClaim("x-0", { gang: "x" }), podWithClaim("x-1", { gang: "x" })];
    const { rejections } = placementsOf(state({ pods }));
    expect(rejections.map((each) => each.gang)).toEqual(["x"]);
    expect(rejections[0]?.message).toMatch(/Gang x, which does not exist; create it or remove the label/);
  });

  test("that ended or is being deleted is nothing", () => {
    const pods = [podWithClaim("done", { terminal: true }), podWithClaim("going", { deleting: true, nodeName: "a" })];
    expect(placementsOf(state({ pods })).stats.gangs).toBe(0);
  });
});

test("order of input changes nothing; names sort naturally", () => {
  const pods = ["p10", "p2", "p1"].map((name) => podWithClaim(name, { nodeName: "a" }));
  const claims = ["p10", "p2", "p1"].map((name, index) => claimRecord(name, "a", [`gpu-${index}`]));
  const given = placementsOf(state({ pods, claims }));
  expect(given.placements.map((each) => each.gang)).toEqual(["p1", "p2", "p10"]);
  expect(placementsOf(state({ pods: pods.toReversed(), claims: claims.toReversed() }))).toEqual(given);
});

test("a device in two claims, or twice in one, is found; a claim that two pods share is not", () => {
  const held = { node: "a", devices: ["gpu-0"] };
  expect(devicesHeldTwice(planOutput([placement("x", [held]), placement("y", [held])]))).toEqual([
    "gpu.kllama.ai/a/gpu-0",
  ]);
  expect(devicesHeldTwice(planOutput([placement("x", [{ node: "a", devices: ["gpu-1", "gpu-1"] }])]))).toEqual([
    "gpu.kllama.ai/a/gpu-1",
  ]);
  const shared = placement("x", [held, held]);
  shared.pods[1]!.claims[0]!.claim = shared.pods[0]!.claims[0]!.claim;
  expect(devicesHeldTwice(planOutput([shared]))).toEqual([]);
});
