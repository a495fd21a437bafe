import { systemTiming, type Timing } from "../kube/timing.ts";
import type { ExtenderBackend } from "./server.ts";

const lookMs = 1_000;
const patienceMs = 60_000;

/**
 * Holds bind calls that come while the planner starts, until it decides or stands by behind another, a minute at most. A refused
 * one costs the API server half a dozen writes, as kube-scheduler takes the member back and begins it anew: hundreds of
 * them, of one gang, would be in the way of the very start that they wait for.
 * @param active resolves once this replica decides
 */
export function holdEarlyCalls(
  backend: ExtenderBackend,
  active: Promise<void>,
  timing: Timing = systemTiming,
): ExtenderBackend {
  let decides = false;
  void active.then(() => {
    decides = true;
  });

  async function started(signal: AbortSignal): Promise<void> {
    const givenUpMs = timing.nowMs() + patienceMs;
    while (!decides && !signal.aborted && !backend.ready().ready && timing.nowMs() < givenUpMs) {
      const looked = new AbortController();
      const stop = (): void => looked.abort("looked");
      signal.addEventListener("abort", stop, { once: true });
      await Promise.race([active, timing.sleep(lookMs, looked.signal)]);
      signal.removeEventListener("abort", stop);
      stop();
    }
  }

  return {
    ...backend,
    async bind(request, signal) {
      await started(signal);
      return signal.aborted ? "the call was given up" : backend.bind(request, signal);
    },
  };
}
