import { describe, expect, test } from "vitest";
import type { GangConstraint } from "../../../src/api/gang.ts";
import type { DeviceRequest } from "../../../src/api/kubernetes.ts";
import type { PlacementGroupSpec } from "../../../src/api/placement-group.ts";
import { budgetExceededFor, type GangRequest, type PlanResult, plan, singlePodGang } from "../../../src/gang/plan.ts";
import { builtInTopology } from "../../../src/topology/levels.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import type { PodRecord } from "../../../src/topology/records.ts";
import {
  claimSpec,
  exactly,
  gpus,
  migBoard,
  migSlices,
  nodeRecord,
  partition,
  podRecord,
  sliceRecord,
} from "../../builders.ts";
import {
  addNode,
  allocatedClaim,
  clusterOf,
  gangIn,
  type NodeSketch,
  nodesOf,
  picture,
  plansOf,
  rejectionsOf,
} from "../../support/cluster.ts";

const together = (level: string, more: Partial<GangConstraint> = {}): GangConstraint => ({
  type: "colocate",
  level,
  mode: "required",
  ...more,
});

/** Racks of nodes with 8 GPUs: `racks({a: 2})` gives a-0 and a-1. */
function racks(sizes: Record<string, number>, gpus = 8): NodeSketch[] {
  return Object.entries(sizes).flatMap(([rack, size]) =>
    Array.from({ length: size }, (_, i) => ({ name: `${rack}-${i}`, zone: "z", rack, gpus })),
  );
}

const rackOf = (node: string) => node.split("-")[0]!;

describe("a claim that several pods name", () => {
  /** A gang of two pods that name one claim of 2 GPUs; `more` changes each pod. */
  const sharing = (model: ClusterModel, name = "g", claim = `${name}-w-0-gpu`, more: Partial<PodRecord> = {}) => {
    const gang = gangIn(model, name, { w: { count: 2, gpus: 2 } });
    const pods = gang.pods.map((pod) => ({ ...pod, ...more, claims: [{ name: "gpu", claimName: claim }] }));
    for (const pod of pods) model.upsertPod(pod);
    return { ...gang, pods };
  };

  test("puts them on one node with the same devices", () => {
    const model = clusterOf([
      { name: "a", gpus: 8, used: 7 },
      { name: "b", gpus: 8, used: 5 },
    ]);
    expect(picture(plan(model, { gangs: [sharing(model)] }))).toEqual(["g-w-0@b[5,6]", "g-w-1@b[5,6]"]);
  });

  test("is judged by its members: a pod with the label and another scheduler that has no slot changes nothing", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 1 } });
    const forged = podRecord("forged", { gang: "g", podSet: "w", index: 1, schedulerName: "other", createdAtMs: 9 });
    expect(plansOf(plan(model, { gangs: [{ ...gang, pods: [forged, ...gang.pods] }] }))).toHaveLength(1);
    const unequal = gang.pods.map((pod, i) => (i === 0 ? pod : { ...pod, schedulerName: "other" }));
    expect(rejectionsOf(plan(model, { gangs: [{ ...gang, pods: unequal }] }))[0]!.reason).toBe("InvalidGang");
  });

  test("needs a node with room for all of them", () => {
    const cpu = { requests: { cpu: 40_000 } };
    const model = clusterOf([
      { name: "large", gpus: 2, more: { allocatable: { cpu: 80_000, memory: 2 ** 30, pods: 110 } } },
      { name: "small", gpus: 2, more: { allocatable: { cpu: 64_000, memory: 2 ** 30, pods: 110 } } },
    ]);
    expect(nodesOf(plan(model, { gangs: [sharing(model, "g", "g-w-0-gpu", cpu)] }))).toEqual({
      "g-w-0": "large",
      "g-w-1": "large",
    });
    model.upsertNode({ ...model.node("large")!, unschedulable: true });
    expect(rejectionsOf(plan(model, { gangs: [sharing(model, "g", "g-w-0-gpu", cpu)] }))).toHaveLength(1);
  });

  test("stands beside claims of their own", () => {
    const model = clusterOf(racks({ a: 2 }, 4));
    const gang = sharing(model);
    const pods = gang.pods.map((pod) => {
      const claims = [
        { name: "gpu", claimName: "g-w-0-gpu" },
        { name: "own", claimName: `own-${pod.name}` },
      ];
      model.upsertClaim({ ...allocatedClaim(`own-${pod.name}`, "a-0", [], []), spec: claimSpec([exactly("gpu", 1)]) });
      const { allocation: _, ...pending } = model.claim("team", `own-${pod.name}`)!;
      model.upsertClaim(pending);
      return { ...pod, claims };
    });
    expect(picture(plan(model, { gangs: [{ ...gang, pods }] }))).toEqual(["g-w-0@a-0[0,1,2]", "g-w-1@a-0[0,1,3]"]);
  });

  test("takes a later member to the node where its devices are", () => {
    const model = clusterOf(racks({ a: 1, b: 1 }));
    const gang = sharing(model);
    const [first, second] = plansOf(plan(model, { gangs: [gang] }))[0]!.placement.pods;
    expect(second!.claims).toEqual(first!.claims);
    const later = { ...gang, placed: [first!] };
    const [placed, ...others] = plansOf(plan(model, { gangs: [later] }))[0]!.placement.pods;
    expect(others).toEqual([]);
    expect([placed!.pod, placed!.node, placed!.claims]).toEqual(["g-w-1", first!.node, first!.claims]);
  });

  const older = (gang: GangRequest, createdAtMs: number): GangRequest["pods"] =>
    gang.pods.map((pod) => ({ ...pod, createdAtMs }));

  test.each([
    ["of two gangs is that of the one whose pods are older", 5, 3, "h", "g"],
    ["of two gangs whose pods are as old is that of the first by name", 5, 5, "g", "h"],
  ])("%s; the other is told so", (_title, gMs, hMs, first, second) => {
    const model = clusterOf(racks({ a: 1 }));
    const gangs = [sharing(model, "g"), sharing(model, "h", "g-w-0-gpu")];
    for (const [i, ms] of [gMs, hMs].entries()) for (const pod of older(gangs[i]!, ms)) model.upsertPod(pod);
    const [own, other] = gangs[0]!.name === first ? gangs : gangs.toReversed();
    expect(plansOf(plan(model, { gangs: [own!] }))[0]!.placement.pods).toHaveLength(2);
    expect(rejectionsOf(plan(model, { gangs: [other!] }))[0]).toMatchObject({
      gang: second,
      reason: "UnsupportedClaim",
      message: expect.stringContaining(
        `ResourceClaim g-w-0-gpu is shared by gang ${second} and gang ${first}, which came first; the pods that share a claim must be members of one gang`,
      ),
    });
  });

  test("stays with the gang that has it, or a place for it, however old others are", () => {
    const model = clusterOf(racks({ a: 1 }));
    const [gang, other] = [sharing(model, "g"), sharing(model, "h", "g-w-0-gpu")];
    for (const pod of older(gang, 5)) model.upsertPod(pod);
    const refused = (each: GangRequest) => "rejections" in plan(model, { gangs: [each] });
    expect([refused(gang), refused(other)]).toEqual([true, false]);
    const placed = plansOf(plan(model, { gangs: [other] }))[0]!.placement.pods.map((pod) => ({
      ...pod,
      claims: pod.claims.map((claim) => ({ ...claim, claim: "g-w-0-gpu" })),
    }));
    model.hold("team/g", "team", [{ placed: placed[0]!, requests: {} }]);
    expect([refused(gang), refused(other)]).toEqual([false, true]);
    model.release("team/g");
    const guard = { apiGroup: "scheduling.kllama.ai", resource: "gangs", name: "g", uid: "any" };
    model.upsertClaim({ ...model.claim("team", "g-w-0-gpu")!, reservedFor: [guard] });
    expect([refused(gang), refused(other)]).toEqual([false, true]);
  });

  test("is no business of a stranger: a pod alone that names it is refused, and so is one that names a pod's own claim", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = sharing(model, "g");
    const alone = (claimName: string) => podRecord("alone", { createdAtMs: 9, claims: [{ name: "gpu", claimName }] });
    model.upsertPod(alone("g-w-0-gpu"));
    expect(plansOf(plan(model, { gangs: [gang] }))).toHaveLength(1);
    const made = gangIn(model, "made", { w: { count: 1, gpus: 1 } });
    const owner = { ...made.pods[0]!, claims: [{ name: "gpu", claimName: "made-w-0-gpu", templateName: "one" }] };
    model.upsertClaim({ ...model.claim("team", "made-w-0-gpu")!, ownerPodUid: owner.uid });
    model.upsertPod(alone("made-w-0-gpu"));
    expect(plansOf(plan(model, { gangs: [{ ...made, pods: [owner] }] }))).toHaveLength(1);
    for (const claimName of ["g-w-0-gpu", "made-w-0-gpu"]) {
      const pods = [alone(claimName)];
      const stranger = { ...made, name: "alone", spec: singlePodGang(pods[0]!), pods };
      expect(rejectionsOf(plan(model, { gangs: [stranger] }))[0]!.reason).toBe("UnsupportedClaim");
    }
  });

  test("can be planned, which wakes whoever was refused for it, once the other gang's pods are gone", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = sharing(model, "g");
    const others = sharing(model, "e", "g-w-0-gpu").pods;
    expect(rejectionsOf(plan(model, { gangs: [gang] }))).toHaveLength(1);
    const before = model.capacityVersion;
    model.upsertPod({ ...others[0]!, terminal: true });
    model.removePod(others[1]!.uid);
    expect(model.capacityVersion).toBe(before + 2);
    expect(plansOf(plan(model, { gangs: [gang] }))).toHaveLength(1);
  });

  test("is refused for more pods than a claim can be reserved for beside the guard", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = sharing(model);
    const [pod] = gang.pods;
    for (let more = 0; more < 254; more++) model.upsertPod({ ...pod!, uid: `more-${more}`, name: `more-${more}` });
    expect(rejectionsOf(plan(model, { gangs: [gang] }))[0]!.message).toContain("shared by 256 pods; at most 255 can");
    model.removePod("more-0");
    expect(plansOf(plan(model, { gangs: [gang] }))).toHaveLength(1);
  });
});

