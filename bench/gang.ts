import { readFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { plannerMetrics, sumSeries } from "../src/cli/system/metrics.ts";
import { uniformFleet } from "../src/simulator/fleet.ts";
import { type Observer, observe } from "../test/support/observer.ts";
import { type Stack, startStack } from "../test/support/stack.ts";
import { claimTemplate, create, createNamespace, gang, member } from "../test/support/workloads.ts";
import { cpuMsOf } from "./cpu.ts";

const help = `usage: npm run bench -- gang [FLAGS]

One large gang on a real control plane with simulated nodes: all its pods but one are created, and nothing of them may be
held or bound; then comes the last one, and all of them have to be bound, none before the gang is committed. Measures the
time from the last create to the plan, the commit, the first and the last binding, the size of the Gang and what the planner
takes of memory. Fails when a device is given twice or a member bound before the commit, at any revision.

  --pods N      pods of the gang (default 2000)
  --gpus N      GPUs of a pod, in one claim (default 4)
  --seconds N   limit for the last pod's creation to the last binding (default 300)
  --kill        kill the planner (SIGKILL) right after the commit, before it has bound anybody, and start it again at once:
                the figure is the time from when it is ready to the last binding
`;

const namespace = "bench";
const name = "large";
const gpusPerNode = 8;
/** At most 110 pods fit on a node, and one more node than needed: a full fleet has one plan only. */
const nodesFor = (pods: number, gpus: number): number => Math.ceil((pods * gpus) / gpusPerNode) + 1;

export async function gangBench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: "boolean", short: "h" },
      pods: { type: "string", default: "2000" },
      gpus: { type: "string", default: "4" },
      seconds: { type: "string", default: "300" },
      kill: { type: "boolean", default: false },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return;
  }
  const [pods, gpus, seconds] = [Number(values.pods), Number(values.gpus), Number(values.seconds)];
  const nodes = nodesFor(pods, gpus);
  const stack = await startStack({ fleet: uniformFleet({ nodes }), nodeAgents: false });
  try {
    const seen = await observe(stack.admin);
    const progress = setInterval(() => process.stderr.write(`${progressOf(seen)}\n`), 5_000);
    const { kill } = values;
    const measured = await placeGang(stack, seen, { pods, gpus, seconds, kill }).finally(() => clearInterval(progress));
    await seen.stop();
    report({ pods, gpus, nodes, ...measured });
  } finally {
    await stack.stop();
  }
}

function progressOf(seen: Observer): string {
  const pods = seen.pods(namespace);
  const allocated = seen.claims(namespace).filter(({ status }) => status?.allocation !== undefined).length;
  return (
    `${seen.gang(namespace, name)?.status?.phase ?? "-"}: ${pods.length} pods, ${allocated} claims allocated, ` +
    `${pods.filter(({ spec }) => (spec.schedulingGates ?? []).length === 0).length} released, ` +
    `${pods.filter(({ spec }) => spec.nodeName !== undefined).length} bound`
  );
}

interface Measured {
  /** Milliseconds from the answer to the last create. */
  reservedMs: number;
  committedMs: number;
  firstBoundMs: number;
  lastBoundMs: number;
  /** With `--kill`, milliseconds from the new planner's start: until it is ready, and until all members are bound. */
  killed?: { readyMs: number; finishedMs: number };
  /** The Gang as JSON, when all are bound. */
  gangBytes: number;
  rssBeforeMb: number;
  peakRssMb: number;
  /** CPU of the planner for a pod, from the last create on; with `--kill` that of the second one from its start on. */
  cpuMsPerPod: number;
  /** Bind calls that the planner answered with a refusal, which kube-scheduler made again. */
  refusedCalls: number;
}

