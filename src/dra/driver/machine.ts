import type { Inventory } from "./inventory.ts";

/** The machine that the driver runs on: what it has now, and the one thing that is done to it, cutting up boards. */
export interface Machine {
  /** From memory, at once. */
  inventory(): Inventory;
  /** Calls `listener` after the inventory changed; returns what ends that. */
  onChange(listener: () => void): () => void;
  /** GPU instances of a board that exist now, whoever made them. */
  gpuInstances(gpuUuid: string): Promise<readonly GpuInstance[]>;
  /** Rejects when the placement is taken or the board refuses. Returns the instance's ID. */
  createGpuInstance(gpuUuid: string, profileId: number, start: number): Promise<number>;
  /** Fills the whole GPU instance with one compute instance. `uuid` is the partition's: `MIG-…`, new each time. */
  createComputeInstance(gpuUuid: string, gpuInstance: number): Promise<{ id: number; uuid: string }>;
  /** The GPU instance with its compute instances; one that is gone already is no error. */
  destroyGpuInstance(gpuUuid: string, gpuInstance: number): Promise<void>;
  close(): Promise<void>;
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