describe("one gang", () => {
  test("fills one node with devices in rank order when the node holds it", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } });
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@a-0[0,1,2,3]", "g-w-1@a-0[4,5,6,7]"]);
  });

  test("takes the tightest domain that holds it, so that the large one stays whole", () => {
    const model = clusterOf(racks({ large: 3, small: 2 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 8 } }, { constraints: [together("rack")] });
    expect(Object.values(nodesOf(plan(model, { gangs: [gang] })))).toEqual(["small-0", "small-1"]);
  });

  test("takes a partly used node rather than a fresh one", () => {
    const model = clusterOf([
      { name: "fresh", rack: "a", gpus: 8 },
      { name: "used", rack: "b", gpus: 8, used: 4 },
    ]);
    expect(nodesOf(plan(model, { gangs: [gangIn(model, "g", { w: { count: 1, gpus: 4 } })] }))).toEqual({
      "g-w-0": "used",
    });
  });

  test("stays in one rack without being asked when a rack holds it", () => {
    const model = clusterOf(racks({ a: 1, b: 3, c: 1 }));
    const gang = gangIn(model, "g", { leader: { count: 1 }, w: { count: 3, gpus: 8 } });
    const nodes = Object.values(nodesOf(plan(model, { gangs: [gang] })));
    expect(new Set(nodes.map(rackOf))).toEqual(new Set(["b"]));
  });

  test("names the domain of every level that holds all pods", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 1, gpus: 4 } });
    const [result] = plansOf(plan(model, { gangs: [gang] }));
    expect(result!.placement.domains).toEqual({ zone: "z", rack: "z/a", host: "z/a/a-0", numa: "z/a/a-0/0" });
  });

  test("is not placed in part", () => {
    const model = clusterOf(racks({ a: 2 }));
    const result = plan(model, { gangs: [gangIn(model, "g", { w: { count: 3, gpus: 8 } })] });
    expect(rejectionsOf(result)).toMatchObject([{ gang: "g", reason: "InsufficientDevices" }]);
  });

  test("does not change the model", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 8 } });
    const { version } = model;
    const first = picture(plan(model, { gangs: [gang] }));
    expect(model.version).toBe(version);
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(first);
  });
});

describe("siblings", () => {
  const sixAndFive = () => clusterOf(racks({ six: 6, five: 5 }));
  const inOneRack = { constraints: [together("rack")] };

  test.each([[[3, 3, 5]], [[3, 5, 3]], [[5, 3, 3]]])("gangs of %j fit racks of 6 and 5", (sizes) => {
    const model = sixAndFive();
    const gangs = sizes.map((count, i) => gangIn(model, `g${i}`, { w: { count, gpus: 8 } }, inOneRack));
    const result = plan(model, { gangs });
    const rackOfGang = plansOf(result).map(({ placement }) => new Set(placement.pods.map(({ node }) => rackOf(node))));
    expect(rackOfGang.map((each) => [...each])).toEqual(sizes.map((count) => [count === 5 ? "five" : "six"]));
  });

  test("an instance that largest-first gets wrong: 4, 3, 3, 2, 2 into 8 and 6", () => {
    const model = clusterOf(racks({ eight: 8, six: 6 }));
    const gangs = [4, 3, 3, 2, 2].map((count, i) => gangIn(model, `g${i}`, { w: { count, gpus: 8 } }, inOneRack));
    expect(plansOf(plan(model, { gangs }))).toHaveLength(5);
  });

  test("slices of 3, 3 and 5 nodes share racks of 6 and 5", () => {
    const model = sixAndFive();
    const gang = gangIn(model, "g", {
      three: { count: 6, gpus: 8, slices: [{ size: 3, level: "rack" }] },
      five: { count: 5, gpus: 8, slices: [{ size: 5, level: "rack" }] },
    });
    const nodes = nodesOf(plan(model, { gangs: [gang] }));
    const rackOfPods = (names: string[]) => [...new Set(names.map((name) => rackOf(nodes[name]!)))];
    expect(rackOfPods(["g-three-0", "g-three-1", "g-three-2"])).toEqual(["six"]);
    expect(rackOfPods(["g-three-3", "g-three-4", "g-three-5"])).toEqual(["six"]);
    expect(rackOfPods([0, 1, 2, 3, 4].map((i) => `g-five-${i}`))).toEqual(["five"]);
  });

  test("gangs of 3, 4 and 5 do not fit racks of 6 and 5, and none is placed", () => {
    const model = sixAndFive();
    const gangs = [3, 4, 5].map((count, i) => gangIn(model, `g${i}`, { w: { count, gpus: 8 } }, inOneRack));
    const result = plan(model, { gangs });
    expect(rejectionsOf(result)).toHaveLength(3);
    expect(rejectionsOf(result)[0]).toMatchObject({ reason: "NoDomainFits" });
  });
});

describe("constraints", () => {
  test("a required level keeps the gang in one domain or rejects it, naming the best", () => {
    const model = clusterOf(racks({ a: 1, b: 1 }, 4));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } }, { constraints: [together("rack")] });
    expect(picture(plan(model, { gangs: [gang] }))).toEqual([
      "g: NoDomainFits: the gang needs 2 nodes with 4 gpu.kllama.ai devices free each in one rack; the best, z/a, has 1",
    ]);
  });

  test("equal rack names in two zones are two racks", () => {
    const model = clusterOf([
      { name: "n1", zone: "z1", rack: "r", gpus: 4 },
      { name: "n2", zone: "z2", rack: "r", gpus: 4 },
    ]);
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } }, { constraints: [together("rack")] });
    expect(rejectionsOf(plan(model, { gangs: [gang] }))).toMatchObject([{ reason: "NoDomainFits" }]);
  });

  test("a node without the label is left out and reported", () => {
    const model = clusterOf([
      { name: "n1", zone: "z", rack: "r", gpus: 4 },
      { name: "n2", zone: "z", gpus: 4 },
    ]);
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } }, { constraints: [together("rack")] });
    const [rejection] = rejectionsOf(plan(model, { gangs: [gang] }));
    expect(rejection!.message).toContain("1 node with room lacks the labels of rack (rack)");
  });

  test("a preferred level is met when it can be", () => {
    const model = clusterOf(racks({ a: 2, b: 3 }));
    const gang = gangIn(
      model,
      "g",
      { w: { count: 3, gpus: 8 } },
      { constraints: [together("rack", { mode: "preferred" })] },
    );
    expect(new Set(Object.values(nodesOf(plan(model, { gangs: [gang] }))).map(rackOf))).toEqual(new Set(["b"]));
  });

  test("a preferred level is given up when it cannot be met", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }));
    const gang = gangIn(
      model,
      "g",
      { w: { count: 3, gpus: 8 } },
      { constraints: [together("rack", { mode: "preferred" })] },
    );
    expect(plansOf(plan(model, { gangs: [gang] }))[0]!.placement.pods).toHaveLength(3);
  });

  test("of two preferred ones in conflict the earlier wins", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }, 4));
    const colocate = together("rack", { mode: "preferred" });
    const spread: GangConstraint = { type: "spread", level: "rack", mode: "preferred" };
    const racksWith = (constraints: GangConstraint[]) => {
      const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } }, { constraints });
      return new Set(Object.values(nodesOf(plan(model, { gangs: [gang] }))).map(rackOf)).size;
    };
    expect([racksWith([colocate, spread]), racksWith([spread, colocate])]).toEqual([1, 2]);
  });

  test("a preferred spread that cannot be met is kept with the least skew that can be", () => {
    const full = { more: { allocatable: { cpu: 0, pods: 0 } } };
    const model = clusterOf([...racks({ a: 4, b: 4 }), { name: "c-0", zone: "z", rack: "c", gpus: 8, ...full }]);
    const perRack = (count: number) => {
      const spread: GangConstraint = { type: "spread", level: "rack", mode: "preferred" };
      const gang = gangIn(model, "g", { w: { count, gpus: 8 } }, { constraints: [spread] });
      const nodes = Object.values(nodesOf(plan(model, { gangs: [gang] }))).map(rackOf);
      return ["a", "b", "c"].map((rack) => nodes.filter((each) => each === rack).length).sort();
    };
    expect([perRack(4), perRack(5), perRack(7)]).toEqual([
      [0, 2, 2],
      [0, 2, 3],
      [0, 3, 4],
    ]);
  });

  test("a constraint over a subset binds that subset alone", () => {
    const model = clusterOf([...racks({ a: 2 }, 4), { name: "cpu-0", zone: "z", rack: "cpu" }]);
    const gang = gangIn(
      model,
      "g",
      { router: { count: 1, more: { nodeSelector: { rack: "cpu" } } }, w: { count: 2, gpus: 4 } },
      { constraints: [together("rack", { podSets: ["w"] })] },
    );
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-router-0": "cpu-0", "g-w-0": "a-0", "g-w-1": "a-1" });
  });

  test("spread puts as many pods in each rack as it can", () => {
    const model = clusterOf(racks({ a: 2, b: 2, c: 2 }));
    const gang = gangIn(
      model,
      "g",
      { w: { count: 4, gpus: 1 } },
      { constraints: [{ type: "spread", level: "rack", mode: "required" }] },
    );
    const counts = Object.groupBy(Object.values(nodesOf(plan(model, { gangs: [gang] }))), rackOf);
    expect(
      Object.values(counts)
        .map((nodes) => nodes!.length)
        .sort(),
    ).toEqual([1, 1, 2]);
  });

  test.each([
    [2, "InsufficientDevices: needs 2 nodes with 4 gpu.kllama.ai devices free each; the cluster has 1 now"],
    [1, "InsufficientDevices: needs room for 1 pod of 4 gpu.kllama.ai devices; the cluster has 0 now"],
  ])("a level inside hosts of which devices of a node tell nothing says so (%i pods)", (count, refusal) => {
    const model = clusterOf([{ name: "told", gpus: 8, used: count === 1 ? 8 : 4 }, { name: "empty" }]);
    model.upsertNode(nodeRecord("untold", { labels: { "kubernetes.io/hostname": "untold" } }));
    model.upsertSlice(sliceRecord("untold", gpus(8)));
    const gang = gangIn(model, "g", { w: { count, gpus: 4, slices: [{ size: 1, level: "numa" }] } });
    const [said] = picture(plan(model, { gangs: [gang] }));
    expect(said).toContain(refusal);
    expect(said).toContain("; devices of 1 node do not tell resource.kubernetes.io/numaNode");
  });

  test("a spread over a level that nodes lack the labels of says so", () => {
    const spread = together("rack", { type: "spread" });
    const refused = (nodes: NodeSketch[], count: number) => {
      const model = clusterOf(nodes);
      return picture(
        plan(model, { gangs: [gangIn(model, "g", { w: { count, gpus: 8 } }, { constraints: [spread] })] }),
      )[0];
    };
    const lacks = (nodes: string) => `; ${nodes} the labels of rack (rack)`;
    expect(refused([{ name: "n", gpus: 8 }], 1)).toBe(
      `g: NoDomainFits: 1 pod of 8 gpu.kllama.ai devices has no place with the gang spread over rack${lacks("1 node with room lacks")}`,
    );
    const some = [{ name: "n", gpus: 8 }, { name: "m", gpus: 8 }, ...racks({ a: 1, b: 1 })];
    expect(refused(some, 3)).toContain(lacks("2 nodes with room lack"));
  });

  test("spread that a full domain makes impossible is refused", () => {
    const model = clusterOf([
      { name: "a-0", rack: "a", gpus: 8 },
      { name: "b-0", rack: "b", gpus: 8, used: 8 },
    ]);
    const constraints: GangConstraint[] = [{ type: "spread", level: "rack", mode: "required" }];
    const fits = (count: number) =>
      "plans" in plan(model, { gangs: [gangIn(model, "g", { w: { count, gpus: 1 } }, { constraints })] });
    expect([fits(1), fits(2)]).toEqual([true, false]);
  });

  test("TP groups stay whole in their racks and follow index order", () => {
    const model = clusterOf(racks({ a: 3, b: 2, c: 3 }));
    const gang = gangIn(model, "g", { w: { count: 6, gpus: 8, slices: [{ size: 2, level: "rack" }] } });
    const nodes = Object.values(nodesOf(plan(model, { gangs: [gang] })));
    expect([0, 2, 4].map((i) => [rackOf(nodes[i]!), rackOf(nodes[i + 1]!)])).toEqual([
      ["a", "a"],
      ["b", "b"],
      ["c", "c"],
    ]);
  });

  test("slices nest: pairs in a rack inside fours in a zone", () => {
    const model = clusterOf([
      { name: "a-0", zone: "z1", rack: "a", gpus: 16 },
      { name: "b-0", zone: "z1", rack: "b", gpus: 16 },
      { name: "c-0", zone: "z2", rack: "c", gpus: 16 },
      { name: "d-0", zone: "z2", rack: "d", gpus: 16 },
    ]);
    const slices = [
      { size: 4, level: "zone" },
      { size: 2, level: "rack" },
    ];
    const nodes = Object.values(
      nodesOf(plan(model, { gangs: [gangIn(model, "g", { w: { count: 8, gpus: 8, slices } })] })),
    );
    expect(nodes).toEqual(["a-0", "a-0", "b-0", "b-0", "c-0", "c-0", "d-0", "d-0"]);
  });

  test("a device level keeps all devices of each pod on one NUMA node", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 8 }]);
    model.upsertClaim(allocatedClaim("other", "n", ["gpu-0", "gpu-1", "gpu-2"], []));
    const sliced = { count: 1, gpus: 3, slices: [{ size: 1, level: "numa" }] };
    expect(picture(plan(model, { gangs: [gangIn(model, "g", { w: sliced })] }))).toEqual(["g-w-0@n[4,5,6]"]);
    const tooMany = { ...sliced, gpus: 5 };
    expect(rejectionsOf(plan(model, { gangs: [gangIn(model, "h", { w: tooMany })] }))).toMatchObject([
      { reason: "NoMatchingDevice" },
    ]);
  });

  test("a device level over several pods puts them on one host, on devices of one NUMA node", () => {
    const model = clusterOf([
      { name: "n1", rack: "r", gpus: 8, used: 1 },
      { name: "n2", rack: "r", gpus: 8, used: 4 },
    ]);
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 2 } }, { constraints: [together("numa")] });
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@n2[4,5]", "g-w-1@n2[6,7]"]);
  });

  test("a running pod without devices pins the host of a device level, and leaves open which of its domains", () => {
    const model = clusterOf([
      { name: "n1", rack: "r", gpus: 8, used: 2 },
      { name: "n2", rack: "r", gpus: 4 },
    ]);
    const placed = [{ pod: "g-leader-0", podSet: "leader", index: 0, node: "n1", claims: [] }];
    const sets = { leader: { count: 1 }, w: { count: 2, gpus: 2 } };
    const gang = gangIn(model, "g", sets, { constraints: [together("numa")] }, placed);
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@n1[4,5]", "g-w-1@n1[6,7]"]);
  });
});

