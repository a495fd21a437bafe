import { cpus, loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import type { NodeSelector, ResourceClaimSpec } from "../src/api/kubernetes.ts";
import type { Workload } from "../src/gang/fit.ts";
import { plan, singlePodGang } from "../src/gang/plan.ts";
import type { ClusterModel } from "../src/topology/model.ts";
import type { ClaimRecord, PodRecord } from "../src/topology/records.ts";
import { podRecord } from "../test/builders.ts";
import { createRandom } from "../test/simulation/random.ts";
import {
  arrivals,
  type Machine,
  type PodList,
  podLists,
  readMachines,
  readTasks,
  type Task,
  wanted,
} from "./openb-data.ts";
import {
  bestFit,
  fragmentationGradientDescent,
  freshHosts,
  type Host,
  type Policy,
  randomFit,
  take,
} from "./openb-policies.ts";
import { driver, emptyCluster } from "./scene.ts";

const help = `usage: npm run bench -- openb [FLAGS]

Replays the GPU cluster of Alibaba that the FGD paper is evaluated on: 1,213 nodes, 6,212 GPUs, and pods that arrive in an
order drawn by chance and never leave, until they have asked for 130 % of all GPUs. What finds no place is dropped. How
much of the GPUs is allocated, when as much was asked for as there is (100 %), and at the end (130 %)?
  random    any node that fits, any GPU that fits
  bestFit   the node with least left, the GPU with least left
  fgd       fragmentation gradient descent, as in the paper
  kllama    plan(), one pod after the other

  --lists LIST   which of ${podLists.join(",")} (default all)
  --seeds N      orders of arrival per list (default 3)
`;

const ways = ["random", "bestFit", "fgd", "kllama"] as const;
type Way = (typeof ways)[number];

/** Allocated GPUs in percent of all, at 100 % and at 130 % of arrival: means over ten seeds, of the simulator's published results. */
const published: Record<PodList, Record<Exclude<Way, "kllama">, [number, number]>> = {
  default: { random: [86.3, 87.47], bestFit: [92.86, 93.08], fgd: [95.23, 95.39] },
  multigpu50: { random: [81.28, 90.27], bestFit: [95.62, 95.74], fgd: [97.09, 97.18] },
  gpuspec33: { random: [83.87, 86.46], bestFit: [80.39, 93.09], fgd: [87.84, 94.55] },
};

interface Outcome {
  at100: number;
  at130: number;
  seconds: number;
}

export async function openbBench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      lists: { type: "string", default: podLists.join(",") },
      seeds: { type: "string", default: "3" },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const lists = podLists.filter((list) => values.lists.split(",").includes(list));
  const seeds = Array.from({ length: Number(values.seeds) }, (_, seed) => seed + 1);
  const machines = readMachines();
  const results = lists.map((list) => ({ list, ...replay(machines, list, seeds) }));
  report(results, seeds);
}

function replay(machines: readonly Machine[], list: PodList, seeds: readonly number[]): Record<Way, Outcome[]> {
  const tasks = readTasks(list);
  const capacity = 1000 * machines.reduce((sum, { gpus }) => sum + gpus, 0);
  const outcomes: Record<Way, Outcome[]> = { random: [], bestFit: [], fgd: [], kllama: [] };
  for (const seed of seeds) {
    const input = arrivals(tasks, 1.3 * capacity, createRandom(seed));
    const policies: Record<Way, () => Policy> = {
      random: () => randomFit(createRandom(seed)),
      bestFit: () => bestFit(machines),
      fgd: () => fragmentationGradientDescent(tasks, createRandom(seed)),
      kllama: () => kllama(machines, tasks),
    };
    for (const way of ways) {
      const outcome = run(machines, input, capacity, policies[way]());
      process.stderr.write(
        `${list}, seed ${seed}, ${way}: ${outcome.at100.toFixed(2)} %, ${outcome.at130.toFixed(2)} %, ${outcome.seconds.toFixed(0)} s\n`,
      );
      outcomes[way].push(outcome);
    }
  }
  return outcomes;
}

/** Every way is counted by the same books, and may overdraw nothing. */
function run(machines: readonly Machine[], input: readonly Task[], capacity: number, policy: Policy): Outcome {
  const begun = performance.now();
  const hosts = freshHosts(machines);
  let arrived = 0;
  let allocated = 0;
  let at100: number | undefined;
  for (const task of input) {
    arrived += wanted(task);
    const choice = policy(hosts, task);
    if (choice) {
      take(choice.host, task, choice.gpus);
      const { cpu, memory, gpus } = choice.host;
      if (cpu < 0 || memory < 0 || gpus.some((free) => free < 0) || new Set(choice.gpus).size !== task.gpus) {
        throw new Error(`${choice.host.machine.name} was given more than it has`);
      }
      allocated += wanted(task);
    }
    if (arrived >= capacity) at100 ??= (100 * allocated) / capacity;
  }
  return { at100: at100!, at130: (100 * allocated) / capacity, seconds: (performance.now() - begun) / 1000 };
}

const modelLabel = "nvidia.com/gpu.product";
const namespace = "openb";

/**
 * plan() on the same machines: every GPU is a device that several claims may have parts of, with a capacity of 1000
 * thousandths; a pod's claim asks for as many devices as it wants, and for its thousandths of each. GPU models are node
 * labels, asked for by node affinity. Of the workload it knows what FGD knows: the list.
 */
