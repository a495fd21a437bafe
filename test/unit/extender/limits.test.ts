import { describe, expect, test } from "vitest";
import type { Placement } from "../../../src/api/placement.ts";
import { placementFault } from "../../../src/extender/limits.ts";
import { newGangState } from "../../../src/gang/lifecycle/state.ts";
import { World } from "../../support/world.ts";

const names = (count: number): string[] => Array.from({ length: count }, (_, index) => `g${index}`);

/** Gangs of `pods` pods with a device each, all created at once. */
function worldOf(gangs: number, pods: number, devices: number, limits: object): World {
  const sketches = names(gangs).map((name) => ({ name, pods, devices: 1 }));
  const world = new World({ nodes: Math.ceil(devices / 8), devicesPerNode: 8, gangs: sketches, limits });
  for (const sketch of sketches) {
    world.createGang(sketch);
    for (let index = 0; index < pods; index++) world.createPod(sketch.name, index);
  }
  return world;
}

const statusOf = (world: World, name: string) => world.gangs.get(`default/${name}`)?.status;

describe("limits of gangs", () => {
  test("a gang above the limit is refused with the numbers and the remedy, and holds nothing", () => {
    const world = worldOf(1, 5, 8, { gangPods: 4 });
    world.settle();
    expect(statusOf(world, "g0")?.phase).toBe("Pending");
    expect(statusOf(world, "g0")?.conditions?.[0]?.reason).toBe("GangTooLarge");
    expect(statusOf(world, "g0")?.explanation).toBe(
      "spec.podSets ask for 5 pods together, and a gang may have 4; lower their counts or split the gang",
    );
    expect([...world.claims.values()].every((claim) => claim.allocation === undefined)).toBe(true);
  });

  test("a namespace at its limit gets no further gang before one leaves", () => {
    const world = worldOf(3, 4, 16, { namespacePods: 8 });
    world.settle();
    expect(names(3).map((name) => statusOf(world, name)?.phase)).toEqual(["Scheduled", "Scheduled", "Pending"]);
    expect(statusOf(world, "g2")?.conditions?.[0]?.reason).toBe("NamespaceLimit");
    expect(statusOf(world, "g2")?.explanation).toContain("hold places for 8 other pods, and 4 more exceed the 8");
    for (const pod of [...world.pods.values()]) if (pod.gang === "g0") world.deletePod(pod.uid);
    world.deleteGang("g0");
    world.settle();
    expect(statusOf(world, "g2")?.phase).toBe("Scheduled");
  });

  test("with a window of four, no more than four pods are released and unbound, and all gangs are bound", () => {
    const world = worldOf(12, 2, 24, { releasedPods: 4 });
    world.settle();
    expect(names(12).map((name) => statusOf(world, name)?.phase)).toEqual(names(12).map(() => "Scheduled"));
    expect(world.mostReleased).toBeLessThanOrEqual(4);
    expect(world.mostReleased).toBeGreaterThan(1);
  });

  test("a gang larger than the window is released alone", () => {
    const world = worldOf(3, 6, 24, { releasedPods: 4 });
    world.settle();
    expect(names(3).map((name) => statusOf(world, name)?.phase)).toEqual(["Scheduled", "Scheduled", "Scheduled"]);
    expect(world.mostReleased).toBeLessThanOrEqual(6);
  });

  test("a gang as large as allowed is released alone, beside a window of 64", () => {
    const world = worldOf(1, 72, 72, {});
    world.settle();
    expect([statusOf(world, "g0")?.phase, statusOf(world, "g0")?.members]).toEqual(["Scheduled", "72/72"]);
    expect(world.mostReleased).toBeGreaterThan(64);
  }, 60_000);
});

describe("the status of a gang of 2,000 pods", () => {
  const placement = (devices: number, prefix = ""): Placement => ({
    gang: "g",
    namespace: "d",
    domains: {},
    cost: { totalMs: 0, byLink: [], assumes: [] },
    pods: Array.from({ length: 2_000 }, (_, index) => {
      const node = `${prefix}node-${String(index).padStart(4, "0")}`;
      const held = Array.from({ length: devices }, (_, gpu) => ({
        request: "gpus",
        driver: "gpu.kllama.ai",
        pool: node,
        device: `gpu-${gpu}`,
      }));
      const claims = [{ claim: `g-ranks-${index}-gpus-x7k2p`, reference: "gpus", devices: held }];
      return { pod: `g-ranks-${index}`, podSet: "ranks", index, node, claims };
    }),
  });

  test("holds one to four devices per pod", () => {
    for (const devices of [1, 4]) expect(placementFault(newGangState("d/g"), placement(devices))).toBeUndefined();
  });

  test("is refused with eight devices per pod, or with long names, before anything is written", () => {
    for (const large of [placement(8), placement(4, "n".repeat(100))]) {
      const fault = placementFault(newGangState("d/g"), large);
      expect(fault?.reason).toBe("GangTooLarge");
      expect(fault?.message).toMatch(
        /^the places of 2000 pods take \d+ bytes, and the Gang's status holds 1048576; split the gang/,
      );
    }
  });
});
