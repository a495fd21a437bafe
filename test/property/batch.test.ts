import fc from "fast-check";
import { expect, test } from "vitest";
import { type Batch, createBatch } from "../../src/gang/batch.ts";
import { type GangRequest, type PlanUnit, plan } from "../../src/gang/plan.ts";
import { clusterOf, gangIn, type NodeSketch } from "../support/cluster.ts";

/** Racks of nodes with 4 GPUs, and gangs of pods that take a node each and want one rack. */
interface Case {
  racks: number[];
  gangs: { count: number; gpus: number }[];
  /** The gang that is a PlacementGroup of two gangs, each of so many pods; beyond the last: none is. */
  paired: number;
}

const cases: fc.Arbitrary<Case> = fc.record({
  racks: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
  gangs: fc.array(fc.record({ count: fc.integer({ min: 1, max: 3 }), gpus: fc.constantFrom(1, 2, 3, 4) }), {
    minLength: 1,
    maxLength: 5,
  }),
  paired: fc.nat({ max: 9 }),
});

function worldOf({ racks, gangs, paired }: Case) {
  const nodes = racks.flatMap((size, rack) =>
    Array.from(
      { length: size },
      (_, i): NodeSketch => ({ name: `r${rack}-${i}`, zone: "z", rack: `r${rack}`, gpus: 4 }),
    ),
  );
  const model = clusterOf(nodes);
  const units = gangs.map(({ count, gpus }, i): PlanUnit => {
    const constraints = [{ type: "colocate" as const, level: "rack", mode: "required" as const }];
    if (i !== paired) return { gangs: [gangIn(model, `g${i}`, { w: { count, gpus } }, { constraints })] };
    const roles = ["prefill", "decode"];
    const members = roles.map((role) => ({ role, minInstances: 1 }));
    const spec = { members, topology: "default", constraints };
    return {
      gangs: roles.map((role) => gangIn(model, `g${i}-${role}`, { w: { count, gpus } }, { role })),
      placementGroup: { namespace: "team", name: "pair", spec },
    };
  });
  // The same as gangs alone: of a group, whose gangs share a rack, one gang of two pod sets.
  const alone = units.map(({ gangs: [first], placementGroup }, i) => {
    const { count, gpus } = gangs[i]!;
    const constraints = [{ type: "colocate" as const, level: "rack", mode: "required" as const }];
    return placementGroup
      ? gangIn(model, `all-${i}`, { p: { count, gpus }, d: { count, gpus } }, { constraints })
      : first!;
  });
  return { model, units, alone };
}

/** A batch that keeps its plans in the model, as both users of it do. */
function run({ model, units }: ReturnType<typeof worldOf>) {
  const places = new Map<string, string[]>();
  const keyOf = ({ namespace, name }: GangRequest) => `${namespace}/${name}`;
  const batch: Batch = createBatch(model, {
    take(gang, placement) {
      const requests = (pod: string) => gang.pods.find(({ name }) => name === pod)!.requests;
      model.hold(
        keyOf(gang),
        gang.namespace,
        placement.pods.map((placed) => ({ placed, requests: requests(placed.pod) })),
      );
      const devices = placement.pods.flatMap((pod) => pod.claims.flatMap((claim) => claim.devices));
      places.set(
        keyOf(gang),
        devices.map(({ pool, device }) => `${pool}/${device}`),
      );
    },
    giveBack(gang) {
      model.release(keyOf(gang));
      places.delete(keyOf(gang));
    },
  });
  const placed = units.map((unit) => "plans" in batch.plan(unit));
  return { placed, places };
}

test("gangs that fit together are all placed, in whatever order they come, and so is a PlacementGroup beside them; no device is given twice", () => {
  fc.assert(
    fc.property(cases, (sample) => {
      const world = worldOf(sample);
      const together = plan(world.model, { gangs: world.alone });
      const { placed, places } = run(world);
      if ("plans" in together) expect(placed).not.toContain(false);
      const placedUnits = world.units.filter((_, i) => placed[i]);
      expect(places.size).toBe(placedUnits.flatMap(({ gangs }) => gangs).length);
      for (const { gangs } of placedUnits) {
        const devicesOf = ({ namespace, name }: GangRequest) => places.get(`${namespace}/${name}`)!;
        expect(new Set(gangs.flatMap(devicesOf).map((device) => device.split("-")[0])).size).toBe(1);
      }
      const devices = [...places.values()].flat();
      expect(new Set(devices).size).toBe(devices.length);
      for (const device of devices) expect(world.model.holdersOf("gpu.kllama.ai", ...split(device))).toHaveLength(1);
    }),
    { numRuns: 150 },
  );
});

function split(device: string): [string, string] {
  const [pool = "", name = ""] = device.split("/");
  return [pool, name];
}

test("what was placed keeps a place when the others find none", () => {
  const world = worldOf({
    racks: [3, 2],
    gangs: [
      { count: 2, gpus: 4 },
      { count: 3, gpus: 4 },
      { count: 2, gpus: 4 },
    ],
    paired: 9,
  });
  const { placed, places } = run(world);
  expect(placed).toEqual([true, true, false]);
  expect([...places].map(([, devices]) => devices.length).sort()).toEqual([12, 8].sort());
});
