import fc from "fast-check";
import { expect, test } from "vitest";
import { budgetExceededFor, type PlanResult, plan } from "../../src/gang/plan.ts";
import { type Case, casesUpTo, freeNode, type Telling, wideCasesUpTo, worldOf } from "../support/plan-cases.ts";
import { judge } from "../support/plan-judge.ts";

// Slices of `npm run oracle`, which plays many more cases, of any seed.
const cases = casesUpTo(6, 8);

test("the planner finds a placement exactly when there is one, and what it finds keeps every rule", () => {
  const numRuns = 600;
  let unjudged = 0;
  fc.assert(
    fc.property(cases, (sample) => {
      const judgement = judge(sample);
      if (judgement === undefined) unjudged++;
      expect(judgement?.fault).toBeUndefined();
    }),
    { numRuns },
  );
  expect(unjudged).toBeLessThanOrEqual(0.01 * numRuns);
});

test("the planner never says that it does not know where one pod's choice of a device that several nodes reach decides about another's", () => {
  fc.assert(
    fc.property(wideCasesUpTo(6, 8), (sample) => {
      expect(judge(sample)?.fault).toBeUndefined();
    }),
    { numRuns: 400 },
  );
});

test("what a refusal says is true: what has no place together, and what would make room", () => {
  fc.assert(
    fc.property(casesUpTo(5, 6), (sample) => {
      expect(judge(sample, { reasons: true })?.fault).toBeUndefined();
    }),
    { numRuns: 200 },
  );
});

test("no placement that keeps the same rules costs less traffic", () => {
  fc.assert(
    fc.property(casesUpTo(4, 4), (sample) => {
      expect(judge(sample, { cost: true })?.fault).toBeUndefined();
    }),
    { numRuns: 400 },
  );
});

/** Names in another order, some of them longer. */
const rename = (name: string): string => {
  const backwards = [...name].map((c) =>
    String.fromCharCode(c === "-" ? 45 : 97 + ((122 - c.charCodeAt(0) + 130) % 26)),
  );
  return `x${backwards.join("")}`;
};

const told = (sample: Parameters<typeof worldOf>[0], telling?: Telling): PlanResult => {
  const { model, unit } = worldOf(sample, telling);
  return plan(model, unit);
};

test("names and input order never change feasibility, and input order never changes the plan", () => {
  fc.assert(
    fc.property(cases, fc.boolean(), (sample, viaNames) => {
      const first = told(sample);
      const second = told(sample, viaNames ? { rename } : { order: (list) => list.toReversed() });
      expect("plans" in second).toBe("plans" in first);
      if (viaNames) {
        if (costIsSettled(sample, first, second)) expect(costOf(second)).toBeCloseTo(costOf(first), 2);
        return;
      }
      const sorted = (result: PlanResult) =>
        "plans" in result
          ? result.plans.map(({ placement }) => placement).sort((a, b) => (a.gang < b.gang ? -1 : 1))
          : result.rejections.toSorted((a, b) => (a.gang < b.gang ? -1 : 1));
      expect(sorted(second)).toEqual(sorted(first));
    }),
    { numRuns: 400 },
  );
});

/**
 * Nothing but the least cost decides: all is placed, and there is nothing of which names say what comes first, such as whose
 * wishes, or which of several ways to satisfy a request.
 */
function costIsSettled({ gangs, groupRules }: Case, ...results: PlanResult[]): boolean {
  const rules = [...groupRules, ...gangs.flatMap((gang) => gang.rules)];
  const podSets = gangs.flatMap((gang) => gang.podSets);
  return (
    rules.every(({ mode }) => mode === "required") &&
    podSets.every(({ count, minCount, asks }) => minCount >= count && asks.every((text) => !/[|]|all/.test(text))) &&
    results.every((result) => "plans" in result && budgetExceededFor(result.plans).length === 0)
  );
}

function costOf(result: PlanResult): number {
  return "plans" in result ? result.plans.reduce((sum, { placement }) => sum + placement.cost.totalMs, 0) : Number.NaN;
}

test("one more free node never makes a placement impossible, spreads aside", () => {
  fc.assert(
    fc.property(cases, freeNode, (sample, more) => {
      const rules = [...sample.groupRules, ...sample.gangs.flatMap((gang) => gang.rules)];
      fc.pre(rules.every(({ type }) => type === "colocate"));
      if (!("plans" in told(sample))) return;
      expect("plans" in told({ ...sample, nodes: [...sample.nodes, more] })).toBe(true);
    }),
    { numRuns: 200 },
  );
});
