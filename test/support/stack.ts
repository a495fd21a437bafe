import { type ChildProcess, fork } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { extenderEntries } from "../../src/api/extender-configuration.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { installManifests } from "../../src/kube/install.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import type { Fleet } from "../../src/simulator/fleet.ts";
import { type FleetHandle, startFleet } from "../../src/simulator/fleet-agent.ts";
import { fleetNodes } from "../../src/simulator/objects.ts";
import { publishFleet } from "../../src/simulator/publish.ts";
import {
  type ControlPlane,
  type ControlPlaneOptions,
  startControlPlane,
} from "../../tools/control-plane/control-plane.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface StackOptions extends Omit<ControlPlaneOptions, "components"> {
  fleet: Fleet;
  /** Also run the operator of the serving kinds. */
  operator?: boolean;
  /** False: nodes and slices only, without kwok and node agent; pods are bound and never start. */
  nodeAgents?: boolean;
}

/** One of kllama's processes, as a child that tests may kill. */
interface Service {
  readonly pid: number | undefined;
  /** Everything it logged, JSON lines. */
  readonly log: string[];
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Starts it (again) and waits until it is ready. */
  start(environment?: Record<string, string>): Promise<void>;
  exited(): Promise<void>;
}

/** A whole system: real control plane, simulated fleet, kllama's processes under their own accounts. */
export interface Stack {
  plane: ControlPlane;
  /** Administrator's client, for what a test does as a person. */
  admin: KubeClient;
  /** Absent without node agents. */
  fleet?: FleetHandle;
  planner: Service;
  operator?: Service;
  /** Where the extender listens. */
  plannerUrl: string;
  stop(): Promise<void>;
}

export async function startStack(options: StackOptions): Promise<Stack> {
  return await startUpon(options, async (plane, admin, stops) => {
    await installManifests(
      admin,
      manifests("crds", "deploy/rbac.yaml", "deploy/policies.yaml", "deploy/device-classes.yaml"),
    );
    await waitForPolicies(admin);
    const { planner, url } = await startPlannerOf(plane, stops);
    const fleet = await startFleetOf(plane, options, stops);
    const operator = options.operator === true ? await startOperatorOf(plane, stops) : undefined;
    return {
      ...(fleet === undefined ? {} : { fleet }),
      planner,
      plannerUrl: url,
      ...(operator === undefined ? {} : { operator }),
    };
  });
}

/** The same control plane, fleet and device classes without kllama: kube-scheduler allocates alone. */
export async function startStockStack(
  options: Omit<StackOptions, "operator">,
): Promise<Pick<Stack, "plane" | "admin" | "stop">> {
  return await startUpon(options, async (plane, admin, stops) => {
    await installManifests(admin, manifests("deploy/rbac.yaml", "deploy/device-classes.yaml"));
    await plane.startScheduler({});
    await startFleetOf(plane, options, stops);
    return {};
  });
}

