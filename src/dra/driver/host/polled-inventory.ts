import { isDeepStrictEqual } from "node:util";
import { type Timing, wholeSeconds } from "../../../kube/timing.ts";
import { type DeviceTrouble, type Gpu, gpuName, type Inventory } from "../inventory.ts";

/** What one look at the machine found. */
export interface Look {
  gpus: readonly Gpu[];
  /** By UUID; `since` may be left out: it is then the first time that such a trouble was found. */
  troubles: ReadonlyMap<string, readonly (Omit<DeviceTrouble, "since"> & { since?: string })[]>;
}

/** An inventory that is read again and again. */
export interface PolledInventory {
  inventory(): Inventory;
  /** Calls `listener` after the inventory changed; returns what ends that. */
  onChange(listener: () => void): () => void;
  /** Looks again now. */
  lookNow(): void;
  close(): Promise<void>;
}

export interface PollOptions {
  /** @param isFirst nothing could be read so far. */
  look(isFirst: boolean): Promise<Look>;
  timing: Timing;
  refreshMs: number;
  onWarning(message: string): void;
}

/** While nothing could be read. */
const retryMs = 5_000;

/**
 * Resolves after the first look, whatever came of it: until one succeeds the inventory says why it is empty. A GPU that was
 * there once and is there no more is lost; after a failed look everything stays as it was.
 */
export async function pollInventory(options: PollOptions): Promise<PolledInventory> {
  const { look, timing, refreshMs, onWarning } = options;
  const ended = new AbortController();
  const listeners = new Set<() => void>();
  /** By UUID. */
  const known = new Map<string, Gpu>();
  /** `KEY/UUID` of losses and troubles that are there now → when they were found. */
  let firstSeen = new Map<string, string>();
  let inventory: Inventory = { gpus: [], losses: {}, unread: "they are being read" };
  let nap = new AbortController();

  async function refresh(): Promise<void> {
    try {
      const isFirst = inventory.unread !== undefined;
      show(await look(isFirst));
    } catch (error) {
      if (ended.signal.aborted) return;
      const { message } = error as Error;
      onWarning(`cannot read the GPUs: ${message}`);
      if (inventory.unread !== undefined) inventory = { ...inventory, unread: message };
    }
  }

  function show({ gpus, troubles }: Look): void {
    const seen = new Map<string, string>();
    const since = (key: string): string => {
      const at = firstSeen.get(key) ?? wholeSeconds(timing.wallClock());
      seen.set(key, at);
      return at;
    };
    for (const gpu of gpus) known.set(gpu.uuid, gpu);
    const present = new Set(gpus.map(({ uuid }) => uuid));
    const found: Record<string, readonly DeviceTrouble[]> = {};
    const losses: Record<string, { how: "taint"; since: string }> = {};
    for (const gpu of known.values()) {
      const own = troubles.get(gpu.uuid) ?? [];
      const dated = own.map((each) => ({ ...each, since: each.since ?? since(`${each.key}/${gpu.uuid}`) }));
      if (dated.length > 0) found[gpuName(gpu)] = dated;
      if (!present.has(gpu.uuid)) losses[gpuName(gpu)] = { how: "taint", since: since(`lost/${gpu.uuid}`) };
    }
    firstSeen = seen;
    const next: Inventory = { gpus: [...known.values()], losses, troubles: found };
    const changed = !isDeepStrictEqual(next, inventory);
    inventory = next;
    if (changed) for (const listener of listeners) listener();
  }

  async function keepLooking(): Promise<void> {
    while (!ended.signal.aborted) {
      const pauseMs = inventory.unread === undefined ? refreshMs : retryMs;
      await timing.sleep(pauseMs, AbortSignal.any([nap.signal, ended.signal]));
      if (ended.signal.aborted) return;
      nap = new AbortController();
      await refresh();
    }
  }

  await refresh();
  const running = keepLooking();
  return {
    inventory: () => inventory,
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    lookNow: () => nap.abort(),
    async close() {
      ended.abort();
      await running;
    },
  };
}
