import { describe, expect, test } from "vitest";
import type { Device } from "../../../../../src/api/kubernetes.ts";
import { compileExpression } from "../../../../../src/dra/allocator/cel/expression.ts";
import { assembleInventory } from "../../../../../src/topology/inventory.ts";
import { attributes, nodeRecord, sliceRecord } from "../../../../builders.ts";

const device: Device = {
  name: "gpu-0",
  attributes: attributes({
    type: "gpu",
    productName: "NVIDIA H100 80GB HBM3",
    index: 3,
    healthy: true,
    broken: false,
    driverVersion: "v575.57.8",
    "resource.kubernetes.io/numaNode": 0,
    "resource.kubernetes.io/pcieRoot": "pci0000:1a",
    "other.example.com/type": "nic",
  }),
  capacity: { memory: { value: "80Gi" }, "other.example.com/bandwidth": { value: "400G" } },
};

function verdictOf(expression: string, of: Device = device) {
  const compiled = compileExpression(expression);
  if ("problem" in compiled) return `refused: ${compiled.problem}`;
  const [entry] = assembleInventory(nodeRecord("n"), [sliceRecord("n", [of])]).devices;
  const verdict = compiled.matches(entry!);
  return typeof verdict === "boolean" ? verdict : `error: ${verdict.error}`;
}

const own = 'device.attributes["gpu.kllama.ai"]';
const memory = 'device.capacity["gpu.kllama.ai"].memory';

describe("a device is selected by", () => {
  test.each([
    "true",
    'device.driver == "gpu.kllama.ai"',
    'device.driver.startsWith("gpu.") && device.driver.endsWith(".ai")',
    `${own}.type == "gpu"`,
    `${own}["type"] == "gpu"`,
    `${own}.healthy`,
    `!${own}.broken`,
    `${own}.index > 2 && ${own}.index <= 3 && ${own}.index != 4`,
    `${own}.index >= 2.5`,
    `${own}.index in [1, 3]`,
    `${own}.productName.matches("H(100|200)")`,
    `matches(${own}.productName, "^NVIDIA")`,
    `${own}.productName.lowerAscii().contains("h100")`,
    `${own}.productName.split(" ").size() == 4`,
    `${own}.productName.find("[0-9]+GB") == "80GB"`,
    `${own}.productName.replace("NVIDIA ", "").charAt(0) == "H"`,
    'device.attributes["resource.kubernetes.io"].numaNode == 0',
    'device.attributes["other.example.com"].type == "nic"',
    '"other.example.com" in device.attributes && !("absent.example.com" in device.attributes)',
    `"type" in ${own} && !("none" in ${own})`,
    '!("none" in device.attributes["absent.example.com"])',
    `has(${own}.type) && !has(${own}.none) && !has(device.attributes["absent.example.com"].none)`,
    `!has(${own}.none) || ${own}.none == 1`,
    `${own}.?none.orValue("x") == "x"`,
    `${own}[?"index"].orValue(0) == 3`,
    `device.attributes[?"absent.example.com"].?none.hasValue() == false`,
    `cel.bind(a, ${own}, a.type == "gpu" && has(a.index) && "type" in a)`,
    "device.attributes.exists_one(d, d == 'other.example.com')",
    `${own}.exists(name, name == "index")`,
    `${own}.all(name, name in ${own})`,
    `["gpu", "mig"].exists(t, t == ${own}.type)`,
    "[1, 2, 3].map(x, x * 2).filter(x, x > 2).size() == 2",
    "[3, 1, 2].max() == 3 && [3, 1, 2].min() == 1 && [1, 2].sum() == 3 && [1, 2].isSorted()",
    "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && ['b', 'a'].max() == 'b'",
    `${memory}.isGreaterThan(quantity("40Gi")) && ${memory}.isLessThan(quantity("81Gi"))`,
    `${memory}.compareTo(quantity("80Gi")) == 0 && ${memory} == quantity("81920Mi")`,
    `${memory}.compareTo(quantity("80G")) == 1 && sign(quantity("1").sub(2)) == -1`,
    `${memory}.sub(quantity("79Gi")).add(1).asInteger() == 1073741825`,
    `quantity("500m").asApproximateFloat() == 0.5 && !quantity("500m").isInteger()`,
    `isQuantity("1Gi") && !isQuantity("1GiB")`,
    'device.capacity["other.example.com"].bandwidth == quantity("400G")',
    `${own}.driverVersion.isGreaterThan(semver("575.57.7"))`,
    `${own}.driverVersion.compareTo(semver("v575.57.08", true)) == 0 && ${own}.driverVersion == semver("575.57.8+x")`,
    `${own}.driverVersion.major() == 575 && ${own}.driverVersion.isLessThan(semver("576.0.0-rc.1"))`,
    'isSemver("1.2.3") && !isSemver("v1.2") && isSemver("v1.2", true) && !isSemver("1.2-rc", true)',
    'semver("1.0.0-rc.2").isLessThan(semver("1.0.0-rc.10")) && semver("1.0.0-rc").isLessThan(semver("1.0.0"))',
    'semver("1.0.0-1").isLessThan(semver("1.0.0-a")) && semver("1.0.0-a").isLessThan(semver("1.0.0-a.0"))',
    "device.allowMultipleAllocations == false",
    `${own}.none == 1 || true`,
    `int("3") == ${own}.index && string(${own}.index) == "3"`,
    `size(device.attributes) == 3 && type(device.driver) == string`,
  ])("%s", (expression) => {
    expect(verdictOf(expression)).toBe(true);
  });
});