function kllama(machines: readonly Machine[], tasks: readonly Task[]): Policy {
  const model = emptyCluster();
  for (const machine of machines) addMachine(model, machine);
  const hostOf = new Map(machines.map(({ name }, index) => [name, index]));
  const workload = workloadOf(tasks);
  let number = 0;
  return (hosts: readonly Host[], task: Task) => {
    const { pod, claims } = podOf(`pod-${number++}`, task);
    for (const claim of claims) model.upsertClaim(claim);
    const gang = {
      namespace,
      name: pod.name,
      spec: singlePodGang(pod),
      priority: 0,
      createdAtMs: 0,
      pods: [pod],
      placed: [],
    };
    const result = plan(model, { gangs: [gang] }, { workload });
    if (!("plans" in result)) {
      for (const { uid } of claims) model.removeClaim(uid);
      return undefined;
    }
    const placed = result.plans[0]!.placement.pods[0]!;
    model.hold(`${namespace}/${pod.name}`, namespace, [{ placed, requests: pod.requests }]);
    const devices = placed.claims.flatMap((claim) => claim.devices);
    return {
      host: hosts[hostOf.get(placed.node)!]!,
      gpus: devices.map(({ device }) => Number(device.slice("gpu-".length))),
    };
  };
}

function addMachine(model: ClusterModel, { name, cpu, memory, gpus, model: product }: Machine): void {
  model.upsertNode({
    name,
    uid: name,
    labels: { "kubernetes.io/hostname": name, [modelLabel]: product },
    taints: [],
    unschedulable: false,
    ready: true,
    allocatable: { cpu, memory: memory * 2 ** 20, pods: 1000 },
  });
  const devices = Array.from({ length: gpus }, (_, index) => ({
    name: `gpu-${index}`,
    attributes: { type: { string: "gpu" }, productName: { string: product } },
    capacity: { milli: { value: "1000" } },
    allowMultipleAllocations: true,
  }));
  const pool = { driver, pool: name, generation: 1, resourceSliceCount: 1, nodeName: name, sharedCounters: [] };
  model.upsertSlice({ name: `${name}-gpus`, ...pool, devices });
}

function podOf(name: string, task: Task): { pod: PodRecord; claims: ClaimRecord[] } {
  const affinity: NodeSelector = {
    nodeSelectorTerms: [{ matchExpressions: [{ key: modelLabel, operator: "In", values: [...task.models] }] }],
  };
  const pod = podRecord(name, {
    uid: name,
    namespace,
    requests: { cpu: task.cpu, memory: task.memory * 2 ** 20 },
    claims: task.gpus > 0 ? [{ name: "gpus", claimName: name }] : [],
    ...(task.models.length > 0 && { nodeAffinity: affinity }),
  });
  if (task.gpus === 0) return { pod, claims: [] };
  const exactly = {
    deviceClassName: driver,
    allocationMode: "ExactCount" as const,
    count: task.gpus,
    capacity: { requests: { milli: `${task.milli}` } },
  };
  const spec: ResourceClaimSpec = { devices: { requests: [{ name: "gpus", exactly }] } };
  const claim = {
    uid: name,
    namespace,
    name,
    resourceVersion: "1",
    spec,
    reservedFor: [],
    finalizers: [],
    deleting: false,
  };
  return { pod, claims: [claim] };
}

function workloadOf(tasks: readonly Task[]): Workload {
  const counts = new Map<string, { task: Task; weight: number }>();
  for (const task of tasks) {
    const key = JSON.stringify(task);
    const known = counts.get(key) ?? { task, weight: 0 };
    known.weight++;
    counts.set(key, known);
  }
  return [...counts.values()].map(({ task, weight }, i) => ({ ...podOf(`workload-${i}`, task), weight }));
}

function report(results: readonly ({ list: PodList } & Record<Way, Outcome[]>)[], seeds: readonly number[]): void {
  const mean = (outcomes: readonly Outcome[], of: keyof Outcome) =>
    outcomes.reduce((sum, outcome) => sum + outcome[of], 0) / outcomes.length;
  const rows = results.flatMap((result) =>
    ways.map((way) => {
      const theirs = way === "kllama" ? undefined : published[result.list][way];
      const cells = [mean(result[way], "at100"), mean(result[way], "at130"), ...(theirs ?? [])].map((each) =>
        each.toFixed(2),
      );
      return `| ${result.list} | ${way} | ${[...cells, "", ""].slice(0, 4).join(" | ")} | ${mean(result[way], "seconds").toFixed(0)} |`;
    }),
  );
  const lines = [
    `GPUs allocated in % of all, mean over seeds ${seeds.join(", ")}; published: over seeds of the simulator's own`,
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model.trim()}, load of the machine at the end ${loadavg()[0]!.toFixed(1)}`,
    "",
    "| pods | way | at 100 % | at 130 % | published, at 100 % | published, at 130 % | seconds per replay |",
    "|---|---|---|---|---|---|---|",
    ...rows,
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const figures = results.map(({ list, ...outcomes }) => {
    const byWay = ways.map((way) => [
      way,
      { at100: mean(outcomes[way], "at100"), at130: mean(outcomes[way], "at130") },
    ]);
    return [list, Object.fromEntries(byWay)];
  });
  const atLeastFgd = results.every(({ kllama, fgd }) =>
    (["at100", "at130"] as const).every((when) => mean(kllama, when) >= mean(fgd, when)),
  );
  const result = {
    benchmark: "openb",
    allocationPercent: Object.fromEntries(figures),
    published,
    atLeastFgd,
    sizes: { nodes: 1213, gpus: 6212, seeds: seeds.length },
    versions: { node: process.version },
    seed: seeds,
  };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}
