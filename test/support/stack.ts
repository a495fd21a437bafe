import type { Pod } from "../../src/api/kubernetes.ts";
import { whenReachable } from "../../src/cli/service.ts";
import type { Child } from "../../src/cli/system/children.ts";
import {
  type ExtenderAccess,
  install,
  kubeconfigOf,
  type PodIdentity,
  plannerFlags,
  prepareExtender,
  prepareProcess,
  startBase,
  startScheduler,
} from "../../src/cli/system/system.ts";
import { createClient, type KubeClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import type { Fleet } from "../../src/simulator/fleet.ts";
import { type FleetHandle, startFleet } from "../../src/simulator/fleet-agent.ts";
import { fleetNodes } from "../../src/simulator/objects.ts";
import { publishFleet } from "../../src/simulator/publish.ts";
import type { ControlPlane, ControlPlaneOptions } from "../../tools/control-plane/control-plane.ts";

export interface StackOptions extends Omit<ControlPlaneOptions, "components"> {
  fleet: Fleet;
  /** Also run the operator of the serving kinds. */
  operator?: boolean;
  /** Further flags of the planner. */
  plannerFlags?: readonly string[];
  /** False: nodes and slices only, without kwok and node agent; pods are bound and never start. */
  nodeAgents?: boolean;
}

/** One of kllama's processes, as a child that tests may kill. */
interface Service {
  readonly pid: number | undefined;
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Starts it (again) and waits until it is ready. */
  start(environment?: Record<string, string>): Promise<void>;
  /** Resolves when its process is gone, with what ended it. */
  exited(): Child["exited"];
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
  /** Where the extender listens, and how kube-scheduler is let in. */
  extender: ExtenderAccess;
  stop(): Promise<void>;
}

export async function startStack(options: StackOptions): Promise<Stack> {
  return await startUpon(options, async (plane, admin, stops) => {
    const [extender] = await together(prepareExtender(plane), install(admin));
    const pod = await createReplicaPod(admin, "kllama-planner-0");
    const flags = [...plannerFlags(extender), ...(options.plannerFlags ?? [])];
    const [planner, operator, fleet] = await together(
      startService(plane, "planner", flags, stops, pod),
      options.operator === true ? startService(plane, "operator", [], stops) : undefined,
      startFleetOf(plane, options, stops),
      startScheduler(plane, extender),
      waitForPolicies(admin),
    );
    return {
      ...(fleet === undefined ? {} : { fleet }),
      planner,
      extender,
      ...(operator === undefined ? {} : { operator }),
    };
  });
}

/**
 * A further replica of the planner, with a pod and an address of its own, which kube-scheduler does not know. It stands by
 * until it leads, and ends with this process at the latest.
 */
export async function startReplica({ plane, admin, extender }: Stack, name: string): Promise<Child> {
  const pod = await createReplicaPod(admin, name);
  const launch = await prepareProcess(plane, "planner", plannerFlags({ ...extender, listen: "127.0.0.1:0" }), pod);
  return launch();
}

/** The same control plane, fleet and device classes without kllama: kube-scheduler allocates alone. */
export async function startStockStack(
  options: Omit<StackOptions, "operator">,
): Promise<Pick<Stack, "plane" | "admin" | "stop">> {
  return await startUpon(options, async (plane, admin, stops) => {
    await install(admin, { stock: true });
    await plane.startScheduler({});
    await startFleetOf(plane, options, stops);
    return {};
  });
}

async function startUpon<T>(
  { fleet: _fleet, operator: _operator, ...base }: StackOptions,
  build: (plane: ControlPlane, admin: KubeClient, stops: (() => Promise<void>)[]) => Promise<T>,
): Promise<T & Pick<Stack, "plane" | "admin" | "stop">> {
  const plane = await startBase(base);
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

/** All at once; rejects once nothing of it is being started any more, so that all that was can be stopped. */
async function together<T extends unknown[]>(...work: T): Promise<{ [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

async function startFleetOf(
  plane: ControlPlane,
  { fleet, nodeAgents = true }: StackOptions,
  stops: (() => Promise<void>)[],
): Promise<FleetHandle | undefined> {
  const kubeconfigPath = await kubeconfigOf(plane, "simulate-fleet");
  const client = createClient(await loadConnection({ kubeconfigPath }), { userAgent: "fleet" });
  stops.unshift(() => client.close());
  // The API server's authorizer follows what was installed a moment later.
  if (!nodeAgents) {
    await whenReachable(silent, () => publishFleet({ client, nodes: fleetNodes(fleet), parallelism: 32 }));
    return undefined;
  }
  const handle = await whenReachable(silent, () => startFleet({ client, fleet, log: silent }));
  stops.unshift(() => handle.stop());
  return handle;
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

/**
 * The pod that a planner's token is bound to, so that the API server tells replicas apart. Its process runs on this
 * machine: no scheduler is to take it.
 */
export async function createReplicaPod(admin: KubeClient, name: string): Promise<PodIdentity> {
  const pod = await admin.request<Pod>("POST", "/api/v1/namespaces/kllama-system/pods", {
    body: {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        serviceAccountName: "kllama-planner",
        schedulerName: "none",
        containers: [{ name: "planner", image: "outside-the-cluster" }],
      },
    },
  });
  return { name, uid: pod.metadata.uid ?? "" };
}

async function startService(
  plane: ControlPlane,
  name: "planner" | "operator",
  flags: readonly string[],
  stops: (() => Promise<void>)[],
  pod?: PodIdentity,
): Promise<Service> {
  const launch = await prepareProcess(plane, name, flags, pod);
  let child: Child = launch();
  stops.unshift(() => child.stop());
  await child.ready;
  return {
    get pid() {
      return child.pid;
    },
    async kill(signal) {
      child.kill(signal);
      await child.exited;
    },
    async start(environment) {
      child = launch(environment);
      await child.ready;
    },
    exited: () => child.exited,
  };
}
