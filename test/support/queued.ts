import { readFileSync } from "node:fs";

/**
 * How long the main threads of these processes have been ready to run without a core so far, as Linux counts it: what
 * others take on the machine. One that is gone counts nothing.
 */
export function queuedMs(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + ofProcess(pid), 0);
}

function ofProcess(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, "utf8").split(" ")[1]) / 1e6;
  } catch {
    return 0;
  }
}
