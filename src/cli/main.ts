import process from "node:process";
import { finished } from "node:stream/promises";
import { runCli } from "./run.ts";

// Services keep connections and watches open, so the end of a command is said, not waited for. What was written to a
// pipe must have left first.
const code = await runCli(process.argv.slice(2), process);
process.stdout.end();
process.stderr.end();
await Promise.allSettled([finished(process.stdout), finished(process.stderr)]);
process.exit(code);
