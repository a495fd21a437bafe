import { cpus, loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { createBatch } from "../src/gang/batch.ts";
import { type PlanResult, plan } from "../src/gang/plan.ts";
import { createRandom } from "../test/simulation/random.ts";
import { type Assignment, bundlesOf, costOf, faultOf, type Instance, instanceOf, sceneOf, suites } from "./mid-size.ts";
import { createExactSolver, type ExactSolver } from "./milp.ts";
import { type Peer, peers, placeLike } from "./peers.ts";

const exactHelp = `usage: npm run bench -- exact [FLAGS]

Judges the planner by an exact solver (HiGHS, a mixed-integer program per instance): random clusters of 12 to 64 nodes, part of
their GPUs and cores in use, and PlacementGroups of prefill and decode gangs. Is every set that fits placed, and does its
predicted traffic cost what the least one does? Every answer is checked by a third piece of code.

  --instances N   how many (default 200)
  --seed N        the first instance's; the next have the next (default 1)
  --limit N       seconds that the solver may take for one; what it cannot decide is counted apart (default 60)
`;

const peersHelp = `usage: npm run bench -- peers [FLAGS]

How many gangs that fit does each way of placing them miss? Three suites of random clusters of 12 to 64 nodes:
  pdSets   a PlacementGroup of prefill and decode gangs, all or nothing
  queue    gangs of whole nodes, each in one rack, that come one after the other
  slices   one gang whose tensor-parallel groups each want one rack or one host, with CPU-only pods beside them
Only instances count in which everything fits together, by one of the ways or by an exact solver.
  firstFit   pod by pod on the first node by name, in the domain that the first pod chose
  sumOnly    the tightest domain whose free GPUs add up to enough, best fit by node inside
  bestFit    the tightest domain in which best fit by node finds room
  kllama     plan(), and for the queue what the planner does with a queue

  --instances N   per suite (default 200)
  --seed N        the first instance's; the next have the next (default 1)
  --limit N       seconds that the solver may take for one (default 60)
`;

interface Sizes {
  readonly instances: number;
  readonly seed: number;
  readonly limit: number;
}

function sizesOf(args: string[], help: string): Sizes | undefined {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      instances: { type: "string", default: "200" },
      seed: { type: "string", default: "1" },
      limit: { type: "string", default: "60" },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return undefined;
  }
  const [instances, seed, limit] = [values.instances, values.seed, values.limit].map(Number) as [
    number,
    number,
    number,
  ];
  for (const [name, value] of Object.entries({ instances, seed, limit })) {
    if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name}: give a whole number above 0`);
  }
  return { instances, seed, limit };
}

/** What kllama answers: per gang whether it is placed, and where the pods of each bundle are. */
interface Answer {
  readonly placed: readonly boolean[];
  readonly assignment: Assignment;
  /** What it says that all traffic costs. */
  readonly costMs: number;
  readonly budgetExceeded: boolean;
  readonly milliseconds: number;
}

function askPlanner(instance: Instance): Answer {
  const { model, unit } = sceneOf(instance);
  const begun = performance.now();
  const results: PlanResult[] = [];
  if (instance.group !== undefined || unit.gangs.length === 1) results.push(plan(model, unit));
  else results.push(...planQueue(instance));
  const milliseconds = performance.now() - begun;
  const plans = results.flatMap((result) => ("plans" in result ? result.plans : []));
  const bundles = bundlesOf(instance);
  const assignment = bundles.map(() => new Map<number, number>());
  const indexOf = new Map(instance.machines.map(({ name }, i) => [name, i]));
  for (const { placement } of plans) {
    const gang = instance.gangs.findIndex(({ name }) => name === placement.gang);
    for (const { podSet, index, node } of placement.pods) {
      const set = Number(podSet.slice(1));
      const size = instance.gangs[gang]!.sets[set]!.slice?.size ?? instance.gangs[gang]!.sets[set]!.count;
      const part = Math.floor(index / size);
      const b = bundles.findIndex((each) => each.gang === gang && each.set === set && each.part === part);
      const at = indexOf.get(node)!;
      assignment[b]!.set(at, (assignment[b]!.get(at) ?? 0) + 1);
    }
  }
  const placed = instance.gangs.map(({ name }) => plans.some(({ placement }) => placement.gang === name));
  const budgetExceeded = results.some((result) => "budgetExceeded" in result && result.budgetExceeded);
  const costMs = plans.reduce((sum, { placement }) => sum + placement.cost.totalMs, 0);
  return { placed, assignment, costMs, budgetExceeded, milliseconds };
}

/** Gang after gang; of those that an earlier one had to make room for, the last answer counts. */
function planQueue(instance: Instance): PlanResult[] {
  const { model, unit } = sceneOf(instance);
  const answers = new Map<string, PlanResult>();
  const batch = createBatch(model, {
    take(gang, placement) {
      const pods = placement.pods.map((placed) => {
        const { requests } = gang.pods.find(({ name }) => name === placed.pod)!;
        return { placed, requests };
      });
      model.hold(`${gang.namespace}/${gang.name}`, gang.namespace, pods);
      answers.set(gang.name, { plans: [{ placement, requests: new Map() }], explored: 0 });
    },
    giveBack(gang) {
      model.release(`${gang.namespace}/${gang.name}`);
      answers.delete(gang.name);
    },
  });
  for (const gang of unit.gangs) {
    const result = batch.plan({ gangs: [gang] });
    if (!("plans" in result)) answers.set(gang.name, result);
  }
  return [...answers.values()];
}

function checked(instance: Instance, who: string, seed: number, assignment: Assignment): void {
  const fault = faultOf(instance, assignment);
  if (fault !== undefined) throw new Error(`instance ${seed}: ${who} is wrong: ${fault}`);
}

/** The objective's share above the least that still counts as the least. */
const tolerance = 0.01;

interface Judged {
  /** `fits`: there is a placement, whether or not kllama found it; `unsure`: of its cost the solver does not know. */
  readonly kind: "fits" | "doesNotFit" | "undecided";
  readonly placed: boolean;
  /** A placement exists that costs so much less than kllama's, as a share of what it costs; undefined: none by 1 %. */
  readonly above?: number;
  readonly unsure?: boolean;
}

function judge(solver: ExactSolver, instance: Instance, seed: number, ours: Answer): Judged {
  const placed = ours.placed.every(Boolean);
  if (!placed) {
    const verdict = solver.find(instance, Number.POSITIVE_INFINITY);
    if (verdict.kind === "unknown") return { kind: "undecided", placed };
    if (verdict.kind === "found") checked(instance, "the solver", seed, verdict.assignment);
    return { kind: verdict.kind === "found" ? "fits" : "doesNotFit", placed };
  }
  checked(instance, "kllama", seed, ours.assignment);
  const cost = costOf(instance, ours.assignment);
  if (Math.abs(cost - ours.costMs) > 0.1) {
    throw new Error(`instance ${seed}: kllama says ${ours.costMs} ms, its placement costs ${cost} ms`);
  }
  const better = solver.find(instance, cost / (1 + tolerance) - 1e-5);
  if (better.kind === "none") return { kind: "fits", placed };
  if (better.kind === "unknown") return { kind: "fits", placed, unsure: true };
  checked(instance, "the solver", seed, better.assignment);
  return { kind: "fits", placed, above: cost / costOf(instance, better.assignment) - 1 };
}

export async function exactBench(args: string[]): Promise<void> {
  const sizes = sizesOf(args, exactHelp);
  if (sizes === undefined) return;
  const solver = await createExactSolver(sizes.limit);
  const judged: (Judged & { seed: number })[] = [];
  const times: number[] = [];
  let budgetExceeded = 0;
  for (let seed = sizes.seed; seed < sizes.seed + sizes.instances; seed++) {
    const instance = instanceOf("pdSets", createRandom(seed));
    const ours = askPlanner(instance);
    times.push(ours.milliseconds);
    if (ours.budgetExceeded) budgetExceeded++;
    const each = { seed, ...judge(solver, instance, seed, ours) };
    judged.push(each);
    process.stderr.write(`${JSON.stringify(each)}\n`);
  }
  const count = (of: (each: Judged) => boolean) => judged.filter(of).length;
  const counts = {
    fit: count(({ kind }) => kind === "fits"),
    doNotFit: count(({ kind }) => kind === "doesNotFit"),
    undecided: count(({ kind }) => kind === "undecided"),
    missed: count(({ kind, placed }) => kind === "fits" && !placed),
    leastCost: count(({ kind, placed, above, unsure }) => kind === "fits" && placed && above === undefined && !unsure),
    dearer: count(({ above }) => above !== undefined),
    costUndecided: count(({ unsure }) => unsure === true),
  };
  times.sort((a, b) => a - b);
  const share = counts.leastCost / Math.max(1, counts.fit);
  const lines = [
    ...heading(sizes),
    "| fit | do not fit | undecided | missed by kllama | within 1 % of the least cost | dearer | cost undecided |",
    "|---|---|---|---|---|---|---|",
    `| ${counts.fit} | ${counts.doNotFit} | ${counts.undecided} | ${counts.missed} | ${counts.leastCost} (${percent(share)}) | ${counts.dearer} | ${counts.costUndecided} |`,
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const result = {
    benchmark: "exact",
    ...counts,
    shareWithinOnePercent: share,
    worse: judged.filter(({ above }) => above !== undefined),
    planMs: { p50: times[Math.floor(times.length / 2)], most: times.at(-1) },
    budgetExceeded,
    ...environment(sizes),
  };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

type Way = Peer | "kllama";
const ways: readonly Way[] = [...peers, "kllama"];

export async function peersBench(args: string[]): Promise<void> {
  const sizes = sizesOf(args, peersHelp);
  if (sizes === undefined) return;
  const solver = await createExactSolver(sizes.limit);
  const rows = suites.map((suite) => {
    const row = { suite, instances: 0, gangs: 0, undecided: 0, missed: zero(), incomplete: zero() };
    for (let seed = sizes.seed; seed < sizes.seed + sizes.instances; seed++) {
      const instance = instanceOf(suite, createRandom(seed));
      if (instance.gangs.length === 0) continue;
      const answers = ways.map((way) => (way === "kllama" ? askPlanner(instance) : placeLike(way, instance)));
      for (const [i, { placed, assignment }] of answers.entries()) {
        if (placed.every(Boolean)) checked(instance, ways[i]!, seed, assignment);
      }
      if (!answers.some(({ placed }) => placed.every(Boolean))) {
        const verdict = solver.find(instance, Number.POSITIVE_INFINITY);
        if (verdict.kind === "unknown") row.undecided++;
        if (verdict.kind !== "found") continue;
        checked(instance, "the solver", seed, verdict.assignment);
      }
      row.instances++;
      row.gangs += instance.gangs.length;
      for (const [i, { placed }] of answers.entries()) {
        const missing = placed.filter((each) => !each).length;
        row.missed[ways[i]!] += missing;
        if (missing > 0) row.incomplete[ways[i]!]++;
      }
    }
    process.stderr.write(`${suite}: ${row.instances} fit\n`);
    return row;
  });
  const lines = [
    ...heading(sizes),
    `| suite | fit whole | gangs in them | ${ways.map((way) => `missed by ${way}`).join(" | ")} |`,
    `|---|---|---|${ways.map(() => "---|").join("")}`,
    ...rows.map(({ suite, instances, gangs, missed }) => {
      const cells = ways.map((way) => `${missed[way]} (${percent(missed[way] / Math.max(1, gangs))})`);
      return `| ${suite} | ${instances} | ${gangs} | ${cells.join(" | ")} |`;
    }),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  process.stdout.write(`RESULT ${JSON.stringify({ benchmark: "peers", suites: rows, ...environment(sizes) })}\n`);
}

function zero(): Record<Way, number> {
  return { firstFit: 0, sumOnly: 0, bestFit: 0, kllama: 0 };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function heading({ instances, seed }: Sizes): string[] {
  return [
    `${instances} instances of 12 to 64 nodes, seeds ${seed} to ${seed + instances - 1}`,
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model.trim()}, load of the machine at the end ${loadavg()[0]!.toFixed(1)}`,
    "",
  ];
}

function environment(sizes: Sizes) {
  return { sizes, seed: sizes.seed, versions: { node: process.version, highs: "1.15.3" }, machineLoad: loadavg()[0] };
}
