import { parentPort } from "node:worker_threads";
import { runSeed } from "./world.ts";

// Thousands of refusals per second: their stacks cost more than the refusals. A replay on the main thread has them.
Error.stackTraceLimit = 0;

/** Runs the seeds that it is sent, one after another, and answers with each run. */
parentPort?.on("message", ({ seeds, preemption }: { seeds: number[]; preemption: boolean }) => {
  void (async () => {
    for (const seed of seeds) parentPort?.postMessage(await runSeed({ seed, preemption }));
    parentPort?.postMessage("done");
  })();
});
