import { describe, expect, test } from "vitest";
import { gangSpec } from "../../../src/api/gang.ts";
import type { Placement } from "../../../src/api/placement.ts";
import { createHeldPlaces, defaultLimits, limitFaults, placementFault } from "../../../src/extender/limits.ts";
import { type GangState, newGangState } from "../../../src/gang/lifecycle/state.ts";
import { gangRecord } from "../../builders.ts";
import { violationText } from "../../simulation/report.ts";
import { runSeed } from "../../simulation/world.ts";

const gangOf = (name: string, pods: number): GangState => {
  const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: pods }] });
  return { ...newGangState(`team/${name}`), gang: gangRecord({ name, spec }) };
};

describe("limits of gangs", () => {
  test("a gang above the limit is refused with the numbers and the remedy", () => {
    const [fault, none] = limitFaults([gangOf("a", 5), gangOf("b", 4)], createHeldPlaces(), {
      ...defaultLimits,
      gangPods: 4,
    });
    expect(fault).toEqual({
      reason: "GangTooLarge",
      message: "spec.podSets ask for 5 pods together, and a gang may have 4; lower their counts or split the gang",
    });
    expect(none).toBeUndefined();
  });

  test("a namespace at its limit gets no further gang before one leaves; one that has its places keeps them", () => {
    const limits = { ...defaultLimits, namespacePods: 8 };
    const held = createHeldPlaces();
    held.set("team/g0", 4);
    held.set("team/g1", 4);
    held.set("elsewhere/g2", 4);
    const [fault] = limitFaults([gangOf("g2", 4)], held, limits);
    expect(fault?.reason).toBe("NamespaceLimit");
    expect(fault?.blocking).toEqual([{ level: "namespace", resource: "pods", needed: 4, available: 0 }]);
    expect(fault?.message).toContain("hold places for 8 other pods, and 4 more exceed the 8");
    expect(limitFaults([gangOf("g1", 4)], held, limits)).toEqual([undefined]);
    held.set("team/g0", 0);
    expect(limitFaults([gangOf("g2", 4)], held, limits)).toEqual([undefined]);
    // Two that are planned together: the second finds the first in its way.
    held.set("team/g1", 0);
    const together = limitFaults([gangOf("g3", 6), gangOf("g4", 6)], held, limits);
    expect(together.map((each) => each?.reason)).toEqual([undefined, "NamespaceLimit"]);
    expect(together[1]?.blocking).toMatchObject([{ needed: 6, available: 2 }]);
  });
});

describe("with a window of four", () => {
  /** Most members that were released and not bound at a time, in a world of gangs that come all at once. */
  async function mostReleased(gangs: number, pods: number): Promise<number> {
    const names = Array.from({ length: gangs }, (_, index) => `g${index}`);
    const more = { minCount: pods, devices: 1, kind: "gpus", slice: 1, leader: false, timeoutSeconds: 600 } as const;
    const waiting = new Set<string>();
    let most = 0;
    const run = await runSeed({
      seed: 1,
      limits: { releasedPods: 4 },
      sketch: {
        nodes: ["n0", "n1", "n2"],
        devicesPerNode: 8,
        nodesPerRack: 3,
        gangs: names.map((name) => ({ name, pods, ...more })),
        replicas: 1,
        migNodes: new Set(),
        injects: true,
      },
      script: names.map((name) => [1_000, (people) => people.createGang(name)]),
      onTrace(line) {
        const [, verb, pod = "", facts = ""] = / ([-+~]) pods (\S+) by \S+ @\d+(.*)$/.exec(line) ?? [];
        if (verb === undefined) return;
        if (verb !== "-" && facts.includes("unbound") && !facts.includes("gated")) waiting.add(pod);
        else waiting.delete(pod);
        most = Math.max(most, waiting.size);
      },
    });
    if (run.violation !== undefined) expect.fail(violationText(run));
    return most;
  }

  test("no more than four members are released and unbound, and all gangs are bound", async () => {
    const most = await mostReleased(6, 2);
    expect(most).toBeLessThanOrEqual(4);
    expect(most).toBeGreaterThan(1);
  });

  test("a gang larger than the window is released alone", async () => {
    expect(await mostReleased(3, 6)).toBe(6);
  });
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
