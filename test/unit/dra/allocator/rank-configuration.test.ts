import { expect, test } from "vitest";
import { withRankOrder } from "../../../../src/dra/allocator/rank-configuration.ts";
import type { DeviceEntry } from "../../../../src/topology/inventory.ts";

const entry = (name: string, index: number, driver = "gpu.kllama.ai") => ({ name, index, driver }) as DeviceEntry;
const opaque = (n: number) => ({ driver: "gpu.kllama.ai", parameters: { n } });
const ranks = (...rankOrder: string[]) => ({
  source: "FromClaim",
  requests: [],
  opaque: {
    driver: "gpu.kllama.ai",
    parameters: { apiVersion: "gpu.kllama.ai/v1alpha1", kind: "DeviceConfig", rankOrder },
  },
});

test("ranks follow the inventory, in which neighbours are close", () => {
  const devices = [entry("gpu-3", 1), entry("gpu-0", 0), entry("gpu-1", 2)];
  expect(withRankOrder({ devices: {} }, devices).devices?.config).toEqual([ranks("gpu-0", "gpu-3", "gpu-1")]);
});

test("the class's configuration comes before, the claim's own after, so that it overrules", () => {
  const config = [
    { source: "FromClass" as const, opaque: opaque(1) },
    { source: "FromClaim" as const, opaque: opaque(2) },
  ];
  const ordered = withRankOrder({ devices: { config } }, [entry("a", 1), entry("b", 0)]);
  expect(ordered.devices?.config).toEqual([config[0], ranks("b", "a"), config[1]]);
});

test.for([
  ["one device", [entry("a", 0)]],
  ["one device that is given twice", [entry("a", 0), entry("a", 0)]],
  ["devices of another driver", [entry("a", 0, "gpu.nvidia.com"), entry("b", 1, "gpu.nvidia.com")]],
] as const)("%s needs no order", ([, devices]) => {
  const allocation = { devices: { results: [] } };
  expect(withRankOrder(allocation, devices)).toBe(allocation);
});
