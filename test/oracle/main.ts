import { parseArgs } from "node:util";
import fc from "fast-check";
import { casesUpTo, wideCasesUpTo } from "../support/plan-cases.ts";
import { judge } from "../support/plan-judge.ts";

const usage = `usage: npm run oracle -- [FLAGS]

Compares the planner with a naive one that tries everything, on small random clusters.

  --seed N     decides the cases (default 1)
  --cases N    how many (default 20000)
  --nodes N    the most nodes of a case (default 6)
  --pods N     the most pods of a case (default 8)
  --cost       also whether a placement has the least cost
  --reasons    also whether what a refusal names has no place, and anything less has
  --wide       most pods want devices that several nodes reach
`;

/** Shares of all cases, and of those that are to be priced, about which the oracle may say nothing. */
const mostTooLarge = 0.01;
const mostCostTooLarge = 0.25;

const progressMs = 10_000;

function parseFlags() {
  return parseArgs({
    options: {
      seed: { type: "string", default: "1" },
      cases: { type: "string", default: "20000" },
      nodes: { type: "string", default: "6" },
      pods: { type: "string", default: "8" },
      cost: { type: "boolean", default: false },
      reasons: { type: "boolean", default: false },
      wide: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  }).values;
}

function main(): number {
  try {
    const values = parseFlags();
    if (!values.help) return compare(values);
    console.log(usage);
    return 0;
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    return 2;
  }
}

/** Judges generated cases until one is wrong, which is then made as small as it gets and printed with its seed. */
function compare(values: ReturnType<typeof parseFlags>): number {
  const numbers = [values.seed, values.cases, values.nodes, values.pods].map(Number);
  if (numbers.some((each) => !Number.isSafeInteger(each) || each < 1))
    throw new Error("every N is a whole number above 0");
  const [seed, cases, nodes, pods] = numbers as [number, number, number, number];
  let toldAtMs = performance.now();
  const counts = { placed: 0, refused: 0, tooLarge: 0, priced: 0, costTooLarge: 0 };
  const property = fc.property(values.wide ? wideCasesUpTo(nodes, pods) : casesUpTo(nodes, pods), (sample) => {
    if (performance.now() - toldAtMs > progressMs) {
      toldAtMs = performance.now();
      console.error(`${counts.placed + counts.refused + counts.tooLarge} of ${cases} cases`);
    }
    const judgement = judge(sample, values);
    if (judgement === undefined) counts.tooLarge++;
    else if (judgement.fault !== undefined) throw new Error(judgement.fault);
    else if (judgement.feasible) counts.placed++;
    else counts.refused++;
    if (judgement?.cost) counts.priced++;
    if (judgement?.costTooLarge) counts.costTooLarge++;
  });
  const startedAt = performance.now();
  const details = fc.check(property, { seed, numRuns: cases });
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  const { placed, refused, tooLarge, priced, costTooLarge } = counts;
  if (details.failed) {
    console.error(`${fc.defaultReportMessage(details)}\n${String(details.errorInstance)}`);
    return 1;
  }
  const ofCost = values.cost ? `, ${priced} at the least cost and ${costTooLarge} too large for that` : "";
  console.log(
    `seed ${seed}: ${placed + refused} of ${cases} cases agree, ${placed} placed and ${refused} refused${ofCost}; ${tooLarge} too large for the oracle; ${seconds} s`,
  );
  if (tooLarge > mostTooLarge * cases || costTooLarge > mostCostTooLarge * (priced + costTooLarge)) {
    console.error("too many cases are too large for the oracle to say anything");
    return 1;
  }
  return 0;
}

process.exitCode = main();
