import type { AllocatedDevice } from "./claim.ts";
import type { MpsLimits, TimeSlice } from "./device-configuration.ts";
import type { ClaimReference } from "./grpc.ts";
import type { Gpu } from "./inventory.ts";

/**
 * A claim as the checkpoint keeps it. `Started`: what is listed may exist in part; `Completed`: all of it exists;
 * `Aborted`: it is being undone. Only a completed one is of use to a container.
 */
export interface PreparedClaim extends ClaimReference {
  state: "Started" | "Completed" | "Aborted";
  /** In rank order. */
  devices: PreparedDevice[];
}

/** All that is needed to undo a device's preparation, whatever the inventory says by then. */
export interface PreparedDevice {
  request: string;
  pool: string;
  device: string;
  adminAccess: boolean;
  gpu: PreparedGpu;
  /** Set before its board is, so that it is known what has to be set back. */
  timeSlice?: TimeSlice;
  mps?: MpsLimits;
  /** Known once the device is there. */
  access?: DeviceAccess;
  partition?: PreparedPartition;
}

/** Device nodes and mounts, and CDI devices of others that bring more of them: NVIDIA's libraries, for instance. */
export interface DeviceAccess {
  /** Numbers are given where the node may be missing on the host. */
  nodes: readonly { path: string; type?: "c"; major?: number; minor?: number }[];
  /** Folders of the host, at the same place in the container. */
  mounts?: readonly string[];
  /** Full names of CDI devices. */
  references: readonly string[];
}

type PreparedGpu = Pick<Gpu, "uuid" | "minor" | "pciBusID" | "cudaComputeCapability" | "cudaDriverVersion" | "amd">;

/** A part of a GPU; what exists of it is noted after each step. */
export interface PreparedPartition {
  profile: string;
  profileId: number;
  /** Memory slices. */
  start: number;
  size: number;
  /**
   * IDs of GPU instances that the board had before ours was asked for: one at this place that is not among them is ours.
   * Absent: ours was not asked for yet.
   */
  before?: number[];
  gpuInstance?: number;
  computeInstance?: number;
  /** `MIG-…` */
  uuid?: string;
  /** It was there before and stays: an administrator made it. */
  standing?: true;
}

export function preparedDevice(allocated: AllocatedDevice, pool: string): PreparedDevice {
  const { request, device, adminAccess, sharing } = allocated;
  const { uuid, minor, pciBusID, cudaComputeCapability, cudaDriverVersion, amd } = device.gpu;
  const base = {
    request,
    pool,
    device: device.name,
    adminAccess,
    ...(sharing?.strategy === "TimeSlicing" ? { timeSlice: sharing.timeSlicingConfig?.interval ?? "Default" } : {}),
    ...(sharing?.strategy === "MPS" ? { mps: sharing.mpsConfig ?? {} } : {}),
    gpu: {
      ...{ uuid, minor, pciBusID },
      ...(cudaComputeCapability === undefined ? {} : { cudaComputeCapability }),
      ...(cudaDriverVersion === undefined ? {} : { cudaDriverVersion }),
      ...(amd === undefined ? {} : { amd }),
    },
  };
  if (device.partition === undefined) return base;
  const { profile, start, standing } = device.partition;
  const { name, id, memorySlices } = profile;
  const partition: PreparedPartition = { profile: name, profileId: id, start, size: memorySlices };
  if (standing === undefined) return { ...base, partition };
  const { gpuInstance, computeInstance, uuid: own } = standing;
  return { ...base, partition: { ...partition, gpuInstance, computeInstance, uuid: own, standing: true } };
}

/** Both have the same devices for the same requests in the same order. */
export function sameDevices(left: readonly PreparedDevice[], right: readonly PreparedDevice[]): boolean {
  const key = (device: PreparedDevice): string =>
    `${device.request} ${device.pool} ${device.device} ${device.gpu.uuid}`;
  return left.map(key).join("\n") === right.map(key).join("\n");
}

/** Two uses of the same silicon: names may differ, and a name may mean another board after a reboot. */
export function overlap(left: PreparedDevice, right: PreparedDevice): boolean {
  if (left.gpu.uuid !== right.gpu.uuid || left.adminAccess || right.adminAccess) return false;
  const [a, b] = [left.partition, right.partition];
  return a === undefined || b === undefined || (a.start < b.start + b.size && b.start < a.start + a.size);
}
