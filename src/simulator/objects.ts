import { createHash } from "node:crypto";
import type { Device, DeviceAttribute, DeviceTaint, KubernetesObject, ResourceSlice } from "../api/kubernetes.ts";
import { driverName } from "../api/names.ts";
import type { Fleet, GpuSlot, NodeType } from "./fleet.ts";
import { type MigAmounts, type MigGeometry, type MigProfile, migGeometry } from "./mig.ts";
import { lostDeviceTaint, simulatedNode } from "./names.ts";

/** Fleet → the Kubernetes objects that stand for it. Everything follows from names: same fleet, same objects. */

/** Limits of ResourceSlices, `k8s.io/api/resource/v1` types.go (v0.36). */
const sliceLimits = {
  devices: 128,
  /** When a device of the slice consumes counters or has taints. */
  devicesWithCountersOrTaints: 64,
  counterSets: 8,
} as const;

/** One machine of a fleet and where it stands. */
export interface SimulatedNode {
  name: string;
  type: NodeType;
  region: string;
  zone: string;
  block: string;
  rack: string;
  /** `CLUSTER_UUID.CLIQUE_ID` of a rack-wide NVLink domain. */
  clique?: string;
}

/** A Node as it is created, status included. */
export interface NodeManifest extends KubernetesObject {
  apiVersion: "v1";
  kind: "Node";
  status: {
    capacity: Record<string, string>;
    allocatable: Record<string, string>;
    conditions: { type: string; status: string; reason: string; message: string }[];
    nodeInfo: Record<string, string>;
  };
}

/** A device that broke: it keeps its place with a taint, or disappears from the slices. */
interface DeviceLoss {
  how: "taint" | "remove";
  /** RFC 3339; becomes the taint's `timeAdded`. */
  since: string;
}
export type DeviceLosses = Readonly<Record<string, DeviceLoss>>;

/** Deterministic UUID (version 5 layout) of a name. */
export function nameUuid(name: string): string {
  const hex = createHash("sha1").update(`kllama-simulator/${name}`).digest("hex");
  const variant = ((Number.parseInt(hex[16]!, 16) & 0x3) | 0x8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** All machines of a fleet, rack by rack. */
export function fleetNodes(fleet: Fleet): SimulatedNode[] {
  const types = new Map(fleet.nodeTypes.map((type) => [type.name, type]));
  return fleet.racks.flatMap((rack) =>
    Array.from({ length: rack.nodes }, (_, index) => {
      const type = types.get(rack.nodeType)!;
      return {
        name: `${rack.name}-${String(index).padStart(2, "0")}`,
        type,
        region: fleet.region,
        zone: fleet.zone,
        block: rack.block,
        rack: rack.name,
        ...(type.nvlink === "rack" ? { clique: `${nameUuid(`${fleet.name}/${rack.name}`)}.0` } : {}),
      };
    }),
  );
}

/** The Node object, Ready from its creation, with the labels that cloud providers, GPU feature discovery and topograph set. */
export function nodeManifest(node: SimulatedNode): NodeManifest {
  const { allocatable, gpu, cpuArchitecture, slots } = node.type;
  const resources = { ...allocatable, pods: String(allocatable.pods), "ephemeral-storage": "1Ti" };
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: node.name,
      labels: {
        [simulatedNode]: "true",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": cpuArchitecture,
        "node.kubernetes.io/instance-type": node.type.name,
        "topology.kubernetes.io/region": node.region,
        "topology.kubernetes.io/zone": node.zone,
        "fabric.topograph.run/tier-1": node.block,
        "fabric.topograph.run/tier-0": node.rack,
        "nvidia.com/gpu.count": String(slots.length),
        "nvidia.com/gpu.family": labelValue(gpu.architecture.toLowerCase()),
        "nvidia.com/gpu.product": labelValue(gpu.productName),
        ...(node.clique === undefined ? {} : { "nvidia.com/gpu.clique": node.clique }),
      },
      annotations: {
        [simulatedNode]: "Simulated by kllama: no such machine exists, its containers do not run.",
        "kwok.x-k8s.io/node": "fake",
      },
    },
    status: {
      capacity: resources,
      allocatable: { ...resources },
      conditions: readyConditions,
      nodeInfo: {
        architecture: cpuArchitecture,
        operatingSystem: "linux",
        osImage: "none (simulated)",
        kubeletVersion: "kllama-simulator",
        kernelVersion: "",
        containerRuntimeVersion: "",
        kubeProxyVersion: "",
        machineID: "",
        systemUUID: nameUuid(node.name),
        bootID: "",
      },
    },
  };
}

/** Label values are at most 63 letters, digits, `-`, `_` or `.`, and begin and end with a letter or digit. */
function labelValue(value: string): string {
  return value
    .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
    .slice(0, 63)
    .replaceAll(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "");
}

