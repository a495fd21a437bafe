import type { Random } from "../test/simulation/random.ts";
import type { Machine, Task } from "./openb-data.ts";

/** A machine with what is free on it: GPUs in thousandths. */
export interface Host {
  readonly machine: Machine;
  cpu: number;
  memory: number;
  readonly gpus: number[];
}

export function freshHosts(machines: readonly Machine[]): Host[] {
  return machines.map((machine) => ({
    machine,
    cpu: machine.cpu,
    memory: machine.memory,
    gpus: new Array<number>(machine.gpus).fill(1000),
  }));
}

function fits({ machine, cpu, memory, gpus }: Host, task: Task): boolean {
  if (cpu < task.cpu || memory < task.memory) return false;
  if (task.gpus === 0) return true;
  if (task.models.length > 0 && !task.models.includes(machine.model)) return false;
  let enough = 0;
  for (const free of gpus) if (free >= task.milli) enough++;
  return enough >= task.gpus;
}

/** GPUs that the task gets: of a share `gpu`, else the first free ones. */
function gpusFor({ gpus }: Host, task: Task, gpu: number): number[] {
  if (task.gpus === 1 && task.milli < 1000) return [gpu];
  return [...gpus.keys()].filter((each) => gpus[each] === 1000).slice(0, task.gpus);
}

export function take(host: Host, task: Task, gpus: readonly number[], by: 1 | -1 = 1): void {
  host.cpu -= by * task.cpu;
  host.memory -= by * task.memory;
  for (const gpu of gpus) host.gpus[gpu]! -= by * task.milli;
}

/** Where a task goes; undefined: nowhere. */
export type Policy = (hosts: readonly Host[], task: Task) => { host: Host; gpus: readonly number[] } | undefined;

function isShare({ gpus, milli }: Task): boolean {
  return gpus === 1 && milli < 1000;
}

/** The GPU with least left that has enough. */
function tightestGpu({ gpus }: Host, milli: number): number {
  let best = -1;
  for (const [gpu, free] of gpus.entries()) if (free >= milli && (best < 0 || free < gpus[best]!)) best = gpu;
  return best;
}

/** Any machine that fits, any GPU that fits. */
export function randomFit(random: Random): Policy {
  return (hosts, task) => {
    const fitting = hosts.filter((host) => fits(host, task));
    if (fitting.length === 0) return undefined;
    const host = random.pick(fitting);
    const gpu = isShare(task)
      ? random.pick([...host.gpus.keys()].filter((each) => host.gpus[each]! >= task.milli))
      : -1;
    return { host, gpus: gpusFor(host, task, gpu) };
  };
}

/** The machine with least left afterwards (CPU and GPUs, each as a share of the largest machine), the tightest GPU. */
export function bestFit(machines: readonly Machine[]): Policy {
  const mostCpu = Math.max(...machines.map(({ cpu }) => cpu));
  const mostGpus = 1000 * Math.max(...machines.map(({ gpus }) => gpus));
  const left = ({ cpu, gpus }: Host) => cpu / mostCpu + gpus.reduce((sum, free) => sum + free, 0) / mostGpus;
  return (hosts, task) => {
    let best: Host | undefined;
    for (const host of hosts) if (fits(host, task) && (!best || left(host) < left(best))) best = host;
    return best && { host: best, gpus: gpusFor(best, task, tightestGpu(best, task.milli)) };
  };
}

/**
 * Fragmentation gradient descent (Weng et al., USENIX ATC '23): the machine and GPU where the GPUs that an average task
 * of the workload could not use grow least. `tasks`: the workload, known in advance.
 */
export function fragmentationGradientDescent(tasks: readonly Task[], random: Random): Policy {
  const mix = createMix(tasks);
  return (hosts, task) => {
    let best: { host: Host; gpus: readonly number[] } | undefined;
    let least = Number.POSITIVE_INFINITY;
    let equals = 0;
    for (const host of hosts) {
      if (!fits(host, task)) continue;
      const before = mix.fragmentation(host);
      for (const gpus of choices(host, task)) {
        take(host, task, gpus);
        const growth = mix.fragmentation(host) - before;
        take(host, task, gpus, -1);
        // Equals are drawn by chance, as kube-scheduler draws among equal scores.
        if (growth > least + 1e-9) continue;
        equals = growth < least - 1e-9 ? 1 : equals + 1;
        if (growth < least) least = growth;
        if (equals === 1 || random.below(equals) === 0) best = { host, gpus };
      }
    }
    return best;
  };
}

/** Every GPU for a share, those with the same left once; for whole GPUs the first free ones. */
function choices(host: Host, task: Task): number[][] {
  if (!isShare(task)) return [gpusFor(host, task, -1)];
  const different = new Map<number, number>();
  for (const [gpu, free] of host.gpus.entries())
    if (free >= task.milli && !different.has(free)) different.set(free, gpu);
  return [...different.values()].map((gpu) => [gpu]);
}

/** Tasks of one GPU request: how often they come, by the CPU that they ask for and the models that will do. */
interface Kind {
  gpus: number;
  milli: number;
  tasks: { cpu: number; models: readonly string[]; weight: number }[];
}

function createMix(tasks: readonly Task[]) {
  const kinds = new Map<string, Kind>();
  const withGpus = tasks.filter(({ gpus }) => gpus > 0);
  for (const { gpus, milli, cpu, models } of withGpus) {
    const key = `${gpus} ${milli}`;
    const kind = kinds.get(key) ?? { gpus, milli, tasks: [] };
    kinds.set(key, kind);
    kind.tasks.push({ cpu, models, weight: 1 / tasks.length });
  }
  const list = [...kinds.values()];
  /** model → per kind: CPU requests, ascending, with the weight of all tasks up to there that the model suits */
  const byModel = new Map<string, { cpu: number; weight: number }[][]>();
  const sumsOf = (model: string) => {
    let sums = byModel.get(model);
    if (!sums) {
      sums = list.map((kind) => {
        let weight = 0;
        const sums: { cpu: number; weight: number }[] = [];
        for (const each of kind.tasks.toSorted((a, b) => a.cpu - b.cpu)) {
          if (each.models.length > 0 && !each.models.includes(model)) continue;
          weight += each.weight;
          if (sums.at(-1)?.cpu === each.cpu) sums.at(-1)!.weight = weight;
          else sums.push({ cpu: each.cpu, weight });
        }
        return sums;
      });
      byModel.set(model, sums);
    }
    return sums;
  };
  const weights = list.map((kind) => kind.tasks.reduce((sum, { weight }) => sum + weight, 0));

  return {
    /** Thousandths of GPUs that are free and that an average task cannot use. */
    fragmentation({ machine, cpu, gpus }: Host): number {
      const sums = sumsOf(machine.model);
      let free = 0;
      let whole = 0;
      for (const each of gpus) {
        free += each;
        if (each === 1000) whole++;
      }
      let fragments = 0;
      for (let k = 0; k < list.length; k++) {
        const { gpus: count, milli } = list[k]!;
        let small = 0;
        let enough = 0;
        if (milli === 1000) enough = whole;
        for (const each of gpus) {
          if (each < milli) small += each;
          else if (milli < 1000) enough++;
        }
        const runnable = enough >= count ? weightUpTo(sums[k]!, cpu) : 0;
        fragments += runnable * small + (weights[k]! - runnable) * free;
      }
      return fragments;
    },
  };
}

function weightUpTo(sums: readonly { cpu: number; weight: number }[], cpu: number): number {
  let low = 0;
  let high = sums.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle]!.cpu <= cpu) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? 0 : sums[low - 1]!.weight;
}
