import { access, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import process from "node:process";
import { type KubernetesVersion, resolveBinaries } from "../../../tools/control-plane/binaries.ts";
import type { ControlPlane } from "../../../tools/control-plane/control-plane.ts";
import { type ComponentName, componentNames } from "../../../tools/control-plane/layout.ts";
import { createClient, type KubeClient } from "../../kube/client.ts";
import { loadConnection } from "../../kube/connection.ts";
import { installManifests } from "../../kube/install.ts";
import { readManifests } from "../../kube/manifests.ts";
import { waitForPolicies } from "../../kube/policy-probes.ts";
import { parseFleet } from "../../simulator/fleet.ts";
import { simulatedNode } from "../../simulator/names.ts";
import type { Streams } from "../command.ts";
import { readCluster, readRefusals } from "../live-cluster.ts";
import { drawPlacements } from "../picture.ts";
import { devicesHeldTwice, placementsOf } from "../placements.ts";
import { onStopSignals } from "../signals.ts";
import type { Child } from "../system/children.ts";
import { endText } from "../system/log-end.ts";
import { plannerMetrics } from "../system/metrics.ts";
import {
  type ExtenderAccess,
  install,
  plannerFlags,
  prepareExtender,
  prepareProcess,
  startBase,
  startScheduler,
} from "../system/system.ts";
import { type Expected, expectedOf, type Progressed } from "./expected.ts";
import { searchStats, watchUntilReady } from "./observe.ts";
import { createProgress, type Progress } from "./progress.ts";

export interface DemoOptions {
  version: KubernetesVersion;
  fleetFile: string;
  examples: string;
  once: boolean;
  output: "picture" | "json";
  timeoutMs: number;
  keepData: boolean;
  color: boolean;
  streams: Streams;
}

/** What runs, and what has to be undone, newest first. */
interface Running {
  progress: Progress;
  cleanup: AsyncDisposableStack;
  children: Set<Child>;
  /** Aborts at the first Ctrl-C or SIGTERM. */
  interrupted: AbortSignal;
  /** Rejects when a process of kllama or of the control plane ends by itself. */
  broken: PromiseWithResolvers<never>;
  /** What to exit with when interrupted: 130 by custom, until it is known how the examples went. */
  exitCode: number;
}

/** Width of the picture where stdout is no terminal, or one that does not tell its width. */
const defaultWidth = 110;

/** @returns the exit code: 0 when everything was placed and ready, 1 when not, 130 when interrupted before. */
export async function runDemo(options: DemoOptions): Promise<number> {
  const interrupt = new AbortController();
  const running: Running = {
    progress: createProgress(options.streams.stderr),
    cleanup: new AsyncDisposableStack(),
    children: new Set(),
    interrupted: interrupt.signal,
    broken: Promise.withResolvers(),
    exitCode: 130,
  };
  handleSignals(interrupt, running);
  try {
    return await untilInterrupted(demo(options, running), running);
  } finally {
    await running.cleanup.disposeAsync();
    if (!options.keepData) running.progress.line("Everything is stopped and removed; --keep-data keeps data and logs.");
  }
}

async function untilInterrupted(work: Promise<number>, running: Running): Promise<number> {
  const stopped = new Promise<number>((resolve) => {
    running.interrupted.addEventListener("abort", () => resolve(running.exitCode));
  });
  // What fails once everything is being stopped is of no interest.
  work.catch(() => undefined);
  running.broken.promise.catch(() => undefined);
  return Promise.race([stopped, running.broken.promise, work]);
}

async function demo(options: DemoOptions, running: Running): Promise<number> {
  const { progress } = running;
  parseFleet(await readFile(options.fleetFile, "utf8"), options.fleetFile);
  const expected = expectedOf(await readManifests([options.examples]));
  const controlPlane = await startAll(options, running);
  const { client, access: extender } = await installAll(controlPlane, options, running);
  const reasons = await placeExamples(client, expected, options, running);
  const heldTwice = await print(client, extender, options);
  for (const device of heldTwice) reasons.push(`device ${device} is held twice`);
  progress.line(`\nTimes:\n${progress.summary()}`);
  if (reasons.length > 0)
    progress.line(`\nNot everything is placed and ready:\n${reasons.map((r) => `  ${r}`).join("\n")}`);
  const code = reasons.length === 0 ? 0 : 1;
  if (options.once) return code;
  progress.line(await lookFurther(controlPlane));
  running.exitCode = code;
  return running.broken.promise;
}

async function startAll(options: DemoOptions, { progress, cleanup }: Running): Promise<ControlPlane> {
  const { version } = options;
  const binaries = await progress.step(`binaries of Kubernetes ${version}, etcd, kwok`, () =>
    resolveBinaries({ version, onProgress: (line) => progress.line(`    ${line}`) }),
  );
  const dataDir = options.keepData ? await mkdtemp(join(tmpdir(), "kllama-demo-")) : undefined;
  if (dataDir !== undefined) cleanup.defer(async () => progress.line(`Data, logs and kubeconfigs are in ${dataDir}`));
  return progress.step("etcd, kube-apiserver, kube-controller-manager, kwok", () => {
    const starting = startBase({ version, binaries, ...(dataDir === undefined ? {} : { dataDir }) });
    cleanup.defer(async () => {
      await (await starting.catch(() => undefined))?.stop();
    });
    return starting;
  });
}

async function installAll(
  controlPlane: ControlPlane,
  options: DemoOptions,
  { progress, cleanup, children, broken, interrupted }: Running,
): Promise<{ client: KubeClient; access: ExtenderAccess }> {
  const connection = await loadConnection({ kubeconfigPath: controlPlane.admin.path });
  const client = createClient(connection, { userAgent: "kllama-demo" });
  cleanup.defer(() => client.close());
  const [extender] = await Promise.all([
    progress.step("kube-scheduler with kllama's extender", async () => {
      const prepared = await prepareExtender(controlPlane);
      await startScheduler(controlPlane, prepared);
      return prepared;
    }),
    progress.step("CRDs, accounts, policies, device classes", () => install(client)),
  ]);
  cleanup.defer(async () => void (await Promise.all([...children].map((child) => child.stop()))));
  for (const name of componentNames) watchComponent(controlPlane, name, broken);
  const start = async (name: "planner" | "operator" | "simulate-fleet", flags: readonly string[]): Promise<void> => {
    const launch = await prepareProcess(controlPlane, name, flags);
    // What starts once the others are being stopped would be missed.
    interrupted.throwIfAborted();
    const child = launch();
    children.add(child);
    child.failed.catch(broken.reject);
    await child.ready;
  };
  await Promise.all([
    progress.step("policies take effect", () => waitForPolicies(client)),
    progress.step("fleet of simulated nodes", () => start("simulate-fleet", ["--fleet", options.fleetFile])),
    progress.step("planner leads", () => start("planner", plannerFlags(extender))),
    progress.step("operator", () => start("operator", [])),
  ]);
  return { client, access: extender };
}

/** Everything depends on the control plane: it says first what happened to it, before all others say what they miss. */
function watchComponent(controlPlane: ControlPlane, name: ComponentName, broken: PromiseWithResolvers<never>): void {
  const { exited, logPath } = controlPlane.component(name);
  void exited.then(async (exit) => broken.reject(new Error(await endText(name, exit, logPath))));
}

/** Applies the examples and waits. @returns what is still lacking when time is over. */
async function placeExamples(
  client: KubeClient,
  expected: Expected,
  options: DemoOptions,
  { progress, interrupted }: Running,
): Promise<string[]> {
  await progress.step("examples applied", () => installManifests(client, [options.examples]));
  const signal = AbortSignal.any([AbortSignal.timeout(options.timeoutMs), interrupted]);
  const report = ({ gangsScheduled, podsReady, pods }: Progressed): void =>
    progress.line(
      `    ${gangsScheduled} of ${expected.gangs.length} gangs scheduled, ${podsReady} of ${pods} pods ready`,
    );
  const { reasons } = await progress.step(
    "examples placed and ready",
    () => watchUntilReady(client, expected, report, signal),
    (progressed) => progressed.reasons.length === 0,
  );
  return reasons;
}

/** Prints the placements on stdout. @returns devices that two claims hold: there must be none. */
async function print(client: KubeClient, extender: ExtenderAccess, options: DemoOptions): Promise<string[]> {
  const { stdout } = options.streams;
  const [state, refusals, metrics] = await Promise.all([
    readCluster(client, (text) => options.streams.stderr.write(`${text}\n`)),
    readRefusals(client),
    plannerMetrics(extender),
  ]);
  const output = placementsOf(state, { refusals, search: searchStats(metrics) });
  if (options.output === "json") {
    stdout.write(`${JSON.stringify(output, undefined, 2)}\n`);
  } else {
    const width = Math.max(60, stdout.columns || defaultWidth);
    stdout.write(`\n${drawPlacements(state, output, { width, color: options.color, simulatedLabel: simulatedNode })}`);
  }
  return devicesHeldTwice(output);
}

async function lookFurther(controlPlane: ControlPlane): Promise<string> {
  const onPath = await isOnPath("kubectl");
  const kubectl = onPath ? "kubectl" : controlPlane.binaries.kubectl;
  const prefix = `KUBECONFIG=${controlPlane.admin.path} ${kubectl}`;
  return [
    "\nLook further (another terminal):",
    `  ${prefix} get gangs -A`,
    `  ${prefix} get llmc -A`,
    `  ${prefix} get pods,resourceclaims -A -o wide`,
    `Logs: ${join(controlPlane.dataDir, "logs")}`,
    "Ctrl-C ends everything.",
  ].join("\n");
}

async function isOnPath(command: string): Promise<boolean> {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const found = await Promise.allSettled(folders.map((folder) => access(join(folder, command))));
  return found.some(({ status }) => status === "fulfilled");
}

/** The first signal ends everything in order; a later one kills, and what is left ends with this process. */
function handleSignals(interrupt: AbortController, { progress, children }: Running): void {
  const first = (signal: NodeJS.Signals): void => {
    progress.line(`\n${signal}: stopping; once more to force it`);
    interrupt.abort();
  };
  onStopSignals(first, () => {
    for (const child of children) child.kill();
    process.exit(130);
  });
}
