import type { Gang } from "../../src/api/gang.ts";
import type { KubernetesObject, Node, Pod, ResourceClaimSpec, ResourceSlice } from "../../src/api/kubernetes.ts";
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
  /** Nodes whose GPUs can be taken whole or as two partitions. */
  migNodes: ReadonlySet<string>;
  /** Joins gangs by their roles. */
  group?: GroupSketch;
  /** Whether pods with claims are gated in the namespace; if not, they go past the gate. */
  injects: boolean;
  /** With what came later than the worlds that are kept for what they found: see `withMore`. */
  more?: { losesEvents: boolean };
}

/** Roles `prefill` and `decode`, of which at least one gang each starts, or none. */
interface GroupSketch {
  name: string;
  /** The rack is wished, or required, for all of the group. */
  rack?: "required" | "preferred";
}

export interface GangSketch {
  name: string;
  pods: number;
  minCount: number;
  /** Devices per pod, and what they are. */
  devices: number;
  kind: DeviceKind;
  /** Pods per slice that share a rack; 1: no slices. */
  slice: number;
  /** All of it has to be in one. */
  colocate?: "rack" | "host";
  /** A leader without claims, in a pod set of its own. */
  leader: boolean;
  timeoutSeconds: number;
  /** In the PlacementGroup. */
  role?: "prefill" | "decode";
  /** Of its pods; absent: 0. */
  priority?: number;
  neverPreempts?: true;
  /** A PodDisruptionBudget keeps so many of its pods. */
  minAvailable?: number;
}

export type DeviceKind = "gpus" | "migs";

export const nodeCpu = 16;
const memberCpu = 2;

export function sketchWorld(random: Random): Sketch {
  const nodes = Array.from({ length: 2 + random.below(3) }, (_, index) => `n${index}`);
  const devicesPerNode = random.pick([2, 4, 4, 6]);
  const migNodes = new Set(random.chance(0.3) ? nodes.slice(-1 - random.below(2)) : []);
  const gangs = Array.from({ length: 1 + random.below(4) }, (_, index) =>
    sketchGang(random, `g${index}`, devicesPerNode, migNodes.size > 0),
  );
  const group = gangs.length > 1 && random.chance(0.35) ? sketchGroup(random, gangs) : undefined;
  return {
    nodes,
    devicesPerNode,
    nodesPerRack: random.pick([1, 2, 2]),
    gangs,
    replicas: random.pick([1, 2, 2]),
    migNodes,
    ...(group === undefined ? {} : { group }),
    injects: random.chance(0.8),
  };
}

/** More gangs, of several priorities; some preempt nobody, some are protected by a budget. */
export function withPriorities(random: Random, sketch: Sketch): Sketch {
  const more = Array.from({ length: 1 + random.below(3) }, (_, index) =>
    sketchGang(random, `p${index}`, sketch.devicesPerNode, sketch.migNodes.size > 0),
  );
  const gangs = [...sketch.gangs, ...more].map((gang): GangSketch => {
    const minAvailable = random.chance(0.15) ? { minAvailable: random.below(gang.pods + 1) } : {};
    const never = random.chance(0.15) ? { neverPreempts: true as const } : {};
    return { ...gang, priority: random.pick([0, 0, 5, 10]), ...never, ...minAvailable };
  });
  return { ...sketch, gangs };
}

/**
 * Gangs that have to be in one rack or on one node; in every third world events get lost and the planner looks for them
 * often. People also empty claims of pods that run.
 */
export function withMore(random: Random, sketch: Sketch): Sketch {
  const gangs = sketch.gangs.map((gang): GangSketch => {
    if (gang.slice > 1 || !random.chance(0.35)) return gang;
    return { ...gang, colocate: random.pick(["rack", "rack", "host"] as const) };
  });
  return { ...sketch, gangs, more: { losesEvents: random.chance(1 / 3) } };
}

export function budgetObject({ name, minAvailable }: GangSketch) {
  const selector = { matchLabels: { [gangLabel]: name } };
  return { metadata: { name, namespace }, spec: { minAvailable, selector } };
}

/** The first two are needed; the others join later, or are not of the group. */
function sketchGroup(random: Random, gangs: GangSketch[]): GroupSketch {
  for (const [index, gang] of gangs.entries()) {
    const later = random.pick(["prefill", "decode", undefined] as const);
    const role = index === 0 ? "prefill" : index === 1 ? "decode" : later;
    if (role !== undefined) gang.role = role;
  }
  const rack = random.pick(["required", "preferred", undefined, undefined] as const);
  return rack === undefined ? { name: "pd" } : { name: "pd", rack };
}

