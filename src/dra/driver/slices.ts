import type { Device, DeviceAttribute, DeviceTaint, ResourceSlice } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import {
  type AmdGpu,
  devicesByGpu,
  type Gpu,
  gpuName,
  type Inventory,
  type InventoryDevice,
  lossOf,
  type MigAmounts,
  type MigGeometry,
  troublesOf,
} from "./inventory.ts";

/**
 * Inventory → the ResourceSlices that publish it. Attributes, capacities and counters have the names that NVIDIA's driver
 * gives them (`kubernetes-sigs/dra-driver-nvidia-gpu`, `deviceinfo.go`, `partitions.go`), so a selector written for
 * `gpu.nvidia.com` ports by changing the domain.
 */

/** Limits of ResourceSlices, `k8s.io/api/resource/v1` types.go (v0.36). */
const sliceLimits = {
  devices: 128,
  /** When a device of the slice consumes counters or has taints. */
  devicesWithCountersOrTaints: 64,
  counterSets: 8,
} as const;

/** Of an attribute, in characters. */
const maxTextLength = 64;

/** Key of the taint on a device that does not work any more. */
const lostDeviceTaint = `${driverName}/gpu-lost`;

export interface PoolOptions {
  /** Names the pool too. */
  nodeName: string;
  /** The Node owns its slices: they go with it. */
  nodeUid: string;
  generation: number;
  labels?: Record<string, string>;
}

/**
 * The node's ResourceSlices: shared counters first (from Kubernetes 1.35 on apart from devices), then devices, NVLink
 * domain by domain: the stock first-fit allocator reads slices by name and devices in order. All of a GPU's partitions
 * stand in one slice.
 */
export function poolSlices(inventory: Inventory, options: PoolOptions): ResourceSlice[] {
  const { nodeName, nodeUid, generation, labels } = options;
  const groups = devicesByGpu(inventory.gpus);
  const counterSets = groups.flatMap(([whole]) => (whole?.gpu.mig === undefined ? [] : [counterSet(whole.gpu)]));
  const bodies: Pick<ResourceSlice["spec"], "sharedCounters" | "devices">[] = [
    ...chunks(counterSets, sliceLimits.counterSets).map((sharedCounters) => ({ sharedCounters })),
    ...packDevices(groups.map((group) => publishedDevices(group, inventory))).map((devices) => ({ devices })),
  ];
  return bodies.map((body, index) => ({
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: {
      name: `${nodeName}-${driverName}-${index.toString(16).padStart(5, "0")}`,
      ...(labels === undefined ? {} : { labels }),
      ownerReferences: [{ apiVersion: "v1", kind: "Node", name: nodeName, uid: nodeUid, controller: true }],
    },
    spec: {
      driver: driverName,
      nodeName,
      pool: { name: nodeName, generation, resourceSliceCount: bodies.length },
      ...body,
    },
  }));
}

function publishedDevices(group: readonly InventoryDevice[], inventory: Inventory): Device[] {
  return group.flatMap((device) => {
    const published = device.partition === undefined ? gpuDevice(device) : migDevice(device, device.partition);
    const loss = lossOf(device.name, inventory.losses);
    if (loss?.how === "remove") return [];
    const taints: DeviceTaint[] = troublesOf(device.name, inventory).map(({ key, value, since }) => ({
      ...{ key: `${driverName}/${key}`, value, effect: "NoSchedule" as const, timeAdded: since },
    }));
    if (loss !== undefined) taints.push({ key: lostDeviceTaint, effect: "NoExecute", timeAdded: loss.since });
    return [taints.length === 0 ? published : { ...published, taints }];
  });
}

function gpuDevice({ name, gpu }: InventoryDevice): Device {
  const board = gpu.mig === undefined ? undefined : boardAmounts(gpu.mig);
  return {
    name,
    attributes: {
      ...sharedAttributes(gpu),
      type: text("gpu"),
      uuid: text(gpu.uuid),
      index: { int: gpu.minor },
      ...(gpu.nvlinkDomain === undefined ? {} : { nvlinkDomain: text(gpu.nvlinkDomain) }),
      ...(gpu.amd === undefined ? {} : amdAttributes(gpu.amd)),
      ...(gpu.clique === undefined ? {} : { clique: text(gpu.clique) }),
    },
    capacity: { ...(board === undefined ? {} : engineCapacity(board)), memory: { value: quantity(gpu.memoryBytes) } },
    ...(gpu.mig === undefined ? {} : { consumesCounters: [consumed(gpu, boardCounters(gpu))] }),
  };
}

/** Partitions have no NVLink (their P2P column says No), hence no NVLink domain: they never serve tensor parallelism. */
function migDevice(
  { name, gpu }: InventoryDevice,
  { profile, start, standing }: NonNullable<InventoryDevice["partition"]>,
): Device {
  const { amounts, memorySlices } = profile;
  const slices = memorySliceCounters(start, memorySlices);
  return {
    name,
    attributes: {
      ...sharedAttributes(gpu),
      type: text("mig"),
      profile: text(profile.name),
      parentUUID: text(gpu.uuid),
      ...(standing === undefined ? {} : { uuid: text(standing.uuid) }),
    },
    capacity: {
      ...engineCapacity(amounts),
      memory: memoryCounter(amounts),
      ...(standing === undefined ? {} : memorySliceCapacity(start, memorySlices)),
    },
    // A partition that stands already competes with no other.
    ...(standing === undefined ? { consumesCounters: [consumed(gpu, { ...amountCounters(amounts), ...slices })] } : {}),
  };
}

