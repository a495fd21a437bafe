import type { Gang } from "../../src/api/gang.ts";
import type { Node, Pod, ResourceClaimSpec, ResourceSlice } from "../../src/api/kubernetes.ts";
import { driverName, gangLabel, podSetLabel } from "../../src/api/names.ts";
import type { Workload } from "./controller-manager.ts";
import { namespace } from "./parts.ts";
import type { Random } from "./random.ts";

/** What one world consists of before anything happens. */
export interface Sketch {
  nodes: string[];
  devicesPerNode: number;
  nodesPerRack: number;
  gangs: GangSketch[];
  replicas: number;
}

export interface GangSketch {
  name: string;
  pods: number;
  minCount: number;
  /** Devices per pod. */
  devices: number;
  /** Pods per slice that share a rack; 1: no slices. */
  slice: number;
  /** A leader without claims, in a pod set of its own. */
  leader: boolean;
  timeoutSeconds: number;
}

export const nodeCpu = 16;
const memberCpu = 2;

export function sketchWorld(random: Random): Sketch {
  const nodes = Array.from({ length: 2 + random.below(3) }, (_, index) => `n${index}`);
  const devicesPerNode = random.pick([2, 4, 4, 6]);
  const gangs = Array.from({ length: 1 + random.below(4) }, (_, index) =>
    sketchGang(random, `g${index}`, devicesPerNode),
  );
  return { nodes, devicesPerNode, nodesPerRack: random.pick([1, 2, 2]), gangs, replicas: random.pick([1, 1, 2]) };
}

function sketchGang(random: Random, name: string, most: number): GangSketch {
  const slice = random.pick([1, 1, 1, 2]);
  const pods = slice * (1 + random.below(slice === 1 ? 4 : 2));
  const minCount = random.chance(0.25) ? 1 + random.below(pods) : pods;
  return {
    name,
    pods,
    minCount,
    devices: 1 + random.below(most),
    slice,
    leader: random.chance(0.15),
    timeoutSeconds: random.pick([3, 10, 30, 60]),
  };
}

export const rackOf = (sketch: Sketch, node: string): string =>
  `r${Math.floor(sketch.nodes.indexOf(node) / sketch.nodesPerRack)}`;

export function nodeObject(sketch: Sketch, name: string, ready = true): Node {
  const labels = { "kubernetes.io/hostname": name, "topology.kubernetes.io/rack": rackOf(sketch, name) };
  return {
    metadata: { name, labels },
    spec: {},
    status: {
      allocatable: { cpu: String(nodeCpu), memory: "64Gi", pods: "110" },
      conditions: [{ type: "Ready", status: ready ? "True" : "False" }],
    },
  };
}

export function sliceObject(sketch: Sketch, node: string): ResourceSlice {
  return {
    metadata: { name: `${node}-slice` },
    spec: {
      driver: driverName,
      pool: { name: node, generation: 1, resourceSliceCount: 1 },
      nodeName: node,
      devices: Array.from({ length: sketch.devicesPerNode }, (_, index) => ({
        name: `gpu-${index}`,
        attributes: { type: { string: "gpu" } },
      })),
    },
  };
}

export const deviceClassObject = {
  metadata: { name: driverName },
  spec: { selectors: [{ cel: { expression: `device.driver == "${driverName}"` } }] },
};

export const topologyObject = {
  metadata: { name: "default" },
  spec: {
    levels: [
      { name: "rack", nodeLabels: ["topology.kubernetes.io/rack"] },
      { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
    ],
  },
};

export function claimTemplates(sketch: Sketch): Map<string, ResourceClaimSpec> {
  const templates = new Map<string, ResourceClaimSpec>();
  for (let count = 1; count <= sketch.devicesPerNode; count++) {
    const exactly = { deviceClassName: driverName, count };
    templates.set(`gpus-${count}`, { devices: { requests: [{ name: "gpus", exactly }] } });
  }
  return templates;
}

export function gangObject(sketch: GangSketch): Gang {
  const { name, pods, minCount, slice, leader, timeoutSeconds } = sketch;
  const ranks = {
    name: "ranks",
    count: pods,
    minCount,
    ...(slice > 1 ? { slices: [{ size: slice, level: "rack" }] } : {}),
  };
  return {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "Gang",
    metadata: { name, namespace },
    spec: {
      podSets: leader ? [{ name: "leader", count: 1 }, ranks] : [ranks],
      topology: "default",
      scheduleTimeoutSeconds: timeoutSeconds,
      disruption: "All",
    },
  };
}

/** The gang's pods as StatefulSets would keep them: one per pod set. */
export function workloadsOf(sketch: GangSketch): Workload[] {
  const { name, pods, devices, leader } = sketch;
  const ranks = {
    name: `${name}-ranks`,
    replicas: pods,
    make: (index: number) => memberPod(name, "ranks", index, devices),
  };
  const first = { name: `${name}-leader`, replicas: 1, make: (index: number) => memberPod(name, "leader", index, 0) };
  return leader ? [ranks, first] : [ranks];
}

function memberPod(gang: string, podSet: string, index: number, devices: number): Pod {
  const labels = { [gangLabel]: gang, [podSetLabel]: podSet, "apps.kubernetes.io/pod-index": String(index) };
  return podObject(`${gang}-${podSet}-${index}`, labels, devices, memberCpu);
}

/** @param devices devices that its claim asks for; 0: no claim */
export function podObject(name: string, labels: Record<string, string>, devices: number, cpu: number): Pod {
  return {
    metadata: { name, namespace, labels },
    spec: {
      containers: [{ name: "main", resources: { requests: { cpu: String(cpu) } } }],
      ...(devices === 0 ? {} : { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: `gpus-${devices}` }] }),
    },
  };
}
