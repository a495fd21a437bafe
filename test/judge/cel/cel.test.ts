import { beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../../src/api/kubernetes.ts";
import { compileExpression } from "../../../src/dra/allocator/cel/expression.ts";
import { assembleInventory } from "../../../src/topology/inventory.ts";
import { driver, nodeRecord, sliceRecord } from "../../builders.ts";
import { ask, buildJudge } from "../allocator/judge.ts";
import { createRandom, type Random } from "../allocator/random.ts";
import { differences } from "./differences.ts";
import { device, expressions } from "./expressions.ts";

const seed = Number(process.env["KLLAMA_JUDGE_SEED"] ?? 1);
const combinations = 2_000;
const different = new Set(differences.flatMap((each) => each.expressions));
/** By part, so that each is as likely as another however many expressions it has. */
const agreed = Object.values(expressions).map((part) => part.filter((expression) => !different.has(expression)));

let program: string;

beforeAll(async () => {
  program = await buildJudge();
});

/** `refused`: the expression does not compile; `error`: it fails on the device. */
function verdictOf(expression: string, of: Device): string {
  const compiled = compileExpression(expression);
  if ("problem" in compiled) return "refused";
  const [entry] = assembleInventory(nodeRecord("n"), [sliceRecord("n", [of])]).devices;
  const verdict = compiled.matches(entry!);
  return typeof verdict === "boolean" ? String(verdict) : "error";
}

function disputed(cases: readonly { expression: string; device: Device }[]): string[] {
  const answers = ask(
    program,
    cases.map((each) => ({ ...each, driver })),
  );
  return cases.flatMap(({ expression, device: of }, index) => {
    const [ours, { verdict, message = "" }] = [verdictOf(expression, of), answers[index]!];
    return ours === verdict ? [] : [`${expression}: kllama ${ours}, Kubernetes ${verdict} ${message}`];
  });
}

describe("kllama and Kubernetes judge alike of", () => {
  test.each(Object.keys(expressions))("%s", (part) => {
    const cases = expressions[part]!.filter((expression) => !different.has(expression));
    expect(disputed(cases.map((expression) => ({ expression, device })))).toEqual([]);
  });

  test(`${combinations} combinations on devices that lack something, seed ${seed}`, () => {
    const random = createRandom(seed);
    const cases = Array.from({ length: combinations }, () => ({
      expression: combined(random),
      device: lacking(random),
    }));
    expect(disputed(cases)).toEqual([]);
  });
});

describe("kllama means to differ:", () => {
  test.each(differences)("$reason", ({ ours, theirs, expressions: list }) => {
    const answers = ask(
      program,
      list.map((expression) => ({ expression, driver, device })),
    );
    expect(answers.map(({ verdict }) => verdict)).toEqual(list.map(() => theirs));
    expect(list.map((expression) => verdictOf(expression, device))).toEqual(list.map(() => ours));
  });
});

function combined(random: Random): string {
  const any = () => random.pick(random.pick(agreed));
  const [a, b, c] = [any(), any(), any()];
  return random.pick([a, `(${a}) && (${b})`, `(${a}) || (${b})`, `!(${a})`, `(${a}) ? (${b}) : (${c})`]);
}

function lacking(random: Random): Device {
  const keep = <T>(values: Record<string, T> = {}) =>
    Object.fromEntries(Object.entries(values).filter(() => random.chance(70)));
  return { name: device.name, attributes: keep(device.attributes), capacity: keep(device.capacity) };
}
