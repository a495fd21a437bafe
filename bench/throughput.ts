import { readFile } from "node:fs/promises";
import { cpus } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import type { KubernetesObject, Pod } from "../src/api/kubernetes.ts";
import { gangLabel, podSetLabel } from "../src/api/names.ts";
import type { KubeClient } from "../src/kube/client.ts";
import { createReflector } from "../src/kube/reflector.ts";
import { uniformFleet } from "../src/simulator/fleet.ts";
import { startStack, startStockStack } from "../test/support/stack.ts";
import { clientLimits } from "../tools/control-plane/arguments.ts";
import { type KubernetesVersion, kubernetesVersions, resolveBinaries } from "../tools/control-plane/binaries.ts";
import { apiServerMetrics, readWriteCounts, writesBetween } from "./api-writes.ts";
import { cpuMsOf } from "./cpu.ts";
import { floorGate, placeWithoutDeciding } from "./floor.ts";

const help = `usage: npm run bench -- throughput [FLAGS]

Creates pods on a simulated fleet of 8-GPU nodes and measures pods per second from the first create to the last binding,
each way on a fresh control plane of this machine, one after the other. Nodes and devices are simulated and have no
kubelet: pods are bound and never start.
  stock   kube-scheduler alone, one ResourceClaim of 4 GPUs per pod from a template
  kllama  the same pods in gangs, placed by kllama
  plain   the same pods without claims: what kube-scheduler and API server can do at most
  floor   the same pods, and only the writes that placing them takes: no gang, no search, no policy, no planner process

  --nodes N       nodes of 8 GPUs (default 1000)
  --pods N        pods of 4 GPUs (default 1000)
  --gang-size N   pods per gang (default 4)
  --creators N    pods created at a time (default 16)
  --ways LIST     which of stock,kllama,plain,floor (default all)
  --kubernetes-version V   ${kubernetesVersions.join(" or ")} (default ${kubernetesVersions[0]})
`;

const namespace = "bench";

interface Options {
  nodes: number;
  pods: number;
  gangSize: number;
  creators: number;
  version: KubernetesVersion;
}

const ways = ["stock", "kllama", "plain", "floor"] as const;
type Way = (typeof ways)[number];

interface Measured {
  way: Way;
  podsPerSecond: number;
  seconds: number;
  writes: Map<string, number>;
  /** Milliseconds from the first to the last binding of each gang. */
  spreadsMs: number[];
  rssMb?: number;
  /** Process → CPU milliseconds per pod while pods were placed. */
  cpuMs: Map<string, number>;
}

export async function throughput(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      nodes: { type: "string", default: "1000" },
      pods: { type: "string", default: "1000" },
      "gang-size": { type: "string", default: "4" },
      creators: { type: "string", default: "16" },
      ways: { type: "string", default: ways.join(",") },
      "kubernetes-version": { type: "string", default: kubernetesVersions[0] },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const options: Options = {
    nodes: positive("nodes", values.nodes),
    pods: positive("pods", values.pods),
    gangSize: positive("gang-size", values["gang-size"]),
    creators: positive("creators", values.creators),
    version: values["kubernetes-version"] as KubernetesVersion,
  };
  const measured: Measured[] = [];
  for (const way of chosenWays(values.ways)) {
    process.stderr.write(`${way}: starting a control plane and ${options.nodes} nodes\n`);
    const result = await measure(way, options);
    process.stderr.write(`${way}: ${result.podsPerSecond.toFixed(1)} pods/s\n`);
    measured.push(result);
  }
  await report(options, measured);
}

