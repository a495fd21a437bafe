import { describe, expect, test } from "vitest";
import type { GangConstraint } from "../../../src/api/gang.ts";
import { doubtKey } from "../../../src/extender/doubts.ts";
import { podKey } from "../../../src/extender/pending-plans.ts";
import { counterfactualSteps, counterfactualsOf } from "../../../src/gang/counterfactuals.ts";
import { atOnce } from "../../../src/gang/in-slices.ts";
import { drainKey } from "../../../src/gang/keys.ts";
import { type PlanUnit, plan } from "../../../src/gang/plan.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { driver } from "../../builders.ts";
import {
  addNode,
  allocatedClaim,
  clusterOf,
  gangIn,
  type NodeSketch,
  picture,
  plansOf,
} from "../../support/cluster.ts";

const oneRack: GangConstraint[] = [{ type: "colocate", level: "rack", mode: "required" }];

/** `a 8` is a node of rack a with 8 GPUs, all free; `a 8/6` has 6 of them in use, `a 8 cordoned` none to give. */
function cluster(nodes: readonly string[]): ClusterModel {
  const counts = new Map<string, number>();
  return clusterOf(
    nodes.map((text): NodeSketch => {
      const [rack = "", gpus = "", state] = text.split(" ");
      const number = counts.get(rack) ?? 0;
      counts.set(rack, number + 1);
      const [all, used = 0] = gpus.split("/").map(Number);
      const taint = { key: "node.kubernetes.io/not-ready", value: "", effect: "NoSchedule" };
      const more = {
        ...(state === "cordoned" && { unschedulable: true }),
        ...(state === "dead" && { ready: false, taints: [taint] }),
      };
      return { name: `${rack}-${number}`, zone: "z", rack, gpus: all!, used, more };
    }),
  );
}

/** A gang that is placed, and held in the model. */
function running(model: ClusterModel, name: string, gpus: number, count = 1, namespace = "team"): void {
  const gang = gangIn(model, name, { w: { count, gpus } });
  const [found] = plansOf(plan(model, { gangs: [gang] }));
  const held = found!.placement.pods.map((placed) => ({ placed, requests: found!.requests.get(placed.pod)! }));
  model.hold(`${namespace}/${name}`, namespace, held);
}

