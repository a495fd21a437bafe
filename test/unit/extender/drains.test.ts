import { describe, expect, test } from "vitest";
import { plan } from "../../../src/gang/plan.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import { nodeRecord, podRecord } from "../../builders.ts";
import { clusterOf, gangIn, type NodeSketch, nodesOf } from "../../support/cluster.ts";
import { type QueueWorld, queueWorld } from "../../support/queue-world.ts";

const boundMs = 300_000;

interface Scene {
  world: QueueWorld;
  model: ClusterModel;
  /** Who runs where: `pod-0@a0`. */
  running(): string[];
  /** Nodes that are reserved to a gang. */
  reserved(name?: string): string[];
}

function sceneOf(nodes: readonly NodeSketch[], afterMs = boundMs): Scene {
  const model = clusterOf(nodes.map((node) => ({ zone: "z", rack: node.name[0]!, gpus: 4, ...node })));
  const world = queueWorld(model, afterMs);
  const nodesOfPlaces = (places: ReturnType<QueueWorld["places"]>) => [...new Set(places.map(({ node }) => node))];
  return {
    world,
    model,
    running: () => world.running().map(({ name }) => `${name}@${nodesOfPlaces(world.places(name)).join("+")}`),
    reserved: (name = "big") => nodesOfPlaces(world.reserved(name)),
  };
}

/** Two racks of two nodes of 4 GPUs. All of them are given, a whole node each, to pods that run for ever. */
function full(afterMs = boundMs): Scene {
  const scene = sceneOf(
    ["a0", "a1", "b0", "b1"].map((name) => ({ name })),
    afterMs,
  );
  for (const name of ["w", "x", "y", "z"]) scene.world.submit({ name, gpus: 4 });
  expect(scene.running()).toEqual(["w@a0", "x@a1", "y@b0", "z@b1"]);
  return scene;
}

const big = { name: "big", pods: 2, gpus: 4, rack: true };

describe("a gang that is refused for want of room", () => {
  test("has a room reserved once it has waited for the bound, not sooner, and says so without names", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(299);
    expect(reserved()).toEqual([]);
    world.pass(1);
    expect(reserved()).toEqual(["a0", "a1"]);
    expect(world.queue.draining).toBe(1);
    expect(world.message("big")).toMatch(/; draining rack z\/a: waits for 2 pods to leave$/);
  });

  test("has none where the bound is 0", () => {
    const { world, reserved } = full(0);
    world.submit(big);
    world.leap(100_000);
    expect(reserved()).toEqual([]);
    expect(world.queue.nextMs()).toBe(Number.POSITIVE_INFINITY);
  });

  test("has the room that has fewest devices to be left", () => {
    const { world, reserved } = full();
    world.leave("z");
    world.submit(big);
    world.pass(300);
    expect(reserved()).toEqual(["b0", "b1"]);
    expect(world.message("big")).toMatch(/; draining rack z\/b: waits for 1 pod to leave$/);
  });

  test("has room reserved for what it needs, not for members beyond minCount", () => {
    const { world } = full();
    world.submit({ ...big, pods: 4, gpus: 2, minCount: 2 });
    world.pass(300);
    expect(world.reserved("big")).toHaveLength(2);
  });

  test("counts gangs that have to leave as one each, whatever their pods", () => {
    const { world } = sceneOf([{ name: "a0" }, { name: "a1" }]);
    world.submit({ name: "small", pods: 4, gpus: 2 });
    world.submit(big);
    world.pass(300);
    expect(world.message("big")).toMatch(/; draining rack z\/a: waits for 1 gang to leave$/);
  });

  test("that would not even fit in the empty cluster has none, and the next one in the queue has its own", () => {
    const { world, reserved } = full();
    world.submit({ ...big, name: "huge", pods: 3 });
    world.submit(big);
    world.pass(301);
    expect(reserved("huge")).toEqual([]);
    expect(reserved()).toEqual(["a0", "a1"]);
  });

  test("has none on nodes where pods that kllama does not plan take what it needs", () => {
    const { world, model, reserved } = full();
    const daemon = podRecord("daemon", { nodeName: "a1", requests: { cpu: 40_000 } });
    model.upsertPod(daemon);
    world.submit({ ...big, cpu: 30_000 });
    world.pass(300);
    expect(reserved()).toEqual(["b0", "b1"]);
  });

  test("is one at a time: the first of the queue, then the next one", () => {
    const { world, reserved } = full();
    world.submit(big, { ...big, name: "second" });
    world.pass(302);
    expect([reserved("big"), reserved("second")]).toEqual([["a0", "a1"], []]);
    world.leave("big");
    expect(reserved("second")).toEqual(["a0", "a1"]);
  });

  test("gives its turn to one of higher priority that has waited as long", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(100);
    world.submit({ ...big, name: "urgent", priority: 10 });
    world.pass(299);
    expect([reserved("big"), reserved("urgent")]).toEqual([["a0", "a1"], []]);
    world.pass(1);
    expect([reserved("big"), reserved("urgent")]).toEqual([[], ["a0", "a1"]]);
    expect(world.message("big")).not.toContain("draining");
  });
});

