import type { WriteEffect, Written } from "./effects.ts";

/**
 * Starts writes in the order they were asked for, at most `limit` at a time: a thousand released pods must not become a
 * thousand connections, and a slow API server must slow us down instead of piling up requests.
 */
export interface WriteQueue {
  push(effect: WriteEffect, owner: string): void;
  /** Resolves once nothing waits and nothing is under way. */
  idle(): Promise<void>;
  readonly depth: number;
}

export function createWriteQueue(
  limit: number,
  perform: (effect: WriteEffect) => Promise<Written>,
  finished: (effect: WriteEffect, owner: string, written: Written) => void,
): WriteQueue {
  const waiting: { effect: WriteEffect; owner: string }[] = [];
  const idlers: (() => void)[] = [];
  let head = 0;
  let running = 0;

  function next(): void {
    while (running < limit && head < waiting.length) {
      const job = waiting[head];
      head += 1;
      if (head > 1024) waiting.splice(0, head);
      if (head > waiting.length) head = 0;
      if (job !== undefined) run(job.effect, job.owner);
    }
    if (running === 0 && head >= waiting.length) for (const idler of idlers.splice(0)) idler();
  }

  function run(effect: WriteEffect, owner: string): void {
    running += 1;
    void perform(effect).then((written) => {
      running -= 1;
      finished(effect, owner, written);
      next();
    });
  }

  return {
    push(effect, owner) {
      waiting.push({ effect, owner });
      next();
    },
    idle: () =>
      running === 0 && head >= waiting.length ? Promise.resolve() : new Promise((done) => idlers.push(done)),
    get depth() {
      return waiting.length - head + running;
    },
  };
}
