import { readFile } from "node:fs/promises";
import koffi from "koffi";

const timespec = koffi.struct("timespec", { tv_sec: "int64", tv_nsec: "int64" });
const clockGettime = koffi.load(null).func("clock_gettime", "int", ["int", koffi.out(koffi.pointer(timespec))]);
const threadCpuClock = 3;

/**
 * Time that this thread has had a core so far, in milliseconds. Of the clock that is exact at any moment: what /proc and
 * getrusage(2) say is as old as the kernel's last tick, up to 4 ms, which is what a whole plan takes.
 */
export function threadCpuMs(): number {
  const time: { tv_sec?: number; tv_nsec?: number } = {};
  if (clockGettime(threadCpuClock, time) !== 0) throw new Error(`clock_gettime failed with error ${koffi.errno()}`);
  return Number(time.tv_sec) * 1e3 + Number(time.tv_nsec) / 1e6;
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
