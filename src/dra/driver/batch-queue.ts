/** Runs jobs strictly one batch after another, in the order of arrival. */
export interface BatchQueue<J> {
  push(job: J): void;
  /** Resolves when nothing is waiting or under way. */
  idle(): Promise<void>;
}

/**
 * Neighbours for which `together` holds share a batch: what waited while the last batch ran shares its reads, its disk
 * syncs and its writes. `run` must not reject: a job's failure is the job's own affair.
 */
export function createBatchQueue<J>(
  run: (batch: readonly J[]) => Promise<void>,
  together: (first: J, next: J) => boolean,
): BatchQueue<J> {
  const waiting: J[] = [];
  let running: Promise<void> | undefined;

  async function drain(): Promise<void> {
    // What the kubelet sent in one go arrives in one turn of the event loop.
    await new Promise<void>((resolve) => setImmediate(resolve));
    while (waiting.length > 0) {
      const first = waiting[0]!;
      const end = waiting.findIndex((job, index) => index > 0 && !together(first, job));
      await run(waiting.splice(0, end === -1 ? waiting.length : end));
    }
    running = undefined;
  }

  return {
    push(job) {
      waiting.push(job);
      running ??= drain();
    },
    async idle() {
      while (running !== undefined) await running;
    },
  };
}
