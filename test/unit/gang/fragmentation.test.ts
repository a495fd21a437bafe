import { describe, expect, test } from "vitest";
import type { Workload } from "../../../src/gang/fit.ts";
import { plan } from "../../../src/gang/plan.ts";
import { expectedWorkload } from "../../../src/gang/workload.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { exactly, migBoard, migSlices, nodeRecord, partition, podRecord, sliceRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf, gangIn, picture, plansOf } from "../../support/cluster.ts";

/** Pods that stand for those to come: GPUs and millicores of each, with a weight. */
function workload(model: ClusterModel, ...kinds: [gpus: number, cpu: number, weight: number][]): Workload {
  return kinds.map(([gpus, cpu, weight]) => {
    const claim = { requests: [exactly("gpu", gpus)] };
    const { pods } = gangIn(model, `kind-${gpus}-${cpu}`, { a: { count: 1, requests: claim.requests } });
    const claims = pods[0]!.claims.map(({ claimName }) => model.claim("team", claimName!)!);
    return { pod: { ...pods[0]!, requests: { cpu } }, claims, weight };
  });
}

describe("with a workload that is known, a single pod", () => {
  test("goes where pods to come could not use the GPU anyhow", () => {
    // n1 is tighter, but n2 has too little CPU for any pod that will come.
    const model = clusterOf([
      { name: "n1", gpus: 4, used: 1 },
      { name: "n2", gpus: 4, more: { allocatable: { cpu: 4_000, pods: 110 } } },
    ]);
    const unit = { gangs: [gangIn(model, "g", { a: { count: 1, gpus: 1 } })] };
    expect(picture(plan(model, unit))).toEqual(["g-a-0@n1[1]"]);
    expect(picture(plan(model, unit, { workload: workload(model, [1, 8_000, 1]) }))).toEqual(["g-a-0@n2[0]"]);
  });

  test("leaves whole nodes to pods that want whole nodes", () => {
    const model = clusterOf([
      { name: "n1", gpus: 4 },
      { name: "n2", gpus: 8, used: 1 },
    ]);
    const unit = { gangs: [gangIn(model, "g", { a: { count: 1, gpus: 2 } })] };
    expect(picture(plan(model, unit))).toEqual(["g-a-0@n1[0,1]"]);
    expect(picture(plan(model, unit, { workload: workload(model, [4, 1_000, 1]) }))).toEqual(["g-a-0@n2[1,2]"]);
  });

  test("without claims leaves CPU to pods that want GPUs", () => {
    const model = clusterOf([
      { name: "n1", gpus: 4, more: { allocatable: { cpu: 8_000, pods: 110 } } },
      { name: "n2", gpus: 0, more: { allocatable: { cpu: 64_000, pods: 110 } } },
    ]);
    const unit = { gangs: [gangIn(model, "g", { a: { count: 1, more: { requests: { cpu: 2_000 } } } })] };
    expect(picture(plan(model, unit))).toEqual(["g-a-0@n1"]);
    expect(picture(plan(model, unit, { workload: workload(model, [1, 8_000, 1]) }))).toEqual(["g-a-0@n2"]);
  });

  test("leaves GPUs that others must have to those others", () => {
    const model = clusterOf([
      { name: "n1", gpus: 4, used: 1, more: { labels: { "gpu.model": "T4" } } },
      { name: "n2", gpus: 4, more: { labels: { "gpu.model": "A10" } } },
    ]);
    const [anywhere] = workload(model, [1, 1_000, 1]);
    const onlyT4 = { ...anywhere!, pod: { ...anywhere!.pod, nodeSelector: { "gpu.model": "T4" } } };
    const unit = { gangs: [gangIn(model, "g", { a: { count: 1, gpus: 1 } })] };
    expect(picture(plan(model, unit, { workload: [anywhere!] }))).toEqual(["g-a-0@n1[1]"]);
    expect(picture(plan(model, unit, { workload: [anywhere!, onlyT4] }))).toEqual(["g-a-0@n2[0]"]);
  });

  test("with a partition goes to a board that nobody could have whole", () => {
    const model = clusterOf([]);
    for (const name of ["n1", "n2"]) {
      model.upsertNode(nodeRecord(name));
      for (const slice of migSlices(name, [migBoard(0)])) model.upsertSlice(slice);
    }
    const before = { gangs: [gangIn(model, "first", { a: { count: 1, requests: [partition("p", "1g")] } })] };
    const [first] = plansOf(plan(model, before));
    model.hold(
      "team/first",
      "team",
      first!.placement.pods.map((placed) => ({ placed, requests: {} })),
    );
    const unit = { gangs: [gangIn(model, "g", { a: { count: 1, requests: [partition("p", "3g")] } })] };
    const [placed] = picture(plan(model, unit, { workload: workload(model, [1, 1_000, 1]) }));
    expect(placed).toMatch(/^g-a-0@n1/);
  });
});

