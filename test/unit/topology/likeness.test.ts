import { describe, expect, test } from "vitest";
import type { Device } from "../../../src/api/kubernetes.ts";
import { assembleInventory } from "../../../src/topology/inventory.ts";
import { likeness } from "../../../src/topology/likeness.ts";
import { attributes, driver, gpu, migBoard, migSlices, nodeRecord, sliceRecord } from "../../builders.ts";

function like(devices: readonly Device[], values: readonly string[] = [], node = "n") {
  return likeness(assembleInventory(nodeRecord(node), [sliceRecord(node, devices)]), values);
}

const pair = (one: string, other: string) => [gpu(0, { link: one }), gpu(1, { link: other })];

describe("two nodes are alike", () => {
  test("when only names and the values of text attributes differ", () => {
    expect(like(pair("a", "b"), [], "n1")).toBe(like(pair("c", "d"), [], "n2"));
  });
  test("when MIG boards are cut the same way", () => {
    const boards = (node: string) => assembleInventory(nodeRecord(node), migSlices(node, [migBoard(0)]));
    expect(likeness(boards("n1"), [])).toBe(likeness(boards("n2"), []));
  });
});

describe("two nodes are not alike", () => {
  test.each<[string, Device[]]>([
    ["equal values stand elsewhere", pair("a", "a")],
    ["one has more devices", [...pair("a", "b"), gpu(2, { link: "c" })]],
    ["a number differs", [gpu(0, { link: "a" }), gpu(2, { link: "b" })]],
    ["capacity differs", [gpu(0, { link: "a" }, { capacity: { memory: { value: "40Gi" } } }), gpu(1, { link: "b" })]],
    [
      "a device is tainted",
      [gpu(0, { link: "a" }, { taints: [{ key: "k", effect: "NoSchedule" }] }), gpu(1, { link: "b" })],
    ],
    ["an attribute is missing", [gpu(0, { link: "a" }), gpu(1)]],
  ])("when %s", (_, devices) => {
    expect(like(devices)).not.toBe(like(pair("a", "b")));
  });
  test("when a value differs that matters", () => {
    expect(like(pair("a", "b"), ["link"])).toBe(like(pair("a", "b"), ["link"], "n2"));
    expect(like(pair("a", "b"), ["link"])).not.toBe(like(pair("c", "d"), ["link"]));
  });
});

test("a name with its domain and one without mean the same attribute", () => {
  const mixed = (value: string): Device[] => [
    { name: "gpu-0", attributes: attributes({ link: "a" }) },
    { name: "gpu-1", attributes: attributes({ [`${driver}/link`]: value }) },
  ];
  expect(like(mixed("a"))).not.toBe(like(mixed("b")));
});

test("a node with an incomplete pool is like no other", () => {
  const inventory = assembleInventory(nodeRecord("n"), [sliceRecord("n", pair("a", "b"), { resourceSliceCount: 2 })]);
  expect(likeness(inventory, [])).toBeUndefined();
});
