import { describe, expect, test } from "vitest";
import type { GangConstraint } from "../../../src/api/gang.ts";
import type { Device } from "../../../src/api/kubernetes.ts";
import { plan } from "../../../src/gang/plan.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import type { PodRecord, SliceRecord } from "../../../src/topology/records.ts";
import { exactly, gpu, gpus, migBoard, migSlices, partition, sliceRecord } from "../../builders.ts";
import { clusterOf, gangIn, type NodeSketch, nodesOf, picture, plansOf, rejectionsOf } from "../../support/cluster.ts";

/** Nodes without GPUs: `bare({a: 2})` gives a-0 and a-1 in rack a. */
function bare(racks: Record<string, number>): NodeSketch[] {
  return Object.entries(racks).flatMap(([rack, size]) =>
    Array.from({ length: size }, (_, i) => ({ name: `${rack}-${i}`, zone: "z", rack })),
  );
}

/** Adds a pool that more than one node reaches. */
function reached(model: ClusterModel, devices: readonly Device[], where: Partial<SliceRecord>, pool = "net") {
  const { nodeName: _, ...slice } = sliceRecord(pool, devices);
  model.upsertSlice({ ...slice, ...where });
  return model;
}

const everywhere = { allNodes: true };
const inRack = (rack: string) => ({
  nodeSelector: {
    nodeSelectorTerms: [{ matchExpressions: [{ key: "rack", operator: "In" as const, values: [rack] }] }],
  },
});

/** Two nodes that reach so many cards. */
function network(count: number, more: Partial<Device> = {}): ClusterModel {
  const cards = Array.from({ length: count }, (_, i) => gpu(i, {}, more));
  return reached(clusterOf(bare({ a: 2 })), cards, everywhere);
}

const below = (index: number, more = {}) =>
  exactly("card", 1, more, `device.attributes["gpu.kllama.ai"].index < ${index}`);
const on = (node: string): Partial<PodRecord> => ({ nodeSelector: { "kubernetes.io/hostname": node } });
const apart: GangConstraint = { type: "spread", level: "host", mode: "required", maxSkew: 1 };
const together: GangConstraint = { type: "colocate", level: "rack", mode: "required" };

type PodSets = Parameters<typeof gangIn>[2];
const placed = (model: ClusterModel, podSets: PodSets, constraints: GangConstraint[] = []) =>
  plan(model, { gangs: [gangIn(model, "g", podSets, { constraints })] });

describe("devices that several nodes can reach", () => {
  test("go to one member each, wherever the members are", () => {
    expect(picture(placed(network(2), { w: { count: 2, gpus: 1 } }, [apart]))).toEqual([
      "g-w-0@a-0[0]",
      "g-w-1@a-1[1]",
    ]);
  });

  test("are not given twice", () => {
    expect(rejectionsOf(placed(network(1), { w: { count: 2, gpus: 1 } }, [apart]))).toHaveLength(1);
  });

  test("nor are those that slices of two nodes publish under one name, each as if it were the only one", () => {
    const model = clusterOf(bare({ a: 2 }));
    for (const node of ["a-0", "a-1"]) {
      model.upsertSlice({ ...sliceRecord(node, [gpu(0)]), name: `slice-${node}`, pool: "both", resourceSliceCount: 1 });
    }
    expect(picture(placed(model, { w: { count: 1, gpus: 1 } }))).toEqual(["g-w-0@a-0[0]"]);
    expect(rejectionsOf(placed(model, { w: { count: 2, gpus: 1 } }))).toHaveLength(1);
  });

  test("in parts: as many as fit, over all nodes", () => {
    const parts = {
      allowMultipleAllocations: true,
      capacity: { lanes: { value: "2", requestPolicy: { default: "1" } } },
    };
    const model = network(1, parts);
    const devices = plansOf(placed(model, { w: { count: 2, gpus: 1 } }, [apart])).flatMap(({ placement }) =>
      placement.pods.flatMap(({ claims }) => claims.flatMap((claim) => claim.devices)),
    );
    expect(devices.map(({ device, consumedCapacity }) => [device, consumedCapacity])).toEqual([
      ["gpu-0", { lanes: "1" }],
      ["gpu-0", { lanes: "1" }],
    ]);
    expect(new Set(devices.map(({ shareID }) => shareID)).size).toBe(2);
    expect(rejectionsOf(placed(model, { w: { count: 3, gpus: 1 } }))).toHaveLength(1);
  });
});

