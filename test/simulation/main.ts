import process from "node:process";
import { Worker } from "node:worker_threads";
import { help, parseArguments, type SimulateArguments } from "./arguments.ts";
import { brokenText, runLine, violationText } from "./report.ts";
import { type Run, runSeed } from "./world.ts";

/** Seeds that a worker gets at a time. */
const batch = 20;
const progressMs = 10_000;

async function main(): Promise<number> {
  let args: SimulateArguments;
  try {
    args = parseArguments(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${help}`);
    return 2;
  }
  if (args.help) {
    process.stdout.write(help);
    return 0;
  }
  if (args.trace)
    return report([
      await runSeed({
        seed: args.firstSeed,
        preemption: args.preemption,
        onTrace: (line) => process.stdout.write(`${line}\n`),
      }),
    ]);
  return await runAll(args);
}

function report(runs: readonly Run[]): number {
  for (const run of runs) process.stdout.write(`${runLine(run)}\n${violationText(run)}`);
  return runs.some((run) => run.violation !== undefined) ? 1 : 0;
}

async function runAll({ seeds, firstSeed, workers, preemption }: SimulateArguments): Promise<number> {
  const startedAtMs = performance.now();
  let next = firstSeed;
  let finished = 0;
  const broken: Run[] = [];
  const takeSeeds = (): number[] => {
    const count = Math.min(batch, firstSeed + seeds - next);
    const taken = Array.from({ length: count }, (_, index) => next + index);
    next += count;
    return taken;
  };
  const elapsed = (): string => ((performance.now() - startedAtMs) / 1000).toFixed(1);
  const progress = setInterval(() => {
    process.stderr.write(`${finished} of ${seeds} worlds in ${elapsed()} s, ${broken.length} broken\n`);
  }, progressMs);
  const onRun = (run: Run): void => {
    finished += 1;
    if (run.violation !== undefined) broken.push(run);
    report([run]);
  };
  await Promise.all(Array.from({ length: workers }, () => runWorker(preemption, takeSeeds, onRun)));
  clearInterval(progress);
  for (const run of broken) process.stdout.write(`${runLine(run)}\n`);
  const last = firstSeed + seeds - 1;
  const ran = `seeds ${firstSeed} to ${last}: ${finished} worlds in ${elapsed()} s on ${workers} threads`;
  process.stdout.write(`${ran}, ${brokenText(broken)}\n`);
  return broken.length > 0 ? 1 : 0;
}

/** Resolves once there are no seeds left to take; rejects when the thread fails. */
function runWorker(preemption: boolean, takeSeeds: () => number[], onRun: (run: Run) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url));
    const feed = (): void => {
      const seeds = takeSeeds();
      if (seeds.length > 0) worker.postMessage({ seeds, preemption });
      else void worker.terminate().then(() => resolve());
    };
    worker.on("error", reject);
    worker.on("message", (message: Run | "done") => (message === "done" ? feed() : onRun(message)));
    feed();
  });
}

process.exitCode = await main();
