import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { RejectionReason } from "../../src/api/placement.ts";
import { counterfactualsOf } from "../../src/gang/counterfactuals.ts";
import { plan } from "../../src/gang/plan.ts";
import type { ClusterModel, HeldPod } from "../../src/topology/model.ts";
import { driver, podRecord } from "../builders.ts";
import { allocatedClaim, clusterOf, gangIn, type NodeSketch } from "../support/cluster.ts";

/** Part of every name that the neighbour has, and of no other. */
const secret = "hush";
const namespace = `${secret}-team`;

interface Case {
  racks: number[];
  /** What the neighbour has on each node in turn: GPUs by claims, GPUs by holds, cores. */
  taken: { claimed: number; held: number; cores: number }[];
  ask: { count: number; gpus: number; cores: number; level: string; type: "colocate" | "spread"; selector?: string };
}

const cases: fc.Arbitrary<Case> = fc.record({
  racks: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }),
  taken: fc.array(fc.record({ claimed: fc.nat(4), held: fc.nat(4), cores: fc.integer({ min: 0, max: 64 }) }), {
    minLength: 1,
    maxLength: 4,
  }),
  ask: fc.record(
    {
      count: fc.integer({ min: 1, max: 5 }),
      gpus: fc.constantFrom(1, 3, 4, 8, 9),
      cores: fc.constantFrom(1, 1, 1, 20, 40, 100),
      level: fc.constantFrom("host", "rack", "zone"),
      type: fc.constantFrom("colocate" as const, "spread" as const),
      selector: fc.constantFrom("r0", "nowhere"),
    },
    { requiredKeys: ["count", "gpus", "cores", "level", "type"] },
  ),
});

function nodesOf(racks: readonly number[]): NodeSketch[] {
  return racks.flatMap((size, rack) =>
    Array.from({ length: size }, (_, i) => ({ name: `r${rack}-${i}`, zone: "z", rack: `r${rack}`, gpus: 8 })),
  );
}

/** A pod with a claim, a pod with CPU alone, and a place of a reserved gang, of a namespace with the secret in its name. */
function moveIn(model: ClusterModel, node: string, { claimed, held, cores }: Case["taken"][number]): HeldPod[] {
  const uid = `${secret}-uid-${node}`;
  const devices = (from: number, count: number) => Array.from({ length: count }, (_, index) => `gpu-${from + index}`);
  const claim = allocatedClaim(`${secret}-claim-${node}`, node, devices(0, claimed), [uid]);
  if (claimed > 0) model.upsertClaim({ ...claim, namespace });
  model.upsertPod(
    podRecord(`${secret}-pod-${node}`, { uid, namespace, nodeName: node, requests: { cpu: cores * 1000, pods: 1 } }),
  );
  if (held === 0) return [];
  const results = devices(4, held).map((device) => ({ request: "gpu", driver, pool: node, device }));
  const placed = {
    pod: `${secret}-rank-${node}`,
    podSet: `ranks-${node}`,
    index: 0,
    node,
    claims: [{ claim: `${secret}-gpus-${node}`, reference: "gpu", devices: results }],
  };
  return [{ placed, requests: { pods: 1 } }];
}

describe("a refusal names nobody else's objects", () => {
  test("whatever the neighbour holds and whatever is asked for", () => {
    const reasons = new Set<RejectionReason>();
    let strangers = 0;
    fc.assert(
      fc.property(cases, ({ racks, taken, ask }) => {
        const nodes = nodesOf(racks);
        const model = clusterOf(nodes);
        const held = nodes.flatMap(({ name }, i) => moveIn(model, name, taken[i % taken.length]!));
        model.hold(`${namespace}/${secret}-gang`, namespace, held);
        const more = {
          requests: { cpu: ask.cores * 1000, pods: 1 },
          ...(ask.selector === undefined ? {} : { nodeSelector: { rack: ask.selector } }),
        };
        const { type, level } = ask;
        const constraints = [{ type, level, mode: "required" as const }];
        const wants = { count: ask.count, gpus: ask.gpus, more };
        // The neighbour asked for the same, in vain or not: what is remembered of that is told to nobody.
        plan(model, { gangs: [gangIn(model, `${secret}-alike`, { [`${secret}-w`]: wants }, { constraints })] });
        const gang = gangIn(model, "mine", { w: wants }, { constraints });
        const unit = { gangs: [gang] };
        const result = plan(model, unit);
        if ("plans" in result) return;
        for (const { reason } of result.rejections) reasons.add(reason);
        const counterfactuals = counterfactualsOf(model, unit);
        if (counterfactuals.some((text) => text.startsWith("if a gang of another namespace with "))) strangers += 1;
        expect(JSON.stringify([result.rejections, counterfactuals])).not.toContain(secret);
      }),
      { numRuns: 200 },
    );
    // The neighbour stood in the way in several ways.
    expect(reasons.size).toBeGreaterThan(2);
    expect(strangers).toBeGreaterThan(0);
  });
});
