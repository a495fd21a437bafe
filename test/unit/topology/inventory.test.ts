import { describe, expect, test } from "vitest";
import { assembleInventory, attributeValue, changeUsage, emptyUsage } from "../../../src/topology/inventory.ts";
import type { SliceRecord } from "../../../src/topology/records.ts";
import { attributes, driver, gpu, gpus, migBoard, migSlices, nodeRecord, sliceRecord } from "../../builders.ts";

const node = nodeRecord("a");

function keysOf(slices: readonly SliceRecord[]): string[] {
  return assembleInventory(node, slices).devices.map(({ key }) => key);
}

function problemsOf(slices: readonly SliceRecord[]): string[] {
  return assembleInventory(node, slices).problems.map(({ message }) => message);
}

describe("pools", () => {
  test("devices are dense: pools by driver and name, slices by name, devices as listed", () => {
    const half = { resourceSliceCount: 2 };
    const slices = [
      sliceRecord("a", [gpu(9), gpu(2)], { ...half, name: "s2" }),
      sliceRecord("a", [gpu(5)], { ...half, name: "s1" }),
      sliceRecord("a", [gpu(0)], { name: "z", driver: "amd.com" }),
    ];
    const keys = ["amd.com/a/gpu-0", `${driver}/a/gpu-5`, `${driver}/a/gpu-9`, `${driver}/a/gpu-2`];
    expect(keysOf(slices)).toEqual(keys);
    expect(keysOf(slices.toReversed())).toEqual(keys);
    const inventory = assembleInventory(node, slices);
    expect(inventory.devices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect([...inventory.indexOf]).toEqual(keys.map((key, index) => [key, index]));
    expect(inventory.devices.map(({ group }) => group)).toEqual([0, 1, 2, 3]);
  });

  test("only the newest generation counts, even while it is incomplete", () => {
    const old = sliceRecord("a", [gpu(0)], { name: "old", generation: 1 });
    const fresh = sliceRecord("a", [gpu(1)], { name: "new", generation: 2 });
    expect(keysOf([fresh, old])).toEqual([`${driver}/a/gpu-1`]);
    const half = { ...fresh, resourceSliceCount: 2 };
    expect(keysOf([old, half])).toEqual([]);
    expect(problemsOf([old, half])[0]).toContain("generation 2 is incomplete, 1 of 2 slices seen");
  });

  test("one bad pool does not hide another", () => {
    const bad = sliceRecord("a", [gpu(0), gpu(0)], { driver: "bad.example.com" });
    const good = sliceRecord("a", [gpu(0)]);
    expect(keysOf([bad, good])).toEqual([`${driver}/a/gpu-0`]);
    expect(problemsOf([bad, good])).toEqual([
      "pool bad.example.com/a: device gpu-0 is published twice; nothing is allocated from it until its driver corrects it",
    ]);
  });

  const consuming = (counterSet: string, name: string, value: string) =>
    sliceRecord("a", [gpu(0, {}, { consumesCounters: [{ counterSet, counters: { [name]: { value } } }] })], {
      sharedCounters: [{ name: "set", counters: { memory: { value: "80Gi" } } }],
    });

  test.each([
    ["more slices than it says", [sliceRecord("a", []), sliceRecord("a", [], { name: "extra" })], "2 of 1 slices seen"],
    [
      "slices that disagree on their count",
      [sliceRecord("a", []), sliceRecord("a", [], { name: "x", resourceSliceCount: 2 })],
      "disagree about their number",
    ],
    ["unknown counter set", [consuming("other", "memory", "1")], "device gpu-0 consumes unknown counter set other"],
    [
      "unknown counter",
      [consuming("set", "cores", "1")],
      "device gpu-0 consumes unknown counter cores of counter set set",
    ],
    ["counter that is no quantity", [consuming("set", "memory", "much")], '"much" is not a quantity'],
    ["negative counter", [consuming("set", "memory", "-1")], 'counter memory of device gpu-0 is "-1"'],
    ["a counter beyond 2^53", [consuming("set", "memory", "9E")], 'counter memory of device gpu-0 is "9E"'],
    [
      "counter set defined twice",
      [
        sliceRecord("a", [], {
          sharedCounters: [
            { name: "s", counters: {} },
            { name: "s", counters: {} },
          ],
        }),
      ],
      "counter set s is defined twice",
    ],
  ])("nothing is allocated from a pool with %s", (_, slices, message) => {
    expect(keysOf(slices)).toEqual([]);
    expect(problemsOf(slices)).toEqual([expect.stringContaining(message)]);
  });
});

describe("devices that several nodes can reach", () => {
  const inZone = (zone: string) => ({
    nodeSelectorTerms: [{ matchExpressions: [{ key: "zone", operator: "In" as const, values: [zone] }] }],
  });
  const zoned = nodeRecord("a", { labels: { zone: "z1" } });
  const open = (more: Partial<SliceRecord>, devices = [gpu(0)]): SliceRecord => {
    const { nodeName: _, ...slice } = sliceRecord("net", devices);
    return { ...slice, ...more };
  };

  test.each([
    ["for all nodes", open({ allNodes: true }), true],
    ["for nodes that a selector matches", open({ nodeSelector: inZone("z1") }), true],
    ["for other nodes", open({ nodeSelector: inZone("z2") }), false],
    ["one by one, this node's", open({ perDeviceNodeSelection: true }, [gpu(0, {}, { nodeName: "a" })]), true],
    ["one by one, another node's", open({ perDeviceNodeSelection: true }, [gpu(0, {}, { nodeName: "b" })]), false],
    ["of another node", sliceRecord("b", [gpu(0)]), false],
  ])("%s", (_, slice, expected) => {
    const { devices, problems } = assembleInventory(zoned, [slice]);
    expect(devices.some(({ reachable }) => reachable)).toBe(expected);
    expect(problems).toEqual([]);
  });

  test("a pool with slices of two nodes is complete when both are there", () => {
    const slices = [
      sliceRecord("a", [gpu(0)], { name: "x", pool: "p", resourceSliceCount: 2 }),
      sliceRecord("b", [gpu(1)], { name: "y", pool: "p", resourceSliceCount: 2 }),
    ];
    expect(keysOf(slices)).toEqual([`${driver}/p/gpu-0`]);
    expect(problemsOf(slices.slice(0, 1))[0]).toContain("1 of 2 slices seen");
  });

  test("another node's devices stand there for the counters that they take", () => {
    const taking = (index: number, nodeName: string) =>
      gpu(index, {}, { nodeName, consumesCounters: [{ counterSet: "s", counters: { c: { value: "500m" } } }] });
    const slices = [
      open(
        { allNodes: true, resourceSliceCount: 2, sharedCounters: [{ name: "s", counters: { c: { value: "1" } } }] },
        [],
      ),
      open({ name: "d", resourceSliceCount: 2, perDeviceNodeSelection: true }, [taking(0, "a"), taking(1, "b")]),
    ];
    const inventory = assembleInventory(node, slices);
    expect(inventory.devices.map(({ name, reachable, wide }) => [name, reachable, wide])).toEqual([
      ["gpu-0", true, true],
      ["gpu-1", false, true],
    ]);
    expect(inventory.counterCapacity).toEqual([1_000]);
    expect(inventory.devices.map(({ counters }) => counters[0]!.amount)).toEqual([500, 500]);
  });
});

describe("counters", () => {
  test("partitions of one GPU share a group and counters, boards do not", () => {
    const inventory = assembleInventory(node, migSlices("a", [migBoard(0, ["3g"]), migBoard(1, ["3g"])]));
    expect(inventory.devices.map(({ name, group }) => `${name}:${group}`)).toEqual([
      "gpu-0:0",
      "gpu-0-mig-3g-0:0",
      "gpu-0-mig-3g-4:0",
      "gpu-1:1",
      "gpu-1-mig-3g-0:1",
      "gpu-1-mig-3g-4:1",
    ]);
    expect(inventory.counterCapacity).toEqual([7, 1, 1, 1, 1, 1, 1, 1, 1, 7, 1, 1, 1, 1, 1, 1, 1, 1]);
    expect(inventory.devices[5]!.counters).toEqual([
      { counter: 9, amount: 3 },
      ...[14, 15, 16, 17].map((counter) => ({ counter, amount: 1 })),
    ]);
    expect(inventory.groups).toBe(2);
  });

  test("a device that draws on two counter sets joins their groups", () => {
    const take = (counterSet: string) => ({ counterSet, counters: { c: { value: "1" } } });
    const devices = [
      gpu(0, {}, { consumesCounters: [take("x")] }),
      gpu(1, {}, { consumesCounters: [take("y")] }),
      gpu(2, {}, { consumesCounters: [take("x"), take("y")] }),
      gpu(3, {}, { consumesCounters: [take("z")] }),
      gpu(4),
    ];
    const sharedCounters = ["x", "y", "z"].map((name) => ({ name, counters: { c: { value: "2" } } }));
    const inventory = assembleInventory(node, [sliceRecord("a", devices, { sharedCounters })]);
    expect(inventory.devices.map(({ group }) => group)).toEqual([0, 0, 0, 1, 2]);
  });

  test("the shares of a device take its counters once and add up their capacities", () => {
    const shared = gpu(
      0,
      {},
      {
        allowMultipleAllocations: true,
        consumesCounters: [{ counterSet: "s", counters: { c: { value: "1" } } }],
      },
    );
    const sharedCounters = [{ name: "s", counters: { c: { value: "1" } } }];
    const inventory = assembleInventory(node, [sliceRecord("a", [shared], { sharedCounters })]);
    const usage = emptyUsage(inventory);
    const share = new Map([["memory", 3n]]);
    changeUsage(inventory, usage, 0, 1, share);
    changeUsage(inventory, usage, 0, 1, share);
    expect([...usage.shares, ...usage.counterUsed, ...usage.consumed, ...usage.used]).toEqual([2, 1, 6n, 0]);
    changeUsage(inventory, usage, 0, -1, share);
    expect([...usage.shares, ...usage.counterUsed, ...usage.consumed]).toEqual([1, 1, 3n]);
    changeUsage(inventory, usage, 0, -1, share);
    expect(usage).toEqual(emptyUsage(inventory));
  });

  test("taking a device and giving it back cancels out", () => {
    const inventory = assembleInventory(node, migSlices("a", [migBoard(0)]));
    const usage = emptyUsage(inventory);
    const device = inventory.indexOf.get(`${driver}/a/gpu-0-mig-3g-4`)!;
    changeUsage(inventory, usage, device, 1);
    expect([...usage.counterUsed]).toEqual([3, 0, 0, 0, 0, 1, 1, 1, 1]);
    expect(usage.used[device]).toBe(1);
    changeUsage(inventory, usage, device, -1);
    expect(usage).toEqual(emptyUsage(inventory));
    expect(() => changeUsage(inventory, usage, 999, 1)).toThrow("node a has no device of index 999");
  });
});

test("attribute values carry their type, and the driver is the default domain", () => {
  const values = { plain: "x", [`${driver}/full`]: 1, "other.example.com/b": true, v: "v1.2.3" };
  const inventory = assembleInventory(node, [sliceRecord("a", [{ name: "d", attributes: attributes(values) }])]);
  const [entry] = inventory.devices;
  const textOf = (name: string) => attributeValue(entry!, name);
  expect(textOf(`${driver}/plain`)).toBe("string:x");
  expect(textOf(`${driver}/full`)).toBe("int:1");
  expect(textOf("other.example.com/b")).toBe("bool:true");
  expect(textOf(`${driver}/v`)).toBe("version:1.2.3");
  expect(textOf("other.example.com/plain")).toBeUndefined();
  expect(textOf(`${driver}/none`)).toBeUndefined();
});

test("a node without slices has an empty inventory", () => {
  expect(assembleInventory(node, [])).toMatchObject({ devices: [], groups: 0, problems: [] });
  expect(assembleInventory(node, [sliceRecord("a", gpus(0))]).problems).toEqual([]);
});