async function placeGang(
  stack: Stack,
  seen: Observer,
  { pods, gpus, seconds, kill }: { pods: number; gpus: number; seconds: number; kill: boolean },
): Promise<Measured> {
  if (kill) await restart(stack, { KLLAMA_FAILPOINT: "writeStatus/Binding:1" });
  let planner = stack.planner.pid ?? 0;
  await createNamespace(stack.admin, namespace);
  await create(stack.admin, namespace, claimTemplate("gpus", gpus));
  await create(stack.admin, namespace, gang(name, { podSets: [{ name: "ranks", count: pods }] }));
  const rssBeforeMb = await memoryMb(planner, "VmRSS");
  let next = 0;
  const creator = async (): Promise<void> => {
    while (next < pods - 1) await create(stack.admin, namespace, member(name, "ranks", next++, "gpus"));
  };
  await Promise.all(Array.from({ length: 16 }, creator));
  const limitMs = seconds * 1000;
  await seen.until("all claims but one are there", () => seen.claims(namespace).length === pods - 1, limitMs);
  await seen.until("the gang says what is missing", () => seen.gang(namespace, name)?.status?.explanation, limitMs);
  const early = seen.claims(namespace).filter((claim) => claim.status?.allocation !== undefined).length;
  if (early > 0) throw new Error(`${early} claims are allocated although a member is missing`);

  const cpuMs = async (): Promise<number> => (await cpuMsOf(new Map([["planner", planner]]))).get("planner") ?? 0;
  const cpuBeforeMs = kill ? 0 : await cpuMs();
  await create(stack.admin, namespace, member(name, "ranks", next, "gpus"));
  const startMs = performance.now();
  const sinceMs = async (what: string, found: () => boolean): Promise<number> => {
    await seen.until(what, found, limitMs - (performance.now() - startMs));
    return performance.now() - startMs;
  };
  const phase = (): string => seen.gang(namespace, name)?.status?.phase ?? "";
  const boundPods = (): number => seen.pods(namespace).filter((pod) => pod.spec.nodeName !== undefined).length;
  const allBound = (): boolean => boundPods() === pods;
  const [killed, reservedMs, committedMs, firstBoundMs, lastBoundMs] = await Promise.all([
    kill ? revive(stack, () => seen.until("all are bound after the kill", allBound, limitMs)) : undefined,
    sinceMs("it is reserved", () => ["Reserved", "Binding", "Scheduled"].includes(phase())),
    sinceMs("it is committed", () => ["Binding", "Scheduled"].includes(phase())),
    sinceMs("a member is bound", () => boundPods() > 0),
    sinceMs("all members are bound", allBound),
  ]);
  planner = stack.planner.pid ?? 0;
  const violations = seen.violations();
  if (violations.length > 0) throw new Error(violations.slice(0, 5).join("\n"));
  const metrics = await plannerMetrics(stack.extender);
  return {
    reservedMs,
    committedMs,
    firstBoundMs,
    lastBoundMs,
    ...(killed === undefined ? {} : { killed }),
    gangBytes: Buffer.byteLength(JSON.stringify(seen.gang(namespace, name))),
    rssBeforeMb,
    peakRssMb: await memoryMb(planner, "VmHWM"),
    cpuMsPerPod: ((await cpuMs()) - cpuBeforeMs) / pods,
    refusedCalls: sumSeries(metrics, "kllama_extender_requests_total", 'outcome="refused"'),
  };
}

/** The planner in its pod, once more. */
async function restart({ planner }: Stack, environment: Record<string, string>): Promise<void> {
  await planner.kill("SIGTERM");
  await planner.start(environment);
}

/** Starts the planner again once it has died, and waits until the work that it left is done. */
async function revive(
  { planner }: Stack,
  done: () => Promise<unknown>,
): Promise<{ readyMs: number; finishedMs: number }> {
  await planner.exited();
  const startMs = performance.now();
  const sinceMs = (): number => performance.now() - startMs;
  const [readyMs, finishedMs] = await Promise.all([planner.start().then(sinceMs), done().then(sinceMs)]);
  return { readyMs, finishedMs };
}

/** From /proc/PID/status: `VmRSS` now, `VmHWM` the most so far. */
async function memoryMb(pid: number, field: "VmRSS" | "VmHWM"): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) / 1024;
}

function report(measured: Measured & { pods: number; gpus: number; nodes: number }): void {
  const { pods, gpus, nodes } = measured;
  const seconds = (ms: number): string => (ms / 1000).toFixed(1);
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim()}, load ${(loadavg()[0] ?? 0).toFixed(1)}`;
  process.stdout.write(
    `One gang of ${pods} pods × ${gpus} GPUs on ${nodes} simulated nodes; Node ${process.version}, ${machine}\n\n` +
      "| from the last create to: reserved s | committed s | first binding s | last binding s | first to last s | calls made again | Gang kB | planner: CPU ms per pod | RSS before / most MB |\n" +
      "|---|---|---|---|---|---|---|---|---|\n" +
      `| ${seconds(measured.reservedMs)} | ${seconds(measured.committedMs)} | ${seconds(measured.firstBoundMs)} | ${seconds(measured.lastBoundMs)} | ` +
      `${seconds(measured.lastBoundMs - measured.firstBoundMs)} | ${measured.refusedCalls} | ${(measured.gangBytes / 1000).toFixed(0)} | ${measured.cpuMsPerPod.toFixed(1)} | ` +
      `${measured.rssBeforeMb.toFixed(0)} / ${measured.peakRssMb.toFixed(0)} |\n\n`,
  );
  if (measured.killed !== undefined) {
    const { readyMs, finishedMs } = measured.killed;
    const afterMs = finishedMs - readyMs;
    process.stdout.write(
      `Killed after the commit: ready again ${seconds(readyMs)} s after its start, all bound ${seconds(afterMs)} s after that\n\n`,
    );
  }
  process.stdout.write(
    `RESULT ${JSON.stringify({ benchmark: "gang", ...measured, node: process.version, seed: null })}\n`,
  );
}