describe("devices that several nodes reach are chosen anew", () => {
  const any = { count: 1, gpus: 1, more: on("a-0") };
  const first = { count: 1, requests: [below(1)], more: on("a-1") };

  test("for a pod on another node that can have no others", () => {
    expect(picture(placed(network(2), { any, first }))).toEqual(["g-any-0@a-0[1]", "g-first-0@a-1[0]"]);
  });

  test("over any number of nodes, each of which gives up what the next one needs", () => {
    const model = reached(clusterOf(bare({ a: 20 })), gpus(20), everywhere);
    const indices = Array.from({ length: 20 }, (_, i) => 20 - i);
    const sets = indices.map((index, i) => [`s${i}`, { count: 1, requests: [below(index)], more: on(`a-${i}`) }]);
    const pods = indices.map((index, i) => `g-s${i}-0@a-${i}[${index - 1}]`);
    expect(picture(placed(model, Object.fromEntries(sets)))).toEqual(pods);
  });

  test("so that a pod takes a GPU of its own node instead, and the one which had that another", () => {
    const model = reached(clusterOf([{ name: "a-0", gpus: 2 }, { name: "a-1" }]), [gpu(0)], everywhere);
    const odd = exactly("gpu", 1, {}, 'device.attributes["gpu.kllama.ai"].index == 1');
    const sets = {
      low: { count: 1, requests: [below(1)], more: on("a-0") },
      more: { count: 1, requests: [odd], more: on("a-0") },
      far: { count: 1, gpus: 1, more: on("a-1") },
    };
    expect(picture(placed(model, sets))).toHaveLength(3);
  });

  test("so that a pod takes another of the alternatives that it has", () => {
    const model = reached(clusterOf([{ name: "a-0" }, { name: "a-1" }]), [gpu(0)], everywhere);
    for (const slice of migSlices("a-0", [migBoard(5)])) model.upsertSlice(slice);
    const part = { deviceClassName: "mig.kllama.ai" };
    const either = {
      name: "either",
      firstAvailable: [
        { ...below(1).exactly!, name: "card" },
        { ...exactly("part", 1, part).exactly!, name: "part" },
      ],
    };
    const pods = picture(
      placed(model, { any: { ...any, requests: [either] }, far: { ...first, requests: [below(1)] } }),
    );
    expect(pods).toEqual([expect.stringMatching(/^g-any-0@a-0\[5-mig/), "g-far-0@a-1[0]"]);
  });

  test("when they are partitions of one board", () => {
    const model = clusterOf(bare({ a: 2 }));
    for (const { nodeName: _, ...slice } of migSlices("net", [migBoard(0)]))
      model.upsertSlice({ ...slice, ...everywhere });
    const part = exactly("p", 1, { deviceClassName: "mig.kllama.ai" });
    const sets = {
      any: { count: 3, requests: [part], more: on("a-0") },
      large: { count: 1, requests: [partition("p", "4g")], more: on("a-1") },
    };
    expect(picture(placed(model, sets))).toHaveLength(4);
    expect(rejectionsOf(placed(model, { ...sets, any: { ...sets.any, count: 4 } }))[0]!.reason).not.toBe(
      "BudgetExceeded",
    );
  });

  test("when they are given in parts", () => {
    const model = network(2, { allowMultipleAllocations: true, capacity: { lanes: { value: "2" } } });
    const lanes = (amount: number) => ({ capacity: { requests: { lanes: `${amount}` } } });
    const sets = {
      any: { count: 2, requests: [exactly("card", 1, lanes(1))], more: on("a-0") },
      first: { ...first, requests: [below(1, lanes(2))] },
    };
    expect(picture(placed(model, sets))).toEqual(["g-any-0@a-0[1]", "g-any-1@a-0[1]", "g-first-0@a-1[0]"]);
  });

  test("beside an administrator's pod, which takes none", () => {
    const admin = { count: 1, requests: [exactly("watch", 1, { adminAccess: true })], more: on("a-0") };
    expect(picture(placed(network(2), { admin, any, first })).slice(1)).toEqual(["g-any-0@a-0[1]", "g-first-0@a-1[0]"]);
  });

  test("but what a gang holds already is not", () => {
    const model = network(2);
    const [held] = plansOf(placed(model, { any }));
    model.hold(
      "team/g",
      "team",
      held!.placement.pods.map((pod) => ({ placed: pod, requests: {} })),
    );
    const other = gangIn(model, "h", { first });
    const [rejection] = rejectionsOf(plan(model, { gangs: [other] }));
    expect(rejection!.reason).toBe("InsufficientDevices");
  });
});

describe("too few of the devices that several nodes reach", () => {
  test("are known to be too few, however many nodes reach them", () => {
    const model = reached(clusterOf(bare({ a: 40, b: 40 })), gpus(9), everywhere);
    const result = placed(model, { w: { count: 10, gpus: 1 } });
    const [rejection] = rejectionsOf(result);
    expect(rejection).toMatchObject({ reason: "NoDomainFits", conflict: { size: "smallest" } });
    expect(result.explored).toBeLessThan(100);
  });

  test("are so for several kinds of pods together, each of which could have them", () => {
    const model = reached(clusterOf(bare({ a: 30 })), gpus(5), everywhere);
    const sets = {
      some: { count: 3, requests: [below(3)] },
      few: { count: 2, requests: [below(4)] },
      any: { count: 1, gpus: 1 },
    };
    const [rejection] = rejectionsOf(placed(model, sets));
    expect(rejection).toMatchObject({ reason: "NoDomainFits", conflict: { size: "smallest" } });
    expect(rejection!.conflict!.pods).toHaveLength(5);
  });

  test("are so where partitions of one board take from each other, beside pods that want others", () => {
    const model = clusterOf([...bare({ a: 6 }), ...Array.from({ length: 6 }, (_, i) => ({ name: `b-${i}`, gpus: 2 }))]);
    for (const { nodeName: _, ...slice } of migSlices("net", [migBoard(0)]))
      model.upsertSlice({ ...slice, ...everywhere });
    const sets = {
      gpus: { count: 4, requests: [exactly("g", 1)] },
      large: { count: 1, requests: [partition("p", "4g")] },
      three: { count: 2, requests: [partition("p", "3g")] },
    };
    const result = placed(model, sets);
    expect(rejectionsOf(result)).toMatchObject([{ conflict: { size: "smallest" } }]);
    expect(result.explored).toBeLessThan(10);
    const fewer = { ...sets, three: { ...sets.three, count: 1 } };
    expect(picture(placed(model, fewer))).toHaveLength(6);
  });

  test("in one rack send the gang to another", () => {
    const model = clusterOf(bare({ a: 8, b: 8 }));
    reached(model, gpus(2), inRack("a"), "a");
    reached(model, gpus(3), inRack("b"), "b");
    const result = placed(model, { w: { count: 3, gpus: 1 } }, [together]);
    expect(Object.values(nodesOf(result)).every((node) => node.startsWith("b-"))).toBe(true);
    expect(result.explored).toBeLessThan(50);
  });
});