describe("an NVLink domain", () => {
  const inOne = { constraints: [together("nvlink-domain")] };
  const clique = (name: string) => ({ more: { labels: { "nvidia.com/gpu.clique": name } } });
  const tray = (name: string, more: Partial<NodeSketch> = {}): NodeSketch => ({
    name,
    gpus: 4,
    ...clique("nvl.1"),
    ...more,
  });
  const dgx = (name: string, more: Partial<NodeSketch> = {}): NodeSketch => ({
    name,
    gpus: 8,
    nvlink: () => name,
    ...more,
  });
  const bridged = (name: string, more: Partial<NodeSketch> = {}): NodeSketch => ({
    name,
    gpus: 4,
    nvlink: (gpu) => `${name}.${gpu < 2 ? "left" : "right"}`,
    ...more,
  });
  const builtIn = (...nodes: NodeSketch[]) => clusterOf(nodes, builtInTopology);
  const placed = (model: ReturnType<typeof clusterOf>, set: Parameters<typeof gangIn>[2][string], spec = inOne) =>
    picture(plan(model, { gangs: [gangIn(model, "g", { w: set }, spec)] }));

  test("is a DGX host by itself: its GPUs tell it, no label does", () => {
    const model = builtIn(dgx("dgx-0"), dgx("dgx-1"));
    expect(placed(model, { count: 2, gpus: 4 })).toEqual(["g-w-0@dgx-0[0,1,2,3]", "g-w-1@dgx-0[4,5,6,7]"]);
    const [result] = plansOf(plan(model, { gangs: [gangIn(model, "h", { w: { count: 1, gpus: 8 } }, inOne)] }));
    expect(result!.placement.domains).toMatchObject({ "nvlink-domain": "dgx-0/dgx-0", nvlink: "dgx-0/dgx-0" });
  });

  test("does not reach from one DGX host to the next", () => {
    const model = builtIn(dgx("dgx-0"), dgx("dgx-1"));
    expect(placed(model, { count: 4, gpus: 4 })).toEqual([
      "g: NoDomainFits: the gang needs room for 4 pods of 4 gpu.kllama.ai devices in one nvlink-domain; the best, dgx-0, has room for 2",
    ]);
  });

  test("is a pair of bridged cards, not their host", () => {
    const model = builtIn(bridged("pcie-0"), bridged("pcie-1"));
    expect(placed(model, { count: 1, gpus: 2 })).toEqual(["g-w-0@pcie-0[0,1]"]);
    expect(placed(model, { count: 2, gpus: 1 })).toEqual(["g-w-0@pcie-0[0]", "g-w-1@pcie-0[1]"]);
    expect(placed(model, { count: 2, gpus: 2 })).toEqual([
      "g: NoDomainFits: the gang needs room for 2 pods of 2 gpu.kllama.ai devices in one nvlink-domain; the best, pcie-0, has room for 1",
    ]);
    expect(placed(model, { count: 1, gpus: 4 })[0]).toContain("g: NoMatchingDevice");
  });

  test("is the pair that is free when one card of the other is taken", () => {
    expect(placed(builtIn(bridged("pcie-0", { used: 1 })), { count: 2, gpus: 1 })).toEqual([
      "g-w-0@pcie-0[2]",
      "g-w-1@pcie-0[3]",
    ]);
  });

  test("holds no MIG partition: they reach no peer", () => {
    const model = builtIn({ name: "mig" });
    const boards = [0, 1].map((index) => migBoard(index));
    for (const { devices } of boards) devices[0]!.attributes!["nvlinkDomain"] = { string: "mig" };
    for (const slice of migSlices("mig", boards)) model.upsertSlice(slice);
    expect(placed(model, { count: 2, gpus: 1 })).toEqual(["g-w-0@mig[0]", "g-w-1@mig[1]"]);
    const [refused] = placed(model, { count: 2, requests: [partition("p", "3g")] });
    expect(refused).toContain(
      "g: NoMatchingDevice: no node has devices that pod set w asks for, even if all were free",
    );
    expect(refused).toContain("with one value of gpu.kllama.ai/nvlinkDomain are needed, 0 are free");
  });

  test("is what the label says where there is one, whatever devices tell", () => {
    const model = builtIn(tray("tray-0", { nvlink: () => "tray-0" }), tray("tray-1"));
    expect(placed(model, { count: 2, gpus: 4 })).toEqual(["g-w-0@tray-0[0,1,2,3]", "g-w-1@tray-1[0,1,2,3]"]);
  });

  test("is the tightest that holds the gang: a host before a rack of trays, the rack when the host is too small", () => {
    const model = builtIn(...[0, 1, 2, 3].map((i) => tray(`tray-${i}`)), dgx("dgx"));
    const nodes = (count: number) => [
      ...new Set(placed(model, { count, gpus: 4 }).map((pod) => pod.replace(/.*@|\[.*/g, ""))),
    ];
    expect(nodes(2)).toEqual(["dgx"]);
    expect(nodes(3)).toEqual(["tray-0", "tray-1", "tray-2"]);
  });

  test("holds each slice of a gang, hosts and racks mixed", () => {
    const model = builtIn(tray("tray-0"), tray("tray-1"), dgx("dgx"));
    const set = { count: 4, gpus: 4, slices: [{ size: 2, level: "nvlink-domain" }] };
    const pods = placed(model, set, { constraints: [] });
    expect(pods.map((pod) => pod.replace(/\[.*/, ""))).toEqual([
      "g-w-0@dgx",
      "g-w-1@dgx",
      "g-w-2@tray-0",
      "g-w-3@tray-1",
    ]);
  });

  test("that a running pod is in holds those to come", () => {
    const model = builtIn(dgx("dgx-0"), dgx("dgx-1"));
    model.upsertClaim(allocatedClaim("mine", "dgx-1", ["gpu-3"], []));
    const devices = [{ request: "gpu", driver: "gpu.kllama.ai", pool: "dgx-1", device: "gpu-3" }];
    const claims = [{ claim: "mine", reference: "gpu", devices }];
    const running = [{ pod: "g-w-0", podSet: "w", index: 0, node: "dgx-1", claims }];
    const gang = (count: number) => gangIn(model, "g", { w: { count, gpus: 4 } }, inOne, running);
    expect(picture(plan(model, { gangs: [gang(2)] }))).toEqual(["g-w-1@dgx-1[4,5,6,7]"]);
    expect(picture(plan(model, { gangs: [gang(3)] }))).toEqual([
      "g: NoDomainFits: the gang needs room for 2 pods of 4 gpu.kllama.ai devices in one nvlink-domain; the nvlink-domain of its running pods, dgx-1, has room for 1",
    ]);
  });

  test("counts once per host in a spread", () => {
    const model = builtIn(dgx("dgx-0"), dgx("dgx-1"), { name: "cpu" });
    const spread: GangConstraint[] = [{ type: "spread", level: "nvlink-domain", mode: "required" }];
    const pods = placed(model, { count: 4, gpus: 1 }, { constraints: spread });
    const counts = Object.groupBy(pods, (pod) => pod.replace(/.*@|\[.*/g, ""));
    expect(Object.entries(counts).map(([node, on]) => `${node} ${on!.length}`)).toEqual(["dgx-0 2", "dgx-1 2"]);
  });

  test("that free nodes are in none of, so that too few are left, is told by label and attribute", () => {
    const [said] = placed(builtIn({ name: "plain", gpus: 8 }, { ...dgx("dgx"), used: 8 }), { count: 1, gpus: 4 });
    expect(said).toContain("the cluster has 0 now; 1 node lacks the labels of nvlink-domain (");
    expect(said).toContain("), and devices that tell gpu.kllama.ai/nvlinkDomain");
  });

  test("that no node is in is asked for by label and attribute", () => {
    expect(placed(builtIn({ name: "plain", gpus: 8 }), { count: 1, gpus: 1 })[0]).toContain("g: NoMatchingDevice");
    const cpus = placed(builtIn({ name: "plain", gpus: 8 }), { count: 1 });
    expect(cpus).toEqual([
      "g: NoDomainFits: the gang needs room for 1 pod of cpu 1 in one nvlink-domain; no node is in one; 1 node lacks the labels of nvlink-domain (nvidia.com/gpu.clique, accelerator.topograph.run/domain), and devices that tell gpu.kllama.ai/nvlinkDomain",
    ]);
  });

  test("does not make two cards of one host fast that no bridge joins", () => {
    const model = builtIn(bridged("pcie", { more: { labels: { "topology.kubernetes.io/rack": "r" } } }));
    const costOf = (gpus: number) => {
      const gang = gangIn(model, `g${gpus}`, { w: { count: 1, gpus } });
      return plansOf(plan(model, { gangs: [gang] }))[0]!.placement.cost.byLink[0]!;
    };
    const [bridge, host] = [costOf(2), costOf(4)];
    expect([bridge.level, host.level]).toEqual(["nvlink", "host"]);
    // All-reduce of 16 MiB: 2 ranks move it once at 450 GB/s, 4 ranks move 1.5 times as much at the rack's 50.
    expect(bridge.milliseconds).toBeCloseTo(16.8 / 450 + 0.002, 2);
    expect(host.milliseconds).toBeCloseTo((1.5 * 16.8) / 50 + 0.036, 2);
  });
});

describe("members", () => {
  describe("that have no place together", () => {
    const rejected = (model: ClusterModel, podSets: Parameters<typeof gangIn>[2], constraints: GangConstraint[]) =>
      rejectionsOf(plan(model, { gangs: [gangIn(model, "g", podSets, { constraints })] }))[0];

    test("are named without those that have no part in it, with what is short and the domain that comes closest", () => {
      const model = clusterOf([...racks({ a: 4, b: 3 }), { name: "c-0", rack: "c" }]);
      const podSets = { router: { count: 3 }, ranks: { count: 4, gpus: 8 }, draft: { count: 1, gpus: 4 } };
      const apart: GangConstraint = { type: "spread", level: "rack", mode: "required", podSets: ["router"] };
      const inRack = together("rack", { podSets: ["ranks", "draft"] });
      expect(rejected(model, podSets, [apart, inRack])).toMatchObject({
        message:
          "4 pods of 8 gpu.kllama.ai devices and 1 pod of 4 gpu.kllama.ai devices have no place together with pod sets ranks, draft in one rack for want of gpu.kllama.ai, though any fewer pods have one; rack z/a comes closest: all fit but 1 pod of 4 gpu.kllama.ai devices",
        blocking: [{ level: "rack", domain: "z/a", resource: "gpu.kllama.ai", needed: 36, available: 32 }],
        conflict: {
          pods: ["g-ranks-0", "g-ranks-1", "g-ranks-2", "g-ranks-3", "g-draft-0"],
          rules: ["pod sets ranks, draft in one rack"],
          size: "smallest",
        },
      });
    });

    test("in a whole cluster are counted there", () => {
      const model = clusterOf(racks({ a: 2 }));
      const podSets = { large: { count: 1, gpus: 8 }, small: { count: 3, gpus: 4 } };
      expect(rejected(model, podSets, [])).toMatchObject({
        message:
          "1 pod of 8 gpu.kllama.ai devices and 3 pods of 4 gpu.kllama.ai devices have no place together for want of gpu.kllama.ai, though any fewer pods have one; all fit but 1 pod of 4 gpu.kllama.ai devices",
        blocking: [{ level: "cluster", resource: "gpu.kllama.ai", needed: 20, available: 16 }],
      });
    });

    test("are no more of any pod set than it takes, and cpu is called short where it is", () => {
      const cpus = { allocatable: { cpu: 8_000, memory: 2 ** 34, pods: 110 } };
      const model = clusterOf(racks({ a: 2 }).map((node) => ({ ...node, more: cpus })));
      const more = { requests: { cpu: 3_000 } };
      const podSets = { large: { count: 6, gpus: 2, more }, small: { count: 6, gpus: 1, more } };
      expect(rejected(model, podSets, [together("rack")])).toMatchObject({
        reason: "InsufficientResources",
        blocking: [{ level: "cluster" }],
        conflict: { pods: ["large-0", "large-1", "large-2", "large-3", "large-4"].map((pod) => `g-${pod}`), rules: [] },
      });
      const few = { large: { count: 4, gpus: 2, more }, small: { count: 4, gpus: 1, more } };
      expect(rejected(model, few, [together("rack")])).toMatchObject({
        message: expect.stringContaining("for want of cpu, though any fewer pods have one"),
        blocking: [{ level: "cluster", resource: "cpu", needed: 15_000, available: 12_000 }],
        conflict: { pods: expect.objectContaining({ length: 5 }), rules: [], size: "smallest" },
      });
    });

    test("because others run in several domains are told of the one that most run in", () => {
      const model = clusterOf(racks({ a: 2, b: 2 }));
      const running = ["a-0", "a-1", "b-0"].map((node, index) => {
        return { pod: `g-w-${index}`, podSet: "w", index, node, claims: [] };
      });
      const gang = gangIn(model, "g", { w: { count: 4 } }, { constraints: [together("rack")] }, running);
      expect(rejectionsOf(plan(model, { gangs: [gang] }))[0]).toMatchObject({
        message:
          "the gang has to share one rack, but pods that run already are in z/a, z/b; delete them so that the gang is placed anew",
        blocking: [{ level: "rack", domain: "z/a", resource: "pods", needed: 3, available: 2 }],
        conflict: { pods: ["g-w-3"], rules: ["the gang in one rack"], size: "smallest" },
      });
    });

    test("are said to be perhaps too many where the search for fewer ends with its budget", () => {
      const model = clusterOf(racks(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`r${i}`, 16]))));
      const podSets = { a: { count: 10, gpus: 8 }, b: { count: 8, gpus: 4 }, c: { count: 40, gpus: 1 } };
      const rejection = rejected(model, podSets, [together("rack")]);
      expect(rejection?.conflict?.size).not.toBe("smallest");
      expect(rejection?.message).toContain("fewer pods may have none either: the search for them used up its budget");
    });
  });

  test("surplus is placed when it fits and waits when it does not", () => {
    const model = clusterOf(racks({ a: 3 }));
    const gang = gangIn(model, "g", { w: { count: 5, minCount: 2, gpus: 8 } });
    expect(Object.keys(nodesOf(plan(model, { gangs: [gang] })))).toEqual(["g-w-0", "g-w-1", "g-w-2"]);
  });

  describe("a spread that the pods that are needed break alone", () => {
    // One node with two GPUs and cpu for two pods, so many more with cpu for one pod.
    const spread: GangConstraint[] = [{ type: "spread", level: "host", mode: "required", maxSkew: 1 }];
    const counts = (small: number, count: number, pods = 1) => {
      const sketch = (name: string, gpus: number, pods: number) => ({
        name,
        gpus,
        more: { allocatable: { cpu: 8_000, pods } },
      });
      const smallNodes = Array.from({ length: small }, (_, i) => sketch(`n${1 + i}`, 0, pods));
      const model = clusterOf([sketch("n0", 2, 2), ...smallNodes]);
      const podSets = { router: { count, minCount: 1 }, worker: { count: 2, gpus: 1 } };
      const result = plan(model, { gangs: [gangIn(model, "g", podSets, { constraints: spread })] });
      if (!("plans" in result)) return result.budgetExceeded ? "budget" : "refused";
      const nodes = Object.values(nodesOf(result));
      return ["n0", ...smallNodes.map(({ name }) => name)].map((name) => nodes.filter((n) => n === name).length);
    };
    test("is kept by all pods: 2 workers, 2 routers", () => expect(counts(2, 2)).toEqual([2, 1, 1]));
    test("is kept by some pods more: 2 workers, 3 of 4 routers", () => expect(counts(3, 4)).toEqual([2, 1, 1, 1]));
    test("is kept by no number of pods", () => expect(counts(3, 2)).toBe("refused"));
    test("is not said to be impossible when there are too many numbers to try", () =>
      expect(counts(300, 299, 2)).toBe("budget"));
  });

  test("surplus is spread over the domains of all pods that are placed with it", () => {
    const taints = [{ key: "k", value: "v", effect: "NoSchedule" }];
    const node = (name: string, pods: number, more = {}) => {
      return { name, gpus: name === "c" ? 1 : 0, more: { allocatable: { cpu: 8_000, pods }, ...more } };
    };
    const model = clusterOf([node("a", 1), node("b", 2), node("c", 1), node("tainted", 1, { taints })]);
    const router = { count: 1, gpus: 1, more: { tolerations: [{ key: "k", operator: "Exists" }] } };
    const constraints: GangConstraint[] = [{ type: "spread", level: "host", mode: "required", maxSkew: 1 }];
    const gang = gangIn(model, "g", { router, worker: { count: 3, minCount: 2 } }, { constraints });
    // The tainted node, without a GPU, admits the router too and stays empty: nobody may have two pods.
    expect(Object.values(nodesOf(plan(model, { gangs: [gang] }))).sort()).toEqual(["a", "b", "c"]);
  });

  test("surplus prefers a domain with more room to the tightest one", () => {
    const model = clusterOf(racks({ small: 2, large: 4 }));
    const gang = gangIn(model, "g", { w: { count: 5, minCount: 2, gpus: 8 } }, { constraints: [together("rack")] });
    expect(new Set(Object.values(nodesOf(plan(model, { gangs: [gang] }))).map(rackOf))).toEqual(new Set(["large"]));
    expect(Object.keys(nodesOf(plan(model, { gangs: [gang] })))).toHaveLength(4);
  });

  test("surplus of one pod set is placed where it leaves room for that of another", () => {
    const limited = (name: string, rack: string, gpus: number, pods: number): NodeSketch => {
      return { name, zone: "z", rack, gpus, more: { allocatable: { cpu: 64_000, pods } } };
    };
    const model = clusterOf([limited("a-0", "a", 4, 1), limited("a-1", "a", 0, 1), limited("b-0", "b", 0, 2)]);
    addNode(model, limited("c-0", "c", 4, 1));
    const podSets = { router: { count: 3, minCount: 1 }, worker: { count: 2, minCount: 1, gpus: 4 } };
    const constraints = [together("rack", { podSets: ["router"] })];
    const placed = nodesOf(plan(model, { gangs: [gangIn(model, "g", podSets, { constraints })] }));
    expect(placed).toEqual({ "g-router-0": "b-0", "g-router-1": "b-0", "g-worker-0": "a-0", "g-worker-1": "c-0" });
  });

  test("those that are needed are placed with surplus in mind, though not all of it fits", () => {
    const model = clusterOf([...racks({ r: 1 }), { name: "tight", rack: "t", gpus: 4 }]);
    for (const name of ["s-0", "s-1"])
      addNode(model, { name, rack: "s", gpus: 8, more: { labels: { kind: "other" } } });
    const other = { count: 3, minCount: 1, gpus: 8, more: { nodeSelector: { kind: "other" } } };
    const gang = gangIn(model, "g", { other, worker: { count: 2, minCount: 1, gpus: 4 } });
    const { "g-worker-0": first, "g-worker-1": second, ...others } = nodesOf(plan(model, { gangs: [gang] }));
    expect([first, second]).toEqual(["r-0", "r-0"]);
    expect(others).toEqual({ "g-other-0": "s-0", "g-other-1": "s-1" });
  });

  test("running pods pin the domain of those to come", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }));
    model.upsertClaim(allocatedClaim("mine", "b-0", ["gpu-0"], []));
    const placed = [{ pod: "g-w-0", podSet: "w", index: 0, node: "b-0", claims: [] }];
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 8 } }, { constraints: [together("rack")] }, placed);
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-w-1": "b-1" });
  });

  test("a pod that runs on a node which is gone leaves open where the others have to be: they wait, if a rule asks", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }));
    const placed = [{ pod: "g-w-0", podSet: "w", index: 0, node: "gone", claims: [] }];
    const planned = (more: object) => {
      const gang = gangIn(model, "g", { w: { count: 2, gpus: 8 } }, more, placed);
      const pods = gang.pods.map((pod) => (pod.name === "g-w-0" ? { ...pod, nodeName: "gone" } : pod));
      return plan(model, { gangs: [{ ...gang, pods }] });
    };
    expect(picture(planned({ constraints: [together("rack")] }))).toEqual([
      "g: WaitingForMembers: pod g-w-0 runs on node gone, which does not exist now: until the pod is gone or the node is back, nobody knows where the gang has to stay",
    ]);
    expect(Object.keys(nodesOf(planned({})))).toEqual(["g-w-1"]);
  });

  test("one that is bound to such a node, though nothing has said so yet, leaves it open as well", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }));
    const placed = [{ pod: "g-w-0", podSet: "w", index: 0, node: "gone", claims: [] }];
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 8 } }, { constraints: [together("rack")] }, placed);
    const { uid } = gang.pods.find(({ name }) => name === "g-w-0")!;
    const rejected = rejectionsOf(plan(model, { gangs: [{ ...gang, bound: new Map([[uid, "gone"]]) }] }));
    expect(rejected).toMatchObject([{ reason: "WaitingForMembers" }]);
    expect(nodesOf(plan(model, { gangs: [{ ...gang, bound: new Map() }] }))).toMatchObject({ "g-w-1": "a-0" });
  });

  test("a pod to come lands near those that run, without being asked", () => {
    const model = clusterOf(racks({ a: 2, b: 4 }));
    model.upsertClaim(allocatedClaim("mine", "b-2", ["gpu-0", "gpu-1", "gpu-2", "gpu-3"], []));
    const placed = [{ pod: "g-w-0", podSet: "w", index: 0, node: "b-2", claims: [] }];
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 4 } }, {}, placed);
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-w-1": "b-2" });
  });

  test("a gang with too few pods waits, naming how many", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 3, gpus: 1, present: 2 } });
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g: WaitingForMembers: pod set w has 2 of 3 pods"]);
  });

  test("a pod whose claim is not there yet is waited for", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 1 } });
    model.removeClaim("claim-uid-g-w-1-gpu");
    const [rejection] = rejectionsOf(plan(model, { gangs: [gang] }));
    expect(rejection).toMatchObject({
      reason: "WaitingForMembers",
      message: "pod set w has 2 of 2 pods, 1 wait for their claims (pod g-w-1: ResourceClaim g-w-1-gpu does not exist)",
      blocking: [{ level: "cluster", resource: "claims", needed: 1, available: 0 }],
    });
  });

  test("its own hold is free for the slot it is for, and for no other", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = gangIn(model, "g", { w: { count: 1, gpus: 8 } });
    const [first] = plansOf(plan(model, { gangs: [gang] }));
    model.hold(
      "team/g",
      "team",
      first!.placement.pods.map((placed) => ({ placed, requests: { cpu: 1000 } })),
    );
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@a-0[0,1,2,3,4,5,6,7]"]);
    const other = gangIn(model, "h", { w: { count: 1, gpus: 8 } });
    expect(rejectionsOf(plan(model, { gangs: [other] }))).toMatchObject([{ reason: "InsufficientDevices" }]);
    const moved = { ...gang, pods: [podRecord("g-w-1", { ...gang.pods[0]!, name: "g-w-1", index: 1 })] };
    const second: GangRequest = { ...moved, spec: { ...gang.spec, podSets: [{ name: "w", count: 2, minCount: 1 }] } };
    expect(rejectionsOf(plan(model, { gangs: [second] }))).toMatchObject([{ reason: "InsufficientDevices" }]);
  });

  test("a single pod is a gang of one, also where it has no labels at all", () => {
    const model = clusterOf(racks({ a: 1 }));
    const gang = gangIn(model, "solo", { w: { count: 1, gpus: 2 } });
    const { gang: _, podSet: __, index: ___, ...pod } = gang.pods[0]!;
    const request = { ...gang, name: pod.name, spec: singlePodGang(pod), pods: [pod] };
    expect(picture(plan(model, { gangs: [request] }))).toEqual(["solo-w-0@a-0[0,1]"]);
  });

  test("a pod whose claim has devices already goes where they are", () => {
    const model = clusterOf(racks({ a: 3 }));
    const gang = gangIn(model, "g", { w: { count: 1, gpus: 1 } });
    const held = allocatedClaim("g-w-0-gpu", "a-2", ["gpu-5"], []);
    model.upsertClaim(held);
    expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@a-2[5]"]);
  });
});