function positive(flag: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${flag} ${text} is not a positive whole number`);
  return value;
}

function chosenWays(list: string): Way[] {
  return list.split(",").map((name) => {
    const way = ways.find((each) => each === name);
    if (way === undefined) throw new Error(`--ways ${list}: ${JSON.stringify(name)} is none of ${ways.join(", ")}`);
    return way;
  });
}

async function measure(way: Way, options: Options): Promise<Measured> {
  const fleet = uniformFleet({ nodes: options.nodes });
  const stack =
    way === "kllama"
      ? await startStack({ fleet, version: options.version, nodeAgents: false })
      : await startStockStack({ fleet, version: options.version, nodeAgents: false });
  try {
    await prepareNamespace(stack.admin, way);
    const planner = "planner" in stack ? (stack.planner as { pid: number | undefined }).pid : undefined;
    const processes = new Map([...stack.plane.components].map(([name, { pid }]) => [name as string, pid]));
    processes.set("kllama planner", planner).set("benchmark (creates and watches)", process.pid);
    const stopFloor = way === "floor" ? await placeWithoutDeciding(stack.admin, namespace) : undefined;
    const before = await readWriteCounts(() => apiServerMetrics(stack.admin));
    const cpuBefore = await cpuMsOf(processes);
    const bound = await run(stack.admin, way, options);
    const cpuAfter = await cpuMsOf(processes);
    const writes = writesBetween(before, await readWriteCounts(() => apiServerMetrics(stack.admin)));
    const cpuMs = new Map([...cpuAfter].map(([name, ms]) => [name, (ms - (cpuBefore.get(name) ?? 0)) / options.pods]));
    await stopFloor?.();
    const rssMb = planner === undefined ? undefined : await peakRssMb(planner);
    return { way, ...bound, writes, cpuMs, ...(rssMb === undefined ? {} : { rssMb }) };
  } finally {
    await stack.stop();
  }
}

async function prepareNamespace(client: KubeClient, way: Way): Promise<void> {
  await create(client, "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  if (way === "plain") return;
  const request = { name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 4 } };
  await create(client, `/apis/resource.k8s.io/v1/namespaces/${namespace}/resourceclaimtemplates`, {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name: "gpus" },
    spec: { spec: { devices: { requests: [request] } } },
  } as KubernetesObject);
}

async function run(
  client: KubeClient,
  way: Way,
  options: Options,
): Promise<Pick<Measured, "podsPerSecond" | "seconds" | "spreadsMs">> {
  const boundAtMs = new Map<string, { gang: string; atMs: number }>();
  let finished: () => void = () => undefined;
  const allBound = new Promise<void>((resolve) => {
    finished = resolve;
  });
  const watch = createReflector<Pod, { node: string | undefined; gang: string }>({
    client,
    path: `/api/v1/namespaces/${namespace}/pods`,
    name: "bound pods",
    // What became of a pod before is not asked for: each event would cost the API server and this process.
    query: { fieldSelector: "spec.nodeName!=" },
    project: (pod) => ({ node: pod.spec.nodeName, gang: pod.metadata.labels?.["bench"] ?? "" }),
    onChange: (change) => {
      if (change.type === "replaced" || change.type === "deleted" || change.value.node === undefined) return;
      if (boundAtMs.has(change.key)) return;
      boundAtMs.set(change.key, { gang: change.value.gang, atMs: performance.now() });
      if (boundAtMs.size === options.pods) finished();
    },
  });
  watch.start();
  await watch.waitForSync();
  const startMs = performance.now();
  const progress = setInterval(() => process.stderr.write(`${way}: ${boundAtMs.size}/${options.pods} bound\n`), 5_000);
  await createAll(client, way, options);
  await allBound;
  clearInterval(progress);
  await watch.stop();
  const seconds = (Math.max(...[...boundAtMs.values()].map((bound) => bound.atMs)) - startMs) / 1000;
  return { seconds, podsPerSecond: options.pods / seconds, spreadsMs: spreads(boundAtMs.values()) };
}

/** Pods in order, `creators` at a time; in kllama's way each gang's object goes before its pods. */
async function createAll(client: KubeClient, way: Way, options: Options): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < options.pods) {
      const index = next++;
      const gang = Math.floor(index / options.gangSize);
      if (way === "kllama" && index % options.gangSize === 0) {
        const count = Math.min(options.gangSize, options.pods - index);
        await create(client, `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs`, {
          apiVersion: "scheduling.kllama.ai/v1alpha1",
          kind: "Gang",
          metadata: { name: `gang-${gang}` },
          spec: { podSets: [{ name: "ranks", count }] },
        } as KubernetesObject);
      }
      await create(client, `/api/v1/namespaces/${namespace}/pods`, pod(way, `gang-${gang}`, index));
    }
  };
  await Promise.all(Array.from({ length: options.creators }, work));
}

function pod(way: Way, gang: string, index: number): KubernetesObject {
  const member = way === "kllama" ? { [gangLabel]: gang, [podSetLabel]: "ranks" } : {};
  const claimed = way !== "plain";
  const resources = { requests: { cpu: "100m", memory: "100Mi" }, ...(claimed ? { claims: [{ name: "gpus" }] } : {}) };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `pod-${index}`, labels: { bench: gang, ...member } },
    spec: {
      ...(way === "floor" ? { schedulingGates: [{ name: floorGate }] } : {}),
      containers: [{ name: "main", image: "registry.k8s.io/pause:3.10", resources }],
      ...(claimed ? { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: "gpus" }] } : {}),
    },
  } as KubernetesObject;
}

async function create(client: KubeClient, path: string, body: KubernetesObject): Promise<void> {
  await client.request("POST", path, { body });
}

function spreads(bound: Iterable<{ gang: string; atMs: number }>): number[] {
  const ranges = new Map<string, [number, number]>();
  for (const { gang, atMs } of bound) {
    const [first, last] = ranges.get(gang) ?? [atMs, atMs];
    ranges.set(gang, [Math.min(first, atMs), Math.max(last, atMs)]);
  }
  return [...ranges.values()].map(([first, last]) => last - first).sort((a, b) => a - b);
}

async function peakRssMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}

async function report(options: Options, measured: readonly Measured[]): Promise<void> {
  const { versions } = await resolveBinaries({ version: options.version, onProgress: () => undefined });
  const rate = (way: Way): number | undefined => measured.find((each) => each.way === way)?.podsPerSecond;
  const lines = [
    `${options.pods} pods × 4 GPUs on ${options.nodes} simulated nodes × 8 GPUs, gangs of ${options.gangSize}, ${options.creators} creators`,
    `Kubernetes ${options.version}, Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model.trim()}`,
    `client limits of Kubernetes components: ${clientLimits.queriesPerSecond} queries/s, burst ${clientLimits.burst}; kllama: 32 writes at a time; creators: none`,
    "",
    "| way | pods/s | seconds | first to last binding of a gang, p50 / p99 ms | pod and claim writes per pod | peak RSS of kllama MB |",
    "|---|---|---|---|---|---|",
    ...measured.map(row(options)),
    "",
    "Successful API writes per pod",
    "",
    ...writeTable(options, measured),
    "",
    "CPU milliseconds per pod",
    "",
    ...cpuTable(measured),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const kllama = measured.find((each) => each.way === "kllama");
  const result = {
    benchmark: "throughput",
    podsPerSecond: Object.fromEntries(ways.map((way) => [way, rate(way)])),
    ratioToStock: ratio(rate("kllama"), rate("stock")),
    ratioToPlain: ratio(rate("kllama"), rate("plain")),
    ratioToFloor: ratio(rate("kllama"), rate("floor")),
    writesPerPod: Object.fromEntries(measured.map((each) => [each.way, podAndClaimWrites(each) / options.pods])),
    bindingSpreadP99Ms: kllama === undefined ? undefined : quantile(kllama.spreadsMs, 0.99),
    rssMb: kllama?.rssMb,
    sizes: options,
    versions: { ...versions, node: process.version },
    // Nothing here is drawn at random: the planner is deterministic and the load is fixed.
    seed: null,
  };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

function row(options: Options): (measured: Measured) => string {
  return (measured) => {
    const { way, podsPerSecond, seconds, spreadsMs } = measured;
    const spread =
      way === "kllama" ? `${quantile(spreadsMs, 0.5).toFixed(0)} / ${quantile(spreadsMs, 0.99).toFixed(0)}` : "";
    const writes = (podAndClaimWrites(measured) / options.pods).toFixed(2);
    return `| ${way} | ${podsPerSecond.toFixed(1)} | ${seconds.toFixed(1)} | ${spread} | ${writes} | ${measured.rssMb?.toFixed(0) ?? ""} |`;
  };
}

function writeTable(options: Options, measured: readonly Measured[]): string[] {
  const kinds = new Set(measured.flatMap((each) => [...each.writes.keys()]));
  const rows = [...kinds].sort().map((kind) => {
    const cells = measured.map((each) => ((each.writes.get(kind) ?? 0) / options.pods).toFixed(2));
    return `| ${kind} | ${cells.join(" | ")} |`;
  });
  return [
    `| write | ${measured.map((each) => each.way).join(" | ")} |`,
    `|---|${measured.map(() => "---|").join("")}`,
    ...rows,
  ];
}

function cpuTable(measured: readonly Measured[]): string[] {
  const names = new Set(measured.flatMap((each) => [...each.cpuMs.keys()]));
  const rows = [...names].map(
    (name) => `| ${name} | ${measured.map((each) => each.cpuMs.get(name)?.toFixed(1) ?? "").join(" | ")} |`,
  );
  return [
    `| process | ${measured.map((each) => each.way).join(" | ")} |`,
    `|---|${measured.map(() => "---|").join("")}`,
    ...rows,
  ];
}

/** Pods, bindings and claims, with their subresources; Gangs and events are counted apart. */
function podAndClaimWrites({ writes }: Measured): number {
  let sum = 0;
  for (const [kind, count] of writes) if (/ (pods|resourceclaims)(\/|$)/.test(kind)) sum += count;
  return sum;
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0;
}

function ratio(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a / b;
}
