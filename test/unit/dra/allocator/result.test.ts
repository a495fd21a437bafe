import { expect, test } from "vitest";
import type { ResourceClaimSpec } from "../../../../src/api/kubernetes.ts";
import { toAllocation } from "../../../../src/dra/allocator/result.ts";
import { assembleInventory } from "../../../../src/topology/inventory.ts";
import { claimSpec, deviceClass, driver, exactly, gpu, gpus, nodeRecord, sliceRecord } from "../../../builders.ts";

const opaque = (value: string) => ({ opaque: { driver, parameters: { value } } });
const classes = new Map(
  [
    { ...deviceClass("gpu.kllama.ai"), config: [opaque("class-1"), opaque("class-2")] },
    { ...deviceClass("other"), config: [opaque("other")] },
    deviceClass("plain"),
  ].map((one) => [one.name, one]),
);
const conditions = { bindingConditions: ["ready"], bindingFailureConditions: ["failed"] };
const inventory = assembleInventory(nodeRecord("n"), [sliceRecord("n", [...gpus(2), gpu(2, {}, conditions)])]);

function allocationOf(spec: ResourceClaimSpec, ...placed: [string, number][]) {
  const devices = placed.map(([request, device]) => ({ request, device: inventory.devices[device]! }));
  return toAllocation(spec, classes, devices, "n", "2026-11-20T10:00:00Z");
}

test("the least: results, the node, the time in whole seconds, and nothing that is empty", () => {
  const spec = claimSpec([exactly("gpus", 2, { deviceClassName: "plain" })]);
  expect(allocationOf(spec, ["gpus", 0], ["gpus", 1])).toStrictEqual({
    devices: {
      results: [
        { request: "gpus", driver, pool: "n", device: "gpu-0" },
        { request: "gpus", driver, pool: "n", device: "gpu-1" },
      ],
    },
    nodeSelector: {
      nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: ["n"] }] }],
    },
    allocationTimestamp: "2026-11-20T10:00:00Z",
  });
});

test("tolerations come from the request, binding conditions from the device", () => {
  const tolerations = [{ key: "gpu.kllama.ai/xid", operator: "Exists" as const }];
  const { devices } = allocationOf(claimSpec([exactly("a", 1, { tolerations }), exactly("b", 1)]), ["a", 0], ["b", 2]);
  expect(devices?.results).toStrictEqual([
    { request: "a", driver, pool: "n", device: "gpu-0", tolerations },
    { request: "b", driver, pool: "n", device: "gpu-2", ...conditions },
  ]);
});

test("a class's configuration stands once, for all requests of the class, before the claim's own", () => {
  const spec: ResourceClaimSpec = {
    devices: {
      requests: [exactly("a", 1), exactly("o", 1, { deviceClassName: "other" }), exactly("b", 1)],
      config: [opaque("all"), { ...opaque("b only"), requests: ["b"] }],
    },
  };
  expect(allocationOf(spec, ["a", 0], ["o", 1], ["b", 2]).devices?.config).toStrictEqual([
    { source: "FromClass", requests: ["a", "b"], ...opaque("class-1") },
    { source: "FromClass", requests: ["a", "b"], ...opaque("class-2") },
    { source: "FromClass", requests: ["o"], ...opaque("other") },
    { source: "FromClaim", ...opaque("all") },
    { source: "FromClaim", ...opaque("b only"), requests: ["b"] },
  ]);
});

test("of firstAvailable only the chosen subrequest's tolerations, class and configuration count", () => {
  const tolerations = [{ operator: "Exists" as const }];
  const firstAvailable = [
    { name: "big", deviceClassName: "other", tolerations },
    { name: "small", deviceClassName: "gpu.kllama.ai" },
  ];
  const config = [
    { ...opaque("for big"), requests: ["r/big"] },
    { ...opaque("for small"), requests: ["r/small"] },
    { ...opaque("for any"), requests: ["r"] },
  ];
  const spec: ResourceClaimSpec = { devices: { requests: [{ name: "r", firstAvailable }], config } };
  const { devices } = allocationOf(spec, ["r/small", 0]);
  expect(devices?.results).toStrictEqual([{ request: "r/small", driver, pool: "n", device: "gpu-0" }]);
  expect(devices?.config?.map((one) => one.opaque?.parameters)).toEqual(
    ["class-1", "class-2", "for small", "for any"].map((value) => ({ value })),
  );
  expect(allocationOf(spec, ["r/big", 0]).devices?.results).toMatchObject([{ request: "r/big", tolerations }]);
});