test("a gang of 400 pods in pairs that share an NVLink domain inside a host is planned without detours", () => {
  const hosts = Array.from({ length: 50 }, (_, i) => ({ name: `n${i}`, gpus: 8, nvlink: () => `n${i}` }));
  const model = clusterOf(hosts, builtInTopology);
  const slices = [{ size: 2, level: "nvlink-domain" }];
  const result = plan(model, { gangs: [gangIn(model, "g", { w: { count: 400, gpus: 1, slices } })] }, { budget: 0 });
  expect(plansOf(result)[0]!.placement.pods).toHaveLength(400);
});

describe("traffic", () => {
  const parts = (cost: { byLink: { level: string }[] }) => cost.byLink.map(({ level }) => level);
  const pairs = (nodes: NodeSketch[]) => clusterOf(nodes, topology);
  const topology = {
    levels: [
      { name: "rack", nodeLabels: ["rack"], gigabytesPerSecond: 50 },
      { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
      { name: "bridge", deviceAttribute: "gpu.kllama.ai/nvlinkDomain", gigabytesPerSecond: 300 },
    ],
    beyond: { gigabytesPerSecond: 12.5 },
  };

  test("each of two pods gets a bridged pair, though one host has room for both", () => {
    const model = pairs([
      { name: "one", rack: "r", gpus: 4, nvlink: (gpu) => (gpu === 0 ? "a" : gpu === 1 ? "b" : "c") },
      { name: "two", rack: "r", gpus: 4, used: 2, nvlink: () => "d" },
    ]);
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 2, slices: [{ size: 1, level: "host" }] } });
    const result = plan(model, { gangs: [gang] });
    expect(picture(result)).toEqual(["g-w-0@one[2,3]", "g-w-1@two[2,3]"]);
    expect(parts(plansOf(result)[0]!.placement.cost)).toEqual(["bridge", "bridge"]);
  });

  test("slices share one rack where they can, and those that cannot are as few as possible", () => {
    const model = clusterOf([...racks({ a: 3, b: 2, c: 1 }, 4), { name: "far", zone: "y", gpus: 4 }], {
      ...topology,
      levels: [{ name: "zone", nodeLabels: ["zone"], gigabytesPerSecond: 25 }, ...topology.levels],
    });
    const gang = gangIn(model, "g", { w: { count: 6, gpus: 4, slices: [{ size: 2, level: "zone" }] } });
    const { cost } = plansOf(plan(model, { gangs: [gang] }))[0]!.placement;
    expect(parts(cost).sort()).toEqual(["rack", "rack", "zone"]);
  });

  test("partitions get no credit for a link between GPUs, whatever level they share", () => {
    const nvlink = { name: "clique", nodeLabels: ["nvidia.com/gpu.clique"], gigabytesPerSecond: 900 };
    const model = clusterOf([{ name: "n", rack: "r", more: { labels: { "nvidia.com/gpu.clique": "c" } } }], {
      ...topology,
      levels: [topology.levels[0]!, nvlink, ...topology.levels.slice(1)],
    });
    for (const slice of migSlices("n", [migBoard(0)])) model.upsertSlice(slice);
    const gang = gangIn(model, "g", { w: { count: 1, requests: [partition("p", "2g", 2)] } });
    expect(parts(plansOf(plan(model, { gangs: [gang] }))[0]!.placement.cost)).toEqual(["host"]);
  });

  test("is no reason to give a pod another alternative, or fewer devices where it asks for all", () => {
    const joined = `device.attributes["gpu.kllama.ai"].nvlinkDomain.startsWith("x")`;
    const two: NodeSketch = { name: "two", rack: "r", gpus: 2, nvlink: (gpu) => `x${gpu}` };
    const one: NodeSketch = { name: "one", rack: "r", gpus: 8, nvlink: (gpu) => (gpu === 0 ? "x" : "y") };
    const given = (nodes: NodeSketch[], request: DeviceRequest) => {
      const model = pairs(nodes);
      const gang = gangIn(model, "g", { w: { count: 1, requests: [request] } });
      return picture(plan(model, { gangs: [gang] }));
    };
    const { exactly: single } = exactly("one", 1, {}, joined);
    const firstAvailable = [
      { ...single!, name: "two", count: 2 },
      { ...single!, name: "one" },
    ];
    expect(given([two], { name: "either", firstAvailable })).toEqual(["g-w-0@two[0,1]"]);
    expect(given([one, two], exactly("all", 0, { allocationMode: "All" }, joined))).toEqual(["g-w-0@two[0,1]"]);
  });

  test("that nobody can price is named with the reason, and groups that are not whole are said not to be", () => {
    const untold = {
      levels: [
        { name: "rack", nodeLabels: ["rack"] },
        { name: "host", nodeLabels: ["kubernetes.io/hostname"], gigabytesPerSecond: 64 },
      ],
    };
    const model = clusterOf(racks({ a: 3 }, 2), untold);
    const slices = [{ size: 2, level: "rack" }];
    const gang = gangIn(model, "g", { w: { count: 4, minCount: 3, gpus: 2, slices } });
    const { cost } = plansOf(plan(model, { gangs: [gang] }))[0]!.placement;
    expect(cost.byLink.map(({ from, level }) => [from, level])).toEqual([["w[1]", "host"]]);
    expect(cost.assumes.at(-1)).toBe("groups that are not whole as far as they are placed: w[1] with 1 of 2 pods");
    expect(cost.unpriced).toEqual([
      "w[0]: nobody tells the bandwidth; give level rack or a broader one gigabytesPerSecond",
    ]);
  });

  test("without figures in the ClusterTopology those of the GPUs' product are assumed, and said to be", () => {
    const levels = [{ name: "nvlink", deviceAttribute: "gpu.kllama.ai/nvlinkDomain" }];
    const cost = (product: string) => {
      const model = clusterOf([{ name: "n", gpus: 8, product, nvlink: () => "d" }], { levels });
      return plansOf(plan(model, { gangs: [gangIn(model, "g", { w: { count: 1, gpus: 8 } })] }))[0]!.placement.cost;
    };
    expect(cost("NVIDIA A100-SXM4-80GB").assumes[1]).toBe(
      "nvlink: 300 GB/s per GPU and direction, 1 µs (assumed, since no ClusterTopology says)",
    );
    const ring = (gigabytesPerSecond: number) => (2 * 7 * 2 ** 24) / 8 / (gigabytesPerSecond * 1e6) + (14 * 1) / 1000;
    expect(cost("NVIDIA GB200").totalMs).toBeCloseTo(ring(900), 3);
    expect(cost("AMD Instinct MI300X OAM").totalMs).toBeCloseTo(ring(448), 3);
    expect(cost("something new").totalMs).toBeCloseTo(ring(300), 3);
  });
});

