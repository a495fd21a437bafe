import { cpus, loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import type { KubernetesObject, Pod } from "../src/api/kubernetes.ts";
import { gangLabel, podIndexLabels, podSetLabel } from "../src/api/names.ts";
import { plannerMetrics, sumSeries } from "../src/cli/system/metrics.ts";
import type { KubeClient } from "../src/kube/client.ts";
import { resourcePath } from "../src/kube/paths.ts";
import { createReflector } from "../src/kube/reflector.ts";
import { uniformFleet } from "../src/simulator/fleet.ts";
import { type Stack, startStack } from "../test/support/stack.ts";
import { cpuMsOf } from "./cpu.ts";

const help = `usage: npm run bench -- hung-extender [FLAGS]

What a hung extender costs pods that have nothing to do with it. In every other round, 64 members with claims are released
and held at the barrier (a 65th is kept back by somebody else's gate); then the planner is stopped (SIGSTOP), so that
every call of kube-scheduler to it hangs until its time limit of 120 s, and is made again. Plain pods are created and bound
meanwhile. In the other rounds there are no members, and no planner either. The ratio of the rates is the result; on a
machine with other work compare the CPU time that the control plane takes for a pod, and the longest time without one.

  --members N   released members (default 64)
  --pairs N     pairs of rounds: hung and idle, idle and hung, … (default 4)
  --seconds N   length of a round; calls end and are made again in one of more than 120 (default 150)
`;

const namespace = "bench";

interface Round {
  hung: boolean;
  podsPerSecond: number;
  /** CPU of the control plane and of this process, per pod. */
  cpuMsPerPod: number;
  /** The same by process. */
  cpuMs: Record<string, number>;
  /** Longest time in which no pod was bound. */
  longestPauseMs: number;
  /** Members whose call hung until its limit. */
  timedOut: number;
}

export async function hungExtender(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      members: { type: "string", default: "64" },
      pairs: { type: "string", default: "2" },
      seconds: { type: "string", default: "150" },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const [members, pairs, seconds] = [Number(values.members), Number(values.pairs), Number(values.seconds)];
  const stack = await startStack({ fleet: uniformFleet({ nodes: 300 }), nodeAgents: false });
  try {
    await createNamespace(stack.admin);
    const plain = await plainPods(stack);
    await stack.planner.kill("SIGKILL");
    await plain.bindFor(5);
    const rounds: Round[] = [];
    for (let pair = 0; pair < pairs; pair++) {
      // Each first in turn, so that a drift of the machine favours neither.
      for (const hung of pair % 2 === 0 ? [true, false] : [false, true]) {
        rounds.push(
          hung
            ? await hungRound(stack, plain, `held-${pair}`, members, seconds)
            : { hung, ...(await plain.bindFor(seconds)), timedOut: 0 },
        );
        process.stderr.write(`${JSON.stringify(rounds.at(-1))}\n`);
      }
    }
    await plain.stop();
    report({ members, seconds, rounds, loadAverage: loadavg()[0] ?? 0, cores: cpus().length });
  } finally {
    await stack.stop();
  }
}

async function hungRound(
  stack: Stack,
  plain: PlainPods,
  gang: string,
  members: number,
  seconds: number,
): Promise<Round> {
  await stack.planner.start();
  await releaseMembers(stack, gang, members);
  const { pid } = stack.planner;
  if (pid === undefined) throw new Error("the planner has no process");
  process.kill(pid, "SIGSTOP");
  const bound = await plain.bindFor(seconds);
  const timedOut = await countTimedOut(stack.admin, gang);
  await stack.planner.kill("SIGKILL");
  await deleteMembers(stack.admin, gang, members);
  return { hung: true, ...bound, timedOut };
}

/** Members that kube-scheduler has given up once: it says so in their condition. */
async function countTimedOut(client: KubeClient, gang: string): Promise<number> {
  const path = resourcePath({ group: "", version: "v1", resource: "pods", namespace });
  const query = new URLSearchParams({ labelSelector: `${gangLabel}=${gang}` });
  const { items } = await client.request<{ items: Pod[] }>("GET", `${path}?${query}`);
  return items.filter((pod) =>
    pod.status?.conditions?.some(({ type, reason }) => type === "PodScheduled" && reason === "SchedulerError"),
  ).length;
}

async function createNamespace(client: KubeClient): Promise<void> {
  await post(client, "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  await post(client, `/apis/resource.k8s.io/v1/namespaces/${namespace}/resourceclaimtemplates`, {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name: "gpu" },
    spec: {
      spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 1 } }] } },
    },
  });
}

