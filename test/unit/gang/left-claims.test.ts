import { describe, expect, test } from "vitest";
import { plan } from "../../../src/gang/plan.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { clusterOf, gangIn, type NodeSketch, nodesOf, picture, plansOf, rejectionsOf } from "../../support/cluster.ts";
import {
  addNics,
  addWideNics,
  allocatedNics,
  gangWithNics,
  mixedSpec,
  nicClaim,
  nicDriver,
} from "../../support/nics.ts";

/** Nodes with GPUs and, by the second list, network cards. */
function cluster(nodes: readonly NodeSketch[], nics: readonly number[]): ClusterModel {
  const model = clusterOf(nodes);
  for (const [i, { name }] of nodes.entries()) if (nics[i]! > 0) addNics(model, name, nics[i]!);
  return model;
}

const racks = (sizes: Record<string, number>): NodeSketch[] =>
  Object.entries(sizes).flatMap(([rack, size]) =>
    Array.from({ length: size }, (_, i) => ({ name: `${rack}-${i}`, rack, gpus: 8 })),
  );

describe("pods with a claim on GPUs and one that is left to kube-scheduler", () => {
  test("go where both can be had", () => {
    const model = cluster(racks({ a: 3 }), [0, 1, 0]);
    const [placed] = plansOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 1, gpus: 4 })] }))[0]!.placement
      .pods;
    expect(placed!.node).toBe("a-1");
    expect(placed!.claims.map(({ reference, devices }) => [reference, devices[0]!.driver, devices.length])).toEqual([
      ["nic", nicDriver, 1],
      ["gpu", "gpu.kllama.ai", 4],
    ]);
  });

  test("find no second card on a node that has one, and go to another", () => {
    const model = cluster(racks({ a: 2 }), [1, 1]);
    const nodes = nodesOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 2, gpus: 1 })] }));
    expect(Object.values(nodes).sort()).toEqual(["a-0", "a-1"]);
  });

  test("are refused when one card is missing, and told which", () => {
    const model = cluster(racks({ a: 2 }), [1, 0]);
    const [rejection] = rejectionsOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 2, gpus: 1 })] }));
    expect(rejection).toMatchObject({
      reason: "InsufficientDevices",
      message:
        "needs 2 nodes with 1 nic.example.com device and 1 gpu.kllama.ai device free each; the cluster has 1 now: there are nic.example.com devices (kube-scheduler gives them) for 1 pod only",
      blocking: [{ level: "cluster", resource: nicDriver, needed: 2, available: 1 }],
    });
  });

  test("are told of the GPUs when those are missing", () => {
    const model = cluster([{ name: "a", gpus: 1 }], [4]);
    const [rejection] = rejectionsOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 2, gpus: 1 })] }));
    expect(rejection).toMatchObject({
      reason: "InsufficientDevices",
      message: expect.stringMatching(/: there are gpu.kllama.ai devices for 1 pod only$/),
      blocking: [{ level: "cluster", resource: "gpu.kllama.ai", needed: 2, available: 1 }],
    });
  });

  test("are told when no node has such cards", () => {
    const model = cluster(racks({ a: 2 }), [0, 0]);
    addNics(model, "elsewhere", 1);
    const [rejection] = rejectionsOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 1, gpus: 1 })] }));
    expect(rejection).toMatchObject({
      reason: "NoMatchingDevice",
      message: expect.stringContaining("request nic (DeviceClass nic.example.com): no device of node a-0 is selected"),
    });
  });

  test("are all in a rack that has cards for all of them", () => {
    const model = cluster(racks({ a: 2, b: 2 }), [2, 0, 1, 2]);
    const gang = gangWithNics(model, "g", { count: 3, gpus: 4, slices: [{ size: 3, level: "rack" }] });
    expect(Object.values(nodesOf(plan(model, { gangs: [gang] }))).sort()).toEqual(["b-0", "b-1", "b-1"]);
  });

  test("are not counted on a card that another gang, or kube-scheduler, has given away", () => {
    const model = cluster([{ name: "a", gpus: 8 }], [2]);
    const [first] = plansOf(plan(model, { gangs: [gangWithNics(model, "first", { count: 1, gpus: 1 })] }));
    const placed = first!.placement.pods[0]!;
    model.hold("team/first", "team", [{ placed, requests: {} }]);
    const second = gangWithNics(model, "second", { count: 1, gpus: 1 });
    expect(nodesOf(plan(model, { gangs: [second] }))).toEqual({ "second-w-0": "a" });
    model.upsertClaim(allocatedNics("taken", "a", ["nic-1"], ["somebody"]));
    expect(rejectionsOf(plan(model, { gangs: [second] }))[0]!.reason).toBe("InsufficientDevices");
    model.release("team/first");
    expect(nodesOf(plan(model, { gangs: [second] }))).toEqual({ "second-w-0": "a" });
  });

  test("keep a rule for their devices with GPUs alone: kube-scheduler knows nothing of it", () => {
    const model = cluster([{ name: "a", gpus: 4 }], [1]);
    const inOneNuma = { type: "colocate", level: "numa", mode: "required" } as const;
    const gang = gangWithNics(model, "g", { count: 1, gpus: 2 }, { spec: { constraints: [inOneNuma] } });
    const [nic, gpu] = plansOf(plan(model, { gangs: [gang] }))[0]!.placement.pods[0]!.claims;
    expect(nic!.devices.map(({ device }) => device)).toEqual(["nic-0"]);
    expect(gpu!.devices.map(({ device }) => device)).toEqual(["gpu-0", "gpu-1"]);
  });

  test("cost what their GPUs send: cards are no ranks", () => {
    const model = cluster([{ name: "a", gpus: 4 }], [4]);
    const [withCards] = plansOf(plan(model, { gangs: [gangWithNics(model, "g", { count: 2, gpus: 2 })] }));
    const [without] = plansOf(plan(model, { gangs: [gangIn(model, "h", { w: { count: 2, gpus: 2 } })] }));
    expect(withCards!.placement.cost.totalMs).toBe(without!.placement.cost.totalMs);
    expect(without!.placement.cost.totalMs).toBeGreaterThan(0);
  });

  test("of one claim for both are refused, with the remedy", () => {
    const model = cluster([{ name: "a", gpus: 4 }], [4]);
    const gang = gangIn(model, "g", { w: { count: 1, gpus: 1 } });
    model.upsertClaim({ ...nicClaim("g-w-0-gpu"), spec: mixedSpec });
    const [rejection] = rejectionsOf(plan(model, { gangs: [gang] }));
    expect(rejection).toMatchObject({
      reason: "MixedDrivers",
      message: expect.stringMatching(
        /^ResourceClaim g-w-0-gpu: spec\.devices\.requests\[1\] .* nic\.example\.com, .* make two claims of it/,
      ),
    });
  });
});

