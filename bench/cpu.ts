import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import process from "node:process";

/** Time that this thread has had a core so far, in milliseconds: Linux counts it, exactly, per thread. */
export function threadCpuMs(): number {
  const [nanoseconds] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ");
  return Number(nanoseconds) / 1e6;
}

/** CPU time of processes so far, in milliseconds, from /proc/PID/stat: fields 14 and 15 in ticks of 10 ms. */
export async function cpuMsOf(processes: ReadonlyMap<string, number | undefined>): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  for (const [name, pid] of processes) {
    if (pid === undefined) continue;
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    times.set(name, (Number(fields[11]) + Number(fields[12])) * 10);
  }
  return times;
}
