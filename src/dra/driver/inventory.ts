/**
 * What one machine has, however it was found out: by NVML, by `nvidia-smi`, by sysfs or from a simulated fleet. Plain
 * data; slices, preparation and CDI specs follow from it.
 */

/** Until the first look at the machine is over, `unread` is this. */
export const beingRead = "they are being read";

export interface Inventory {
  gpus: readonly Gpu[];
  losses: DeviceLosses;
  /** Name of a device, or of a GPU for all of its devices → what is wrong with it, short of a loss. */
  troubles?: Readonly<Record<string, readonly DeviceTrouble[]>>;
  /** Present: the machine could not be read yet, for this reason. Nothing is known of its devices then. */
  unread?: string;
  /** Present: looks at the machine have failed of late, for this reason. What stands here is what the last good one saw. */
  stale?: string;
  /** Boards may be there that are not in `gpus`. */
  incomplete?: true;
}

export interface Gpu {
  /** N of `/dev/nvidiaN`; names the device `gpu-N`. */
  minor: number;
  /** `GPU-…`, different for every board in the world. */
  uuid: string;
  productName: string;
  brand?: string;
  architecture?: string;
  /** Three numbers: `9.0.0`. NVIDIA only. */
  cudaComputeCapability?: string;
  driverVersion?: string;
  cudaDriverVersion?: string;
  /** NVIDIA only: `None`, `HMM` or `ATS`. */
  addressingMode?: string;
  /** NVIDIA's boards behind NVSwitch only: number of the module on its base board. */
  moduleId?: number;
  /** AMD only. */
  amd?: AmdGpu;
  memoryBytes: number;
  /** As Linux writes it: `0000:1b:00.0`. */
  pciBusID: string;
  /** `pci0000:1a`; absent where sysfs does not tell. */
  pcieRoot?: string;
  numaNode?: number;
  /** Network cards below the same PCIe root. */
  nics?: readonly string[];
  /** The same on all GPUs of the cluster that NVLink joins; at most 64 characters. */
  nvlinkDomain?: string;
  /** `CLUSTER_UUID.CLIQUE_ID` of a multi-node NVLink domain. */
  clique?: string;
  /** Present: partitions of the board are created when a claim asks for one. */
  mig?: MigGeometry;
  /** Partitions that an administrator made. */
  partitions?: readonly StandingPartition[];
  /** MIG mode is on: the board works in parts only. */
  partsOnly?: true;
}

export interface AmdGpu {
  /** `gfx942`. */
  target: string;
  /** N of `/dev/dri/cardN`. */
  card: number;
  /** N of `/dev/dri/renderDN`. */
  renderMinor: number;
  /** `0x74a1`. */
  deviceId: string;
}

export interface StandingPartition {
  profile: MigProfile;
  /** First memory slice. */
  start: number;
  gpuInstance: number;
  computeInstance: number;
  /** `MIG-…` */
  uuid: string;
}

/** Becomes a taint of the device, and tells the kubelet that it is unhealthy. */
export interface DeviceTrouble {
  /** Of the taint, without the domain. */
  key: "xid" | "ecc" | "recovery" | "unreadable" | "foreign-partition";
  value: string;
  /** RFC 3339; becomes the taint's `timeAdded`. */
  since: string;
  message: string;
  /** The device itself works; it is only not to be given away. */
  healthy?: true;
  /** Nobody knows how the device is. */
  unknown?: true;
}

/** Which partitions a board can be cut into, and what each takes of the board. */
export interface MigGeometry {
  computeSlices: number;
  memorySlices: number;
  /** Small to large; the last one is the whole board. */
  profiles: readonly MigProfile[];
}

export interface MigProfile {
  name: string;
  /** NVIDIA's GPU instance profile ID. */
  id: number;
  computeSlices: number;
  memorySlices: number;
  /** First memory slice of every possible placement. */
  starts: readonly number[];
  amounts: MigAmounts;
}