describe("a device is not selected by", () => {
  test.each([
    "false",
    'device.driver == "gpu.nvidia.com"',
    `${own}.type == "mig"`,
    `${own}.type == 4`,
    `has(device.attributes["gpu.nvidia.com"].type) && device.attributes["gpu.nvidia.com"].type == "gpu"`,
    `device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"`,
    `${memory}.isLessThan(quantity("80Gi"))`,
    `${own}.index > 3`,
  ])("%s", (expression) => {
    expect(verdictOf(expression)).toBe(false);
  });
});

describe("an error on the device, with its cause, comes from", () => {
  test.each([
    [`${own}.none == 1`, "No such key: none"],
    ['device.attributes["absent.example.com"].type == "gpu"', "No such key: type"],
    ['device.capacity["absent.example.com"].memory.isGreaterThan(quantity("1"))', "No such key: memory"],
    [`${own}.type`, "result is not a bool but string"],
    [`${own}.index.startsWith("3")`, "int.startsWith"],
    [`${memory}.isGreaterThan(quantity("lots"))`, '"lots" is not a quantity'],
    [`${own}.driverVersion.isGreaterThan(semver("1.2"))`, '"1.2" is not a semantic version'],
    [`${own}.driverVersion == "575.57.8"`, 'compare it with semver("1.2.3")'],
    [`quantity("500m").asInteger() == 0`, "cannot convert value to integer"],
    [`${own}.type.matches("(" + ${own}.type)`, "missing closing )"],
  ])("%s", (expression, cause) => {
    expect(verdictOf(expression)).toMatch(/^error: /);
    expect(verdictOf(expression)).toContain(cause);
  });

  test.each([
    [{ attributes: { a: {} } }, "attribute a: unsupported attribute value"],
    [{ attributes: { a: { version: "1.2" } } }, "attribute a: 1.2 is not a semantic version"],
    [{ attributes: { a: { int: 1.5 } } }, "1.5"],
    [{ capacity: { c: { value: "1Qi" } } }, '"1Qi" is not a quantity'],
  ])("a device that cannot be read: %j", (broken, cause) => {
    expect(verdictOf("device.driver == 'gpu.kllama.ai'", { name: "x", ...broken })).toContain(`error: `);
    expect(verdictOf("device.driver == 'gpu.kllama.ai'", { name: "x", ...broken })).toContain(cause);
  });
});

describe("an expression is refused, with its fault, when it is", () => {
  test.each([
    ["?!", "Unexpected token"],
    ["", "Unexpected token"],
    ["1", "it must evaluate to bool, not int"],
    ["'gpu'", "it must evaluate to bool, not string"],
    ["gpu == 1", "Unknown variable: gpu"],
    ["device.name == 'gpu-0'", "No such key: name"],
    ["frobnicate(device)", "frobnicate"],
    [`${own}.type.matches("(")`, "missing closing )"],
    [`${own}.type.frobnicate()`, "frobnicate"],
    ["device.driver == 4", "no such overload: string == int"],
    ["device.driver + 1 == 'x'", "no such overload: string + int"],
    ["authorizer.group('').resource('pods').check('get').allowed()", "Unknown variable: authorizer"],
    ["true && ".repeat(2_000).concat("true"), "characters, more than 10240"],
  ])("%s", (expression, fault) => {
    expect(verdictOf(expression)).toMatch(/^refused: /);
    expect(verdictOf(expression)).toContain(fault);
  });
});

test("a pattern that would keep a backtracking engine busy for ever costs nothing", () => {
  const text = `${"a".repeat(200)}!`;
  expect(verdictOf(`"${text}".matches("^(a+)+$")`)).toBe(false);
});

test.each(["==", "in"])("operands of %s are evaluated once, however deep they are nested", (operator) => {
  const nested = (depth: number): string =>
    depth === 0 ? `${own}.healthy` : `(${nested(depth - 1)} ${operands[operator]})`;
  const operands: Record<string, string> = { "==": "== true", in: "in [true]" };
  expect(verdictOf(nested(20))).toBe(true);
});

test("a verdict is remembered per device, and not mixed up between drivers", () => {
  const compiled = compileExpression('device.driver == "a.example.com"');
  if ("problem" in compiled) throw new Error(compiled.problem);
  const entryOf = (driver: string) =>
    assembleInventory(nodeRecord("n"), [sliceRecord("n", [device], { driver })]).devices[0]!;
  const [a, b] = [entryOf("a.example.com"), entryOf("b.example.com")];
  expect([a, b, a, b].map((entry) => compiled.matches(entry))).toEqual([true, false, true, false]);
});
