import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Device, ResourceSlice } from "../../../src/api/kubernetes.ts";
import { type Fleet, parseFleet, uniformFleet } from "../../../src/simulator/fleet.ts";
import { migBoards, migGeometry } from "../../../src/simulator/mig.ts";
import { fleetNodes, nameUuid, nodeManifest, nodeSlices, type SimulatedNode } from "../../../src/simulator/objects.ts";

const fleet = parseFleet(readFileSync("fleets/default.yaml", "utf8"), "default.yaml");
const nodes = fleetNodes(fleet);
const options = { nodeUid: "uid-1", generation: 1 };

function nodeOf(type: string): SimulatedNode {
  return nodes.find((node) => node.type.name === type)!;
}

function devicesOf(slices: readonly ResourceSlice[]): Device[] {
  return slices.flatMap((slice) => slice.spec.devices ?? []);
}

function attribute(device: Device, name: string): unknown {
  return Object.values(device.attributes?.[name] ?? {})[0];
}

/** Upstream's rules for the slices of one pool, independent of the code that builds them. */
function checkPool(slices: readonly ResourceSlice[]): void {
  const counters = new Map<string, Record<string, { value: string }>>();
  for (const { spec } of slices) {
    expect(spec.pool).toEqual({ name: spec.nodeName, generation: 1, resourceSliceCount: slices.length });
    expect(spec.sharedCounters === undefined).not.toBe(spec.devices === undefined);
    expect(spec.sharedCounters?.length ?? 0).toBeLessThanOrEqual(8);
    for (const set of spec.sharedCounters ?? []) {
      expect(counters.has(set.name)).toBe(false);
      expect(Object.keys(set.counters).length).toBeLessThanOrEqual(32);
      counters.set(set.name, set.counters);
    }
    const counted = spec.devices?.some((d) => d.consumesCounters !== undefined || d.taints !== undefined);
    expect(spec.devices?.length ?? 0).toBeLessThanOrEqual(counted ? 64 : 128);
  }
  const devices = devicesOf(slices);
  expect(new Set(devices.map((device) => device.name)).size).toBe(devices.length);
  for (const device of devices) {
    expect(device.name).toMatch(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/);
    const fields = Object.keys(device.attributes ?? {}).length + Object.keys(device.capacity ?? {}).length;
    expect(fields).toBeLessThanOrEqual(32);
    for (const value of Object.values(device.attributes ?? {})) {
      expect(Object.keys(value)).toHaveLength(1);
      expect((value.string ?? "").length).toBeLessThanOrEqual(64);
    }
    for (const { counterSet, counters: consumed } of device.consumesCounters ?? []) {
      for (const name of Object.keys(consumed)) expect(counters.get(counterSet)).toHaveProperty([name]);
    }
  }
}

test("every pool of the default fleet keeps upstream's rules, in 100 slices", () => {
  const pools = nodes.map((node) => nodeSlices(node, options));
  for (const pool of pools) checkPool(pool);
  expect(pools.flat()).toHaveLength(36 + 16 + 8 + 8 * 5);
  expect(new Set(pools.flat().map((slice) => slice.metadata.name)).size).toBe(100);
});

test("names sort as the devices are meant to be used", () => {
  const names = nodeSlices(nodeOf("dgx-a100-mig"), options).map((slice) => slice.metadata.name);
  expect(names.toSorted()).toEqual(names);
  expect(names[0]).toBe("a100-0-00-gpu.kllama.ai-00000");
});

test("same names, same objects; other names, other UUIDs", () => {
  const again = fleetNodes(structuredClone(fleet));
  expect(again.map((n) => nodeSlices(n, options))).toEqual(nodes.map((n) => nodeSlices(n, options)));
  const gpus = nodes.flatMap((n) => devicesOf(nodeSlices(n, options))).filter((d) => attribute(d, "type") === "gpu");
  expect(new Set(gpus.map((gpu) => attribute(gpu, "uuid"))).size).toBe(368);
  expect(nameUuid("a")).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(nameUuid("nvl72-0-00/gpu-0")).toBe("e589dcc1-0f91-552e-a5e9-962838826581");
});