describe("AMD nodes beside NVIDIA ones", () => {
  const amd = "AMD Instinct MI300X OAM";
  const nvidia = "NVIDIA H100 80GB HBM3";
  const fleet = () =>
    clusterOf(
      [
        ...["m0", "m1"].map((name) => ({ name, rack: "r1", gpus: 8, product: amd, nvlink: () => "xgmi" })),
        { name: "h0", rack: "r1", gpus: 8, product: nvidia, nvlink: () => "nvlink" },
        { name: "h1", rack: "r2", gpus: 8, product: nvidia, nvlink: () => "nvlink" },
      ],
      {
        levels: [
          { name: "rack", nodeLabels: ["rack"] },
          { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
          { name: "nvlink", deviceAttribute: "gpu.kllama.ai/nvlinkDomain" },
        ],
      },
    );
  const of = (maker: string, count: number) => [
    exactly("gpu", count, {}, `device.attributes["gpu.kllama.ai"].productName.startsWith("${maker}")`),
  ];
  const nodes = (result: PlanResult) =>
    "plans" in result ? [...new Set(Object.values(nodesOf(result)))].sort().join() : picture(result)[0];

  test.each([
    ["pods that ask for AMD get AMD", { w: { count: 2, requests: of("AMD", 8) } }, {}, "m0,m1"],
    ["pods that ask for NVIDIA in one rack with 16 GPUs", { w: { count: 2, requests: of("NVIDIA", 8) } }, {}, "h0,h1"],
    [
      "a gang of both shares the rack that has both",
      { prefill: { count: 1, requests: of("NVIDIA", 8) }, decode: { count: 2, requests: of("AMD", 8) } },
      { constraints: [together("rack")] },
      "h0,m0,m1",
    ],
    [
      "more of one maker than a rack has are refused, whatever of the other is free",
      { w: { count: 2, requests: of("NVIDIA", 8) } },
      { constraints: [together("rack")] },
      "g: NoDomainFits: the gang needs 2 nodes with 8 gpu.kllama.ai devices free each in one rack; the best, r1, has 1",
    ],
  ] as const)("%s", (_title, podSets, spec, expected) => {
    const model = fleet();
    const gang = gangIn(model, "g", podSets as Parameters<typeof gangIn>[2], spec as Parameters<typeof gangIn>[3]);
    expect(nodes(plan(model, { gangs: [gang] }))).toBe(expected);
  });

  test("are each as fast as their own maker's links, and no pod gets GPUs of both", () => {
    const model = fleet();
    const cost = (maker: string) => {
      const gang = gangIn(model, `g-${maker}`, { w: { count: 1, requests: of(maker, 8) } });
      return plansOf(plan(model, { gangs: [gang] }))[0]!.placement.cost.assumes[1];
    };
    expect([cost("AMD"), cost("NVIDIA")]).toEqual([
      "nvlink: 448 GB/s per GPU and direction, 1 µs (assumed, since no ClusterTopology says)",
      "nvlink: 450 GB/s per GPU and direction, 1 µs (assumed, since no ClusterTopology says)",
    ]);
    const both = gangIn(model, "both", {
      w: {
        count: 1,
        requests: [
          ...of("AMD", 1),
          exactly("other", 1, {}, 'device.attributes["gpu.kllama.ai"].productName.startsWith("NVIDIA")'),
        ],
      },
    });
    expect(picture(plan(model, { gangs: [both] }))[0]).toContain("both: NoMatchingDevice");
  });
});

describe("placement groups", () => {
  const group = (constraints: PlacementGroupSpec["constraints"]) => ({
    namespace: "team",
    name: "llama",
    spec: {
      members: [
        { role: "prefill", minInstances: 1 },
        { role: "decode", minInstances: 1 },
      ],
      pairing: [{ from: "prefill", to: "decode", bytesPerRequest: 1_000_000_000 }],
      topology: "default",
      ...(constraints && { constraints }),
    } satisfies PlacementGroupSpec,
  });

  test("prefill and decode share one rack, whichever alone would fit a tighter one", () => {
    const model = clusterOf(racks({ a: 2, b: 3, c: 8 }));
    const prefill = gangIn(model, "p", { w: { count: 2, gpus: 8 } }, { role: "prefill" });
    const decode = gangIn(model, "d", { w: { count: 4, gpus: 4 } }, { role: "decode" });
    const placementGroup = group([{ type: "colocate", level: "rack", mode: "required" }]);
    const nodes = Object.values(nodesOf(plan(model, { gangs: [prefill, decode], placementGroup })));
    expect(new Set(nodes.map(rackOf))).toEqual(new Set(["c"]));
  });

  test("one that does not fit takes the other with it", () => {
    const model = clusterOf(racks({ a: 2 }));
    const prefill = gangIn(model, "p", { w: { count: 2, gpus: 8 } }, { role: "prefill" });
    const decode = gangIn(model, "d", { w: { count: 3, gpus: 8 } }, { role: "decode" });
    const rejections = rejectionsOf(plan(model, { gangs: [prefill, decode], placementGroup: group([]) }));
    expect(rejections).toMatchObject([
      {
        gang: "p",
        reason: "WaitingForPlacementGroup",
        message: "is placed together with d, which cannot be placed now",
      },
      { gang: "d", reason: "InsufficientDevices" },
    ]);
  });

  test("a group without its minimum of roles waits", () => {
    const model = clusterOf(racks({ a: 2 }));
    const prefill = gangIn(model, "p", { w: { count: 1, gpus: 8 } }, { role: "prefill" });
    const [rejection] = rejectionsOf(plan(model, { gangs: [prefill], placementGroup: group([]) }));
    expect(rejection).toMatchObject({
      reason: "WaitingForPlacementGroup",
      message: "PlacementGroup llama needs 1 gangs of role decode; 0 are complete",
    });
  });

  test("a later instance lands where the group is", () => {
    const model = clusterOf(racks({ a: 3, b: 3 }));
    model.upsertClaim(allocatedClaim("mine", "b-0", ["gpu-0"], []));
    const placed = [{ pod: "p-w-0", podSet: "w", index: 0, node: "b-0", claims: [] }];
    const prefill = gangIn(model, "p", { w: { count: 1, gpus: 1 } }, { role: "prefill" }, placed);
    const decode = gangIn(model, "d", { w: { count: 2, gpus: 8 } }, { role: "decode" });
    const placementGroup = group([{ type: "colocate", level: "rack", mode: "required" }]);
    const result = plan(model, { gangs: [prefill, decode], placementGroup });
    expect(nodesOf(result)).toEqual({ "d-w-0": "b-1", "d-w-1": "b-2" });
  });

  test("a later instance does not wait for what a gang that stands lacks", () => {
    const model = clusterOf(racks({ a: 3, b: 3 }));
    model.upsertClaim(allocatedClaim("mine", "b-0", ["gpu-0"], []));
    const placed = [{ pod: "p-w-0", podSet: "w", index: 0, node: "b-0", claims: [] }];
    const grown = gangIn(model, "p", { w: { count: 3, gpus: 8 } }, { role: "prefill" }, placed);
    const prefill = { ...grown, pods: grown.pods.slice(0, 2) };
    const decode = gangIn(model, "d", { w: { count: 2, gpus: 8 } }, { role: "decode" });
    const placementGroup = group([{ type: "colocate", level: "rack", mode: "required" }]);
    const asked = plan(model, { gangs: [prefill, decode], placementGroup });
    expect(picture(asked)).toContain("p: WaitingForMembers: pod set w has 2 of 3 pods");
    const beside = plan(model, { gangs: [{ ...prefill, stands: true }, decode], placementGroup });
    expect(nodesOf(beside)).toEqual({ "d-w-0": "b-1", "d-w-1": "b-2" });
  });

  test("a later instance need not be where a place is to which nobody returns", () => {
    const model = clusterOf(racks({ a: 3, b: 2 }));
    const placed = [{ pod: "p-w-0", podSet: "w", index: 0, node: "b-0", claims: [] }];
    const prefill = gangIn(model, "p", { w: { count: 1, gpus: 1 } }, { role: "prefill" }, placed);
    const decode = gangIn(model, "d", { w: { count: 3, gpus: 8 } }, { role: "decode" });
    const placementGroup = group([{ type: "colocate", level: "rack", mode: "required" }]);
    const nodesWith = (more: object) =>
      plan(model, { gangs: [{ ...prefill, pods: [], ...more }, decode], placementGroup });
    expect(rejectionsOf(nodesWith({}))).toMatchObject([{ gang: "d" }]);
    expect(Object.values(nodesOf(nodesWith({ loose: new Set(["w/0"]) }))).map(rackOf)).toEqual(["a", "a", "a"]);
  });

  test("waits while a member runs on a node that is gone, unless others tell where it has to stay", () => {
    const model = clusterOf(racks({ a: 2, b: 2 }));
    const running = (name: string, node: string) => {
      const placed = [{ pod: `${name}-w-0`, podSet: "w", index: 0, node, claims: [] }];
      const gang = gangIn(model, name, { w: { count: 1, gpus: 1 } }, { role: "prefill" }, placed);
      return { ...gang, pods: gang.pods.map((pod) => ({ ...pod, nodeName: node })) };
    };
    const decode = gangIn(model, "d", { w: { count: 1, gpus: 8 } }, { role: "decode" });
    const planned = (mode: "required" | "preferred", ...prefills: ReturnType<typeof running>[]) => {
      const placementGroup = group([{ type: "colocate", level: "rack", mode }]);
      return plan(model, { gangs: [...prefills, decode], placementGroup });
    };
    const lost = running("p", "gone");
    expect(picture(planned("required", lost))).toContain(
      "d: WaitingForPlacementGroup: pod p-w-0 runs on node gone, which does not exist now: until the pod is gone or the node is back, nobody knows where PlacementGroup llama has to stay",
    );
    expect(Object.keys(nodesOf(planned("preferred", lost)))).toEqual(["d-w-0"]);
    expect(Object.values(nodesOf(planned("required", lost, running("q", "b-0")))).map(rackOf)).toEqual(["b"]);
  });
});

describe("node fit as kube-scheduler judges it", () => {
  const only = (sketch: Partial<NodeSketch>, pod: Parameters<typeof gangIn>[2][string] = { count: 1, gpus: 1 }) => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 8, ...sketch }]);
    return picture(plan(model, { gangs: [gangIn(model, "g", { w: pod })] }))[0]!;
  };
  const taint = { key: "dedicated", value: "x", effect: "NoSchedule" };

  test.each<[string, string, string]>([
    [
      "unschedulable",
      only({ more: { unschedulable: true } }),
      "g: NoNodeMatches: none of 1 nodes admits pods of pod set w: 1 are unschedulable",
    ],
    [
      "not ready",
      only({ more: { ready: false } }),
      "g: NoNodeMatches: none of 1 nodes admits pods of pod set w: 1 are not ready",
    ],
    [
      "tainted",
      only({ more: { taints: [taint] } }),
      "g: NoNodeMatches: none of 1 nodes admits pods of pod set w: 1 have taint dedicated=x:NoSchedule",
    ],
    [
      "without the label",
      only({}, { count: 1, gpus: 1, more: { nodeSelector: { disk: "ssd" } } }),
      "g: NoNodeMatches: none of 1 nodes admits pods of pod set w: 1 lack label disk=ssd",
    ],
    [
      "too small",
      only({}, { count: 1, more: { requests: { cpu: 65_000 } } }),
      "g: InsufficientResources: no node is large enough for a pod of pod set w, even if it were empty: it asks for cpu 65 (at most cpu 64)",
    ],
    [
      "full",
      only({ gpus: 8, used: 8 }),
      "g: InsufficientDevices: needs room for 1 pod of 1 gpu.kllama.ai device; the cluster has 0 now",
    ],
    ["without GPUs", only({ gpus: 0 }), "g: NoMatchingDevice: "],
  ])("a node that is %s", (_, text, expected) => {
    expect(text.startsWith(expected) ? expected : text).toBe(expected);
  });

  test("a tolerated taint and a preferred one do not matter", () => {
    const tolerations = [{ key: "dedicated", operator: "Equal", value: "x", effect: "NoSchedule" }];
    const taints = [taint, { key: "soft", effect: "PreferNoSchedule" }];
    expect(only({ more: { taints } }, { count: 1, gpus: 1, more: { tolerations } })).toBe("g-w-0@n[0]");
  });

  test("marker resources ask for nothing; unknown extended resources do", () => {
    const asks = (name: string) => only({}, { count: 1, more: { requests: { [name]: 1 } } });
    expect(asks("scheduling.kllama.ai/bind")).toBe("g-w-0@n");
    expect(asks("example.com/fpga")).toContain("InsufficientResources");
  });

  test("pods that run and the number of pods count", () => {
    const model = clusterOf([{ name: "n", rack: "r", more: { allocatable: { cpu: 4000, memory: 2 ** 30, pods: 2 } } }]);
    model.upsertPod(podRecord("other", { nodeName: "n", requests: { cpu: 3000 } }));
    const fits = (count: number, cpu: number) =>
      "plans" in plan(model, { gangs: [gangIn(model, "g", { w: { count, more: { requests: { cpu } } } })] });
    expect([fits(1, 1000), fits(1, 1001), fits(2, 100)]).toEqual([true, false, false]);
  });

  test("CPU that is short is told apart from devices", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 8, more: { allocatable: { cpu: 4000, pods: 110 } } }]);
    const gang = gangIn(model, "g", { w: { count: 3, gpus: 1, more: { requests: { cpu: 2000 } } } });
    expect(rejectionsOf(plan(model, { gangs: [gang] }))).toMatchObject([
      {
        reason: "InsufficientResources",
        message: "needs room for 3 pods of 1 gpu.kllama.ai device; the cluster has room for 2 now for want of cpu",
        blocking: [{ level: "cluster", resource: "cpu", needed: 6000, available: 4000 }],
      },
    ]);
  });

  test("what is short is named in a domain and of pods without claims, too", () => {
    const nodes = racks({ a: 2, b: 1 }).map((node) => ({ ...node, more: { allocatable: { cpu: 4000, fpga: 2 } } }));
    const model = clusterOf(nodes);
    const refused = (requests: Record<string, number>, gpus: number, constraints: GangConstraint[]) => {
      const gang = gangIn(model, "g", { w: { count: 3, gpus, more: { requests } } }, { constraints });
      return rejectionsOf(plan(model, { gangs: [gang] }))[0];
    };
    expect(refused({ cpu: 3000 }, 4, [together("rack")])).toMatchObject({
      message: expect.stringContaining("the best, z/a, has 2 for want of cpu"),
      blocking: [{ level: "rack", domain: "z/a", resource: "cpu", needed: 9000, available: 6000 }],
    });
    expect(refused({ cpu: 3000 }, 8, [together("rack")])?.blocking).toEqual([
      { level: "rack", domain: "z/a", resource: "pods", needed: 3, available: 2 },
    ]);
    expect(refused({ cpu: 1000, fpga: 2 }, 0, [together("rack")])).toMatchObject({
      blocking: [{ level: "rack", domain: "z/a", resource: "fpga", needed: 6, available: 4 }],
    });
  });

  test("a refusal calls the pods by its own gang's names, whoever asked for the same before", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 8 }]);
    const wants = { count: 1, more: { nodeSelector: { disk: "ssd" } } };
    const messages = [gangIn(model, "secret", { hidden: wants }), gangIn(model, "mine", { w: wants })].map((gang) => {
      return rejectionsOf(plan(model, { gangs: [gang] }))[0]!.message;
    });
    const alone = podRecord("single", { nodeSelector: { disk: "ssd" } });
    const single = { namespace: "team", name: "single", spec: singlePodGang(alone), priority: 0, createdAtMs: 0 };
    messages.push(rejectionsOf(plan(model, { gangs: [{ ...single, pods: [alone], placed: [] }] }))[0]!.message);
    expect(messages).toEqual(
      ["pods of pod set hidden", "pods of pod set w", "pod single"].map((who) => {
        return `none of 1 nodes admits ${who}: 1 lack label disk=ssd`;
      }),
    );
  });
});