/** One node with GPUs of which several claims may each have a part, of 1000 thousandths. */
function sharedGpus(count: number): ClusterModel {
  const model = clusterOf([]);
  model.upsertNode(nodeRecord("n1", { labels: { rack: "r1" } }));
  const devices = Array.from({ length: count }, (_, index) => ({
    name: `gpu-${index}`,
    attributes: { type: { string: "gpu" } },
    capacity: { milli: { value: "1000" } },
    allowMultipleAllocations: true,
  }));
  model.upsertSlice(sliceRecord("n1", devices));
  return model;
}

const share = (milli: string) => [exactly("gpu", 1, { capacity: { requests: { milli } } })];

test("a share goes to the GPU of which least is left", () => {
  const model = sharedGpus(3);
  const consumed = { shareID: "1", consumedCapacity: { milli: "600" } };
  const results = [{ request: "gpu", driver: "gpu.kllama.ai", pool: "n1", device: "gpu-1", ...consumed }];
  model.upsertClaim({ ...allocatedClaim("other", "n1", [], []), allocation: { devices: { results } } });
  const place = (milli: string) =>
    picture(plan(model, { gangs: [gangIn(model, `g${milli}`, { a: { count: 1, requests: share(milli) } })] }));
  expect(place("300")).toEqual(["g300-a-0@n1[1]"]);
  expect(place("500")).toEqual(["g500-a-0@n1[0]"]);
});

test("unequal pods of a gang share one GPU", () => {
  const model = sharedGpus(1);
  const constraints = [{ type: "colocate" as const, level: "rack", mode: "required" as const }];
  const podSets = { a: { count: 2, requests: share("200") }, b: { count: 1, requests: share("500") } };
  expect(picture(plan(model, { gangs: [gangIn(model, "g", podSets, { constraints })] }))).toEqual([
    "g-a-0@n1[0]",
    "g-a-1@n1[0]",
    "g-b-0@n1[0]",
  ]);
});

describe("the expected workload", () => {
  const running = (model: ClusterModel, gpus: number, count: number) => {
    for (const pod of gangIn(model, `run-${gpus}`, { a: { count, gpus } }).pods) model.upsertPod(pod);
  };
  test("counts pods by what they ask for, the most frequent first", () => {
    const model = clusterOf([{ name: "n1", gpus: 8 }]);
    running(model, 1, 3);
    running(model, 2, 5);
    model.upsertPod(podRecord("no-claims"));
    expect(expectedWorkload(model).map(({ weight }) => weight)).toEqual([5, 3]);
  });
  test("stays the same object while the pods are much the same", () => {
    const model = clusterOf([{ name: "n1", gpus: 8 }]);
    running(model, 1, 3);
    const before = expectedWorkload(model);
    model.upsertPod(podRecord("another"));
    expect(expectedWorkload(model)).toBe(before);
  });
});
