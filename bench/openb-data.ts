import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import type { Random } from "../test/simulation/random.ts";

/** One machine of the trace. CPU in millicores, memory in MiB. */
export interface Machine {
  name: string;
  cpu: number;
  memory: number;
  gpus: number;
  model: string;
}

/** One pod of the trace: `gpus` whole GPUs, or `milli` thousandths of one (then `gpus` is 1); without GPUs both are 0. */
export interface Task {
  cpu: number;
  memory: number;
  gpus: number;
  milli: number;
  /** GPU models that will do; empty: any. */
  models: readonly string[];
}

export const podLists = ["default", "multigpu50", "gpuspec33"] as const;
export type PodList = (typeof podLists)[number];

/** All machines with GPUs. */
export function readMachines(): Machine[] {
  return readRows("openb_node_list_gpu_node").map((row) => ({
    name: row("sn"),
    cpu: Number(row("cpu_milli")),
    memory: Number(row("memory_mib")),
    gpus: Number(row("gpu")),
    model: row("model"),
  }));
}

export function readTasks(list: PodList): Task[] {
  return readRows(`openb_pod_list_${list}`).map((row) => {
    const gpus = Number(row("num_gpu"));
    const spec = row("gpu_spec");
    return {
      cpu: Number(row("cpu_milli")),
      memory: Number(row("memory_mib")),
      gpus,
      milli: gpus === 0 ? 0 : Number(row("gpu_milli")),
      models: spec === "" ? [] : [...new Set(spec.split("|"))].sort(),
    };
  });
}

function readRows(name: string): ((column: string) => string)[] {
  const text = gunzipSync(readFileSync(new URL(`data/openb/${name}.csv.gz`, import.meta.url))).toString("utf8");
  const [header = "", ...lines] = text.trimEnd().split(/\r?\n/);
  const columns = header.split(",");
  return lines.map((line) => {
    const cells = line.split(",");
    return (column) => cells[columns.indexOf(column)] ?? "";
  });
}

/** GPUs that a task asks for, in thousandths. */
export function wanted({ gpus, milli }: Task): number {
  return gpus * milli;
}

/**
 * Tasks in the order of arrival, as much as `limit` thousandths of GPUs ask for: all of the list, as many more drawn from
 * it with repetition as it takes, in an order drawn by chance.
 */
export function arrivals(tasks: readonly Task[], limit: number, random: Random): Task[] {
  const drawn = [...tasks];
  let sum = drawn.reduce((total, task) => total + wanted(task), 0);
  while (sum < limit) {
    const task = random.pick(tasks);
    drawn.push(task);
    sum += wanted(task);
  }
  for (let i = drawn.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [drawn[i], drawn[j]] = [drawn[j]!, drawn[i]!];
  }
  const result: Task[] = [];
  let arrived = 0;
  for (const task of drawn) {
    if (arrived >= limit) break;
    result.push(task);
    arrived += wanted(task);
  }
  return result;
}