async function startUpon<T>(
  options: StackOptions,
  build: (plane: ControlPlane, admin: KubeClient, stops: (() => Promise<void>)[]) => Promise<T>,
): Promise<T & Pick<Stack, "plane" | "admin" | "stop">> {
  const plane = await startControlPlane({
    ...options,
    components: ["kube-controller-manager", ...(options.nodeAgents === false ? [] : (["kwok"] as const))],
  });
  const stops: (() => Promise<void>)[] = [() => plane.stop()];
  const stop = async (): Promise<void> => {
    for (const each of stops.splice(0)) await each();
  };
  try {
    const admin = createClient(await loadConnection({ kubeconfigPath: plane.admin.path }), { userAgent: "test" });
    stops.unshift(() => admin.close());
    return { ...(await build(plane, admin, stops)), plane, admin, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function manifests(...paths: string[]): string[] {
  return paths.map((path) => join(root, path));
}

async function startFleetOf(
  plane: ControlPlane,
  { fleet, nodeAgents = true }: StackOptions,
  stops: (() => Promise<void>)[],
): Promise<FleetHandle | undefined> {
  const account = await plane.serviceAccountKubeconfig("kllama-system", "kllama-simulator");
  const client = createClient(await loadConnection({ kubeconfigPath: account.path }), { userAgent: "fleet" });
  stops.unshift(() => client.close());
  if (!nodeAgents) {
    await publishFleet({ client, nodes: fleetNodes(fleet), parallelism: 32 });
    return undefined;
  }
  const handle = await startFleet({ client, fleet, log: silent });
  stops.unshift(() => handle.stop());
  return handle;
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

async function startPlannerOf(
  plane: ControlPlane,
  stops: (() => Promise<void>)[],
): Promise<{ planner: Service; url: string }> {
  const port = await freePort();
  const url = `https://127.0.0.1:${port}`;
  const server = await plane.issueCertificate({
    commonName: "kllama-planner",
    ipAddresses: ["127.0.0.1"],
    usages: ["server"],
  });
  const client = await plane.issueCertificate({ commonName: "system:kube-scheduler", usages: ["client"] });
  const file = (name: string) => join(plane.dataDir, name);
  await Promise.all([
    writeFile(file("planner.crt"), server.certificatePem),
    writeFile(file("planner.key"), server.keyPem, { mode: 0o600 }),
    writeFile(file("scheduler.crt"), client.certificatePem),
    writeFile(file("scheduler.key"), client.keyPem, { mode: 0o600 }),
    writeFile(file("planner-ca.crt"), plane.authorityPem),
  ]);
  const account = await plane.serviceAccountKubeconfig("kllama-system", "kllama-planner");
  const planner = service([
    "planner",
    "--kubeconfig",
    account.path,
    "--listen",
    `127.0.0.1:${port}`,
    "--tls-cert",
    file("planner.crt"),
    "--tls-key",
    file("planner.key"),
    "--client-ca",
    file("planner-ca.crt"),
    "--client-name",
    "system:kube-scheduler",
  ]);
  stops.unshift(() => planner.kill("SIGTERM"));
  await planner.start();
  const tls = { caFile: file("planner-ca.crt"), certFile: file("scheduler.crt"), keyFile: file("scheduler.key") };
  await plane.startScheduler({ extenders: extenderEntries({ url, tls }), percentageOfNodesToScore: 100 });
  return { planner, url };
}

async function startOperatorOf(plane: ControlPlane, stops: (() => Promise<void>)[]): Promise<Service> {
  const account = await plane.serviceAccountKubeconfig("kllama-system", "kllama-operator");
  const operator = service(["operator", "--kubeconfig", account.path]);
  stops.unshift(() => operator.kill("SIGTERM"));
  await operator.start();
  return operator;
}

function service(args: readonly string[]): Service {
  const log: string[] = [];
  let child: ChildProcess | undefined;
  let exit: Promise<void> = Promise.resolve();
  return {
    get pid() {
      return child?.pid;
    },
    log,
    async kill(signal) {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
      child.kill(signal);
      await exit;
    },
    async start(environment = {}) {
      const started = fork(join(root, "src/cli/main.ts"), args, {
        // As bin/kllama runs it.
        execArgv: ["--max-semi-space-size=4", "--heap-growing-percent=25"],
        env: { ...process.env, ...environment },
        stdio: ["ignore", "ignore", "pipe", "ipc"],
      });
      child = started;
      exit = new Promise((resolve) => started.once("exit", () => resolve()));
      started.stderr?.setEncoding("utf8").on("data", (text: string) => {
        log.push(...text.split("\n").filter((line) => line !== ""));
      });
      await new Promise<void>((resolve, reject) => {
        started.on("message", (message) => message === "ready" && resolve());
        started.once("exit", (code, signal) =>
          reject(new Error(`${args[0]} ended (${code ?? signal}) before it was ready:\n${log.slice(-20).join("\n")}`)),
        );
      });
    },
    exited: () => exit,
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
