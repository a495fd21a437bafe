import process from "node:process";
import { eventTypes, type Handle, loadNvml, type Nvml } from "./nvml-library.ts";
import type { NvmlMessage, NvmlQuestion } from "./nvml-protocol.ts";
import {
  createComputeInstance,
  createGpuInstance,
  destroyGpuInstance,
  readBoards,
  readInstances,
} from "./read-boards.ts";

/**
 * NVML's own process: a call that hangs, or a library that crashes, takes only this process along. Its one argument is the
 * library's path; it ends with its parent.
 */

const eventWaitMs = 1_000;

let loaded: Nvml | undefined;

function nvml(): Nvml {
  if (loaded === undefined) {
    loaded = loadNvml(process.argv[2]!);
    void watchEvents(loaded);
  }
  return loaded;
}

function answer(question: NvmlQuestion): unknown {
  const library = nvml();
  if (question.call === "read") return readBoards(library);
  const device = library.deviceByUuid(question.gpu);
  switch (question.call) {
    case "instances":
      return readInstances(library, device);
    case "createGpuInstance":
      return createGpuInstance(library, device, question.profileId, question.start);
    case "createComputeInstance":
      return createComputeInstance(library, device, question.gpuInstance);
    case "destroyGpuInstance":
      destroyGpuInstance(library, device, question.gpuInstance);
      return null;
  }
}

/** Tells the parent of every event for as long as there are boards that have any. */
async function watchEvents(library: Nvml): Promise<void> {
  try {
    const set = library.eventSet();
    const names = registerAll(library, set);
    while (names.size > 0 && process.connected) {
      const event = await library.nextEvent(set, eventWaitMs);
      if (event === undefined) continue;
      const gpu = names.get(event.device) ?? library.uuid(event.device);
      const isXid = (Number(event.eventType) & eventTypes.xid) !== 0;
      tell({ type: "event", gpu, xid: isXid ? Number(event.eventData) : 0 });
    }
  } catch (error) {
    // Without events, errors still show at the next reading.
    console.error(`NVML events: ${(error as Error).message}`);
  }
}

/** Boards whose events are told, by their handle. */
function registerAll(library: Nvml, set: Handle): Map<Handle, string> {
  const names = new Map<Handle, string>();
  for (let index = 0, count = library.deviceCount(); index < count; index++) {
    try {
      const device = library.deviceByIndex(index);
      library.registerEvents(device, eventTypes.doubleBitEcc | eventTypes.xid, set);
      names.set(device, library.uuid(device));
    } catch (error) {
      console.error(`NVML events of GPU ${index}: ${(error as Error).message}`);
    }
  }
  return names;
}

function tell(message: NvmlMessage): void {
  if (process.connected) process.send?.(message);
}

process.on("message", (question: NvmlQuestion) => {
  try {
    tell({ type: "answer", answer: answer(question) });
  } catch (error) {
    tell({ type: "failed", message: error instanceof Error ? error.message : String(error) });
  }
});
process.once("disconnect", () => process.kill(process.pid, "SIGKILL"));