function sketchGang(random: Random, name: string, most: number, partitions: boolean): GangSketch {
  const kind = partitions && random.chance(0.4) ? "migs" : "gpus";
  const slice = random.pick([1, 1, 1, 2]);
  const pods = slice * (1 + random.below(slice === 1 ? 4 : 2));
  const minCount = random.chance(0.25) ? 1 + random.below(pods) : pods;
  return {
    name,
    pods,
    minCount,
    devices: 1 + random.below(kind === "migs" ? 2 : most),
    kind,
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

/** What a driver publishes of the node: its devices, and on nodes with partitions the counters that those share. */
export function sliceObjects(sketch: Sketch, node: string): ResourceSlice[] {
  const gpus = Array.from({ length: sketch.devicesPerNode }, (_, index) => index);
  const slices = sketch.migNodes.has(node)
    ? [
        { sharedCounters: gpus.map((gpu) => ({ name: `gpu-${gpu}`, counters: halves(0, 1) })) },
        { devices: gpus.flatMap(partitionable) },
      ]
    : [{ devices: gpus.map((gpu) => device(`gpu-${gpu}`, "gpu")) }];
  return slices.map((contents, index) => ({
    metadata: { name: `${node}-slice-${index}` },
    spec: {
      driver: driverName,
      pool: { name: node, generation: 1, resourceSliceCount: slices.length },
      nodeName: node,
      ...contents,
    },
  }));
}

const device = (name: string, type: "gpu" | "mig") => ({ name, attributes: { type: { string: type } } });
const halves = (...which: number[]) => Object.fromEntries(which.map((half) => [`half-${half}`, { value: "1" }]));

function partitionable(gpu: number): NonNullable<ResourceSlice["spec"]["devices"]> {
  const consuming = (...which: number[]) => [{ counterSet: `gpu-${gpu}`, counters: halves(...which) }];
  return [
    { ...device(`gpu-${gpu}`, "gpu"), consumesCounters: consuming(0, 1) },
    { ...device(`mig-${gpu}-0`, "mig"), consumesCounters: consuming(0) },
    { ...device(`mig-${gpu}-1`, "mig"), consumesCounters: consuming(1) },
  ];
}

/** What of the machine a device (`pool/device`) takes: two devices that share a unit cannot be used at the same time. */
export function unitsOf(sketch: Sketch, device: string): string[] {
  const [pool = "", name = ""] = device.split("/");
  if (!sketch.migNodes.has(pool)) return [device];
  const [type, gpu, half] = name.split("-");
  return type === "gpu" ? [`${pool}/${gpu}.0`, `${pool}/${gpu}.1`] : [`${pool}/${gpu}.${half}`];
}

const classNames: Record<DeviceKind, string> = { gpus: driverName, migs: "mig.kllama.ai" };

export const deviceClassObjects = (["gpus", "migs"] as const).map((kind) => ({
  metadata: { name: classNames[kind] },
  spec: {
    selectors: [
      {
        cel: {
          expression: `device.driver == "${driverName}" && device.attributes["${driverName}"].type == "${kind.slice(0, 3)}"`,
        },
      },
    ],
  },
}));

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
  for (const kind of ["gpus", "migs"] as const) {
    for (let count = 1; count <= sketch.devicesPerNode; count++) {
      const exactly = { deviceClassName: classNames[kind], count };
      templates.set(`${kind}-${count}`, { devices: { requests: [{ name: "gpus", exactly }] } });
    }
  }
  return templates;
}

export function groupObject({ name, rack }: GroupSketch): KubernetesObject & { spec: unknown } {
  const members = ["prefill", "decode"].map((role) => ({ role, minInstances: 1 }));
  const constraints = rack === undefined ? [] : [{ type: "colocate", level: "rack", mode: rack }];
  return {
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "PlacementGroup",
    metadata: { name, namespace },
    spec: { members, constraints, topology: "default" },
  };
}

export function gangObject(sketch: GangSketch, group: GroupSketch | undefined): Gang {
  const { name, pods, minCount, slice, leader, timeoutSeconds, role, colocate } = sketch;
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
      ...(colocate === undefined
        ? {}
        : { constraints: [{ type: "colocate" as const, level: colocate, mode: "required" as const }] }),
      ...(role === undefined || group === undefined ? {} : { placementGroup: group.name, role }),
    },
  };
}

/** The gang's pods as StatefulSets would keep them: one per pod set. */
export function workloadsOf(sketch: GangSketch): Workload[] {
  const { name, pods, devices, leader } = sketch;
  const ranks = {
    name: `${name}-ranks`,
    replicas: pods,
    make: (index: number) => memberPod(sketch, "ranks", index, devices),
  };
  const first = {
    name: `${name}-leader`,
    replicas: 1,
    make: (index: number) => memberPod(sketch, "leader", index, 0),
  };
  return leader ? [ranks, first] : [ranks];
}

function memberPod(sketch: GangSketch, podSet: string, index: number, devices: number): Pod {
  const { name: gang, kind, priority, neverPreempts } = sketch;
  const labels = { [gangLabel]: gang, [podSetLabel]: podSet, "apps.kubernetes.io/pod-index": String(index) };
  const pod = podObject(`${gang}-${podSet}-${index}`, labels, devices, memberCpu, kind);
  if (priority === undefined) return pod;
  return { ...pod, spec: { ...pod.spec, priority, ...(neverPreempts && { preemptionPolicy: "Never" }) } };
}

/** @param devices devices that its claim asks for; 0: no claim */
export function podObject(
  name: string,
  labels: Record<string, string>,
  devices: number,
  cpu: number,
  kind: DeviceKind = "gpus",
): Pod {
  return {
    metadata: { name, namespace, labels },
    spec: {
      containers: [{ name: "main", resources: { requests: { cpu: String(cpu) } } }],
      ...(devices === 0 ? {} : { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: `${kind}-${devices}` }] }),
    },
  };
}
