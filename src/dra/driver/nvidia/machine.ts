import { type Timing, wholeSeconds } from "../../../kube/timing.ts";
import { type Host, linuxBusId, pciPlaces } from "../host/host.ts";
import { type Look, pollInventory } from "../host/polled-inventory.ts";
import type { GpuInstance, Machine } from "../machine.ts";
import { nvidiaAccess } from "./access.ts";
import { gpusOf, type Partitionable } from "./boards.ts";
import { boardTroubles, isFault, isOver, type XidReport } from "./health.ts";
import { openNvmlProcess } from "./nvml-process.ts";
import type { Reading } from "./reading.ts";

export interface NvidiaOptions {
  host: Host;
  /** Path or name of `libnvidia-ml.so.1`. */
  library: string;
  partitionable: Partitionable;
  timing: Timing;
  /** What is read when NVML never answered. */
  fallback(): Promise<Reading>;
  setTimeSlice: Machine["setTimeSlice"];
  /** A reading failed, a board is lost, or something else that people should know. */
  onWarning(message: string): void;
  /** Of NVML's process; of this one if absent. */
  env?: Record<string, string | undefined>;
  nvmlLimitMs?: number;
  refreshMs?: number;
}

/** Creating a partition takes seconds, a reading of eight boards as well. */
const defaultLimitMs = 30_000;
const defaultRefreshMs = 60_000;

/** The machine's NVIDIA boards, read every minute and after each error that one of them reports. */
export async function openNvidiaMachine(options: NvidiaOptions): Promise<Machine> {
  const { host, timing, onWarning, partitionable, env } = options;
  /** By UUID. */
  const reports = new Map<string, XidReport>();
  let lookNow = (): void => undefined;
  const nvml = openNvmlProcess({
    library: options.library,
    limitMs: options.nvmlLimitMs ?? defaultLimitMs,
    ...(env === undefined ? {} : { env }),
    onEvent(gpu, xid) {
      if (xid !== 0 && !isFault(xid)) return;
      const since = reports.get(gpu)?.since ?? wholeSeconds(timing.wallClock());
      reports.set(gpu, { xid, since, atMs: timing.nowMs() });
      lookNow();
    },
  });

  async function read(isFirst: boolean): Promise<Reading> {
    try {
      return await nvml.ask("read", {});
    } catch (error) {
      const { message } = error as Error;
      // What NVML told before is better than what nvidia-smi tells now.
      if (!isFirst) throw error;
      const reading = await options.fallback().catch((second: Error) => {
        throw new Error(`NVML: ${message}; nvidia-smi: ${second.message}`);
      });
      onWarning(`NVML: ${message}; read with nvidia-smi instead: no partitions, no events`);
      return reading;
    }
  }

  async function look(isFirst: boolean): Promise<Look> {
    const reading = await read(isFirst);
    for (const message of reading.lost) onWarning(message);
    const places = await pciPlaces(
      host,
      reading.boards.map(({ busId }) => linuxBusId(busId)),
    );
    const nowMs = timing.nowMs();
    for (const board of reading.boards) {
      const report = reports.get(board.uuid);
      if (report !== undefined && isOver(report, board, nowMs)) reports.delete(board.uuid);
    }
    const troubles = reading.boards.map(
      (board) => [board.uuid, boardTroubles(board, reports.get(board.uuid))] as const,
    );
    return { gpus: gpusOf(reading, places, partitionable), troubles: new Map(troubles) };
  }

  const polled = await pollInventory({ look, timing, refreshMs: options.refreshMs ?? defaultRefreshMs, onWarning });
  lookNow = polled.lookNow;
  return {
    inventory: polled.inventory,
    onChange: polled.onChange,
    async gpuInstances(gpu) {
      const instances = await nvml.ask("instances", { gpu });
      return instances.map(({ id, profileId, start, size, compute }): GpuInstance => {
        const uuid = compute[0]?.uuid;
        return { id, profileId, start, size, ...(uuid === undefined ? {} : { uuid }) };
      });
    },
    createGpuInstance: (gpu, profileId, start) => nvml.ask("createGpuInstance", { gpu, profileId, start }),
    createComputeInstance: (gpu, gpuInstance) => nvml.ask("createComputeInstance", { gpu, gpuInstance }),
    async destroyGpuInstance(gpu, gpuInstance) {
      await nvml.ask("destroyGpuInstance", { gpu, gpuInstance });
    },
    setTimeSlice: options.setTimeSlice,
    access: (device) => nvidiaAccess(host, device),
    async close() {
      await nvml.close();
      await polled.close();
    },
  };
}
