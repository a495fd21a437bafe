// Runs the command line: what bin/kllama and the demo start. Not TypeScript, because it has to come before the first file that is.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { enableCompileCache } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import "./english.mjs";

/**
 * The node agent runs on every node beside the workload. Compiled code that is kept spares it what strips types, a fifth of
 * its memory, and half the time of a start. At the first start of a version another process compiles, because memory that
 * was once used for it stays. Without a folder to write to, all of this is left out. NODE_COMPILE_CACHE names another
 * folder, such as one that `compile.mjs` filled when an image was built.
 */
const [command, ...args] = process.argv.slice(2);
if (
  command === "node-agent" &&
  process.env.NODE_COMPILE_CACHE === undefined &&
  !args.includes("--help") &&
  !args.includes("-h")
) {
  const options = { "state-dir": { type: "string", default: "/var/lib/kllama" } };
  const { values } = parseArgs({ args, options, strict: false });
  if (typeof values["state-dir"] === "string") useCompiled(join(values["state-dir"], "compile-cache"));
}
await import("../src/cli/main.ts");

function useCompiled(cache) {
  const folder = join(cache, version());
  try {
    if (!existsSync(join(folder, "complete"))) {
      // Of other versions.
      rmSync(cache, { recursive: true, force: true });
      makeFolder(folder);
      const program = fileURLToPath(new URL("compile.mjs", import.meta.url));
      spawnSync(process.execPath, [...process.execArgv, program, folder], { stdio: "ignore" });
    }
  } catch {
    return;
  }
  enableCompileCache(folder);
  // For the process that calls NVML.
  process.env.NODE_COMPILE_CACHE = folder;
}

/** With `recursive` Node would never come back where the kernel makes no folders at all, such as below /proc. */
function makeFolder(path) {
  if (!existsSync(dirname(path))) makeFolder(dirname(path));
  if (!existsSync(path)) mkdirSync(path, { mode: 0o700 });
}

/** Of the code as it lies here. A wrong one costs memory: Node compares the text of each file, too. */
function version() {
  const sources = fileURLToPath(new URL("../src", import.meta.url));
  const hash = createHash("sha256").update(process.version);
  for (const name of readdirSync(sources, { recursive: true }).sort()) {
    const { size, mtimeMs } = statSync(join(sources, name));
    hash.update(`${name} ${size} ${mtimeMs}\n`);
  }
  return hash.digest("hex").slice(0, 16);
}