function amdAttributes({ target, card, renderMinor, deviceId }: AmdGpu): Record<string, DeviceAttribute> {
  return {
    gfxTarget: text(target),
    cardIndex: { int: card },
    renderIndex: { int: renderMinor },
    deviceID: text(deviceId),
  };
}

function sharedAttributes(gpu: Gpu): Record<string, DeviceAttribute> {
  return {
    productName: text(gpu.productName),
    ...(gpu.brand === undefined ? {} : { brand: text(gpu.brand) }),
    ...(gpu.architecture === undefined ? {} : { architecture: text(gpu.architecture) }),
    ...(gpu.cudaComputeCapability === undefined ? {} : { cudaComputeCapability: version(gpu.cudaComputeCapability) }),
    ...(gpu.driverVersion === undefined ? {} : { driverVersion: version(gpu.driverVersion) }),
    ...(gpu.cudaDriverVersion === undefined ? {} : { cudaDriverVersion: version(gpu.cudaDriverVersion) }),
    ...(gpu.addressingMode === undefined ? {} : { addressingMode: text(gpu.addressingMode) }),
    ...(gpu.moduleId === undefined ? {} : { gpuModuleID: { int: gpu.moduleId } }),
    "resource.kubernetes.io/pciBusID": text(gpu.pciBusID),
    ...(gpu.pcieRoot === undefined ? {} : { "resource.kubernetes.io/pcieRoot": text(gpu.pcieRoot) }),
    ...(gpu.numaNode === undefined ? {} : { "resource.kubernetes.io/numaNode": { int: gpu.numaNode } }),
    ...((gpu.nics ?? []).length === 0 ? {} : { nics: text(joined(gpu.nics!)) }),
  };
}

type Counters = Record<string, { value: string }>;

function counterSet(gpu: Gpu): { name: string; counters: Counters } {
  return { name: counterSetName(gpu), counters: boardCounters(gpu) };
}

function consumed(gpu: Gpu, counters: Counters): { counterSet: string; counters: Counters } {
  return { counterSet: counterSetName(gpu), counters };
}

function counterSetName(gpu: Gpu): string {
  return `${gpuName(gpu)}-counter-set`;
}

/** Everything that the board can hand out. */
function boardCounters({ mig }: Gpu): Counters {
  return mig === undefined ? {} : { ...amountCounters(boardAmounts(mig)), ...memorySliceCounters(0, mig.memorySlices) };
}

/** What the largest profiles take: boards have several that take the whole of one thing and not of another. */
export function boardAmounts({ profiles }: MigGeometry): MigAmounts {
  const most = (of: (amounts: MigAmounts) => number): number => Math.max(...profiles.map(({ amounts }) => of(amounts)));
  return {
    memoryMebibytes: most((a) => a.memoryMebibytes),
    multiprocessors: most((a) => a.multiprocessors),
    copyEngines: most((a) => a.copyEngines),
    decoders: most((a) => a.decoders),
    encoders: most((a) => a.encoders),
    jpegEngines: most((a) => a.jpegEngines),
    ofaEngines: most((a) => a.ofaEngines),
  };
}

function amountCounters(amounts: MigAmounts): Counters {
  return {
    memory: memoryCounter(amounts),
    multiprocessors: count(amounts.multiprocessors),
    "copy-engines": count(amounts.copyEngines),
    decoders: count(amounts.decoders),
    encoders: count(amounts.encoders),
    "jpeg-engines": count(amounts.jpegEngines),
    "ofa-engines": count(amounts.ofaEngines),
  };
}

function memorySliceCounters(start: number, slices: number): Counters {
  return Object.fromEntries(
    Array.from({ length: slices }, (_, offset) => [`memory-slice-${start + offset}`, count(1)]),
  );
}

/** NVIDIA's names: capacities know no hyphens. */
function memorySliceCapacity(start: number, slices: number): Counters {
  return Object.fromEntries(Array.from({ length: slices }, (_, offset) => [`memorySlice${start + offset}`, count(1)]));
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

function memoryCounter(amounts: MigAmounts): { value: string } {
  return { value: quantity(amounts.memoryMebibytes * 2 ** 20) };
}

/** The API server stores quantities in canonical form; other spellings would look like a change at every restart. */
function quantity(bytes: number): string {
  const suffixes = ["", "Ki", "Mi", "Gi"];
  const exponent = suffixes.findLastIndex((_, power) => bytes % 1024 ** power === 0);
  return `${bytes / 1024 ** exponent}${suffixes[exponent]}`;
}

function count(amount: number): { value: string } {
  return { value: String(amount) };
}

function text(value: string): DeviceAttribute {
  return { string: value.slice(0, maxTextLength) };
}

function version(value: string): DeviceAttribute {
  return { version: value };
}

/** As many of the names as a text may hold. */
function joined(names: readonly string[]): string {
  return names.reduce((text, name) => {
    const longer = text === "" ? name : `${text},${name}`;
    return longer.length <= maxTextLength ? longer : text;
  }, "");
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
