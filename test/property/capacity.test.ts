import fc from "fast-check";
import { expect, test } from "vitest";
import { capacityOf, type Question } from "../../src/extender/capacity.ts";
import type { GangRequest } from "../../src/gang/plan.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import { driver } from "../builders.ts";
import { clusterOf, gangIn, type NodeSketch } from "../support/cluster.ts";

/** Racks of nodes with 8 GPUs of which some are in use, and a gang that wants one rack. */
interface Case {
  /** Per rack and node: GPUs in use. */
  racks: number[][];
  count: number;
  gpus: number;
}

const cases: fc.Arbitrary<Case> = fc.record({
  racks: fc.array(fc.array(fc.integer({ min: 0, max: 8 }), { minLength: 1, maxLength: 4 }), {
    minLength: 1,
    maxLength: 3,
  }),
  count: fc.integer({ min: 1, max: 4 }),
  gpus: fc.integer({ min: 2, max: 8 }),
});

function nodesOf(racks: Case["racks"]): NodeSketch[] {
  return racks.flatMap((nodes, rack) =>
    nodes.map((used, i) => ({ name: `r${rack}-${i}`, zone: "z", rack: `r${rack}`, gpus: 8, used })),
  );
}

/** The gang as somebody asks about it: it is nowhere in the model that is asked. */
function questionOf({ count, gpus }: Pick<Case, "count" | "gpus">, name = "asked"): Question {
  const elsewhere = clusterOf([]);
  const constraints = [{ type: "colocate" as const, level: "rack", mode: "required" as const }];
  const { namespace, spec, pods }: GangRequest = gangIn(elsewhere, name, { w: { count, gpus } }, { constraints });
  const gang = { namespace, name, uid: name, resourceVersion: "1", spec, status: {}, labels: {}, deleting: false };
  return {
    kind: "Gang",
    namespace,
    name,
    gangs: [{ ...gang, createdAtMs: 0, problems: [], generation: 1, finalizers: [] } as never],
    groups: [],
    pods,
    claims: [...elsewhere.claims.values()],
  };
}

/** Everything that plans rest on. */
function stateOf({ view, capacityVersion }: ClusterModel) {
  return {
    capacityVersion,
    usage: view.nodes.map((_, node) => [...view.usage(node).used]),
    loads: view.nodes.map((node) => ({ ...node?.load.used })),
  };
}

test("as many gangs as racks can hold are counted, each whole and beside the others; nothing of it stays", () => {
  fc.assert(
    fc.property(cases, (sample) => {
      const model = clusterOf(nodesOf(sample.racks));
      const before = stateOf(model);
      const answer = capacityOf(model, questionOf(sample), { copies: 1000, inTime: () => true });

      const slots = (used: number) => Math.floor((8 - used) / sample.gpus);
      const most = sample.racks.map((nodes) => {
        return Math.floor(nodes.reduce((sum, used) => sum + slots(used), 0) / sample.count);
      });
      expect([answer.copies, answer.stoppedBy]).toEqual([most.reduce((sum, each) => sum + each, 0), "room"]);
      expect(answer.placements).toHaveLength(answer.copies);
      const pods = answer.placements.flat().flatMap((placement) => placement.pods);
      const devices = pods.flatMap(({ claims }) => claims.flatMap((claim) => claim.devices));
      expect(new Set(devices.map(({ pool, device }) => `${pool}/${device}`)).size).toBe(devices.length);
      for (const { pool, device } of devices) expect(model.holdersOf(driver, pool, device)).toEqual([]);
      expect(stateOf(model)).toEqual(before);
    }),
    { numRuns: 60 },
  );
});

test("a gang of the same name that holds places here is another one", () => {
  const model = clusterOf(nodesOf([[0, 0]]));
  const [node, name] = ["r0-0", "asked-w-0"];
  const placed = { pod: name, podSet: "w", index: 0, node, claims: [] };
  model.hold("team/asked", "team", [{ placed, requests: { cpu: 64_000 } }]);
  const { copies, placements } = capacityOf(model, questionOf({ count: 1, gpus: 8 }), {
    copies: 9,
    inTime: () => true,
  });
  expect(copies).toBe(1);
  expect(placements[0]![0]!.pods.map((pod) => [pod.pod, pod.node])).toEqual([["asked-w-0", "r0-1"]]);
});

test("time ends the count and says so", () => {
  const model = clusterOf(nodesOf([[0, 0, 0, 0]]));
  let plans = 0;
  const answer = capacityOf(model, questionOf({ count: 1, gpus: 8 }), { copies: 9, inTime: () => plans++ < 2 });
  expect(answer).toMatchObject({ copies: 2, stoppedBy: "time", rejections: [] });
});
