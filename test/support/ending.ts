import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";

/** Of a run of tests; every process that it starts inherits it. */
const mark = "KLLAMA_TEST_RUN";
const patienceMs = 15_000;

/**
 * A test that fails may leave a process behind that it would have ended, and Vitest waits for ever for what shares its
 * output. A run that is over and does not end is ended here: it kills what it left, names it, and has failed.
 */
export default function setup(): () => void {
  const run = `${process.pid}-${Date.now()}`;
  process.env[mark] = run;
  return () => void setTimeout(end, patienceMs, run).unref();
}

function end(run: string): void {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes(`${mark}=${run}`)) continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      // Workers, and what watches over them.
      if (command.startsWith("vitest")) continue;
      process.stderr.write(`a test left process ${pid} behind, which is killed now: ${command}\n`);
      process.kill(Number(pid), "SIGKILL");
    } catch {
      // It has ended by itself, or is somebody else's.
    }
  }
  process.exit(process.exitCode === undefined || process.exitCode === 0 ? 1 : process.exitCode);
}
