import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import type { GangSpec } from "../src/api/gang.ts";
import type { DeviceClass, Node } from "../src/api/kubernetes.ts";
import type { GangRequest } from "../src/gang/plan.ts";
import { projectDeviceClass, projectNode, projectSlice } from "../src/kube/project.ts";
import { uniformFleet } from "../src/simulator/fleet.ts";
import { fleetNodes, nodeManifest, nodeSlices } from "../src/simulator/objects.ts";
import { type ClusterModel, createClusterModel } from "../src/topology/model.ts";
import type { ClaimRecord, PodRecord } from "../src/topology/records.ts";
import { podRecord } from "../test/builders.ts";
import type { Random } from "../test/simulation/random.ts";

/** Clusters and gangs for benchmarks of the planner alone: no API server, but records as a live one gives them. */

export const driver = "gpu.kllama.ai";
const namespace = "bench";

/** An empty cluster with the device classes that kllama installs. */
export function emptyCluster(): ClusterModel {
  const model = createClusterModel({ managedDrivers: [driver] });
  const text = readFileSync(new URL("../deploy/device-classes.yaml", import.meta.url), "utf8");
  for (const document of parseAllDocuments(text)) {
    model.upsertDeviceClass(projectDeviceClass(document.toJS() as DeviceClass));
  }
  return model;
}

/** `nodes` equal hosts of 8 GPUs with one NVSwitch each, 16 to a rack and 8 racks to a block. */
export function uniformCluster(nodes: number): ClusterModel {
  const model = emptyCluster();
  for (const node of fleetNodes(uniformFleet({ nodes }))) {
    model.upsertNode(projectNode(nodeManifest(node) as unknown as Node));
    for (const slice of nodeSlices(node, { nodeUid: node.name, generation: 1 })) model.upsertSlice(projectSlice(slice));
  }
  return model;
}

/** Puts running pods on whole-GPU nodes until a share of all GPUs is held. */
export interface Filler {
  /** `load`: 0 to 1; not less than before. */
  fillTo(load: number): void;
}

const podSizes = [8, 8, 4, 4, 2, 1];
/** One filled node of so many keeps some of its GPUs free, as fragments. */
const fragmentedOneIn = 20;

/**
 * Racks fill up one after the other in an order drawn by chance, so that what is free is whole racks and, on one node in
 * twenty, fragments of 1 to 7 GPUs: what a planner leaves that keeps large domains whole.
 */
export function createFiller(model: ClusterModel, random: Random): Filler {
  const racks = Map.groupBy(
    model.view.nodes.flatMap((node) => node ?? []),
    ({ record }) => record.labels["fabric.topograph.run/tier-0"] ?? "",
  );
  const waiting = shuffled([...racks.values()], random).flat();
  const total = waiting.reduce((sum, { index }) => sum + model.view.inventory(index).devices.length, 0);
  let held = 0;
  let pods = 0;
  return {
    fillTo(load) {
      while (held < load * total && waiting.length > 0) {
        const { index, record } = waiting.shift()!;
        const { devices } = model.view.inventory(index);
        let room = devices.length - (random.below(fragmentedOneIn) === 0 ? 1 + random.below(7) : 0);
        const order = shuffled(devices, random);
        while (room > 0) {
          const size = Math.min(room, random.pick(podSizes));
          room -= size;
          held += size;
          runPod(
            model,
            `running-${pods++}`,
            record.name,
            order.splice(0, size).map(({ name }) => name),
          );
        }
      }
    },
  };
}

function shuffled<T>(list: readonly T[], random: Random): T[] {
  const result = [...list];
  for (let i = result.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}

/** A bound pod with an allocated claim. */
function runPod(model: ClusterModel, name: string, node: string, devices: readonly string[]): void {
  const claim = claimOf(name, devices.length);
  model.upsertClaim({
    ...claim,
    allocation: { devices: { results: devices.map((device) => ({ request: "gpus", driver, pool: node, device })) } },
    reservedFor: [{ resource: "pods", name, uid: `pod-${name}` }],
    allocatedByPlanner: true,
  });
  model.upsertPod({ ...podOf(name, devices.length), nodeName: node });
}

function claimOf(pod: string, count: number): ClaimRecord {
  return {
    uid: `claim-${pod}`,
    namespace,
    name: `${pod}-gpus`,
    resourceVersion: "1",
    spec: {
      devices: {
        requests: [{ name: "gpus", exactly: { deviceClassName: driver, allocationMode: "ExactCount", count } }],
      },
    },
    reservedFor: [],
    finalizers: [],
    deleting: false,
  };
}

function podOf(name: string, gpus: number): PodRecord {
  return podRecord(name, {
    uid: `pod-${name}`,
    namespace,
    requests: { cpu: 8000 * Math.max(1, gpus), memory: 64 * 2 ** 30 * Math.max(1, gpus) },
    claims: gpus > 0 ? [{ name: "gpus", claimName: `${name}-gpus` }] : [],
  });
}

/** Pods of one set of a gang; `gpus` per pod in one claim. */
export interface PodSetOf {
  count: number;
  gpus: number;
  slices?: { size: number; level: string }[];
  /** Millicores; default 8000 per GPU. */
  cpu?: number;
}

/** A complete gang: its claims are made known to the model, its pods wait. */
export function pendingGang(
  model: ClusterModel,
  name: string,
  podSets: Readonly<Record<string, PodSetOf>>,
  spec: Partial<GangSpec> = {},
): GangRequest {
  const pods = Object.entries(podSets).flatMap(([podSet, { count, gpus, cpu }]) =>
    Array.from({ length: count }, (_, index): PodRecord => {
      const pod = podOf(`${name}-${podSet}-${index}`, gpus);
      if (gpus > 0) model.upsertClaim(claimOf(pod.name, gpus));
      return { ...pod, gang: name, podSet, index, requests: { ...pod.requests, ...(cpu !== undefined && { cpu }) } };
    }),
  );
  const sets = Object.entries(podSets).map(([podSet, { count, slices }]) => ({
    name: podSet,
    count,
    ...(slices && { slices }),
  }));
  return {
    namespace,
    name,
    spec: { podSets: sets, topology: "default", scheduleTimeoutSeconds: 600, disruption: "All", ...spec },
    priority: 0,
    createdAtMs: 0,
    pods,
    placed: [],
  };
}

/** Forgets the claims of a gang that was made by `pendingGang`. */
export function forgetGang(model: ClusterModel, { pods }: GangRequest): void {
  for (const { name, claims } of pods) if (claims.length > 0) model.removeClaim(`claim-${name}`);
}
