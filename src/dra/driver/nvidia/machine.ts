import { type Timing, wholeSeconds } from "../../../kube/timing.ts";
import { type Host, linuxBusId, pciPlaces } from "../host/host.ts";
import { type Look, pollInventory } from "../host/polled-inventory.ts";
import type { GpuInstance, Machine } from "../machine.ts";
import { nvidiaAccess } from "./access.ts";
import { gpusOf, type Partitionable } from "./boards.ts";
import { boardTroubles, isFault, isOver, type XidReport } from "./health.ts";
import { openNvmlProcess } from "./nvml-process.ts";
import type { BoardReading, Reading } from "./reading.ts";

export interface NvidiaOptions {
  host: Host;
  /** Path or name of `libnvidia-ml.so.1`. */
  library: string;
  /** File by which the processes that call NVML for this driver wait for one another; its folder exists when boards are cut. */
  lockFile: string;
  partitionable: Partitionable;
  timing: Timing;
  /** What is read as long as NVML never answered; ends soon after the signal. */
  fallback(ended: AbortSignal): Promise<Reading>;
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

/** The machine's NVIDIA boards, read now, every minute and after each error that one of them reports. */
export function openNvidiaMachine(options: NvidiaOptions): Machine {
  const { host, timing, onWarning, partitionable, env } = options;
  /** By UUID. */
  const reports = new Map<string, XidReport>();
  /** By UUID, as they were read last. */
  const known = new Map<string, BoardReading>();
  let lookNow = (): void => undefined;
  const nvml = openNvmlProcess({
    ...{ library: options.library, lockFile: options.lockFile },
    limitMs: options.nvmlLimitMs ?? defaultLimitMs,
    ...(env === undefined ? {} : { env }),
    onEvent(gpu, xid) {
      if (xid !== 0 && !isFault(xid)) return;
      const since = reports.get(gpu)?.since ?? wholeSeconds(timing.wallClock());
      reports.set(gpu, { xid, since, atMs: timing.nowMs() });
      lookNow();
    },
  });

  let answered = false;
  let fellBack: string | undefined;
  async function read(ended: AbortSignal): Promise<Reading> {
    try {
      const reading = await nvml.ask("read", {});
      answered = true;
      return reading;
    } catch (error) {
      const { message } = error as Error;
      // What NVML told before is better than what nvidia-smi tells now.
      if (answered) throw error;
      const reading = await options.fallback(ended).catch((second: Error) => {
        throw new Error(`NVML: ${message}; nvidia-smi: ${second.message}`);
      });
      if (message !== fellBack) {
        onWarning(`NVML: ${message}; read with nvidia-smi instead: no partitions, no events, no errors`);
      }
      fellBack = message;
      return reading;
    }
  }

  async function look(ended: AbortSignal): Promise<Look> {
    const reading = await read(ended);
    for (const message of [...reading.lost, ...reading.unreadable.map(({ why }) => why)]) onWarning(message);
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
    for (const board of reading.boards) known.set(board.uuid, board);
    const missing = [...known.values()].filter(({ uuid }) => !reading.boards.some((board) => board.uuid === uuid));
    const gpus = gpusOf(reading, places, partitionable, missing);
    const { unreadable, isPartial = false } = reading;
    return { gpus, troubles: new Map(troubles), unreadable, isPartial };
  }

  const polled = pollInventory({ look, timing, refreshMs: options.refreshMs ?? defaultRefreshMs, onWarning });
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
      const over = polled.close();
      await nvml.close();
      await over;
    },
  };
}
