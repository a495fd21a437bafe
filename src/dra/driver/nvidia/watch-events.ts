import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { eventTypes, type Handle, type Nvml } from "./nvml-library.ts";

const waitMs = 1_000;
/** After NVML failed, and as often as boards that have not been heard so far are asked again. */
const retryMs = { failed: 1_000, deaf: 60_000 } as const;

/**
 * Tells of every error that a board reports, `xid` 0 for one of its memory, for as long as this process has a parent. What
 * fails is begun anew: a board that falls off the bus must not make the others silent.
 */
export async function watchEvents(library: Nvml, tell: (gpu: string, xid: number) => void): Promise<void> {
  let said = "";
  const complain = (message: string): void => {
    // Once: errors still show at the next reading.
    if (message !== said) console.error(`NVML events: ${message}`);
    said = message;
  };
  while (process.connected) {
    try {
      await listen(library, tell, complain);
    } catch (error) {
      complain((error as Error).message);
      await sleep(retryMs.failed);
    }
  }
}

/** Returns when boards that could not be registered are to be tried again. */
async function listen(
  library: Nvml,
  tell: (gpu: string, xid: number) => void,
  complain: (message: string) => void,
): Promise<void> {
  const set = library.eventSet();
  try {
    const { names, deaf } = registerAll(library, set, complain);
    if (names.size === 0) return void (await sleep(retryMs.deaf));
    const until = performance.now() + retryMs.deaf;
    while (process.connected && (!deaf || performance.now() < until)) {
      const event = await library.nextEvent(set, waitMs);
      if (event === undefined) continue;
      const gpu = names.get(event.device) ?? library.uuid(event.device);
      const isXid = (Number(event.eventType) & eventTypes.xid) !== 0;
      tell(gpu, isXid ? Number(event.eventData) : 0);
    }
  } finally {
    library.freeEventSet(set);
  }
}

/** Boards whose events are told, by their handle; `deaf`: one of them could not be asked. */
function registerAll(
  library: Nvml,
  set: Handle,
  complain: (message: string) => void,
): { names: Map<Handle, string>; deaf: boolean } {
  const names = new Map<Handle, string>();
  let deaf = false;
  for (let index = 0, count = library.deviceCount(); index < count; index++) {
    try {
      const device = library.deviceByIndex(index);
      const types = library.supportedEvents(device) & (eventTypes.doubleBitEcc | eventTypes.xid);
      if (types === 0) continue;
      library.registerEvents(device, types, set);
      names.set(device, library.uuid(device));
    } catch (error) {
      deaf = true;
      complain(`GPU ${index}: ${(error as Error).message}`);
    }
  }
  return { names, deaf };
}
