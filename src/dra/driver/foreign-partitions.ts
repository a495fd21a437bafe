import { isDeepStrictEqual } from "node:util";
import { type Timing, wholeSeconds } from "../../kube/timing.ts";
import { type DeviceTrouble, devicesByGpu, type InventoryDevice, isGone } from "./inventory.ts";
import type { GpuInstance, Machine } from "./machine.ts";
import { isOurs } from "./partitions.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/** A machine whose inventory tells of GPU instances that nobody's claim accounts for. */
export interface WatchedMachine extends Machine {
  /** Looks at the boards that are cut up for claims, while nothing is being cut. Rejects after the last one when one could not be read. */
  findForeign(): Promise<void>;
}

/**
 * On boards that are cut up for claims, what somebody else has cut is not ours to destroy: the devices in whose place it
 * stands get a taint for as long as it stands. `claims`: all that are prepared, or half prepared.
 */
export function watchForeignPartitions(
  machine: Machine,
  claims: () => Iterable<PreparedClaim>,
  timing: Timing,
): WatchedMachine {
  let found: Readonly<Record<string, readonly DeviceTrouble[]>> = {};
  /** `GPU/INSTANCE` → since when. */
  let firstSeen = new Map<string, string>();
  const listeners = new Set<() => void>();

  return {
    ...machine,
    inventory() {
      const inventory = machine.inventory();
      if (Object.keys(found).length === 0) return inventory;
      const troubles: Record<string, readonly DeviceTrouble[]> = { ...inventory.troubles };
      for (const [device, own] of Object.entries(found)) troubles[device] = [...(troubles[device] ?? []), ...own];
      return { ...inventory, troubles };
    },
    onChange(listener) {
      listeners.add(listener);
      const unsubscribe = machine.onChange(listener);
      return () => {
        listeners.delete(listener);
        unsubscribe();
      };
    },
    async findForeign() {
      const next: Record<string, DeviceTrouble[]> = {};
      const seen = new Map<string, string>();
      const failures: Error[] = [];
      const inventory = machine.inventory();
      for (const group of devicesByGpu(inventory.gpus)) {
        const gpu = group[0]?.gpu;
        if (gpu?.mig === undefined || isGone(gpu.uuid, inventory)) continue;
        const instances = await foreignInstances(gpu.uuid).catch((error: Error) => {
          failures.push(error);
          return undefined;
        });
        if (instances === undefined) {
          // Of this board stays what was known.
          for (const { name } of group) if (found[name] !== undefined) next[name] = [...found[name]];
          for (const [key, since] of firstSeen) if (key.startsWith(`${gpu.uuid}/`)) seen.set(key, since);
          continue;
        }
        for (const instance of instances) {
          const key = `${gpu.uuid}/${instance.id}`;
          const since = firstSeen.get(key) ?? wholeSeconds(timing.wallClock());
          seen.set(key, since);
          const message = `GPU instance ${instance.id} of ${gpu.uuid} was not made by kllama`;
          const trouble = {
            key: "foreign-partition",
            value: `gi-${instance.id}`,
            since,
            message,
            healthy: true,
          } as const;
          // Not the whole board: what is said of a GPU holds for all of its parts.
          for (const { name } of group.filter((device) => stands(instance, device))) {
            next[name] = [...(next[name] ?? []), trouble];
          }
        }
      }
      firstSeen = seen;
      if (!isDeepStrictEqual(next, found)) {
        found = next;
        for (const listener of listeners) listener();
      }
      for (const failure of failures) throw failure;
    },
  };

  async function foreignInstances(gpuUuid: string): Promise<GpuInstance[]> {
    const ours = [...claims()].flatMap(({ devices }) => devices.filter(({ gpu }) => gpu.uuid === gpuUuid));
    const live = await machine.gpuInstances(gpuUuid);
    return live.filter((each) => !ours.some(({ partition }) => partition !== undefined && isOurs(each, partition)));
  }
}

function stands({ start, size }: GpuInstance, { partition }: InventoryDevice): boolean {
  return (
    partition !== undefined &&
    start < partition.start + partition.profile.memorySlices &&
    partition.start < start + size
  );
}
