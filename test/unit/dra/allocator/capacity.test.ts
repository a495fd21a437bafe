import { describe, expect, test } from "vitest";
import type { CapacityRequestPolicy } from "../../../../src/api/kubernetes.ts";
import { consumptionOf } from "../../../../src/dra/allocator/capacity.ts";
import { shareId } from "../../../../src/dra/allocator/share-id.ts";
import { formatNano, parseNano } from "../../../../src/topology/quantity.ts";

function consumed(requested: string | undefined, requestPolicy?: CapacityRequestPolicy): string | undefined {
  const requests = new Map(requested === undefined ? [] : [["memory", parseNano(requested)]]);
  const amount = consumptionOf(requests, {
    memory: { value: "80Gi", ...(requestPolicy === undefined ? {} : { requestPolicy }) },
  })?.get("memory");
  return amount === undefined ? undefined : formatNano(amount);
}

const range = { default: "10Gi", validRange: { min: "5Gi", max: "40Gi", step: "5Gi" } };
const values = { default: "1Gi", validValues: ["1Gi", "4Gi", "64Gi"] };

describe("of 80Gi, a request takes", () => {
  test.each([
    ["nothing said, without a policy: all", undefined, undefined, "80Gi"],
    ["what it says, without a policy", "7Gi", undefined, "7Gi"],
    ["never more than there is", "81Gi", undefined, undefined],
    ["nothing said: the default", undefined, range, "10Gi"],
    ["at least the least", "1", range, "5Gi"],
    ["whole steps", "11Gi", range, "15Gi"],
    ["the most", "40Gi", range, "40Gi"],
    ["no more than the most", "41Gi", range, undefined],
    ["one of the values", "2Gi", values, "4Gi"],
    ["a value itself", "4Gi", values, "4Gi"],
    ["no more than the last value", "65Gi", values, undefined],
    ["anything from a least value on", "1500Mi", { validRange: { min: "1Gi" } }, "1500Mi"],
  ] as const)("%s", (_, requested, policy, expected) => {
    expect(consumed(requested, policy as CapacityRequestPolicy | undefined)).toBe(expected);
  });
});

test("a capacity that the device lacks is not there to be taken", () => {
  expect(consumptionOf(new Map([["constructor", 1n]]), { memory: { value: "1" } })).toBeUndefined();
});

test("the ID of a share is a UUID that says who has what", () => {
  const ids = [shareId("c", "r", "d/p/n"), shareId("c", "s", "d/p/n"), shareId("e", "r", "d/p/n")];
  expect(new Set(ids).size).toBe(3);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(shareId("c", "r", "d/p/n")).toBe(ids[0]);
});

test.each(["0", "1", "10Gi", "1536Mi", "1500m", "1u", "3n", "200G", "400k", "-2Ki"])(
  "%s is written as it was read",
  (text) => {
    expect(formatNano(parseNano(text))).toBe(text);
  },
);
