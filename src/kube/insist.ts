import { isConflict, isNotFound, KubeError } from "./client.ts";
import type { Timing } from "./timing.ts";

export interface InsistOptions {
  timing: Timing;
  signal: AbortSignal;
  onError: (error: unknown) => void;
  /** Asked before every try; default: it is wanted until the signal aborts. */
  isWanted?: () => boolean;
}

/** Without `retryAfterMs` from the server: how long a failed request waits. */
const retryMs = 1_000;

/**
 * Makes a request about one object until it takes effect, is refused for good, or is not wanted any more. Never rejects: errors are
 * told but for those of an object that is gone, or of which another one has the name: who watches hears of that.
 * @returns whether it took effect
 */
export async function insist(request: () => Promise<unknown>, options: InsistOptions): Promise<boolean> {
  const { timing, signal, onError, isWanted = () => true } = options;
  while (!signal.aborted && isWanted()) {
    try {
      await request();
      return true;
    } catch (error) {
      if (signal.aborted || isNotFound(error) || isConflict(error)) return false;
      onError(error);
      if (!isPassing(error)) return false;
      await timing.sleep(error.retryAfterMs ?? retryMs, signal);
    }
  }
  return false;
}

/** The server was unreachable, busy or broken; a refusal for good is not worth another try. */
function isPassing(error: unknown): error is KubeError {
  return error instanceof KubeError && (error.status === 0 || error.status === 429 || error.status >= 500);
}
