import type { Timing } from "../../src/kube/timing.ts";
import type { Clock } from "./clock.ts";
import type { Random } from "./random.ts";

/** The wall clock reads this when a world begins. */
export const epochMs = Date.UTC(2026, 0, 1);

/**
 * One process of a simulated world. Nothing reaches it but through `deliver`, so killing it at any moment means that
 * every `await` in it waits for ever. One that is paused (SIGSTOP) gets everything late, at once.
 */
export interface Process {
  readonly name: string;
  readonly alive: boolean;
  readonly paused: boolean;
  /** Clock and chance as the process sees them. */
  readonly timing: Timing;
  /** Runs in the process, when it runs; never once it is dead. */
  deliver(run: () => void): void;
  after(delayMs: number, run: () => void): void;
  kill(): void;
  pause(forMs: number): void;
  /** Called when it is killed. */
  onKill(clean: () => void): void;
}

export function createProcess(name: string, clock: Clock, random: Random): Process {
  let alive = true;
  let paused = false;
  const backlog: (() => void)[] = [];
  const cleaners: (() => void)[] = [];

  function deliver(run: () => void): void {
    if (!alive) return;
    if (paused) {
      backlog.push(run);
      return;
    }
    run();
    clock.touch();
  }

  const after = (delayMs: number, run: () => void): void => clock.after(delayMs, () => deliver(run));

  function sleep(delayMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        signal.removeEventListener("abort", done);
        resolve();
      };
      signal.addEventListener("abort", done, { once: true });
      after(delayMs, done);
    });
  }

  return {
    name,
    get alive() {
      return alive;
    },
    get paused() {
      return paused;
    },
    timing: {
      nowMs: () => clock.nowMs,
      wallClock: () => new Date(epochMs + clock.nowMs),
      sleep,
      random: random.next,
    },
    deliver,
    after,
    kill() {
      alive = false;
      backlog.length = 0;
      for (const clean of cleaners.splice(0)) clean();
    },
    pause(forMs) {
      if (paused || !alive) return;
      paused = true;
      clock.after(forMs, () => {
        paused = false;
        for (const run of backlog.splice(0)) deliver(run);
      });
    },
    onKill: (clean) => {
      cleaners.push(clean);
    },
  };
}
