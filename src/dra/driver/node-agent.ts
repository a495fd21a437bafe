import { join } from "node:path";
import type { ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import { isNotFound, type KubeClient } from "../../kube/client.ts";
import { createEventRecorder } from "../../kube/events.ts";
import { resourcePath } from "../../kube/paths.ts";
import { systemTiming, type Timing } from "../../kube/timing.ts";
import { createClaimStore } from "./claim-store.ts";
import { createDeviceStatusWriter, tellsDevices } from "./device-status.ts";
import type { CallState } from "./dra-server.ts";
import type { OnEffect } from "./durable-files.ts";
import { type FileLock, openFileLock } from "./file-lock.ts";
import { makeFolder } from "./folders.ts";
import { watchForeignPartitions } from "./foreign-partitions.ts";
import type { ClaimReference } from "./grpc.ts";
import { watchHealth } from "./health.ts";
import { openKubeletSockets } from "./kubelet-sockets.ts";
import type { Machine } from "./machine.ts";
import type { DriverMetrics } from "./metrics.ts";
import { createPreparation } from "./preparation.ts";
import type { PreparedClaim } from "./prepared-claim.ts";
import { readMemory } from "./recovery.ts";
import { createReports, type DriverLog } from "./reports.ts";
import { startSliceController } from "./slice-controller.ts";
import { socketPaths } from "./socket-files.ts";
import { hasSuccessor } from "./successor.ts";
import { startUpkeep } from "./upkeep.ts";

export interface NodeAgentOptions {
  /** An account like kllama-system/kllama-node-agent. */
  client: KubeClient;
  nodeName: string;
  machine: Machine;
  /** The kubelet's folder: sockets go to `plugins_registry` and `plugins/gpu.kllama.ai` in it. */
  kubeletFolder: string;
  /** Names this process among those of the driver on its node: its sockets are its own then, and its successor may start beside it. */
  instance?: string | undefined;
  /** Where the container runtime looks for CDI specs. */
  cdiFolder: string;
  /** Holds the checkpoint. */
  stateFolder: string;
  /** Of the running kernel. */
  bootId: string;
  metrics: DriverMetrics;
  log: DriverLog;
  timing?: Timing;
  /** Called after each step that changed a disk; tests end the process there. */
  onEffect?: OnEffect;
}

/** A running DRA driver of one node. */
export interface NodeAgent {
  /** The kubelet has accepted the registration, and the slices are published. */
  isReady(): boolean;
  /** Why only a restart helps; undefined: nothing wants one. */
  failure(): Promise<string | undefined>;
  /** Unregisters and ends calls; slices, claims and their CDI specs stay. */
  stop(): Promise<void>;
}

/**
 * Publishes the machine's devices and prepares claims for the kubelet. Resolves when both sockets are open, for which only
 * folders have to be in order: the API server may come later.
 */
export async function startNodeAgent(options: NodeAgentOptions): Promise<NodeAgent> {
  const { client, nodeName, cdiFolder, bootId, timing = systemTiming, onEffect = () => undefined } = options;
  const checkpoint = join(options.stateFolder, "checkpoint.json");
  await makeFolder(options.stateFolder, 0o700);
  const memory = await readMemory(checkpoint, cdiFolder, bootId);
  const store = createClaimStore({ checkpoint, cdiFolder, bootId, onEffect }, memory.claims);
  const machine = watchForeignPartitions(options.machine, () => store.claims.values(), timing);
  const report = createReports(options, () => store.claims.size);
  const readClaim = claimReader(client);
  const events = createEventRecorder({ client, component: driverName, instance: nodeName, timing });
  const status = createDeviceStatusWriter({ client, timing, onError: report.statusError });
  const onPrepared = (claim: PreparedClaim): void => {
    status.push(claim);
    report.prepared(claim);
  };
  const { forgotten: onForgotten } = report;
  const lock = await lockOf(options);
  const preparation = createPreparation({
    pool: nodeName,
    machine,
    store,
    readClaim,
    onPrepared,
    onForgotten,
    ...lock,
  });
  if (memory.lost !== undefined) report.lost(memory.lost);
  const upkeep = startUpkeep({
    ...{ memory, preparation, store, machine, checkpoint, cdiFolder, timing, readClaim },
    pool: nodeName,
    findForeign: machine.findForeign,
    onPresent: (claim, object) => (tellsDevices(object, claim) ? undefined : status.push(claim)),
    onRebuilt: ({ why }, aside) => events.record(rebuiltEvent(nodeName, why, aside, store.claims.size)),
    onRepairs: report.repairs,
    onError: report.upkeepError,
  });
  const refused = (claims: readonly ClaimReference[], why: string) => {
    const error = `the node agent is rebuilding its checkpoint (${why}); the kubelet asks again`;
    return Object.fromEntries(claims.map(({ uid }) => [uid, { devices: [], error }]));
  };
  const sockets = await openKubeletSockets(
    options.kubeletFolder,
    options.instance,
    {
      prepare: report.timed("prepare", async (claims, call: CallState) => {
        const why = upkeep.rebuilding();
        return why === undefined ? preparation.prepare(claims, call) : refused(claims, why);
      }),
      unprepare: report.timed("unprepare", async (claims, call: CallState) => {
        const why = upkeep.rebuilding();
        return why === undefined ? preparation.unprepare(claims, call) : refused(claims, why);
      }),
      watchHealth: (send) => watchHealth(machine, nodeName, timing, send),
    },
    report.registration,
  );
  const slices = startSliceController({
    ...{ client, nodeName, machine, timing, hasSuccessor: successorOf(options) },
    ...report.slices,
  });
  const unsubscribe = machine.onChange(report.devices);
  report.devices();
  return {
    isReady: report.isReady,
    failure: sockets.missing,
    async stop() {
      unsubscribe();
      await sockets.close();
      await Promise.all([slices.stop(), upkeep.stop(), status.stop(), preparation.idle()]);
      await events.close();
    },
  };
}

/** Two of the driver's processes may run at once only where their sockets have names of their own. */
async function lockOf({ kubeletFolder, instance }: NodeAgentOptions): Promise<{ lock?: FileLock }> {
  if (instance === undefined) return {};
  const { folder, lock } = socketPaths(kubeletFolder, instance);
  await makeFolder(folder, 0o700);
  return { lock: await openFileLock(lock) };
}

function successorOf({ kubeletFolder, instance }: NodeAgentOptions): (() => Promise<boolean>) | undefined {
  if (instance === undefined) return undefined;
  const { folder, dra } = socketPaths(kubeletFolder, instance);
  return () => hasSuccessor(folder, dra);
}

/** A consistent read of a claim; undefined: there is none. */
function claimReader(client: KubeClient) {
  return async (namespace: string, name: string, signal?: AbortSignal): Promise<ResourceClaim | undefined> => {
    const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace, name };
    try {
      return await client.request<ResourceClaim>("GET", resourcePath(location), signal === undefined ? {} : { signal });
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  };
}

function rebuiltEvent(nodeName: string, why: string, aside: string | undefined, claims: number) {
  const kept = aside === undefined ? "" : ` It was kept as ${aside}.`;
  return {
    // The kubelet's own events about a Node have its name as UID, too.
    regarding: { apiVersion: "v1", kind: "Node", name: nodeName, uid: nodeName },
    type: "Warning",
    reason: "CheckpointRebuilt",
    note: `The checkpoint of driver ${driverName} could not be used: ${why}.${kept} ${claims} prepared claims were found again.`,
  } as const;
}