const readyConditions = [
  { type: "Ready", status: "True", reason: "KubeletReady", message: "simulated node agent is ready" },
  { type: "MemoryPressure", status: "False", reason: "KubeletHasSufficientMemory", message: "simulated" },
  { type: "DiskPressure", status: "False", reason: "KubeletHasNoDiskPressure", message: "simulated" },
  { type: "PIDPressure", status: "False", reason: "KubeletHasSufficientPID", message: "simulated" },
];

/**
 * The node's ResourceSlices: shared counters first (from 1.36 apart from devices), then devices ordered by NVLink
 * domain, so that the stock first-fit allocator, which reads slices by name and devices in order, fills one domain
 * before the next. All of a GPU's partitions stand in one slice.
 */
export function nodeSlices(
  node: SimulatedNode,
  options: { nodeUid: string; generation: number; losses?: DeviceLosses },
): ResourceSlice[] {
  const geometry = node.type.gpu.mig === undefined ? undefined : migGeometry(node.type.gpu.mig);
  const order = gpuOrder(node);
  const perGpu = order.map((index) => gpuDevices(node, index, geometry, options.losses ?? {}));
  const counterSets = geometry === undefined ? [] : order.map((index) => counterSet(index, geometry));
  const bodies: Pick<ResourceSlice["spec"], "sharedCounters" | "devices">[] = [
    ...chunks(counterSets, sliceLimits.counterSets).map((sharedCounters) => ({ sharedCounters })),
    ...packDevices(perGpu).map((devices) => ({ devices })),
  ];
  return bodies.map((body, index) => ({
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: {
      name: `${node.name}-${driverName}-${index.toString(16).padStart(5, "0")}`,
      labels: { [simulatedNode]: "true" },
      ownerReferences: [{ apiVersion: "v1", kind: "Node", name: node.name, uid: options.nodeUid, controller: true }],
    },
    spec: {
      driver: driverName,
      nodeName: node.name,
      pool: { name: node.name, generation: options.generation, resourceSliceCount: bodies.length },
      ...body,
    },
  }));
}

/** GPU indices, those of one NVLink domain side by side. */
function gpuOrder(node: SimulatedNode): number[] {
  const { slots } = node.type;
  return slots.map((_, index) => index).sort((a, b) => (slots[a]!.bridge ?? 0) - (slots[b]!.bridge ?? 0) || a - b);
}

/** The GPU itself, then its partitions from small to large. */
function gpuDevices(
  node: SimulatedNode,
  index: number,
  geometry: MigGeometry | undefined,
  losses: DeviceLosses,
): Device[] {
  const partitions = geometry?.profiles.flatMap((profile) =>
    profile.starts.map((start) => migDevice(node, index, profile, start)),
  );
  const devices = [gpuDevice(node, index, geometry), ...(partitions ?? [])];
  return devices.flatMap((device) => {
    const loss = deviceLoss(device.name, losses);
    if (loss === undefined) return [device];
    return loss.how === "remove" ? [] : [{ ...device, taints: [lossTaint(loss)] }];
  });
}

/** A GPU takes its partitions along. */
function deviceLoss(device: string, losses: DeviceLosses): DeviceLoss | undefined {
  return losses[device.replace(/-mig-.*$/, "")] ?? losses[device];
}

/** The device, or the GPU it is a part of, is among the losses. */
export function isDeviceLost(device: string, losses: DeviceLosses): boolean {
  return deviceLoss(device, losses) !== undefined;
}

function lossTaint(loss: DeviceLoss): DeviceTaint {
  return { key: lostDeviceTaint, effect: "NoExecute", timeAdded: loss.since };
}

function gpuDevice(node: SimulatedNode, index: number, geometry: MigGeometry | undefined): Device {
  const { gpu, slots } = node.type;
  const domain = nvlinkDomain(node, slots[index]!);
  const board = geometry?.profiles.at(-1)?.amounts;
  return {
    name: `gpu-${index}`,
    attributes: {
      ...sharedAttributes(node, slots[index]!),
      type: text("gpu"),
      uuid: text(gpuUuid(node, index)),
      index: { int: index },
      ...(domain === undefined ? {} : { nvlinkDomain: text(domain) }),
      ...(node.clique === undefined ? {} : { clique: text(node.clique) }),
    },
    capacity: { ...(board === undefined ? {} : engineCapacity(board)), memory: { value: gpu.memory } },
    ...(geometry === undefined
      ? {}
      : { consumesCounters: [{ counterSet: counterSetName(index), counters: boardCounters(geometry) }] }),
  };
}