describe("a claim that kube-scheduler has allocated", () => {
  test("takes its pod to where its devices are", () => {
    const model = cluster(racks({ a: 3 }), [1, 1, 1]);
    const gang = gangWithNics(model, "g", { count: 1, gpus: 1 });
    const runs = { ...gang.pods[0]!, uid: "runs", name: "runs", nodeName: "a-2" };
    model.upsertPod(runs);
    model.upsertClaim(allocatedNics("g-w-0-nic", "a-2", ["nic-0"], ["runs"]));
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-w-0": "a-2" });
    const elsewhere = { ...gang, pods: gang.pods.map((pod) => ({ ...pod, avoidedNodes: ["a-2"] })) };
    expect(rejectionsOf(plan(model, { gangs: [elsewhere] }))[0]!.message).toContain(
      "2 cannot reach devices that its claims have already",
    );
  });

  test("ties its pod to no node where everybody can reach its devices", () => {
    const model = cluster(
      [
        { name: "a", gpus: 1 },
        { name: "b", gpus: 8 },
      ],
      [0, 0],
    );
    const gang = gangWithNics(model, "g", { count: 1, gpus: 4 });
    model.upsertClaim(allocatedNics("g-w-0-nic", undefined, ["nic-0"], ["somebody"]));
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-w-0": "b" });
  });

  test("and that nobody uses keeps no gang from the only place it has: kube-scheduler takes it back", () => {
    const model = cluster(racks({ a: 2 }), [1, 1]);
    const gang = gangWithNics(model, "g", { count: 1, gpus: 1 });
    for (const users of [[], [gang.pods[0]!.uid]]) {
      model.upsertClaim(allocatedNics("g-w-0-nic", "a-0", ["nic-0"], users));
      expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "g-w-0": "a-0" });
      const elsewhere = { ...gang, pods: gang.pods.map((pod) => ({ ...pod, avoidedNodes: ["a-0"] })) };
      const [{ placement }] = plansOf(plan(model, { gangs: [elsewhere] })) as [ReturnType<typeof plansOf>[number]];
      expect(placement.pods[0]).toMatchObject({ node: "a-1", claims: [{ devices: [{ pool: "a-1" }] }, {}] });
    }
  });
});

describe("a claim of another driver that several pods name", () => {
  const sharing = (model: ClusterModel) => {
    const gang = gangWithNics(model, "g", { count: 2, gpus: 1 });
    model.upsertClaim(nicClaim("shared"));
    const pods = gang.pods.map((pod) => ({ ...pod, claims: [{ name: "nic", claimName: "shared" }, pod.claims[1]!] }));
    for (const pod of pods) model.upsertPod(pod);
    return { ...gang, pods };
  };

  test("puts members on one node with one card", () => {
    const model = cluster(
      [
        { name: "a", gpus: 1 },
        { name: "b", gpus: 2 },
      ],
      [2, 1],
    );
    expect(Object.values(nodesOf(plan(model, { gangs: [sharing(model)] })))).toEqual(["b", "b"]);
  });

  test("ties them to no node when its devices can be reached from several", () => {
    const model = clusterOf([
      { name: "a", gpus: 1 },
      { name: "b", gpus: 1 },
    ]);
    addWideNics(model, 1);
    expect(Object.values(nodesOf(plan(model, { gangs: [sharing(model)] }))).sort()).toEqual(["a", "b"]);
  });

  test("may be named by other pods as well: where they all go is kube-scheduler's to say", () => {
    const model = cluster([{ name: "a", gpus: 2 }], [1]);
    const gang = sharing(model);
    const stranger = { ...gang.pods[0]!, uid: "stranger", name: "stranger", gang: "other" };
    model.upsertPod({ ...stranger, claims: stranger.claims.slice(0, 1) });
    expect(picture(plan(model, { gangs: [gang] }))).toHaveLength(2);
  });
});