/** A gang with one member more, which another gate keeps from arriving; resolves once the others' calls are held. */
async function releaseMembers(stack: Stack, gang: string, members: number): Promise<void> {
  await post(stack.admin, `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs`, {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "Gang",
    metadata: { name: gang },
    spec: { podSets: [{ name: "ranks", count: members + 1 }] },
  });
  for (let index = 0; index <= members; index++) {
    const gates = index < members ? {} : { schedulingGates: [{ name: "example.com/wait" }] };
    await post(stack.admin, `/api/v1/namespaces/${namespace}/pods`, {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        name: `${gang}-${index}`,
        labels: { [gangLabel]: gang, [podSetLabel]: "ranks", [podIndexLabels[0]]: String(index) },
      },
      spec: {
        ...gates,
        containers: [{ ...container, resources: { ...container.resources, claims: [{ name: "gpu" }] } }],
        resourceClaims: [{ name: "gpu", resourceClaimTemplateName: "gpu" }],
      },
    });
  }
  for (;;) {
    const held = sumSeries(await plannerMetrics(stack.extender), "kllama_barrier_arrivals");
    if (held === members) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function deleteMembers(client: KubeClient, gang: string, members: number): Promise<void> {
  const body = { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0 };
  await client.request("DELETE", `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs/${gang}`);
  for (let index = 0; index <= members; index++) {
    await client.request("DELETE", `/api/v1/namespaces/${namespace}/pods/${gang}-${index}`, { body });
  }
}

const container = { name: "main", image: "registry.k8s.io/pause:3.10", resources: { requests: { cpu: "10m" } } };

interface PlainPods {
  /** Creates pods for so long, as fast as they are taken, and deletes them. */
  bindFor(seconds: number): Promise<Omit<Round, "hung" | "timedOut">>;
  stop(): Promise<void>;
}

const creators = 16;
/** Pods that are created and not bound: enough that kube-scheduler never waits for one, few enough to end together. */
const backlog = 200;

async function plainPods({ admin: client, plane }: Stack): Promise<PlainPods> {
  const processes = new Map([...plane.components].map(([name, { pid }]) => [name as string, pid]));
  processes.set("benchmark", process.pid);
  const path = `/api/v1/namespaces/${namespace}/pods`;
  let [created, bound, removed, there, lastMs, longestPauseMs] = [0, 0, 0, 0, 0, 0];
  let news: (() => void)[] = [];
  const watch = createReflector<Pod, boolean>({
    client,
    path,
    name: "plain pods",
    query: { labelSelector: "app=plain" },
    project: (pod) => pod.spec.nodeName !== undefined,
    onChange: (change) => {
      if (change.type === "replaced") return;
      if (change.type === "added") there += 1;
      if (change.type === "deleted") there -= 1;
      else if (change.value && !(change.type === "updated" && change.previous)) {
        bound += 1;
        const nowMs = performance.now();
        longestPauseMs = Math.max(longestPauseMs, nowMs - lastMs);
        lastMs = nowMs;
      }
      const waiting = news;
      news = [];
      for (const wake of waiting) wake();
    },
  });
  watch.start();
  await watch.waitForSync();

  async function until(reached: () => boolean): Promise<void> {
    while (!reached()) await new Promise<void>((resolve) => news.push(resolve));
  }

  async function createUntil(endMs: number): Promise<void> {
    while (performance.now() < endMs) {
      await until(() => created - bound < backlog);
      const metadata = { name: `plain-${created++}`, labels: { app: "plain" } };
      await post(client, path, { apiVersion: "v1", kind: "Pod", metadata, spec: { containers: [container] } });
    }
  }

  async function removeAll(): Promise<void> {
    const body = { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0 };
    while (removed < created) await client.request("DELETE", `${path}/plain-${removed++}`, { body });
  }

  return {
    async bindFor(seconds) {
      const [startMs, before, cpuBefore] = [performance.now(), bound, await cpuMsOf(processes)];
      [lastMs, longestPauseMs] = [startMs, 0];
      await Promise.all(Array.from({ length: creators }, () => createUntil(startMs + seconds * 1000)));
      await until(() => bound === created);
      const pods = bound - before;
      const used = [...(await cpuMsOf(processes))].map(
        ([name, ms]) => [name, (ms - (cpuBefore.get(name) ?? 0)) / pods] as const,
      );
      const measured = {
        podsPerSecond: pods / ((performance.now() - startMs) / 1000),
        cpuMsPerPod: sum(used.map(([, ms]) => ms)),
        cpuMs: Object.fromEntries(used),
        longestPauseMs,
      };
      await Promise.all(Array.from({ length: creators }, removeAll));
      await until(() => there === 0);
      return measured;
    },
    stop: () => watch.stop(),
  };
}

async function post(client: KubeClient, path: string, body: KubernetesObject & Record<string, unknown>): Promise<void> {
  await client.request("POST", path, { body });
}

function report(measured: {
  members: number;
  seconds: number;
  rounds: Round[];
  loadAverage: number;
  cores: number;
}): void {
  const [hung, idle] = [true, false].map((kind) => measured.rounds.filter((round) => round.hung === kind)) as [
    Round[],
    Round[],
  ];
  const row = (
    name: string,
    digits: number,
    of: (round: Round) => number,
    unite: (values: number[]) => number,
  ): string => {
    const [one, other] = [unite(hung.map(of)), unite(idle.map(of))];
    return `| ${name} | ${one.toFixed(digits)} | ${other.toFixed(digits)} | ${(one / other).toFixed(3)} |`;
  };
  const rows = [
    row("plain pods bound per second", 1, ({ podsPerSecond }) => podsPerSecond, mean),
    row("CPU milliseconds per pod", 2, ({ cpuMsPerPod }) => cpuMsPerPod, mean),
    row(
      "longest time without one, ms",
      0,
      ({ longestPauseMs }) => longestPauseMs,
      (values) => Math.max(...values),
    ),
  ];
  process.stdout.write(
    `${hung.length} rounds of ${measured.seconds} s of either kind; ${cpus().length} × ${cpus()[0]?.model.trim()}, load ${measured.loadAverage.toFixed(1)}\n\n` +
      `| | ${measured.members} released members, extender hung | no members | ratio |\n|---|---|---|---|\n${rows.join("\n")}\n\n`,
  );
  const result = { benchmark: "hung-extender", ...measured, node: process.version, seed: null };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
