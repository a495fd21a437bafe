import { randomUUID } from "node:crypto";
import type { TimeSlice } from "../dra/driver/device-configuration.ts";
import type { Gpu, MigAmounts, MigProfile } from "../dra/driver/inventory.ts";
import { BoardRefusal, type Boards, type GpuInstance } from "../dra/driver/machine.ts";
import { boardAmounts } from "../dra/driver/slices.ts";

/** What simulated boards do when they are cut up, wherever they remember it. */

export interface BoardState {
  instances: readonly BoardInstance[];
  /** GPU → how long a program has it, where that is not as usual. */
  timeSlices?: Readonly<Record<string, Exclude<TimeSlice, "Default">>>;
}

interface BoardInstance extends GpuInstance {
  /** UUID of the GPU. */
  gpu: string;
}

/** `step` says what changed. Rejects with what `change` throws, and remembers nothing then. */
export interface BoardMemory {
  read(): Promise<BoardState>;
  update(step: string, change: (now: BoardState) => BoardState): Promise<void>;
}

/** Boards that refuse what real ones refuse: a place that is taken, and more engines than there are. */
export function simulatedBoards(gpus: readonly Gpu[], memory: BoardMemory): Boards {
  const changeInstances = (step: string, change: (now: readonly BoardInstance[]) => BoardInstance[]): Promise<void> =>
    memory.update(step, (now) => ({ ...now, instances: change(now.instances) }));

  return {
    gpuInstances: async (gpuUuid) => (await memory.read()).instances.filter(({ gpu }) => gpu === gpuUuid),
    async createGpuInstance(gpuUuid, profileId, start) {
      const gpu = gpus.find(({ uuid }) => uuid === gpuUuid);
      const profile = profileOf(gpu, profileId);
      if (gpu === undefined || profile === undefined)
        throw new BoardRefusal(`GPU ${gpuUuid} has no MIG profile ${profileId}`);
      let id = 1;
      await changeInstances("create-gpu-instance", (now) => {
        const same = now.filter((other) => other.gpu === gpuUuid);
        refuseShortage(gpu, profile, start, same);
        while (same.some((other) => other.id === id)) id++;
        return [...now, { gpu: gpuUuid, id, profileId, start, size: profile.memorySlices }];
      });
      return id;
    },
    async createComputeInstance(gpuUuid, gpuInstance) {
      const uuid = `MIG-${randomUUID()}`;
      await changeInstances("create-compute-instance", (now) =>
        now.map((each) => (each.gpu === gpuUuid && each.id === gpuInstance ? { ...each, uuid } : each)),
      );
      return { id: 0, uuid };
    },
    destroyGpuInstance: (gpuUuid, gpuInstance) =>
      changeInstances("destroy", (now) => now.filter((each) => each.gpu !== gpuUuid || each.id !== gpuInstance)),
    setTimeSlice: (gpuUuid, interval) =>
      memory.update("time-slice", ({ timeSlices: { [gpuUuid]: _, ...others } = {}, ...rest }) => ({
        ...rest,
        timeSlices: interval === "Default" ? others : { ...others, [gpuUuid]: interval },
      })),
    // There are no device nodes.
    access: async () => ({ nodes: [], references: [] }),
  };
}

function profileOf(gpu: Gpu | undefined, profileId: number): MigProfile | undefined {
  return gpu?.mig?.profiles.find(({ id, starts }) => id === profileId && starts.length > 0);
}

function refuseShortage(gpu: Gpu, profile: MigProfile, start: number, others: readonly BoardInstance[]): void {
  const refuse = (): never => {
    throw new BoardRefusal(`GPU ${gpu.uuid}: insufficient resources for profile ${profile.id} at ${start}`);
  };
  const end = start + profile.memorySlices;
  if (others.some((other) => other.start < end && start < other.start + other.size)) refuse();
  const used = [profile, ...others.flatMap((other) => profileOf(gpu, other.profileId) ?? [])];
  const whole = boardAmounts(gpu.mig!);
  for (const key of Object.keys(whole) as (keyof MigAmounts)[]) {
    if (used.reduce((sum, { amounts }) => sum + amounts[key], 0) > whole[key]) refuse();
  }
}
