import { describe, expect, test } from "vitest";
import { compileExpression } from "../../../../../src/dra/allocator/cel/expression.ts";

const d = 'device.attributes["gpu.kllama.ai"]';

describe("an expression", () => {
  test.each<[string, string, string[]]>([
    ["compares the driver", 'device.driver == "gpu.kllama.ai"', []],
    ["compares one attribute", `${d}.type == "gpu"`, ["type"]],
    ["names the attribute as a key", `${d}["type"] == "gpu"`, ["type"]],
    ["guards with has", `has(${d}.uuid) && ${d}.uuid == "x"`, ["uuid"]],
    ["guards with in", `"uuid" in ${d} && ${d}.index > 1`, ["index", "uuid"]],
    ["asks for a domain", `"gpu.kllama.ai" in device.attributes`, []],
    ["compares capacity", `device.capacity["gpu.kllama.ai"].memory.isGreaterThan(quantity("1Gi"))`, []],
    ["calls a method", `${d}.productName.lowerAscii().contains("h100")`, ["productName"]],
    ["binds a value", `cel.bind(name, ${d}.productName, name == "a" || name == "b")`, ["productName"]],
    ["asks for shares", "device.allowMultipleAllocations", []],
  ])("that %s reads what it names", (_, text, names) => {
    expect(compileExpression(text)).toMatchObject({ reads: names });
  });

  test.each([
    ["walks over attributes", `${d}.exists(name, name == "uuid")`],
    ["binds all attributes", `cel.bind(all, ${d}, all.type == "gpu")`],
    ["makes up a name", `${d}["u" + "uid"] == "x"`],
    ["makes up a domain", 'device.attributes["gpu." + "kllama.ai"].type == "gpu"'],
    ["walks over domains", 'device.attributes.exists(domain, domain.startsWith("gpu"))'],
  ])("that %s may read anything", (_, text) => {
    const compiled = compileExpression(text);
    expect("problem" in compiled ? compiled.problem : compiled.reads).toBeUndefined();
  });
});
