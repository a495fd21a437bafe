import type { Streams } from "../command.ts";

/** Tells a person what is going on, in plain lines: they read the same in a terminal and in a log. */
export interface Progress {
  line(text: string): void;
  /** Runs one step and says how long it took, and whether it succeeded. Steps may overlap. */
  step<T>(name: string, run: () => Promise<T>, succeeded?: (result: T) => boolean): Promise<T>;
  /** All steps with their durations, and the time since the process began. */
  summary(): string;
}

export function createProgress(stderr: Streams["stderr"]): Progress {
  const steps: { name: string; ms: number }[] = [];
  const line = (text: string): void => {
    stderr.write(`${text}\n`);
  };
  return {
    line,
    async step(name, run, succeeded = () => true) {
      const startedAtMs = performance.now();
      line(`… ${name}`);
      const result = await run();
      const ms = performance.now() - startedAtMs;
      steps.push({ name, ms });
      line(`${succeeded(result) ? "✓" : "✗"} ${name} (${seconds(ms)})`);
      return result;
    },
    summary: () => {
      const list = steps.map(({ name, ms }) => `  ${seconds(ms).padStart(7)}  ${name}`);
      return [...list, `  ${seconds(performance.now()).padStart(7)}  everything`].join("\n");
    },
  };
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