describe("NVLink domains", () => {
  const domains = (picked: readonly SimulatedNode[]): Map<unknown, number> => {
    const sizes = new Map<unknown, number>();
    for (const gpu of picked.flatMap((node) => devicesOf(nodeSlices(node, options)))) {
      const domain = attribute(gpu, "nvlinkDomain");
      if (domain !== undefined) sizes.set(domain, (sizes.get(domain) ?? 0) + 1);
    }
    return sizes;
  };

  test.each([
    ["gb200-nvl72", 2, 72],
    ["dgx-h100", 16, 8],
    ["dgx-a100-mig", 8, 8],
    ["h100-pcie", 16, 2],
  ])("%s: %i domains of %i GPUs", (type, count, size) => {
    const sizes = domains(nodes.filter((node) => node.type.name === type));
    expect([...sizes.values()]).toEqual(Array(count).fill(size));
  });

  test("the clique stands on devices and as node label in NVL72 racks only", () => {
    for (const node of nodes) {
      const [gpu] = devicesOf(nodeSlices(node, options));
      const label = nodeManifest(node).metadata.labels?.["nvidia.com/gpu.clique"];
      expect(attribute(gpu!, "clique")).toBe(label);
      expect(label === undefined).toBe(node.type.nvlink !== "rack");
    }
  });

  test("bridge mates stand side by side even when the slots do not", () => {
    const type = nodeOf("h100-pcie").type;
    const slots = type.slots.map((slot, index) => ({ ...slot, bridge: index % 2 }));
    const crossed: Fleet = { ...fleet, nodeTypes: [{ ...type, slots }], racks: [fleet.racks.at(-1)!] };
    const devices = devicesOf(nodeSlices(fleetNodes(crossed)[0]!, options));
    expect(devices.map((device) => device.name)).toEqual(["gpu-0", "gpu-2", "gpu-1", "gpu-3"]);
  });

  test("a partition has no NVLink domain", () => {
    const partitions = devicesOf(nodeSlices(nodeOf("dgx-a100-mig"), options)).filter(
      (d) => attribute(d, "type") === "mig",
    );
    expect(partitions).toHaveLength(8 * 25);
    expect(partitions.filter((device) => device.attributes?.["nvlinkDomain"] !== undefined)).toEqual([]);
  });
});

describe("MIG counters", () => {
  const slices = nodeSlices(nodeOf("dgx-a100-mig"), options);
  const capacity = slices.flatMap((slice) => slice.spec.sharedCounters ?? []).find((s) => s.name.startsWith("gpu-0"))!;
  const devices = devicesOf(slices).filter((device) => /^gpu-0(-|$)/.test(device.name));

  /** Counters of GPU 0 that the devices exceed. */
  const exceeded = (names: readonly string[]): string[] => {
    const left = Object.fromEntries(
      Object.entries(capacity.counters).map(([name, { value }]) => [name, amount(value)]),
    );
    for (const name of names) {
      const device = devices.find((candidate) => candidate.name === name);
      expect(device, name).toBeDefined();
      for (const [counter, { value }] of Object.entries(device?.consumesCounters?.[0]?.counters ?? {})) {
        left[counter] = left[counter]! - amount(value);
      }
    }
    return Object.keys(left).filter((name) => left[name]! < 0);
  };

  const ones = [0, 1, 2, 3, 4, 5, 6].map((start) => `gpu-0-mig-1g10gb-19-${start}`);

  test.each<[string, string[], string[]]>([
    ["seven 1g", ones, []],
    ["3g + 3g", ["gpu-0-mig-3g40gb-9-0", "gpu-0-mig-3g40gb-9-4"], []],
    ["4g + 3g", ["gpu-0-mig-4g40gb-5-0", "gpu-0-mig-3g40gb-9-4"], []],
    ["three 2g + 1g", [0, 2, 4].map((s) => `gpu-0-mig-2g20gb-14-${s}`).concat("gpu-0-mig-1g10gb-19-6"), []],
    ["four 1g.20gb", [0, 2, 4, 6].map((s) => `gpu-0-mig-1g20gb-15-${s}`), []],
    ["the whole board", ["gpu-0"], []],
    ["7g is the whole board", ["gpu-0-mig-7g80gb-0-0"], []],
    ["4g + 3g at 0", ["gpu-0-mig-4g40gb-5-0", "gpu-0-mig-3g40gb-9-0"], ["memory-slice-0"]],
    ["1g + media, twice", ["gpu-0-mig-1g10gb-me-20-0", "gpu-0-mig-1g10gb-me-20-1"], ["jpeg-engines", "ofa-engines"]],
  ])("%s", (_, names, expected) => {
    const over = exceeded(names);
    if (expected.length === 0) expect(over).toEqual([]);
    else expect(over).toEqual(expect.arrayContaining(expected));
  });

  test("the GPU and any partition exclude each other", () => {
    for (const partition of devices.slice(1)) expect(exceeded(["gpu-0", partition.name])).not.toEqual([]);
  });

  test("after seven 1g no other partition fits", () => {
    for (const device of devices.filter((candidate) => !ones.includes(candidate.name))) {
      expect(exceeded([...ones, device.name]), device.name).not.toEqual([]);
    }
  });
});

