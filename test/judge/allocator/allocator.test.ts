import { beforeAll, describe, expect, test } from "vitest";
import type {
  AllocationResult,
  DeviceRequestAllocationResult,
  DeviceTaint,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { parseNano } from "../../../src/topology/quantity.ts";
import { differences, fixedDifferences } from "./differences.ts";
import { type AllocationQuestion, type Answer, ask, buildJudge } from "./judge.ts";
import { allocateOurs, inventoryOf } from "./ours.ts";
import { nodeName } from "./pools.ts";
import { playWorld, type Round } from "./world.ts";

/** Worlds are numbered by their seeds: `KLLAMA_JUDGE_SEED=7 KLLAMA_JUDGE_WORLDS=1` plays the seventh alone. */
const firstSeed = Number(process.env["KLLAMA_JUDGE_SEED"] ?? 1);
const worlds = Number(process.env["KLLAMA_JUDGE_WORLDS"] ?? 1_500);

/** For what takes upstream a moment longer than the others, or as long on a busy machine. */
const patientMs = 60_000;

let program: string;
let rounds: Round[];
let answers: Answer[];

beforeAll(async () => {
  program = await buildJudge();
  rounds = Array.from({ length: worlds }, (_, world) => playWorld(firstSeed + world)).flat();
  answers = ask(
    program,
    rounds.map(({ question }) => question),
  );
  for (const [index, { verdict }] of answers.entries()) {
    if (verdict === "timeout") answers[index] = askInParts(rounds[index]!.question);
  }
});

describe(`cases of the seeds ${firstSeed} to ${firstSeed + worlds - 1}`, () => {
  test("kllama finds devices exactly when Kubernetes' allocator does, but for the listed differences", () => {
    const disputed = rounds.flatMap((round, index) => {
      const theirs = answers[index]!;
      if (round.ours.verdict === "allocated" ? theirs.verdict === "allocated" : isRefusal(theirs)) return [];
      const known = differences.some((difference) => difference.explains(round.question, round.ours, theirs));
      return known
        ? []
        : [`${nameOf(round)}: kllama ${round.ours.verdict}, upstream ${theirs.verdict} ${theirs.message ?? ""}`];
    });
    expect(disputed).toEqual([]);
  });

  test("Kubernetes' allocator takes every choice of kllama's, with the same results and configuration", () => {
    const accepted = rounds.flatMap((round) => (round.pinned === undefined ? [] : [{ round, pinned: round.pinned }]));
    const verdicts = askPatiently(accepted.map(({ pinned }) => pinned));
    const disputed = accepted.flatMap(({ round }, index) => {
      const theirs = verdicts[index]!;
      if (theirs.verdict !== "allocated") return [`${nameOf(round)}: ${theirs.verdict} ${theirs.message ?? ""}`];
      if (round.ours.verdict !== "allocated") return [];
      const [mine, upstreams] = [round.ours.allocations, theirs.allocations!].map((list) => list.map(comparable));
      return JSON.stringify(mine) === JSON.stringify(upstreams)
        ? []
        : [`${nameOf(round)}: kllama ${JSON.stringify(mine)}, upstream ${JSON.stringify(upstreams)}`];
    });
    expect(disputed).toEqual([]);
  });

  test("devices have the taints of DeviceTaintRules that kube-scheduler's tracker gives them", () => {
    const disputed = rounds.flatMap((round, index) => {
      const { slices } = answers[index]!;
      if (slices === undefined) return [];
      const theirs = new Map(
        slices.flatMap(({ spec }) => (spec.devices ?? []).map((each) => [keyOf(spec, each), each])),
      );
      const different = inventoryOf(round.question).devices.filter(
        ({ key, device }) => textOf(device.taints) !== textOf(theirs.get(key)?.taints),
      );
      return different.map(({ key, device }) => `${nameOf(round)}: ${key} has ${textOf(device.taints)}`);
    });
    expect(disputed).toEqual([]);
  });

  test.skipIf(worlds < 100)("every verdict is common, or the comparison says little", () => {
    const found = rounds.filter(({ ours }) => ours.verdict === "allocated").length;
    expect(found).toBeGreaterThan(rounds.length / 5);
    expect(rounds.length - found).toBeGreaterThan(rounds.length / 5);
    const ruled = answers.filter(({ slices }) => slices !== undefined && JSON.stringify(slices).includes("2026-01-0"));
    expect(ruled.length).toBeGreaterThan(rounds.length / 10);
    expect(ruled.filter(({ verdict }) => verdict === "allocated").length).toBeGreaterThan(ruled.length / 10);
    const used = JSON.stringify(rounds.map(({ ours }) => ours));
    for (const feature of [
      "adminAccess",
      "shareID",
      "consumedCapacity",
      "bindingConditions",
      "tolerations",
      "/s1",
      "FromClaim",
    ]) {
      expect(used, feature).toContain(feature);
    }
  });
});

describe("kllama means to differ in", () => {
  test.each(fixedDifferences)("$name", ({ question, ours, theirs }) => {
    expect(allocateOurs(question).verdict).toBe(ours);
    expect(askPatiently([question])[0]!.verdict).toBe(theirs);
  });
});

/** Who has not answered in time is asked once more, with more of it. */
function askPatiently(questions: readonly AllocationQuestion[]): Answer[] {
  return ask(program, questions).map((answer, index) =>
    answer.verdict === "timeout" ? ask(program, [{ ...questions[index]!, timeoutMs: patientMs }])[0]! : answer,
  );
}

/**
 * Upstream tries every combination, which may take it hours to refuse. The whole is impossible when a claim of it is, or
 * one request without the constraints. What is possible in parts is asked once more, with more time.
 */
function askInParts(question: AllocationQuestion): Answer {
  const requests = question.claims.flatMap((claim) =>
    (claim.spec.devices?.requests ?? []).map((request) => ({ ...claim, spec: { devices: { requests: [request] } } })),
  );
  const parts = [...question.claims, ...requests].map((claim) => ({ ...question, claims: [claim] }));
  return ask(program, parts).find(isRefusal) ?? ask(program, [{ ...question, timeoutMs: patientMs }])[0]!;
}

/** `timeout` is no answer. */
function isRefusal({ verdict }: Answer): boolean {
  return verdict === "refused" || verdict === "error";
}

function keyOf({ driver, pool }: ResourceSlice["spec"], { name }: { name: string }): string {
  return `${driver}/${pool.name}/${name}`;
}

/** In any order: upstream goes through rules as they come out of a map. */
function textOf(taints: readonly DeviceTaint[] = []): string {
  const texts = taints.map(({ key, value = "", effect, timeAdded = "" }) => [key, value, effect, timeAdded].join(" "));
  return texts.sort().join(", ");
}

function nameOf({ seed, question }: Round): string {
  return `seed ${seed}, ${question.claims[0]!.metadata.name}`;
}

/** What both allocators have to say alike: everything but the share's random ID, the time and the node's selector. */
function comparable({ devices, nodeSelector }: AllocationResult) {
  const results = (devices?.results ?? []).map(comparableResult).map((result) => JSON.stringify(result));
  const config = (devices?.config ?? []).map((each) =>
    JSON.stringify({ source: each.source, requests: each.requests ?? [], opaque: each.opaque }),
  );
  const reaches =
    nodeSelector === undefined || JSON.stringify(nodeSelector).includes(nodeName) || hasNoName(nodeSelector);
  // Upstream repeats a configuration of the claim for each request that it names.
  return { results: results.sort(), config: [...new Set(config)], reaches };
}

function hasNoName(selector: NonNullable<AllocationResult["nodeSelector"]>): boolean {
  return selector.nodeSelectorTerms.every(({ matchFields = [] }) => matchFields.length === 0);
}

function comparableResult(result: DeviceRequestAllocationResult) {
  const {
    request,
    driver,
    pool,
    device,
    adminAccess = false,
    shareID,
    tolerations = [],
    consumedCapacity = {},
  } = result;
  const consumed = Object.entries(consumedCapacity).map(([name, amount]) => `${name}=${parseNano(amount)}`);
  return {
    place: [request, driver, pool, device],
    adminAccess,
    shared: shareID !== undefined,
    tolerations: tolerations.map(({ key = "", operator = "Equal", value = "", effect = "" }) => [
      key,
      operator,
      value,
      effect,
    ]),
    consumed: consumed.sort(),
    bindingConditions: result.bindingConditions ?? [],
    bindingFailureConditions: result.bindingFailureConditions ?? [],
  };
}