describe("the search for a room", () => {
  /** Some time after the bound, on a planner of which each step of the search takes longer than a turn may. */
  function searching(...names: string[]): Scene {
    const scene = full();
    const { world } = scene;
    for (const name of names) world.submit({ ...big, name, pods: name === "huge" ? 3 : 2 });
    world.pass(299);
    world.lookMs = 20;
    world.pass(1);
    for (const name of names) expect(scene.reserved(name)).toEqual([]);
    return scene;
  }

  /** Turns of the planner until a room is reserved. */
  function turnsUntil(found: () => boolean, { world }: Scene): number {
    for (let turns = 0; turns < 200; turns++) {
      if (found()) return turns;
      world.leap(1);
    }
    throw new Error("no room was reserved in 200 turns");
  }

  test("goes on over many turns, in which others are planned", () => {
    const scene = searching("big");
    const { world, running, reserved } = scene;
    expect(world.queue.nextMs()).toBeLessThanOrEqual(world.nowMs);
    world.leave("z");
    world.submit({ name: "later", pods: 1, gpus: 4 });
    expect(reserved()).toEqual([]);
    expect(running()).toContain("later@b1");
    expect(turnsUntil(() => reserved().length > 0, scene)).toBeGreaterThan(2);
    expect(reserved()).toEqual(["a0", "a1"]);
    expect(world.message("big")).toMatch(/; draining rack z\/a: waits for 2 pods to leave$/);
  });

  test.each(["is cordoned", "is gone"])("finds another one when a node of the first %s meanwhile", (how) => {
    const scene = searching("big");
    const { world, model, reserved } = scene;
    world.leap(0);
    if (how === "is gone") model.removeNode("a1");
    else {
      const labels = { zone: "z", rack: "a", "kubernetes.io/hostname": "a1" };
      model.upsertNode(nodeRecord("a1", { labels, unschedulable: true }));
    }
    turnsUntil(() => reserved().length > 0, scene);
    expect(reserved()).toEqual(["b0", "b1"]);
  });

  test("ends with the gang that it is for", () => {
    const { world, reserved } = searching("big");
    world.leave("big");
    for (let turns = 0; turns < 20; turns++) world.leap(0);
    world.lookMs = 0;
    expect(reserved()).toEqual([]);
    expect(world.queue.nextMs()).toBe(Number.POSITIVE_INFINITY);
  });

  test("is the next one's turn when the first of the queue would not even fit in the empty cluster", () => {
    const scene = searching("huge", "big");
    turnsUntil(() => scene.reserved().length > 0, scene);
    expect([scene.reserved("huge"), scene.reserved()]).toEqual([[], ["a0", "a1"]]);
  });

  test("leaves its turn to one of higher priority, and comes back to it", () => {
    const scene = searching("big");
    const { world, reserved } = scene;
    world.lookMs = 0;
    world.submit({ ...big, name: "urgent", priority: 10 });
    expect(reserved("urgent")).toEqual([]);
    world.pass(1);
    expect(reserved("big")).toEqual(["a0", "a1"]);
    world.pass(300);
    expect([reserved("big"), reserved("urgent")]).toEqual([[], ["a0", "a1"]]);
  });
});