describe("faults", () => {
  test("members for different schedulers are refused, unless they run", () => {
    const model = clusterOf(racks({ a: 2 }));
    const gang = gangIn(model, "g", { w: { count: 2, gpus: 1 } });
    const [first, second] = gang.pods;
    const unequal = { ...gang, pods: [first!, { ...second!, schedulerName: "batch" }] };
    expect(picture(plan(model, { gangs: [unequal] }))).toEqual([
      "g: InvalidGang: pod g-w-0 has spec.schedulerName default-scheduler, pod g-w-1 has spec.schedulerName batch; give all members the same",
    ]);
    const running = { ...gang, pods: [{ ...first!, nodeName: "a-0", schedulerName: "batch" }, second!] };
    expect(plansOf(plan(model, { gangs: [running] }))).toHaveLength(1);
  });

  const reject = (spec: Parameters<typeof gangIn>[3], set = {}) => {
    const model = clusterOf(racks({ a: 1 }));
    return picture(plan(model, { gangs: [gangIn(model, "g", { w: { count: 4, gpus: 1, ...set } }, spec)] }))[0];
  };

  test.each([
    [
      "an unknown level",
      reject({ constraints: [together("row")] }),
      "g: UnknownLevel: spec.constraints[0].level is row, which the topology does not have; use one of zone, rack, host, numa",
    ],
    [
      "an unknown topology",
      reject({ topology: "nowhere" }),
      "g: UnknownTopology: spec.topology is nowhere, but there is no ClusterTopology of that name; create it or use default",
    ],
    [
      "an unknown pod set",
      reject({ constraints: [together("rack", { podSets: ["x"] })] }),
      "g: InvalidGang: spec.constraints[0].podSets names x; use one of w",
    ],
    [
      "a slice that does not divide",
      reject({}, { slices: [{ size: 3, level: "rack" }] }),
      "g: InvalidGang: spec.podSets[0].slices[0].size 3 does not divide count 4; use a divisor of 4",
    ],
    [
      "slices narrow to broad",
      reject(
        {},
        {
          slices: [
            { size: 2, level: "rack" },
            { size: 2, level: "zone" },
          ],
        },
      ),
      "g: InvalidGang: spec.podSets[0].slices[1].level zone is not narrower than rack before it; list slices broad to narrow",
    ],
    [
      "a spread inside a host",
      reject({ constraints: [{ type: "spread", level: "numa", mode: "required" }] }),
      "g: InvalidGang: spec.constraints[0].level numa is inside a host; spread over a level that has nodeLabels",
    ],
  ])("%s", (_, text, expected) => {
    expect(text).toBe(expected);
  });

  test("constraints cannot go round in a circle: slices nest by the order of levels, and what contradicts is named together", () => {
    const slices = [
      ["rack", "host"],
      ["host", "rack"],
    ].map((levels) => reject({}, { slices: levels.map((level) => ({ size: 2, level })) }));
    expect(slices).toEqual([
      "g-w-0@a-0[0]",
      "g: InvalidGang: spec.podSets[0].slices[1].level rack is not narrower than host before it; list slices broad to narrow",
    ]);
    const model = clusterOf(racks({ a: 2 }));
    const apart: GangConstraint = { type: "spread", level: "host", mode: "required" };
    const gang = gangIn(model, "g", { w: { count: 4, gpus: 1 } }, { constraints: [together("host"), apart] });
    expect(rejectionsOf(plan(model, { gangs: [gang] }))[0]).toMatchObject({
      reason: "NoDomainFits",
      conflict: {
        pods: ["g-w-0", "g-w-1"],
        rules: ["the gang in one host", "the gang spread over host"],
        size: "smallest",
      },
    });
  });

  test("a budget that ends says so, and a larger one finds the answer", () => {
    // 8 + 7 nodes for gangs of 5, 4, 3 and 3: the tightest choice for the first two leaves no room for the others.
    const model = clusterOf(racks({ a: 8, b: 7 }));
    const gangs = [5, 4, 3, 3].map((count, i) =>
      gangIn(model, `g${i}`, { w: { count, gpus: 8 } }, { constraints: [together("rack")] }),
    );
    const result = plan(model, { gangs }, { budget: 0 });
    expect(result).toMatchObject({ budgetExceeded: true });
    expect(new Set(rejectionsOf(result).map(({ reason }) => reason))).toEqual(new Set(["BudgetExceeded"]));
    expect(plansOf(plan(model, { gangs }))).toHaveLength(4);
  });

  test("nothing is spent on a domain for pods of several kinds that are too many for it together", () => {
    const model = clusterOf([0, 1, 2, 3].map((i) => ({ name: `n${i}`, zone: "z", rack: `r${i}`, gpus: 16 })));
    const sets = Object.fromEntries(
      [8, 6, 6, 4, 8, 6, 4, 6, 8, 2].map((count, i) => [
        `s${i}`,
        { count, gpus: 1, more: { requests: { cpu: 1 + i } } },
      ]),
    );
    const constraints = Object.keys(sets).map((name) => together("rack", { podSets: [name] }));
    const result = plan(model, { gangs: [gangIn(model, "g", sets, { constraints })] });
    expect(budgetExceededFor(plansOf(result))).toEqual([]);
    expect(result.explored).toBeLessThan(500);
  });

  test("a budget that ends before it is known whether there is something better says so of the placement", () => {
    const openFor = (gangs: GangRequest[], model: ClusterModel, budget?: number) =>
      budgetExceededFor(plansOf(plan(model, { gangs }, budget === undefined ? {} : { budget })));
    const model = clusterOf(racks({ a: 8, b: 7 }));
    const wishing = [5, 4, 3, 3].map((count, i) =>
      gangIn(model, `g${i}`, { w: { count, gpus: 8 } }, { constraints: [together("rack", { mode: "preferred" })] }),
    );
    expect(openFor(wishing, model, 0)).toContain("PreferredRules");
    expect(openFor(wishing, model)).toEqual([]);
    // Each of two gangs could have rack a, and be faster there; not both.
    const few = clusterOf(racks({ a: 2, b: 1, c: 1 }));
    const pair = ["g", "h"].map((name) => gangIn(few, name, { w: { count: 2, gpus: 8 } }));
    expect(openFor(pair, few, 0)).toContain("Traffic");
    expect(openFor(pair, few)).toEqual([]);
  });
});

