import type { Dispatcher } from "undici";

/** An answer as a whole. */
export interface Answer {
  status: number;
  retryAfter: string | string[] | undefined;
  text: string;
}

export interface ExchangeLimits {
  /** For all of it, waiting for a connection included. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/** The time was over. */
export class TimeIsOver extends Error {}

/**
 * Sends a request and takes the whole answer, without the streams and signals that undici's own `request` makes for each.
 * Rejects with TimeIsOver, with the reason of the signal, or with undici's error; a request that has not begun by then is never sent.
 */
export function exchange(
  dispatcher: Dispatcher,
  options: Dispatcher.DispatchOptions,
  { timeoutMs, signal }: ExchangeLimits,
): Promise<Answer> {
  if (signal?.aborted === true) return Promise.reject(signal.reason);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let status = 0;
    let retryAfter: Answer["retryAfter"];
    let running: Dispatcher.DispatchController | undefined;
    let over = false;
    const finish = (): boolean => {
      if (over) return false;
      over = true;
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      return true;
    };
    const fail = (error: unknown): void => {
      if (!finish()) return;
      reject(error);
      running?.abort(givenUp);
    };
    const abort = (): void => fail(signal?.reason);
    const timer = setTimeout(() => fail(new TimeIsOver(`no answer within ${timeoutMs} ms`)), timeoutMs);
    signal?.addEventListener("abort", abort);
    dispatcher.dispatch(options, {
      onRequestStart(controller) {
        if (over) controller.abort(givenUp);
        else running = controller;
      },
      onResponseStart(_controller, statusCode, headers) {
        status = statusCode;
        retryAfter = headers["retry-after"];
      },
      onResponseData: (_controller, chunk) => void chunks.push(chunk),
      onResponseEnd() {
        if (finish()) resolve({ status, retryAfter, text: textOf(chunks) });
      },
      onResponseError: (_controller, error) => fail(error),
    });
  });
}

/** Nobody reads it: whoever waited has been told. */
const givenUp = new Error("given up");

function textOf(chunks: readonly Buffer[]): string {
  const [first] = chunks;
  if (first === undefined) return "";
  return (chunks.length === 1 ? first : Buffer.concat(chunks)).toString("utf8");
}