/** What a partition or a whole board has, and takes of its counters. Memory in MiB. */
export interface MigAmounts {
  memoryMebibytes: number;
  multiprocessors: number;
  copyEngines: number;
  decoders: number;
  encoders: number;
  jpegEngines: number;
  ofaEngines: number;
}

/** Device name → what is wrong with it. The loss of a GPU is that of its partitions too. */
export type DeviceLosses = Readonly<Record<string, DeviceLoss>>;

/** A device that broke: it keeps its place with a taint, or disappears from the slices. */
interface DeviceLoss {
  how: "taint" | "remove";
  /** RFC 3339; becomes the taint's `timeAdded`. */
  since: string;
}

/** A device that may be allocated: a whole GPU, or a partition of it. */
export interface InventoryDevice {
  name: string;
  gpu: Gpu;
  partition?: { profile: MigProfile; start: number; standing?: StandingPartition };
}

/**
 * All devices by GPU: the GPU itself, then its partitions from small to large. GPUs of one NVLink domain stand side by
 * side, so that an allocator that takes the first ones that match fills one domain before the next.
 */
export function devicesByGpu(gpus: readonly Gpu[]): InventoryDevice[][] {
  return inDomainOrder(gpus).map((gpu) => [
    ...(gpu.partsOnly === true ? [] : [{ name: gpuName(gpu), gpu }]),
    ...(gpu.partitions ?? []).map((standing) => {
      const { profile, start } = standing;
      return { name: partitionName(gpu, profile, start), gpu, partition: { profile, start, standing } };
    }),
    ...(gpu.mig?.profiles ?? []).flatMap((profile) =>
      profile.starts.map((start) => ({
        name: partitionName(gpu, profile, start),
        gpu,
        partition: { profile, start },
      })),
    ),
  ]);
}

/** All devices by name. */
export function deviceTable(gpus: readonly Gpu[]): ReadonlyMap<string, InventoryDevice> {
  return new Map(devicesByGpu(gpus).flatMap((group) => group.map((device) => [device.name, device] as const)));
}

/** What is wrong with the device, or with the GPU it is a part of. */
export function lossOf(device: string, losses: DeviceLosses): DeviceLoss | undefined {
  return losses[device.replace(/-mig-.*$/, "")] ?? losses[device];
}

/** The board does not answer any more, or is not there: nothing can be done to it, and nothing of a claim is left on it. */
export function isGone(gpuUuid: string, { gpus, losses, unread, incomplete }: Inventory): boolean {
  if (unread !== undefined) return false;
  const gpu = gpus.find(({ uuid }) => uuid === gpuUuid);
  return gpu === undefined ? incomplete !== true : losses[gpuName(gpu)] !== undefined;
}

/** What is wrong with the device, or with the GPU it is a part of. */
export function troublesOf(device: string, { troubles = {} }: Pick<Inventory, "troubles">): readonly DeviceTrouble[] {
  const gpu = device.replace(/-mig-.*$/, "");
  return [...(troubles[gpu] ?? []), ...(gpu === device ? [] : (troubles[device] ?? []))];
}

export function gpuName(gpu: Pick<Gpu, "minor">): string {
  return `gpu-${gpu.minor}`;
}

function partitionName(gpu: Gpu, profile: MigProfile, start: number): string {
  const label = profile.name.replaceAll(".", "").replaceAll("+", "-");
  return `${gpuName(gpu)}-mig-${label}-${profile.id}-${start}`;
}

function inDomainOrder(gpus: readonly Gpu[]): Gpu[] {
  const byMinor = gpus.toSorted((a, b) => a.minor - b.minor);
  const domainOf = (gpu: Gpu): string => gpu.nvlinkDomain ?? gpu.uuid;
  const domains = [...new Set(byMinor.map(domainOf))];
  return domains.flatMap((domain) => byMinor.filter((gpu) => domainOf(gpu) === domain));
}
