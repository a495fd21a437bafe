import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseFleet, uniformFleet } from "../../src/simulator/fleet.ts";
import { fleetNodes, nodeSlices } from "../../src/simulator/objects.ts";
import { parseQuantity } from "../../src/topology/quantity.ts";
import { claimOf, openKubelets, podOf } from "../support/kubelets.ts";

const nodes = fleetNodes(parseFleet(readFileSync("fleets/default.yaml", "utf8"), "default.yaml"));
const node = nodes.find((candidate) => candidate.type.name === "dgx-a100-mig")!;
const slices = nodeSlices(node, { nodeUid: "", generation: 1 });
const devices = slices
  .flatMap((slice) => slice.spec.devices ?? [])
  .filter((device) => /^gpu-[01](-|$)/.test(device.name));
const names = devices.map((device) => device.name);

/** From the published objects alone: do these devices, taken together, use a device twice or exceed a counter? */
function fits(taken: readonly string[]): boolean {
  if (new Set(taken).size < taken.length) return false;
  return slices
    .flatMap((slice) => slice.spec.sharedCounters ?? [])
    .every((set) =>
      Object.entries(set.counters).every(([counter, { value }]) => {
        const amounts = taken.map((name) => {
          const uses = devices.find((device) => device.name === name)?.consumesCounters ?? [];
          const amount = uses.find((use) => use.counterSet === set.name)?.counters[counter]?.value;
          return amount === undefined ? 0 : parseQuantity(amount);
        });
        return amounts.reduce((sum, amount) => sum + amount, 0) <= parseQuantity(value);
      }),
    );
}

/** A pod comes with a claim on some devices, or an earlier one goes. `lag`: its claim is heard of after the pod. */
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ devices: fc.subarray(names, { minLength: 1, maxLength: 3 }), lag: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ leaves: fc.nat() }) },
);
/** `at once`: what follows is not waited for, so calls of the drivers overlap. */
const steps = fc.array(fc.record({ step, atOnce: fc.boolean() }), { maxLength: 40 });

test("a pod starts exactly when its devices fit beside those of all pods that started and are not gone, and driver and judge agree", async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const { kubelets, drivers, upon } = openKubelets("dgx-a100-mig");
      const present = new Map<string, readonly string[]>();
      const running = new Set<string>();
      const waiting = (): string[] => [...present.keys()].filter((uid) => !running.has(uid));
      const taken = (): string[] => [...running].flatMap((uid) => present.get(uid) ?? []);
      const settle = async (changes: readonly (() => void)[]): Promise<void> => {
        const decisions = await upon(...changes);
        for (const decision of decisions) {
          if (decision.type !== "problem" || decision.problem.kind !== "WronglyRefused") continue;
          // Another claim of the same batch, which failed, was in the way: the kubelet asks again.
          const again = await kubelets.retry(decision.pod.uid);
          expect(again?.kind ?? "started").not.toMatch(/^Wrongly/);
        }
        for (const decision of [...decisions, ...(await upon())]) {
          if (decision.type === "start") running.add(decision.pod.uid);
          else expect(decision.problem.kind).not.toMatch(/^Wrongly(Prepared|Undone)/);
        }
        for (const uid of running) if (!present.has(uid)) running.delete(uid);
        expect(fits(taken())).toBe(true);
        for (const uid of waiting()) expect(fits([...taken(), ...(present.get(uid) ?? [])])).toBe(false);
        const known = kubelets.waiting().map((problem) => problem.podUid);
        expect(known.toSorted()).toEqual(waiting().toSorted());
        expect(drivers.partitions()).toBe(taken().filter((device) => device.includes("-mig-")).length);
      };
      let changes: (() => void)[] = [];
      for (const [index, { step: action, atOnce }] of all.entries()) {
        if ("leaves" in action) {
          const uid = [...present.keys()][action.leaves % Math.max(1, present.size)];
          if (uid === undefined) continue;
          present.delete(uid);
          running.delete(uid);
          changes.push(() => kubelets.podGone(uid, true));
        } else {
          const pod = podOf(`p-${index}`, [`c-${index}`]);
          const claim = claimOf(`c-${index}`, action.devices, [pod.name]);
          present.set(pod.uid, action.devices);
          const [first, second] = [() => kubelets.claimChanged(claim), () => kubelets.podChanged(pod)];
          changes.push(...(action.lag ? [second, first] : [first, second]));
        }
        if (atOnce) continue;
        await settle(changes);
        changes = [];
      }
      await settle(
        [...changes, ...[...present.keys()].map((uid) => () => kubelets.podGone(uid, true))].concat(() =>
          present.clear(),
        ),
      );
      expect([kubelets.preparedClaims(), drivers.partitions()]).toEqual([0, 0]);
    }),
  );
});

test("uniform fleets have the asked number of nodes and unique names, UUIDs and slice names", () => {
  const size = fc.record({
    nodes: fc.integer({ min: 1, max: 60 }),
    gpusPerNode: fc.integer({ min: 1, max: 16 }),
    nodesPerRack: fc.integer({ min: 1, max: 20 }),
  });
  fc.assert(
    fc.property(size, ({ nodes: count, gpusPerNode, nodesPerRack }) => {
      const machines = fleetNodes(uniformFleet({ nodes: count, gpusPerNode, nodesPerRack }));
      const pools = machines.flatMap((machine) => nodeSlices(machine, { nodeUid: "u", generation: 1 }));
      const uuids = pools
        .flatMap((slice) => slice.spec.devices ?? [])
        .map((device) => device.attributes?.["uuid"]?.string);
      expect(new Set(machines.map((machine) => machine.name)).size).toBe(count);
      expect(new Set(pools.map((slice) => slice.metadata.name)).size).toBe(pools.length);
      expect(new Set(uuids).size).toBe(count * gpusPerNode);
      const racks = Map.groupBy(machines, (machine) => machine.rack);
      expect(Math.max(...[...racks.values()].map((rack) => rack.length))).toBeLessThanOrEqual(nodesPerRack);
    }),
    { numRuns: 30 },
  );
});
