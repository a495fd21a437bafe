import fc from "fast-check";
import { expect, test } from "vitest";
import { type GangRequest, plan } from "../../src/gang/plan.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import { clusterOf, gangIn, plansOf } from "../support/cluster.ts";
import { addNics, allocatedNics, nicClaim } from "../support/nics.ts";

/** GPUs and network cards that are free on a node, or that a pod wants. */
interface Amounts {
  gpus: number;
  nics: number;
}

const node = fc.record({ gpus: fc.nat(4), nics: fc.nat(3), takenNics: fc.nat(1) });
const podSet = fc.record({ count: fc.integer({ min: 1, max: 3 }), gpus: fc.nat(2), nics: fc.nat(2) });

/** Does any assignment of pods to nodes leave enough of both everywhere? Tries all. */
function exists(free: readonly Amounts[], pods: readonly Amounts[]): boolean {
  const [pod, ...others] = pods;
  if (pod === undefined) return true;
  return free.some((each, i) => {
    const left = { gpus: each.gpus - pod.gpus, nics: each.nics - pod.nics };
    return left.gpus >= 0 && left.nics >= 0 && exists(free.with(i, left), others);
  });
}

function gangOf(model: ClusterModel, podSets: readonly (Amounts & { count: number })[]): GangRequest {
  const sketches = podSets.map(({ count, gpus }, i) => [`s${i}`, { count, gpus }] as const);
  const gang = gangIn(model, "g", Object.fromEntries(sketches));
  const pods = gang.pods.map((pod) => {
    const { nics } = podSets[Number(pod.podSet!.slice(1))]!;
    if (nics === 0) return pod;
    model.upsertClaim(nicClaim(`${pod.name}-nic`, nics));
    return { ...pod, claims: [...pod.claims, { name: "nic", claimName: `${pod.name}-nic`, templateName: "nics" }] };
  });
  return { ...gang, pods };
}

test("a gang that wants cards which kube-scheduler gives is placed exactly when every node can serve its pods", () => {
  let placed = 0;
  const input = [
    fc.array(node, { minLength: 1, maxLength: 3 }),
    fc.array(podSet, { minLength: 1, maxLength: 2 }),
  ] as const;
  const property = fc.property(...input, (nodes, podSets) => {
    const model = clusterOf(nodes.map(({ gpus }, i) => ({ name: `n${i}`, gpus })));
    for (const [i, { nics, takenNics }] of nodes.entries()) {
      addNics(model, `n${i}`, nics);
      if (nics > 0 && takenNics > 0) model.upsertClaim(allocatedNics(`taken-${i}`, `n${i}`, ["nic-0"], ["somebody"]));
    }
    const free = nodes.map(({ gpus, nics, takenNics }) => ({ gpus, nics: Math.max(0, nics - takenNics) }));
    const pods = podSets.flatMap((each) => Array.from({ length: each.count }, () => each));
    const result = plan(model, { gangs: [gangOf(model, podSets)] });
    expect("plans" in result).toBe(exists(free, pods));
    if (!("plans" in result)) return;
    placed++;
    const devices = plansOf(result)[0]!.placement.pods.flatMap((pod) =>
      pod.claims.flatMap((claim) =>
        claim.devices.map((each) => [pod.node, each.pool, `${each.driver}/${each.device}`]),
      ),
    );
    expect(devices.filter(([on, pool]) => on !== pool)).toEqual([]);
    expect(new Set(devices.map(String)).size).toBe(devices.length);
    expect(devices).toHaveLength(pods.reduce((sum, { gpus, nics }) => sum + gpus + nics, 0));
  });
  fc.assert(property, { numRuns: 400 });
  expect(placed).toBeGreaterThan(100);
});
