import { ClaimError } from "./claim.ts";
import { BoardRefusal, type Boards, type GpuInstance } from "./machine.ts";
import type { PreparedDevice, PreparedPartition } from "./prepared-claim.ts";

/** Creates and destroys the partitions of prepared claims, so that after a crash at any point it is known whose each is. */

/**
 * Cuts the device out of its board. `note` puts on the disk what is known so far, after every step. Throws ClaimError when
 * somebody else's GPU instance is in the way: it is not ours to destroy; and when the one that an administrator made is gone.
 */
export async function createPartition(
  boards: Boards,
  device: PreparedDevice & { partition: PreparedPartition },
  note: () => Promise<void>,
): Promise<void> {
  const { gpu, partition } = device;
  const existing = await boards.gpuInstances(gpu.uuid);
  if (partition.standing === true) {
    if (existing.some(({ id, uuid }) => id === partition.gpuInstance && uuid === partition.uuid)) return;
    // Its number may be another one's by now, whose nodes a container would get.
    throw new ClaimError(
      `device ${device.device}: ${partition.uuid} is gone from ${gpu.uuid}; delete the claim, or cut the partition again`,
    );
  }
  const blocker = existing.find((instance) => intersects(instance, partition));
  if (blocker !== undefined) {
    throw new ClaimError(
      `device ${device.device}: GPU instance ${blocker.id} of ${gpu.uuid} is in its place and was not made by kllama; destroy it with nvidia-smi mig -dgi -gi ${blocker.id}`,
    );
  }
  partition.before = existing.map(({ id }) => id);
  await note();
  try {
    partition.gpuInstance = await boards.createGpuInstance(gpu.uuid, partition.profileId, partition.start);
  } catch (error) {
    // Whatever stands there by now was made by somebody else meanwhile.
    if (error instanceof BoardRefusal) delete partition.before;
    throw error;
  }
  await note();
  const { id, uuid } = await boards.createComputeInstance(gpu.uuid, partition.gpuInstance);
  partition.computeInstance = id;
  partition.uuid = uuid;
  await note();
}

/** Undoes what `createPartition` did, however far it came; what is gone already is no error. */
export async function destroyPartition(boards: Boards, gpuUuid: string, partition: PreparedPartition): Promise<void> {
  if (partition.standing === true || partition.before === undefined) return;
  const live = await boards.gpuInstances(gpuUuid);
  const ours = live.find((instance) => isOurs(instance, partition));
  if (ours !== undefined) await boards.destroyGpuInstance(gpuUuid, ours.id);
}

/**
 * Board and driver reuse IDs, but no UUID: an instance is ours only where we put it, and as what we put there. Until its ID is
 * noted it has no compute instance, so one that has is somebody else's.
 */
export function isOurs(instance: GpuInstance, partition: PreparedPartition): boolean {
  const { profileId, start, before, gpuInstance, uuid } = partition;
  if (instance.profileId !== profileId || instance.start !== start) return false;
  if (instance.uuid !== undefined && uuid !== undefined && instance.uuid !== uuid) return false;
  if (gpuInstance !== undefined) return instance.id === gpuInstance;
  if (before === undefined || before.includes(instance.id)) return false;
  return instance.uuid === undefined || uuid !== undefined;
}

function intersects(instance: GpuInstance, partition: PreparedPartition): boolean {
  return instance.start < partition.start + partition.size && partition.start < instance.start + instance.size;
}