/** Partitions have no NVLink (their P2P column says No), hence no NVLink domain: they never serve tensor parallelism. */
function migDevice(node: SimulatedNode, index: number, profile: MigProfile, start: number): Device {
  const label = profile.name.replaceAll(".", "").replaceAll("+", "-");
  return {
    name: `gpu-${index}-mig-${label}-${profile.id}-${start}`,
    attributes: {
      ...sharedAttributes(node, node.type.slots[index]!),
      type: text("mig"),
      profile: text(profile.name),
      parentUUID: text(gpuUuid(node, index)),
    },
    capacity: { ...engineCapacity(profile.amounts), memory: { value: mebibytes(profile.amounts.memoryMebibytes) } },
    consumesCounters: [
      {
        counterSet: counterSetName(index),
        counters: { ...amountCounters(profile.amounts), ...memorySliceCounters(start, profile.memorySlices) },
      },
    ],
  };
}

function sharedAttributes(node: SimulatedNode, slot: GpuSlot): Record<string, DeviceAttribute> {
  const { gpu } = node.type;
  return {
    productName: text(gpu.productName),
    brand: text(gpu.brand),
    architecture: text(gpu.architecture),
    cudaComputeCapability: { version: gpu.cudaComputeCapability },
    driverVersion: { version: gpu.driverVersion },
    cudaDriverVersion: { version: gpu.cudaDriverVersion },
    "resource.kubernetes.io/pciBusID": text(slot.pciBusID),
    "resource.kubernetes.io/pcieRoot": text(slot.pcieRoot),
    "resource.kubernetes.io/numaNode": { int: slot.numaNode },
  };
}

/** Names the set of GPUs that NVLink joins; unique in the cluster, since node and rack names are. */
function nvlinkDomain(node: SimulatedNode, slot: GpuSlot): string | undefined {
  if (node.type.nvlink === "rack") return node.clique;
  if (node.type.nvlink === "host") return node.name;
  return node.type.nvlink === "bridge" ? `${node.name}.bridge-${slot.bridge}` : undefined;
}

function gpuUuid(node: SimulatedNode, index: number): string {
  return `GPU-${nameUuid(`${node.name}/gpu-${index}`)}`;
}

function counterSetName(index: number): string {
  return `gpu-${index}-counter-set`;
}

function counterSet(
  index: number,
  geometry: MigGeometry,
): { name: string; counters: Record<string, { value: string }> } {
  return { name: counterSetName(index), counters: boardCounters(geometry) };
}

function boardCounters(geometry: MigGeometry): Record<string, { value: string }> {
  return {
    ...amountCounters(geometry.profiles.at(-1)!.amounts),
    ...memorySliceCounters(0, geometry.memorySlices),
  };
}

function amountCounters(amounts: MigAmounts): Record<string, { value: string }> {
  return {
    memory: { value: mebibytes(amounts.memoryMebibytes) },
    multiprocessors: count(amounts.multiprocessors),
    "copy-engines": count(amounts.copyEngines),
    decoders: count(amounts.decoders),
    encoders: count(amounts.encoders),
    "jpeg-engines": count(amounts.jpegEngines),
    "ofa-engines": count(amounts.ofaEngines),
  };
}

function memorySliceCounters(start: number, slices: number): Record<string, { value: string }> {
  return Object.fromEntries(
    Array.from({ length: slices }, (_, offset) => [`memory-slice-${start + offset}`, count(1)]),
  );
}

function engineCapacity(amounts: MigAmounts): Record<string, { value: string }> {
  return {
    multiprocessors: count(amounts.multiprocessors),
    copyEngines: count(amounts.copyEngines),
    decoders: count(amounts.decoders),
    encoders: count(amounts.encoders),
    jpegEngines: count(amounts.jpegEngines),
    ofaEngines: count(amounts.ofaEngines),
  };
}

/** The API server stores quantities in canonical form; other spellings would look like a change at every restart. */
function mebibytes(amount: number): string {
  return amount % 1024 === 0 ? `${amount / 1024}Gi` : `${amount}Mi`;
}

function count(amount: number): { value: string } {
  return { value: String(amount) };
}

function text(value: string): DeviceAttribute {
  return { string: value };
}

/** Groups stay whole; a slice holds as many groups as its limit allows. An empty pool has one empty slice, not none. */
function packDevices(groups: readonly Device[][]): Device[][] {
  const special = groups.flat().some((d) => d.consumesCounters !== undefined || d.taints !== undefined);
  const limit = special ? sliceLimits.devicesWithCountersOrTaints : sliceLimits.devices;
  const slices: Device[][] = [[]];
  for (const group of groups) {
    const last = slices.at(-1)!;
    if (last.length > 0 && last.length + group.length > limit) slices.push([...group]);
    else last.push(...group);
  }
  return slices;
}

function chunks<T>(values: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(values.length / size) }, (_, index) =>
    values.slice(index * size, (index + 1) * size),
  );
}
