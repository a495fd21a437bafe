import { parentPort } from "node:worker_threads";
import { runSeed } from "./world.ts";

/** Runs the seeds that it is sent, one after another, and answers with each run. */
parentPort?.on("message", (seeds: number[]) => {
  void (async () => {
    for (const seed of seeds) parentPort?.postMessage(await runSeed({ seed }));
    parentPort?.postMessage("done");
  })();
});
