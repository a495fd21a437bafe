import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseFleet, uniformFleet } from "../../src/simulator/fleet.ts";
import { createHardware } from "../../src/simulator/hardware.ts";
import { fleetNodes, nodeSlices } from "../../src/simulator/objects.ts";
import { createPreparation, type Decision } from "../../src/simulator/preparation.ts";
import { parseQuantity } from "../../src/topology/quantity.ts";

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
  fc.record({ devices: fc.subarray(names, { minLength: 1, maxLength: 3 }), lag: fc.boolean() }),
  fc.record({ leaves: fc.nat() }),
);

test("a pod starts exactly when its devices fit beside those of all pods that started and are not gone", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const hardware = createHardware([node]);
      hardware.setState(node.name, { down: false, losses: {} });
      const preparation = createPreparation(hardware);
      const present = new Map<string, readonly string[]>();
      const running = new Set<string>();
      const waiting = (): string[] => [...present.keys()].filter((uid) => !running.has(uid));
      const taken = (): string[] => [...running].flatMap((uid) => present.get(uid) ?? []);
      const start = (decisions: readonly Decision[]): void => {
        for (const { type, pod } of decisions) {
          if (type !== "start") continue;
          running.add(pod.uid);
          expect(fits(taken())).toBe(true);
        }
      };
      for (const [index, action] of steps.entries()) {
        if ("leaves" in action) {
          const uid = [...present.keys()][action.leaves % Math.max(1, present.size)];
          if (uid === undefined) continue;
          present.delete(uid);
          running.delete(uid);
          start(preparation.podGone(uid, true));
        } else {
          const uid = `uid-${index}`;
          const common = { namespace: "ns", name: `p-${index}`, resourceVersion: 2 * index + 1 };
          const pod = {
            ...common,
            uid,
            node: node.name,
            terminal: false,
            marked: false,
            claims: [{ name: "c", claimName: common.name }],
          };
          const held = action.devices.map((device) => ({ pool: node.name, device }));
          const claim = { ...common, uid: `claim-${index}`, devices: held, reservedFor: [uid] };
          present.set(uid, action.devices);
          if (action.lag) start(preparation.podChanged(pod));
          start(preparation.claimChanged(claim));
          if (!action.lag) start(preparation.podChanged(pod));
        }
        for (const uid of waiting()) expect(fits([...taken(), ...(present.get(uid) ?? [])])).toBe(false);
        expect(
          preparation
            .waiting()
            .map((problem) => problem.podUid)
            .toSorted(),
        ).toEqual(waiting().toSorted());
      }
      for (const uid of [...present.keys()]) {
        present.delete(uid);
        running.delete(uid);
        start(preparation.podGone(uid, true));
      }
      expect(preparation.preparedClaims()).toBe(0);
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