describe("what would make room", () => {
  const whole = (model: ClusterModel, count: number, constraints: GangConstraint[] = []): PlanUnit => ({
    gangs: [gangIn(model, "new", { w: { count, gpus: 8 } }, { constraints })],
  });

  test.each<[string, string[], number, GangConstraint[], string[]]>([
    ["a cordoned node", ["a 8", "a 8 cordoned"], 2, [], ["if 1 node returns"]],
    [
      "nodes that are not ready, as few as do",
      ["a 8", "a 8 dead", "a 8 dead", "b 8 dead"],
      3,
      [],
      ["if 2 nodes return"],
    ],
    [
      "nodes of the one rack that can have enough",
      ["a 8", "a 8 dead", "a 8 cordoned", "b 8", "b 8 dead"],
      3,
      oneRack,
      ["if 2 nodes return to rack z/a"],
    ],
    ["nodes that others use", ["a 8", "a 8/1", "b 8/3"], 2, oneRack, ["if 1 node of rack z/a becomes free"]],
    [
      "either",
      ["a 8", "a 8 dead", "b 8", "b 8/1"],
      2,
      oneRack,
      ["if 1 node returns to rack z/a", "if 1 node of rack z/b becomes free"],
    ],
    ["nothing: the rack is too small", ["a 8", "a 8/8", "b 8"], 3, oneRack, []],
    ["nothing: no node is large enough", ["a 4", "a 4 dead"], 1, [], []],
  ])("%s", (_, nodes, count, constraints, expected) => {
    const model = cluster(nodes);
    expect(counterfactualsOf(model, whole(model, count, constraints))).toEqual(expected);
  });

  test("a gang of the same namespace, the one that holds least of those that do", () => {
    const model = cluster(["a 8", "a 8", "a 8"]);
    running(model, "large", 8, 2);
    running(model, "small", 1);
    expect(counterfactualsOf(model, whole(model, 1))).toEqual(["if gang small leaves", "if 1 node becomes free"]);
    expect(counterfactualsOf(model, whole(model, 2))).toEqual(["if gang large leaves", "if 2 nodes become free"]);
  });

  test("no gang of another namespace is named, and none is told of where one of the same namespace is enough", () => {
    const model = cluster(["a 8", "a 8"]);
    running(model, "secret", 8, 1, "others");
    expect(counterfactualsOf(model, whole(model, 2))).toEqual([
      "if a gang of another namespace with 8 devices leaves",
      "if 1 node becomes free",
    ]);
    running(model, "mine", 8);
    expect(counterfactualsOf(model, whole(model, 1))).toEqual(["if gang mine leaves", "if 1 node becomes free"]);
  });

  test("nobody is named to somebody who may name any namespace", () => {
    const model = cluster(["a 8"]);
    running(model, "secret", 1);
    expect(counterfactualsOf(model, whole(model, 1), { named: new Set() })).toEqual([
      "if a gang with 1 device leaves",
      "if 1 node becomes free",
    ]);
  });

  test("of many gangs one is found that has enough, by few tries", () => {
    const model = cluster(Array.from({ length: 50 }, () => "a 8"));
    for (let size = 1; size <= 12; size++) running(model, `of-${size}`, 8, Math.min(size, 5));
    const outlook = counterfactualSteps(model, whole(model, 4));
    let steps = 0;
    let step = outlook.next();
    for (; step.done !== true; step = outlook.next()) steps++;
    expect(step.value).toEqual(["if gang of-4 leaves", "if 4 nodes become free"]);
    expect(steps).toBeLessThan(20);
  });

  test("what holds devices and is no gang is not taken for one", () => {
    const model = cluster(["a 8"]);
    const devices = [{ request: "gpu", driver, pool: "a-0", device: "gpu-0" }];
    const placed = { pod: "p", podSet: "", index: 0, node: "a-0", claims: [{ claim: "c", reference: "gpu", devices }] };
    for (const key of ["pod:uid", doubtKey("uid"), podKey({ namespace: "team", name: "p" }), drainKey("team/g")]) {
      model.hold(key, "team", [{ placed, requests: {} }]);
      expect(counterfactualsOf(model, whole(model, 1))).toEqual(["if 1 node becomes free"]);
      model.release(key);
    }
  });

  test("what a gang's pods hold together with others does not come free when it leaves", () => {
    const model = cluster(["a 8"]);
    running(model, "partner", 4);
    model.upsertClaim(allocatedClaim("also", "a-0", ["gpu-0"], []));
    expect(counterfactualsOf(model, whole(model, 1))).toEqual(["if 1 node becomes free"]);
  });

  test("is asked of all gangs of a unit together, and of none that only has surplus to place", () => {
    const model = cluster(["a 8", "a 8 cordoned"]);
    const gangs = ["one", "two"].map((name) => gangIn(model, name, { w: { count: 1, gpus: 8 } }));
    expect(counterfactualsOf(model, { gangs })).toEqual(["if 1 node returns"]);
    const placed = [{ pod: "e-w-0", podSet: "w", index: 0, node: "a-0", claims: [] }];
    const elastic = gangIn(model, "e", { w: { count: 4, minCount: 1, gpus: 8 } }, {}, placed);
    expect(counterfactualsOf(model, { gangs: [elastic] })).toEqual([]);
  });

  test("is tried on copies: the cluster and the next plans are as before", () => {
    const model = cluster(["a 8/4", "a 8", "a 8 dead", "b 8/8"]);
    running(model, "mine", 2);
    const gang = gangIn(model, "next", { w: { count: 2, minCount: 1, gpus: 2 }, x: { count: 1, gpus: 8 } });
    const unit = whole(model, 2);
    const next = () => picture(plan(model, { gangs: [gang] }));
    const before = [model.version, next()];
    const told = counterfactualsOf(model, unit);
    expect(told).toEqual(["if 1 node returns", "if 1 node becomes free"]);
    expect([model.version, next()]).toEqual(before);
    expect(counterfactualsOf(model, unit)).toEqual(told);
  });
  test("is found step by step as in one go, and nodes may go and come between two steps", () => {
    const nodes = ["a 8", "a 8/4", "a 8 dead", "b 8/8", "b 8 dead", "b 8 dead", "c 8/1"];
    const [model, changing] = [cluster(nodes), cluster(nodes)];
    const unit = whole(model, 2, oneRack);
    const found = atOnce(counterfactualSteps(model, unit));
    expect(found).toEqual(["if 1 node returns to rack z/a", "if 1 node of rack z/a becomes free"]);
    expect(counterfactualsOf(model, unit)).toEqual(found);
    const moving = counterfactualSteps(changing, whole(changing, 2, oneRack));
    let next = moving.next();
    for (let step = 0; next.done !== true; step++, next = moving.next()) {
      changing.removeNode(`${"abc"[step % 3]}-${step % 4}`);
      addNode(changing, { name: `new-${step}`, zone: "z", rack: "a", gpus: 8, used: 8 });
    }
    for (const text of next.value) expect(text).toMatch(/^if \d+ nodes? /);
  });
});
