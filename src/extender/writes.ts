import type { WriteEffect, Written } from "./effects.ts";

/**
 * Starts writes in the order they were asked for, at most `limit` at a time: a thousand released pods must not become a
 * thousand connections, and a slow API server must slow us down instead of piling up requests.
 *
 * What nobody waits for goes last: removing guards, and saying that a gang is scheduled once its members are bound. It
 * has places of its own only after it has waited for `patienceMs`, or a cluster that never rests would put it off for
 * ever.
 */
export interface WriteQueue {
  push(effect: WriteEffect, owner: string): void;
  /** Begins nothing more: what waits, or comes, is left to whoever plans next. */
  close(): void;
  /** Resolves once nothing waits and nothing is under way. */
  idle(): Promise<void>;
  readonly depth: number;
}

export interface WriteLimits {
  /** Writes under way at a time. */
  total: number;
  /** Of these, writes of the background class that has lost its patience. */
  background: number;
  patienceMs: number;
}

interface Job {
  effect: WriteEffect;
  owner: string;
  sinceMs: number;
}

export function createWriteQueue(
  limits: WriteLimits,
  perform: (effect: WriteEffect) => Promise<Written>,
  finished: (effect: WriteEffect, owner: string, written: Written) => void,
  nowMs: () => number,
): WriteQueue {
  const urgent = createFifo<Job>();
  const background = createFifo<Job>();
  const idlers: (() => void)[] = [];
  let running = 0;
  let runningBackground = 0;
  let closed = false;

  function takeNext(): Job | undefined {
    const oldest = background.first();
    const impatient = oldest !== undefined && nowMs() - oldest.sinceMs > limits.patienceMs;
    if (impatient && runningBackground < limits.background) return background.shift();
    if (urgent.length > 0) return urgent.shift();
    const idle = running === runningBackground;
    return idle || impatient ? background.shift() : undefined;
  }

  function next(): void {
    while (running < limits.total) {
      const job = takeNext();
      if (job === undefined) break;
      run(job);
    }
    if (running === 0 && depth() === 0) for (const idler of idlers.splice(0)) idler();
  }

  function run({ effect, owner }: Job): void {
    running += 1;
    if (isBackground(effect)) runningBackground += 1;
    void perform(effect).then((written) => {
      running -= 1;
      if (isBackground(effect)) runningBackground -= 1;
      finished(effect, owner, written);
      next();
    });
  }

  const depth = (): number => urgent.length + background.length + running;
  return {
    push(effect, owner) {
      if (closed) return;
      (isBackground(effect) ? background : urgent).push({ effect, owner, sinceMs: nowMs() });
      next();
    },
    close() {
      closed = true;
      urgent.clear();
      background.clear();
    },
    idle: () => (depth() === 0 ? Promise.resolve() : new Promise((resolve) => idlers.push(resolve))),
    get depth() {
      return depth();
    },
  };
}

function isBackground(effect: WriteEffect): boolean {
  return (
    effect.type === "tellPod" ||
    effect.type === "dropGuard" ||
    (effect.type === "writeStatus" && effect.transition === "Scheduled")
  );
}

interface Fifo<T> {
  push(item: T): void;
  first(): T | undefined;
  shift(): T | undefined;
  clear(): void;
  readonly length: number;
}

/** A queue whose `shift` does not move what is behind. */
function createFifo<T>(): Fifo<T> {
  let items: T[] = [];
  let head = 0;
  return {
    push: (item) => items.push(item),
    first: () => items[head],
    shift() {
      const item = items[head];
      if (item === undefined) return undefined;
      head += 1;
      if (head * 2 > items.length) {
        items = items.slice(head);
        head = 0;
      }
      return item;
    },
    clear() {
      items = [];
      head = 0;
    },
    get length() {
      return items.length - head;
    },
  };
}
