import { parseArgs } from "node:util";

export interface SimulateArguments {
  seeds: number;
  firstSeed: number;
  workers: number;
  /** Gangs have priorities and may preempt one another. */
  preemption: boolean;
  /** Print every event. */
  trace: boolean;
  help: boolean;
}

export const help = `kllama's planner in simulated clusters: one clock, one seed, every fault; invariants checked at every step.

usage: npm run simulate -- [FLAGS]

  --seeds N        worlds to run; default 100
  --first-seed S   seed of the first; the others follow it; default 1
  --workers N      threads; default 2
  --preemption     gangs of several priorities, which preempt one another, and budgets that forbid it
  --trace          print every event (with one seed)
  --help           print this

Prints one line per world: seed, hash of its trace, events, seconds that passed in it. The same seed gives the same
hash. A world that breaks an invariant prints which, where, the last events and the command that replays it. The last
line says which seeds ran, for how many seconds, and which of them are broken. Nothing but these seeds runs.

Exit codes: 0 all invariants held, 1 one was broken, 2 the command line was not understood.
`;

/** Throws an Error that says what is wrong with the command line. */
export function parseArguments(args: readonly string[]): SimulateArguments {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seeds: { type: "string", default: "100" },
      "first-seed": { type: "string", default: "1" },
      workers: { type: "string", default: "2" },
      preemption: { type: "boolean", default: false },
      trace: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const seeds = whole("--seeds", values.seeds, 1);
  if (values.trace && seeds > 1) throw new Error("--trace tells one world: give --seeds 1");
  return {
    seeds,
    firstSeed: whole("--first-seed", values["first-seed"], 0),
    workers: Math.min(seeds, whole("--workers", values.workers, 1)),
    preemption: values.preemption,
    trace: values.trace,
    help: values.help,
  };
}

function whole(flag: string, text: string, least: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= least) return value;
  throw new Error(`${flag} ${JSON.stringify(text)}: give a whole number of at least ${least}`);
}
