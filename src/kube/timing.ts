import { performance } from "node:perf_hooks";

/** Everything in src/kube that depends on time or chance goes through this, so that tests run on a virtual clock. */
export interface Timing {
  /** Monotonic milliseconds; unrelated to the wall clock, never steps. */
  nowMs(): number;
  /** The wall clock, for timestamps people read; no decision depends on it. */
  wallClock(): Date;
  /** Resolves after `delayMs`, or at once when the signal aborts; never rejects. */
  sleep(delayMs: number, signal: AbortSignal): Promise<void>;
  /** Uniform in [0, 1). */
  random(): number;
}

/** The real clock and chance. */
export const systemTiming: Timing = {
  nowMs: () => performance.now(),
  wallClock: () => new Date(),
  sleep,
  random: Math.random,
};

function sleep(delayMs: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, delayMs);
    signal.addEventListener("abort", done, { once: true });
  });
}

/** Now, in RFC 3339 with microseconds, as Kubernetes' MicroTime wants it. */
export function microTime(timing: Timing): string {
  return timing.wallClock().toISOString().replace("Z", "000Z");
}

/** A moment in RFC 3339 with whole seconds, as Kubernetes' Time wants it; what is finer is cut off. */
export function wholeSeconds(at: Date): string {
  return at.toISOString().replace(/\.\d+Z$/, "Z");
}
