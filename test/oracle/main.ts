import { parseArgs } from "node:util";
import fc from "fast-check";
import { casesUpTo } from "../support/plan-cases.ts";
import { judge } from "../support/plan-judge.ts";

const usage =
  "npm run oracle -- [--seed N] [--cases N] [--nodes N] [--pods N] [--cost] [--reasons]: compares the planner with a naive one";

/** Judges generated cases until one is wrong, which is then made as small as it gets and printed with its seed. */
function main(): number {
  const { values } = parseArgs({
    options: {
      seed: { type: "string", default: "1" },
      cases: { type: "string", default: "20000" },
      nodes: { type: "string", default: "6" },
      pods: { type: "string", default: "8" },
      cost: { type: "boolean", default: false },
      reasons: { type: "boolean", default: false },
    },
  });
  const numbers = [values.seed, values.cases, values.nodes, values.pods].map(Number);
  if (numbers.some((each) => !Number.isSafeInteger(each) || each < 1)) {
    console.error(`${usage}\nevery N is a whole number above 0`);
    return 2;
  }
  const [seed, cases, nodes, pods] = numbers as [number, number, number, number];
  const counts = { placed: 0, refused: 0, tooLarge: 0, priced: 0 };
  const property = fc.property(casesUpTo(nodes, pods), (sample) => {
    const judgement = judge(sample, values);
    if (judgement === undefined) counts.tooLarge++;
    else if (judgement.fault !== undefined) throw new Error(judgement.fault);
    else if (judgement.feasible) counts.placed++;
    else counts.refused++;
    if (judgement?.cost) counts.priced++;
  });
  const startedAt = performance.now();
  const details = fc.check(property, { seed, numRuns: cases });
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  const { placed, refused, tooLarge, priced } = counts;
  if (details.failed) {
    console.error(`${fc.defaultReportMessage(details)}\n${String(details.errorInstance)}`);
    return 1;
  }
  console.log(
    `seed ${seed}: ${placed + refused} of ${cases} cases agree, ${placed} placed and ${refused} refused, ${priced} at the least cost; ${tooLarge} too large for the oracle; ${seconds} s`,
  );
  return 0;
}

process.exitCode = main();