test.each(migBoards)("%s: no set that the counters allow exceeds 7 compute or 8 memory slices", (board) => {
  const { profiles } = migGeometry(board);
  const placements = profiles.flatMap((profile) => profile.starts.map((start) => ({ profile, start })));
  const whole = profiles.at(-1)!.amounts;
  let sets = 0;
  const extend = (from: number, taken: number, compute: number, left: typeof whole): void => {
    sets++;
    expect(compute).toBeLessThanOrEqual(7);
    for (const [index, { profile, start }] of placements.entries()) {
      const mask = ((1 << profile.memorySlices) - 1) << start;
      expect(mask).toBeLessThan(1 << 8);
      if (index < from || (taken & mask) !== 0) continue;
      const rest = Object.fromEntries(
        Object.entries(left).map(([name, value]) => [name, value - profile.amounts[name as keyof typeof whole]]),
      ) as unknown as typeof whole;
      if (Object.values(rest).every((value) => value >= 0)) {
        extend(index + 1, taken | mask, compute + profile.computeSlices, rest);
      }
    }
  };
  extend(0, 0, 0, whole);
  expect(sets).toBeGreaterThan(100);
});

describe("lost devices", () => {
  const since = "2026-01-01T00:00:00Z";

  test("a tainted GPU keeps its place, and its partitions are lost with it", () => {
    const slices = nodeSlices(nodeOf("dgx-a100-mig"), { ...options, losses: { "gpu-1": { how: "taint", since } } });
    checkPool(slices);
    const tainted = devicesOf(slices).filter((device) => device.taints !== undefined);
    expect(tainted).toHaveLength(26);
    expect(tainted.every((device) => /^gpu-1(-|$)/.test(device.name))).toBe(true);
    expect(tainted[0]?.taints).toEqual([{ key: "gpu.kllama.ai/gpu-lost", effect: "NoExecute", timeAdded: since }]);
  });

  test("a removed partition takes nothing else along", () => {
    const losses = { "gpu-1-mig-1g10gb-19-0": { how: "remove", since } } as const;
    const healthy = devicesOf(nodeSlices(nodeOf("dgx-a100-mig"), options));
    const left = devicesOf(nodeSlices(nodeOf("dgx-a100-mig"), { ...options, losses }));
    expect(left).toEqual(healthy.filter((device) => device.name !== "gpu-1-mig-1g10gb-19-0"));
  });

  test("a node without devices still publishes its pool", () => {
    const lost = Object.fromEntries([0, 1, 2, 3].map((i) => [`gpu-${i}`, { how: "remove", since } as const]));
    const slices = nodeSlices(nodeOf("h100-pcie"), { ...options, losses: lost });
    expect(slices.map((slice) => slice.spec.devices)).toEqual([[]]);
  });
});

test("a node says that it is simulated and is ready from the start", () => {
  const node = nodeManifest(fleetNodes(uniformFleet({ nodes: 1 }))[0]!);
  expect(node.metadata.labels).toMatchObject({
    "simulator.kllama.ai/node": "true",
    "topology.kubernetes.io/zone": "sim-zone-a",
    "fabric.topograph.run/tier-1": "block-000",
    "fabric.topograph.run/tier-0": "rack-0000",
  });
  expect(node.metadata.annotations?.["simulator.kllama.ai/node"]).toMatch(/^Simulated by kllama/);
  expect(node.status.conditions.find((condition) => condition.type === "Ready")?.status).toBe("True");
  expect(node.status.allocatable).toMatchObject({ cpu: "192", memory: "1920Gi", pods: "110" });
  for (const value of Object.values(node.metadata.labels ?? {})) {
    expect(value).toMatch(/^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/);
  }
});

function amount(quantity: string): number {
  const [, digits, unit] = /^(\d+)(Mi|Gi)?$/.exec(quantity)!;
  return Number(digits) * (unit === "Gi" ? 1024 : 1);
}