test("several requests of one claim are planned together", () => {
  const model = clusterOf([{ name: "n", rack: "r", gpus: 2 }]);
  const gang = gangIn(model, "g", { w: { count: 1, requests: [exactly("a", 1), exactly("b", 1)] } });
  expect(picture(plan(model, { gangs: [gang] }))).toEqual(["g-w-0@n[0,1]"]);
});

describe("devices that one pod chose first are chosen anew when the next one lacks them", () => {
  const even = exactly("even", 2, {}, 'device.attributes["gpu.kllama.ai"].index % 2 == 0');
  const fits = (model: ReturnType<typeof clusterOf>, sets: Parameters<typeof gangIn>[2]) =>
    picture(plan(model, { gangs: [gangIn(model, "g", sets)] }));

  test("two pods of one node, of which one asks for certain GPUs", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 4 }]);
    const sets = { any: { count: 1, gpus: 2 }, even: { count: 1, requests: [even] } };
    expect(fits(model, sets)).toEqual(["g-any-0@n[1,3]", "g-even-0@n[0,2]"]);
  });

  test("a node that is full for pods of one kind is emptied for the other", () => {
    const onePod = { allocatable: { cpu: 64_000, pods: 1 } };
    const model = clusterOf([
      { name: "a", gpus: 4, more: onePod },
      { name: "b", gpus: 4, more: onePod },
      { name: "c", zone: "z", gpus: 4, more: onePod },
      { name: "d", zone: "z", gpus: 2 },
    ]);
    const one = exactly("even", 1, {}, 'device.attributes["gpu.kllama.ai"].index % 2 == 0');
    const pair = { count: 2, requests: [one], slices: [{ size: 2, level: "zone" }] };
    expect(fits(model, { pair, any: { count: 3, gpus: 1 } })).toHaveLength(5);
  });

  test("two requests of one claim, and a second pod like it", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 4 }]);
    const one = exactly("one", 1, {}, 'device.attributes["gpu.kllama.ai"].index % 2 == 0');
    expect(fits(model, { w: { count: 2, requests: [exactly("any", 1), one] } })).toHaveLength(2);
    expect(fits(model, { w: { count: 3, requests: [exactly("any", 1), one] } })[0]).toContain("InsufficientDevices");
  });

  test("bridged pairs: one that a single GPU would break up", () => {
    const model = clusterOf([
      { name: "n", rack: "r", gpus: 4, numa: (gpu) => gpu % 2, nvlink: (gpu) => `b${gpu % 2}` },
    ]);
    const pair = { count: 1, gpus: 2, slices: [{ size: 1, level: "numa" }] };
    const low = exactly("low", 1, {}, 'device.attributes["gpu.kllama.ai"].index < 2');
    const high = exactly("high", 1, {}, 'device.attributes["gpu.kllama.ai"].index > 0');
    expect(
      fits(model, { low: { count: 1, requests: [low] }, high: { count: 1, requests: [high] }, pair }),
    ).toHaveLength(3);
  });

  test("beside a pod with administrator's access, which holds none", () => {
    const model = clusterOf([{ name: "n", rack: "r", gpus: 2 }]);
    const first = exactly("first", 1, {}, 'device.attributes["gpu.kllama.ai"].index == 0');
    const admin = { count: 1, requests: [exactly("watch", 2, { adminAccess: true })] };
    const sets = { admin, any: { count: 1, gpus: 1 }, first: { count: 1, requests: [first] } };
    expect(fits(model, sets).slice(1)).toEqual(["g-any-0@n[1]", "g-first-0@n[0]"]);
  });

  test("a pod that takes any partition, or else a GPU, and one that needs a large partition", () => {
    const model = clusterOf([{ name: "n", rack: "r" }]);
    for (const slice of migSlices("n", [migBoard(0)])) model.upsertSlice(slice);
    const any = exactly("p", 1, { deviceClassName: "mig.kllama.ai" });
    const sets = { any: { count: 3, requests: [any] }, large: { count: 1, requests: [partition("p", "4g")] } };
    expect(fits(model, sets)).toHaveLength(4);
  });
});

