import type { Run } from "./world.ts";

/** One line per world. */
export function runLine({ seed, hash, steps, seconds, violation }: Run): string {
  const broken = violation === undefined ? "" : `  BROKEN: ${violation.invariant}`;
  return `seed ${seed}  trace ${hash}  ${steps} events  ${seconds} s${broken}`;
}

/** How many are broken, and which. */
export function brokenText(broken: readonly Run[]): string {
  const seeds = broken.map(({ seed }) => seed).sort((a, b) => a - b);
  return seeds.length === 0 ? "0 broken" : `${seeds.length} broken: ${seeds.join(", ")}`;
}

/** Everything that is needed to understand a broken invariant; empty when none is. */
export function violationText({ seed, preemption, violation }: Run): string {
  if (violation === undefined) return "";
  const { invariant, message, step, tail, state } = violation;
  return [
    "",
    `seed ${seed}, event ${step}: broken: ${invariant}`,
    `  ${message}`,
    "last events (seconds, what happened):",
    ...tail.map((line) => `  ${line}`),
    "the cluster now:",
    ...state.map((line) => `  ${line}`),
    `replay: npm run simulate -- --seeds 1 --first-seed ${seed}${preemption ? " --preemption" : ""} --trace`,
    "",
  ].join("\n");
}
