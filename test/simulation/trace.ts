import { createHash } from "node:crypto";

/** What happened, in order: the last lines for people, all of it as one hash. */
export interface Trace {
  say(line: string): void;
  /** The last lines. */
  tail(count: number): string[];
  /** Of everything so far; equal for equal runs. */
  hash(): string;
}

/** @param kept lines that are remembered; all of them go into the hash */
export function createTrace(nowMs: () => number, kept = 400): Trace {
  const sum = createHash("sha256");
  const lines: string[] = [];
  /** Not yet in the sum: one long text costs less than many short ones. */
  let fresh = "";
  return {
    say(text) {
      const line = `${(nowMs() / 1000).toFixed(4).padStart(10)} ${text}`;
      fresh += line;
      lines.push(line);
      if (lines.length > 2 * kept) {
        lines.splice(0, lines.length - kept);
        sum.update(fresh);
        fresh = "";
      }
    },
    tail: (count) => lines.slice(-count),
    hash: () => sum.copy().update(fresh).digest("hex").slice(0, 16),
  };
}
