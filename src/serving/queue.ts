import type { Timing } from "../kube/timing.ts";

export interface WorkQueueOptions {
  /** Works on one key and says after how many milliseconds to look again; undefined: when told. It must not throw. */
  process: (key: string) => Promise<number | undefined>;
  timing: Timing;
  /** Keys worked on at once; never one key twice at once. */
  concurrency: number;
}

export interface WorkQueue {
  /** The key is worked on as soon as there is room: once, however often it is added before that; once more if it is being worked on now. */
  add(key: string): void;
  /** Takes nothing new, waits for what is being worked on. */
  stop(): Promise<void>;
}

/** Keys that need work, each at most once, with a later look at every key that its work asks for. */
export function createWorkQueue({ process, timing, concurrency }: WorkQueueOptions): WorkQueue {
  const waiting = new Set<string>();
  const running = new Map<string, Promise<void>>();
  const later = new Map<string, AbortController>();
  let stopped = false;

  function start(): void {
    for (const key of waiting) {
      if (stopped || running.size >= concurrency) return;
      if (running.has(key)) continue;
      waiting.delete(key);
      running.set(key, run(key));
    }
  }

  async function run(key: string): Promise<void> {
    const delayMs = await process(key);
    running.delete(key);
    if (delayMs !== undefined && !waiting.has(key) && !stopped) void addLater(key, delayMs);
    start();
  }

  async function addLater(key: string, delayMs: number): Promise<void> {
    const abort = new AbortController();
    later.set(key, abort);
    await timing.sleep(delayMs, abort.signal);
    if (!abort.signal.aborted) add(key);
  }

  function forgetLater(key: string): void {
    later.get(key)?.abort();
    later.delete(key);
  }

  function add(key: string): void {
    if (stopped) return;
    forgetLater(key);
    waiting.add(key);
    start();
  }

  return {
    add,
    async stop() {
      stopped = true;
      waiting.clear();
      for (const key of [...later.keys()]) forgetLater(key);
      await Promise.all(running.values());
    },
  };
}