describe("MIG", () => {
  const boards = (node: string) => migSlices(node, [migBoard(0), migBoard(1)]);
  const twoBoards = () => {
    const model = clusterOf([{ name: "n", rack: "r" }]);
    for (const slice of boards("n")) model.upsertSlice(slice);
    return model;
  };

  test("partitions are packed on a GPU that is cut already, and whole GPUs stay whole", () => {
    const model = twoBoards();
    const slices = gangIn(model, "s", { w: { count: 2, requests: [partition("p", "3g")] } });
    const [first] = plansOf(plan(model, { gangs: [slices] }));
    expect(picture(plan(model, { gangs: [slices] }))).toEqual(["s-w-0@n[0-mig-3g-0]", "s-w-1@n[0-mig-3g-4]"]);
    model.hold(
      "team/s",
      "team",
      first!.placement.pods.map((placed) => ({ placed, requests: { cpu: 1000 } })),
    );
    const whole = gangIn(model, "g", { w: { count: 1, gpus: 1 } });
    expect(picture(plan(model, { gangs: [whole] }))).toEqual(["g-w-0@n[1]"]);
    const two = gangIn(model, "h", { w: { count: 2, gpus: 1 } });
    expect(rejectionsOf(plan(model, { gangs: [two] }))).toMatchObject([{ reason: "InsufficientDevices" }]);
  });

  test("a gang mixes whole GPUs and partitions", () => {
    const model = twoBoards();
    const gang = gangIn(model, "g", {
      w: { count: 1, gpus: 1 },
      small: { count: 7, requests: [partition("p", "1g")] },
    });
    const pods = picture(plan(model, { gangs: [gang] }));
    expect(pods).toHaveLength(8);
    const parents = new Set(pods.slice(1).map((pod) => pod.match(/\[(\d)-mig/)?.[1]));
    expect(parents.size).toBe(1);
    expect(parents.has(pods[0]!.match(/\[(\d)\]/)![1])).toBe(false);
  });
});

describe("MIG nodes of eight boards each", () => {
  test("slices of one gang are packed on one, also where it takes too many tries to tell how many more it has room for", () => {
    const model = clusterOf([...racks({ h: 2 }), ...["a", "b"].map((name) => ({ name, rack: "r" }))]);
    const boards = Array.from({ length: 8 }, (_, i) => migBoard(i));
    for (const name of ["a", "b"]) for (const slice of migSlices(name, boards)) model.upsertSlice(slice);
    const whole = { name: "whole", deviceClassName: "gpu.kllama.ai", count: 8 };
    const part = { name: "part", ...partition("p", "3g", 2).exactly! };
    const requests = [{ name: "any", firstAvailable: [whole, part] }];
    const gang = gangIn(model, "g", { w: { count: 6, slices: [{ size: 2, level: "rack" }], requests } });
    const [first] = plansOf(plan(model, { gangs: [gang] }));
    expect(first!.placement.pods.map(({ node }) => node)).toEqual(["a", "a", "a", "a", "h-0", "h-1"]);
  });
});

describe("two GB200 racks with built-in levels", () => {
  const model = clusterOf([], builtInTopology);
  for (const rack of ["a", "b"]) {
    for (let tray = 0; tray < 18; tray++) {
      const labels = { "topology.kubernetes.io/zone": "z", "nvidia.com/gpu.clique": `nvl-${rack}.1` };
      addNode(model, { name: `${rack}-${tray}`, gpus: 4, product: "NVIDIA GB200", more: { labels } });
    }
  }

  test("prefill TP-8 and decode TP-4 share one NVLink domain, and the cost names the link and what it assumes", () => {
    const tp = { size: 2, level: "nvlink-domain" };
    const prefill = gangIn(model, "p", { w: { count: 4, gpus: 4, slices: [tp] } }, { role: "prefill" });
    const decode = gangIn(model, "d", { w: { count: 8, gpus: 2, slices: [tp] } }, { role: "decode" });
    const spec: PlacementGroupSpec = {
      members: ["prefill", "decode"].map((role) => ({ role, minInstances: 1 })),
      constraints: [{ type: "colocate", level: "nvlink-domain", mode: "required" }],
      pairing: [{ from: "prefill", to: "decode", bytesPerRequest: 1_130_000_000 }],
      topology: "default",
    };
    const group = { namespace: "team", name: "llama", spec };
    const plans = plansOf(plan(model, { gangs: [prefill, decode], placementGroup: group }));
    expect(plans.map(({ placement }) => placement.domains["nvlink-domain"])).toEqual(["z/nvl-a.1", "z/nvl-a.1"]);
    const kv = plans[0]!.placement.cost.byLink.find(({ to }) => to === "d")!;
    expect(kv).toMatchObject({ from: "p", level: "nvlink-domain" });
    expect(kv.milliseconds).toBeCloseTo(1.13 / 0.9, 1);
    expect(plans[0]!.placement.cost.assumes).toEqual([
      expect.stringContaining("one ring all-reduce of 16 MiB"),
      "nvlink-domain: 900 GB/s per GPU and direction, 2 µs (assumed, since no ClusterTopology says)",
      "nvlink-domain: pods reach one another's GPUs, by an IPC namespace that they share on a host, or an IMEX channel between hosts",
      "KV cache of 1130000000 bytes per request, one stream per pair of gangs",
    ]);
  });

  test("pods without GPUs are not joined by NVLink, though their nodes are", () => {
    const prefill = gangIn(model, "p", { w: { count: 2, gpus: 4 } }, { role: "prefill" });
    const decode = gangIn(model, "d", { w: { count: 2, gpus: 0 } }, { role: "decode" });
    const spec: PlacementGroupSpec = {
      members: ["prefill", "decode"].map((role) => ({ role, minInstances: 1 })),
      constraints: [{ type: "colocate", level: "nvlink-domain", mode: "required" }],
      pairing: [{ from: "prefill", to: "decode" }],
      topology: "default",
    };
    const group = { namespace: "team", name: "llama", spec };
    const [plan0] = plansOf(plan(model, { gangs: [prefill, decode], placementGroup: group }));
    expect(plan0!.placement.domains["nvlink-domain"]).toBe("z/nvl-a.1");
    expect(plan0!.placement.cost.byLink.find(({ to }) => to === "d")).toMatchObject({ level: "zone" });
  });

  test("more than a domain holds is refused with the room of the best", () => {
    const constraints = [together("nvlink-domain")];
    const gang = gangIn(model, "g", { w: { count: 20, gpus: 4 } }, { constraints });
    const [rejection] = rejectionsOf(plan(model, { gangs: [gang] }));
    expect(rejection).toMatchObject({
      reason: "NoDomainFits",
      message:
        "the gang needs 20 nodes with 4 gpu.kllama.ai devices free each in one nvlink-domain; the best, z/nvl-a.1, has 18",
      blocking: [{ level: "nvlink-domain", domain: "z/nvl-a.1", resource: "gpu.kllama.ai", needed: 80, available: 72 }],
    });
  });
});
