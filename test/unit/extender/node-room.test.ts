import { expect, test } from "vitest";
import { leavesRoom, leavesRoomForAll } from "../../../src/extender/node-room.ts";
import type { NodeRecord } from "../../../src/topology/records.ts";
import { podRecord } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

const node: NodeRecord = {
  name: "n0",
  uid: "n0",
  labels: {},
  taints: [],
  allocatable: { cpu: 4_000, pods: 3 },
  ready: true,
  unschedulable: false,
};
const comer = podRecord("comer", { requests: { cpu: 2_000 }, priority: 5 });
const running = (name: string, cpu: number, priority = 5) =>
  podRecord(name, { nodeName: "n0", requests: { cpu }, priority });

for (const [title, others, room] of [
  ["nobody", [], true],
  ["just enough left", [running("a", 2_000)], true],
  ["too little left", [running("a", 1_000), running("b", 1_500)], false],
  ["lower priority in its way", [running("a", 4_000, 4)], true],
  ["higher priority in its way", [running("a", 4_000, 6)], false],
  ["as many pods as the node takes", [running("a", 1), running("b", 1), running("c", 1)], false],
  ["a pod that has ended", [{ ...running("a", 4_000), terminal: true }], true],
] as const) {
  test(`a node has ${room ? "" : "no "}room for a pod beside: ${title}`, () => {
    const model = clusterOf([]);
    model.upsertNode(node);
    for (const pod of others) model.upsertPod(pod);
    expect(leavesRoom(model, "n0", comer)).toBe(room);
  });
}

test("places that are held for others take no room, a node that does not exist has none", () => {
  const model = clusterOf([]);
  model.upsertNode(node);
  const placed = { pod: "g-0", podSet: "ranks", index: 0, node: "n0", claims: [] };
  model.hold("team/g", "team", [{ placed, requests: { cpu: 4_000 } }]);
  expect(leavesRoom(model, "n0", comer)).toBe(true);
  expect(leavesRoom(model, "n1", comer)).toBe(false);
});

for (const [title, others, comers, room] of [
  ["nobody", [], [2_000, 2_000], true],
  ["nobody, with more than the node has", [], [2_000, 2_500], false],
  ["lower priority in their way", [running("a", 1_000, 4)], [2_000, 2_000], false],
  ["one who leaves too few pods", [running("a", 1), running("b", 1)], [1, 1], false],
] as const) {
  test(`a node has ${room ? "" : "no "}room for all who are to be bound beside: ${title}`, () => {
    const model = clusterOf([]);
    model.upsertNode(node);
    for (const pod of others) model.upsertPod(pod);
    const pods = comers.map((cpu, i) => podRecord(`c-${i}`, { requests: { cpu }, priority: 5 }));
    expect(leavesRoomForAll(model, "n0", pods)).toBe(room);
  });
}
