import { join } from "node:path";
import type { DeviceLosses, Inventory } from "../../src/dra/driver/inventory.ts";
import type { Machine } from "../../src/dra/driver/machine.ts";
import { openSimulatedMachine } from "../../src/simulator/machine.ts";
import { machineGpus } from "./machine-gpus.ts";

/** What ails a machine; changed in place. */
export interface Troubles {
  /** In place of what the machine tells. */
  inventory: Partial<Inventory>;
  /** UUIDs of boards that answer nothing. */
  deaf: Set<string>;
  /** Containers cannot be told how to reach any device. */
  noAccess: boolean;
}

/** A simulated machine that remembers its boards in the folder, and has troubles. */
export async function openTroubledMachine(
  type: string,
  folder: string,
): Promise<{ machine: Machine; troubles: Troubles; lose(uuid: string): void }> {
  const real = await openSimulatedMachine(machineGpus(type), join(folder, "machine.json"), () => undefined);
  const troubles: Troubles = { inventory: {}, deaf: new Set(), noAccess: false };
  const unlessDeaf =
    <A extends unknown[], R>(call: (gpu: string, ...more: A) => Promise<R>) =>
    async (gpu: string, ...more: A): Promise<R> => {
      if (troubles.deaf.has(gpu)) throw new Error(`${gpu} does not answer`);
      return call(gpu, ...more);
    };
  const machine: Machine = {
    ...real,
    inventory: () => ({ ...real.inventory(), ...troubles.inventory }),
    gpuInstances: unlessDeaf(real.gpuInstances),
    createGpuInstance: unlessDeaf(real.createGpuInstance),
    createComputeInstance: unlessDeaf(real.createComputeInstance),
    destroyGpuInstance: unlessDeaf(real.destroyGpuInstance),
    setTimeSlice: unlessDeaf(real.setTimeSlice),
    async access(device) {
      if (troubles.noAccess) throw new Error("nobody serves MPS");
      const { minor } = device.gpu;
      return { nodes: [{ path: `/dev/nvidia${minor}` }], references: [] };
    },
  };
  return {
    machine,
    troubles,
    lose(uuid) {
      const minor = real.inventory().gpus.find((gpu) => gpu.uuid === uuid)?.minor;
      const losses: DeviceLosses = { [`gpu-${minor}`]: { how: "taint", since: "2026-01-01T00:00:00Z" } };
      troubles.deaf.add(uuid);
      troubles.inventory = { ...troubles.inventory, losses };
    },
  };
}
