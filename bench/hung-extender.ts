import process from "node:process";
import { parseArgs } from "node:util";
import type { KubernetesObject, Pod } from "../src/api/kubernetes.ts";
import { gangLabel, podIndexLabels, podSetLabel } from "../src/api/names.ts";
import { plannerMetrics, sumSeries } from "../src/cli/system/metrics.ts";
import type { KubeClient } from "../src/kube/client.ts";
import { createReflector } from "../src/kube/reflector.ts";
import { uniformFleet } from "../src/simulator/fleet.ts";
import { type Stack, startStack } from "../test/support/stack.ts";

const help = `usage: npm run bench -- hung-extender [FLAGS]

What a hung extender costs pods that have nothing to do with it. 64 members with claims are released and held at the
barrier (a 65th is kept back by somebody else's gate); then the planner is stopped (SIGSTOP), so that every call of
kube-scheduler to it hangs until its time limit. Plain pods are created meanwhile, and again once the members are
deleted, with the planner still stopped. The ratio of the two rates is the result.

  --members N   released members (default 64)
  --pods N      plain pods per round (default 400)
  --rounds N    rounds of each kind; the middle one counts (default 3)
`;

const namespace = "bench";

export async function hungExtender(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      members: { type: "string", default: "64" },
      pods: { type: "string", default: "400" },
      rounds: { type: "string", default: "3" },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const [members, pods, rounds] = [Number(values.members), Number(values.pods), Number(values.rounds)];
  const stack = await startStack({ fleet: uniformFleet({ nodes: 200 }), nodeAgents: false });
  const planner = stack.planner.pid;
  if (planner === undefined) throw new Error("the planner has no process");
  try {
    await createNamespace(stack.admin);
    const plain = await plainPods(stack.admin);
    await plain.bind(pods);
    await releaseMembers(stack, members);
    process.kill(planner, "SIGSTOP");
    const hung: number[] = [];
    for (let round = 0; round < rounds; round++) hung.push(await plain.bind(pods));
    await deleteMembers(stack.admin, members);
    const alone: number[] = [];
    for (let round = 0; round < rounds; round++) alone.push(await plain.bind(pods));
    await plain.stop();
    report({ members, pods, hung, alone });
  } finally {
    process.kill(planner, "SIGCONT");
    await stack.stop();
  }
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
async function releaseMembers(stack: Stack, members: number): Promise<void> {
  await post(stack.admin, `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs`, {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "Gang",
    metadata: { name: "held" },
    spec: { podSets: [{ name: "ranks", count: members + 1 }] },
  });
  for (let index = 0; index <= members; index++) {
    const gates = index < members ? {} : { schedulingGates: [{ name: "example.com/wait" }] };
    await post(stack.admin, `/api/v1/namespaces/${namespace}/pods`, {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        name: `member-${index}`,
        labels: { [gangLabel]: "held", [podSetLabel]: "ranks", [podIndexLabels[0]]: String(index) },
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

async function deleteMembers(client: KubeClient, members: number): Promise<void> {
  const body = { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0 };
  await client.request("DELETE", `/apis/scheduling.kllama.ai/v1alpha1/namespaces/${namespace}/gangs/held`);
  for (let index = 0; index <= members; index++) {
    await client.request("DELETE", `/api/v1/namespaces/${namespace}/pods/member-${index}`, { body });
  }
}

const container = { name: "main", image: "registry.k8s.io/pause:3.10", resources: { requests: { cpu: "10m" } } };

/** Creates plain pods and sees them bound. */
async function plainPods(client: KubeClient): Promise<{ bind(count: number): Promise<number>; stop(): Promise<void> }> {
  const bound = new Set<string>();
  let created = 0;
  let reached: { count: number; resolve: () => void } | undefined;
  const watch = createReflector<Pod, string>({
    client,
    path: `/api/v1/namespaces/${namespace}/pods`,
    name: "bound pods",
    query: { fieldSelector: "spec.nodeName!=" },
    project: (pod) => pod.metadata.name,
    onChange: (change) => {
      if (change.type === "replaced" || change.type === "deleted") return;
      bound.add(change.key);
      if (reached !== undefined && bound.size >= reached.count) reached.resolve();
    },
  });
  watch.start();
  await watch.waitForSync();

  /** @returns pods per second from the first create to the last binding */
  async function bind(count: number): Promise<number> {
    const startMs = performance.now();
    const first = created;
    const all = new Promise<void>((resolve) => {
      reached = { count: first + count, resolve };
    });
    const work = async (): Promise<void> => {
      while (created < first + count) {
        const name = `plain-${created++}`;
        const spec = { containers: [container] };
        await post(client, `/api/v1/namespaces/${namespace}/pods`, {
          apiVersion: "v1",
          kind: "Pod",
          metadata: { name },
          spec,
        });
      }
    };
    await Promise.all(Array.from({ length: 16 }, work));
    await all;
    const rate = count / ((performance.now() - startMs) / 1000);
    process.stderr.write(`${count} plain pods: ${rate.toFixed(1)} pods/s\n`);
    return rate;
  }
  return { bind, stop: () => watch.stop() };
}

async function post(client: KubeClient, path: string, body: KubernetesObject & Record<string, unknown>): Promise<void> {
  await client.request("POST", path, { body });
}

function report(measured: { members: number; pods: number; hung: number[]; alone: number[] }): void {
  const [hung, alone] = [middle(measured.hung), middle(measured.alone)];
  process.stdout.write(
    `${measured.pods} plain pods per round\n\n| | pods/s |\n|---|---|\n` +
      `| ${measured.members} released members, extender hung | ${hung.toFixed(1)} |\n` +
      `| no members, extender hung | ${alone.toFixed(1)} |\n\n`,
  );
  const result = { benchmark: "hung-extender", ...measured, ratio: hung / alone, node: process.version, seed: null };
  process.stdout.write(`RESULT ${JSON.stringify(result)}\n`);
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
