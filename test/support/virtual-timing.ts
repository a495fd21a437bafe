import type { Timing } from "../../src/kube/timing.ts";

/** A clock that stands still until told to move; the wall clock can step on its own. */
export interface VirtualTiming extends Timing {
  /** Lets everything that is runnable run, then moves on, firing each sleeper at its time. */
  advance(byMs: number): Promise<void>;
  /** Runs what is runnable without moving the clock. */
  settle(): Promise<void>;
  stepWallClock(byMs: number): void;
}

/** `random` is a fixed sequence (multiplicative congruential), so runs repeat. */
export function createVirtualTiming(): VirtualTiming {
  let nowMs = 1_000;
  let wallOffsetMs = Date.UTC(2026, 0, 1);
  let seed = 42;
  const sleepers = new Set<{ atMs: number; wake: () => void }>();

  async function settle(): Promise<void> {
    for (let turn = 0; turn < 2; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  }

  async function advance(byMs: number): Promise<void> {
    const untilMs = nowMs + byMs;
    await settle();
    for (;;) {
      const next = [...sleepers].reduce((first, one) => (one.atMs < first.atMs ? one : first), {
        atMs: Infinity,
        wake: () => {},
      });
      if (next.atMs > untilMs) break;
      nowMs = Math.max(nowMs, next.atMs);
      next.wake();
      await settle();
    }
    nowMs = untilMs;
  }

  return {
    nowMs: () => nowMs,
    wallClock: () => new Date(nowMs + wallOffsetMs),
    random: () => {
      seed = (seed * 16_807) % 2_147_483_647;
      return seed / 2_147_483_647;
    },
    sleep: (delayMs, signal) =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve();
        const sleeper = { atMs: nowMs + delayMs, wake: () => wake() };
        const wake = (): void => {
          sleepers.delete(sleeper);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        sleepers.add(sleeper);
        signal.addEventListener("abort", wake, { once: true });
      }),
    advance,
    settle,
    stepWallClock: (byMs) => {
      wallOffsetMs += byMs;
    },
  };
}
