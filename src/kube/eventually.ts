import { systemTiming, type Timing } from "./timing.ts";

export interface EventuallyOptions {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  timing?: Timing | undefined;
}

const pauseMs = 100;

/**
 * Waits for what the API server sends no event about, such as a policy taking effect. `probe` says what is still
 * missing, or undefined when nothing is. Throws with the last answer when time is over; passes on what `probe` throws.
 */
export async function eventually(
  what: string,
  probe: () => Promise<string | undefined>,
  options: EventuallyOptions,
): Promise<void> {
  const { timeoutMs, timing = systemTiming, signal = new AbortController().signal } = options;
  const endMs = timing.nowMs() + timeoutMs;
  for (;;) {
    const missing = await probe();
    if (missing === undefined) return;
    signal.throwIfAborted();
    if (timing.nowMs() >= endMs) throw new Error(`${what}: not within ${timeoutMs / 1000} s; ${missing}`);
    await timing.sleep(pauseMs, signal);
  }
}
