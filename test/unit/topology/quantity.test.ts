import { describe, expect, test } from "vitest";
import { addResources, parseMilli, parseNano, parseQuantity } from "../../../src/topology/quantity.ts";

describe("parseQuantity", () => {
  test.each([
    ["0", 0],
    ["1", 1],
    ["+7", 7],
    ["-3", -3],
    ["007", 7],
    ["1.5", 2],
    ["-1.5", -1],
    [".5", 1],
    ["5.", 5],
    ["100m", 1],
    ["1001m", 2],
    ["80Gi", 80 * 2 ** 30],
    ["1.5Gi", 1.5 * 2 ** 30],
    ["0.5Ki", 512],
    ["8388607Gi", 8388607 * 2 ** 30],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
    ["2k", 2_000],
    ["2M", 2_000_000],
    ["2e3", 2_000],
    ["2E3", 2_000],
    ["2E-3", 1],
    ["3n", 1],
    ["0.0000000001", 1],
  ])("%s is %d base units", (text, units) => {
    expect(parseQuantity(text)).toBe(units);
  });

  test.each([
    "",
    " 1",
    "1 ",
    "abc",
    "1x",
    "1KiB",
    "1ki",
    "--1",
    "1e",
    "1Ee3",
    "0x10",
    "Infinity",
    "1,5",
    ".",
    "+",
    "1e9999",
  ])("%j is refused with the text in the message", (text) => {
    expect(() => parseQuantity(text)).toThrow(`${JSON.stringify(text)} is not a quantity`);
  });

  test("what does not fit into 2^53 is refused rather than rounded", () => {
    expect(() => parseQuantity("8Pi")).toThrow("beyond 2^53");
    expect(() => parseQuantity("8388608Gi")).toThrow("beyond 2^53");
    expect(parseNano("8Pi")).toBe(2n ** 53n * 1_000_000_000n);
  });

  test("a huge text is refused at once, and shown in part", () => {
    expect(() => parseQuantity("9".repeat(100_000))).toThrow(/^"9{80}…" is not a quantity/);
  });
});

test.each([
  ["1", 1_000],
  ["100m", 100],
  ["0.1", 100],
  ["1u", 1],
  ["64", 64_000],
])("%s is %d thousandths", (text, milli) => {
  expect(parseMilli(text)).toBe(milli);
});

test("beyond 2^63 - 1 a quantity is capped, as Kubernetes caps it", () => {
  expect(parseNano("100E")).toBe((2n ** 63n - 1n) * 1_000_000_000n);
  expect(parseNano("-100Ei")).toBe(-(2n ** 63n - 1n) * 1_000_000_000n);
});

test("resources are added by name", () => {
  expect(addResources({ cpu: 1, memory: 2 }, { cpu: 3, pods: 1 })).toEqual({ cpu: 4, memory: 2, pods: 1 });
});
