import type { TimeSlice } from "./device-configuration.ts";
import type { Inventory } from "./inventory.ts";
import type { DeviceAccess, PreparedDevice } from "./prepared-claim.ts";

/** The machine that the driver runs on: what it has now, and the little that is done to it. */
export interface Machine extends Boards {
  /** From memory, at once. */
  inventory(): Inventory;
  /** Calls `listener` after the inventory changed; returns what ends that. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}

/** What is asked of a machine's boards, and done to them, for claims. */
export interface Boards {
  /** GPU instances of a board that exist now, whoever made them. */
  gpuInstances(gpuUuid: string): Promise<readonly GpuInstance[]>;
  /** Rejects when the placement is taken or the board refuses. Returns the instance's ID. */
  createGpuInstance(gpuUuid: string, profileId: number, start: number): Promise<number>;
  /** Fills the whole GPU instance with one compute instance. `uuid` is the partition's: `MIG-…`, new each time. */
  createComputeInstance(gpuUuid: string, gpuInstance: number): Promise<{ id: number; uuid: string }>;
  /** The GPU instance with its compute instances; one that is gone already is no error. */
  destroyGpuInstance(gpuUuid: string, gpuInstance: number): Promise<void>;
  /** How long one program has a GPU before the next one has it. */
  setTimeSlice(gpuUuid: string, interval: TimeSlice): Promise<void>;
  /** What a container needs besides variables to use the device, of which the partition exists by now. */
  access(device: PreparedDevice): Promise<DeviceAccess>;
}

export interface GpuInstance {
  id: number;
  profileId: number;
  /** First memory slice. */
  start: number;
  /** Number of memory slices. */
  size: number;
  /** Of its compute instance, once it has one. */
  uuid?: string;
}

/** The board said no to what would have made something: nothing of it exists. */
export class BoardRefusal extends Error {}