describe("while a room is reserved", () => {
  test("what stands behind in the queue is kept off, and goes elsewhere", () => {
    const { world, running } = full();
    world.submit(big);
    world.pass(300);
    world.leave("w");
    world.submit({ name: "later", gpus: 4 });
    world.pass(1);
    world.submit({ name: "gang", pods: 2, gpus: 2 });
    expect(running()).toEqual(["x@a1", "y@b0", "z@b1"]);
    world.leave("z");
    world.pass(1);
    expect(running()).toEqual(["x@a1", "y@b0", "later@b1"]);
  });

  test("what the gang leaves free on its nodes is given to others", () => {
    const { world, running } = sceneOf([{ name: "a0", gpus: 8 }]);
    world.submit({ name: "w", gpus: 8 });
    world.submit({ name: "big", pods: 2, gpus: 3 });
    world.pass(300);
    world.submit({ name: "three", gpus: 3 });
    world.submit({ name: "two", gpus: 2 });
    expect(running()).toEqual(["w@a0"]);
    world.leave("w");
    world.pass(1);
    expect(running()).toEqual(["big@a0", "two@a0"]);
  });

  test("devices that the gang leaves free are given away before the others have left", () => {
    const { world, running } = sceneOf([{ name: "a0", gpus: 8 }]);
    world.submit({ name: "w", gpus: 2 }, { name: "x", gpus: 6 });
    world.submit({ name: "big", pods: 1, gpus: 6 });
    world.pass(300);
    world.leave("w");
    // Which two devices the gang leaves free is the plan's choice; nobody behind it takes more of them than there are.
    world.submit({ name: "three", gpus: 3 });
    expect(running()).toEqual(["x@a0"]);
    world.leave("x");
    expect(running()).toEqual(["big@a0"]);
  });

  test("CPU that the gang needs is kept for it too", () => {
    const { world, running } = sceneOf([{ name: "a0", gpus: 8 }]);
    world.submit({ name: "w", gpus: 4, cpu: 40_000 });
    world.submit({ name: "big", pods: 1, gpus: 4, cpu: 60_000 });
    world.pass(300);
    world.submit({ name: "later", gpus: 1, cpu: 10_000 });
    expect(running()).toEqual(["w@a0"]);
    world.leave("w");
    expect(running()).toEqual(["big@a0"]);
  });

  test("a pod of higher priority takes no notice of it, and another room is chosen if that one is left sooner", () => {
    const { world, running, reserved } = full();
    world.submit(big);
    world.pass(300);
    world.leave("y");
    world.submit({ name: "fill", gpus: 4 });
    world.leave("w");
    world.submit({ name: "urgent", gpus: 4, priority: 10 });
    expect(running()).toContain("urgent@a0");
    world.leave("fill");
    expect(reserved()).toEqual(["b0", "b1"]);
  });

  test("who was created before takes no notice of it either", () => {
    const { world, running } = full();
    world.submit({ name: "older", pods: 1, gpus: 4 });
    world.pass(1);
    world.submit({ ...big, priority: 0 });
    world.pass(301);
    world.leave("w");
    expect(running()).toContain("older@a0");
  });

  test("the gang is placed as soon as all have left, and the reservation is over", () => {
    const { world, running, reserved } = full();
    world.submit(big);
    world.pass(300);
    world.leave("w");
    world.leave("x");
    expect(running()).toEqual(["y@b0", "z@b1", "big@a0+a1"]);
    expect(reserved()).toEqual([]);
    expect(world.queue.draining).toBe(0);
    world.submit({ name: "later", gpus: 4 });
    world.leave("big");
    world.pass(1);
    expect(running()).toContain("later@a0");
  });

  test("the gang is placed elsewhere if it fits there first", () => {
    const { world, running, reserved } = full();
    world.submit(big);
    world.pass(300);
    world.leave("y");
    world.leave("z");
    expect(running()).toEqual(["w@a0", "x@a1", "big@b0+b1"]);
    expect(reserved()).toEqual([]);
  });

  test("it is over when the gang is deleted, and others have what it kept", () => {
    const { world, running } = full();
    world.submit(big);
    world.pass(300);
    world.leave("w");
    world.submit({ name: "later", gpus: 4 });
    world.leave("big");
    world.pass(1);
    expect(running()).toContain("later@a0");
  });

  test.each(["is cordoned", "is gone"])("another one is chosen when a node of it %s", (how) => {
    const { world, model, reserved } = full();
    world.submit(big);
    world.pass(300);
    expect(reserved()).toEqual(["a0", "a1"]);
    if (how === "is gone") model.removeNode("a1");
    else {
      const labels = { zone: "z", rack: "a", "kubernetes.io/hostname": "a1" };
      model.upsertNode(nodeRecord("a1", { labels, unschedulable: true }));
    }
    world.leave("w");
    expect(reserved()).toEqual(["b0", "b1"]);
  });

  test("it is given up when nobody leaves for as long as the bound, and others have it", () => {
    const { world, running, reserved } = full();
    world.submit(big);
    world.pass(300);
    world.leave("w");
    world.pass(299);
    expect(reserved()).toEqual(["a0", "a1"]);
    world.submit({ name: "later", gpus: 4 });
    expect(running()).not.toContain("later@a0");
    world.pass(1);
    expect(reserved()).toEqual([]);
    expect(running()).toContain("later@a0");
    expect(world.message("big")).not.toContain("draining");
  });

  test("it is tried again once somebody has left anywhere, after as long a pause, and lasts twice as long", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(600);
    world.pass(400);
    expect(reserved()).toEqual([]);
    world.submit({ name: "later", gpus: 4 });
    world.leave("y");
    world.pass(1);
    expect(reserved()).toHaveLength(2);
    world.pass(598);
    expect(reserved()).toHaveLength(2);
    world.pass(2);
    expect(reserved()).toEqual([]);
    world.submit({ name: "another", gpus: 4 });
    world.leave("z");
    world.pass(598);
    expect(reserved()).toEqual([]);
    world.pass(2);
    expect(reserved()).toHaveLength(2);
  });

  test("two gangs that wait for those who run for ever do not take turns without end", () => {
    const { world, model } = full();
    world.submit(big, { ...big, name: "second" });
    world.leap(10_000);
    for (let n = 0; n < 5; n++) world.leap(10_000);
    const { version } = model;
    for (let n = 0; n < 5; n++) world.leap(1_000_000);
    expect(model.version).toBe(version);
    expect(world.queue.nextMs()).toBe(Number.POSITIVE_INFINITY);
  });

  test("whoever leaves it renews the patience", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(300 + 299);
    world.leave("w");
    world.pass(299);
    expect(reserved()).toEqual(["a0", "a1"]);
    world.leave("x");
    expect(world.running().map(({ name }) => name)).toContain("big");
  });

  test("when it is given up, the next gang of the queue has one", () => {
    const { world, reserved } = full();
    world.submit(big, { ...big, name: "second" });
    world.pass(600);
    expect([reserved("big"), reserved("second")]).toEqual([[], ["a0", "a1"]]);
  });

  test("nothing happens as long as nothing happens: no plan, no news, no change of what is free", () => {
    const { world, model } = full();
    world.submit(big);
    world.pass(301);
    const before = { version: model.version, message: world.message("big") };
    expect(world.queue.nextMs()).toBe(world.nowMs + 299_000);
    world.pass(298);
    expect({ version: model.version, message: world.message("big") }).toEqual(before);
  });

  test("a member of a running gang that is planned anew keeps its own devices in it", () => {
    const { model } = sceneOf([{ name: "a0" }]);
    const gang = gangIn(model, "run", { w: { count: 1, gpus: 4 } });
    const result = plan(model, { gangs: [gang] });
    const places = "plans" in result ? result.plans[0]!.placement.pods : [];
    model.hold(
      "team/run",
      "team",
      places.map((placed) => ({ placed, requests: {} })),
    );
    model.hold(
      "drain:team/big",
      "",
      places.map((placed) => ({ placed: { ...placed, pod: "big-0" }, requests: {} })),
    );
    expect(nodesOf(plan(model, { gangs: [gang] }))).toEqual({ "run-w-0": "a0" });
    expect(plan(model, { gangs: [gangIn(model, "new", { w: { count: 1, gpus: 1 } })] })).toHaveProperty("rejections");
  });
});

describe("after a restart of the planner", () => {
  test("a gang that had a room has one at once", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(300);
    world.restart();
    expect(reserved()).toEqual(["a0", "a1"]);
  });

  test("the time that it waited before counts", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(200);
    world.restart();
    world.pass(99);
    expect(reserved()).toEqual([]);
    world.pass(1);
    expect(reserved()).toEqual(["a0", "a1"]);
  });

  test("a gang whose bound was over meanwhile has a room once anybody leaves", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(299);
    world.stop();
    world.leap(60);
    world.restart();
    expect(reserved()).toEqual([]);
    world.leave("w");
    expect(reserved()).toEqual(["a0", "a1"]);
  });

  test("a gang that gave its room up says nothing new", () => {
    const { world, reserved } = full();
    world.submit(big);
    world.pass(600);
    const said = world.message("big");
    world.restart();
    world.pass(100);
    expect(world.message("big")).toBe(said);
    expect(reserved()).toEqual([]);
  });
});
