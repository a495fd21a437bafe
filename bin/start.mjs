// Runs the command line: what bin/kllama and the demo start. Not TypeScript, because it has to come before the first file that is.
import { enableCompileCache } from "node:module";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

/**
 * The node agent runs on every node beside the workload. With its code compiled once per machine it never loads what strips
 * types, which is a fifth of its memory, and starts in half the time. Without a folder to write to it is as before.
 */
const [command, ...args] = process.argv.slice(2);
if (command === "node-agent") {
  const options = { "state-dir": { type: "string", default: "/var/lib/kllama" } };
  const { values } = parseArgs({ args, options, strict: false });
  if (typeof values["state-dir"] === "string") enableCompileCache(join(values["state-dir"], "compile-cache"));
}
await import("../src/cli/main.ts");
