// A service of its own process for service.test.ts; the argument says how it behaves.
import process from "node:process";
import { createLog, serve } from "../../../src/cli/service.ts";

const behaviour = process.argv[2];
const log = createLog("fixture", "info");
const keepsRunning = setInterval(() => undefined, 60_000);
process.exit(
  await serve(log, async (fail) => {
    if (behaviour === "never-starts") await new Promise(() => undefined);
    if (behaviour === "cannot-start") throw new Error("no API server");
    if (behaviour === "loses") setImmediate(() => fail("the Lease was lost"));
    const ready = Promise.withResolvers<void>();
    if (behaviour === "never-ready") ready.reject(new Error("cannot list"));
    else if (behaviour !== "syncs") ready.resolve();
    else setImmediate(() => log.info("syncing"));
    return {
      ready: ready.promise,
      async stop() {
        ready.reject(new Error("stopped before the first sync"));
        log.info("stop was called");
        if (behaviour === "hangs") await new Promise(() => undefined);
        clearInterval(keepsRunning);
      },
    };
  }),
);
