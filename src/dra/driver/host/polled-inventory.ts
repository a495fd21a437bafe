import { isDeepStrictEqual } from "node:util";
import { type Timing, wholeSeconds } from "../../../kube/timing.ts";
import { beingRead, type DeviceTrouble, type Gpu, gpuName, type Inventory } from "../inventory.ts";

/** What one look at the machine found. */
export interface Look {
  gpus: readonly Gpu[];
  /** By UUID; `since` may be left out: it is then the first time that such a trouble was found. */
  troubles: ReadonlyMap<string, readonly FoundTrouble[]>;
  /** Boards that are there and could not be read; without a UUID where not even that could. */
  unreadable?: readonly { uuid?: string; why: string }[];
  /** Whoever looked does not see all boards. */
  isPartial?: boolean;
}

type FoundTrouble = Omit<DeviceTrouble, "since"> & { since?: string };

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
  /** Is to end soon after the signal. */
  look(ended: AbortSignal): Promise<Look>;
  timing: Timing;
  refreshMs: number;
  onWarning(message: string): void;
}

/** After a look that failed. */
const retryMs = 5_000;
/** After so many that failed in a row nobody knows any more how the devices are. */
const staleAfter = 3;

/**
 * Looks at once, and again and again: until one look succeeds, the inventory says why it is empty. A GPU that was there once
 * and is there no more is lost; of one that could not be read stays what was known; after a failed look everything does.
 */
export function pollInventory(options: PollOptions): PolledInventory {
  const { look, timing, refreshMs, onWarning } = options;
  const ended = new AbortController();
  const listeners = new Set<() => void>();
  const { show } = createMemory(timing);
  let inventory: Inventory = { gpus: [], losses: {}, unread: beingRead };
  let failedLooks = 0;
  let nap = new AbortController();

  function set(next: Inventory): void {
    const changed = !isDeepStrictEqual(next, inventory);
    inventory = next;
    if (changed) for (const listener of listeners) listener();
  }

  async function refresh(): Promise<void> {
    try {
      const next = show(await look(ended.signal));
      failedLooks = 0;
      set(next);
    } catch (error) {
      if (ended.signal.aborted) return;
      const { message } = error as Error;
      failedLooks++;
      onWarning(`cannot read the GPUs: ${message}`);
      if (inventory.unread !== undefined) set({ ...inventory, unread: message });
      else if (failedLooks >= staleAfter) set({ ...inventory, stale: message });
    }
  }

  async function keepLooking(): Promise<void> {
    await refresh();
    while (!ended.signal.aborted) {
      const pauseMs = failedLooks === 0 ? refreshMs : Math.min(retryMs, refreshMs);
      await timing.sleep(pauseMs, AbortSignal.any([nap.signal, ended.signal]));
      if (ended.signal.aborted) return;
      nap = new AbortController();
      await refresh();
    }
  }

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

/** Keeps what was seen of each board, and since when something is wrong with it. */
function createMemory(timing: Timing): { show(look: Look): Inventory } {
  /** By UUID. */
  const known = new Map<string, { gpu: Gpu; troubles: readonly FoundTrouble[] }>();
  /** `KEY/UUID` of losses and troubles that are there now → when they were found. */
  let firstSeen = new Map<string, string>();

  return {
    show({ gpus, troubles, unreadable = [], isPartial = false }) {
      const seen = new Map<string, string>();
      const since = (key: string): string => {
        const at = firstSeen.get(key) ?? wholeSeconds(timing.wallClock());
        seen.set(key, at);
        return at;
      };
      for (const gpu of gpus) known.set(gpu.uuid, { gpu, troubles: troubles.get(gpu.uuid) ?? [] });
      const present = new Set(gpus.map(({ uuid }) => uuid));
      // Numbers may change while a board is away: two devices of one name would keep all of the node's from being published.
      const taken = new Set(gpus.map(gpuName));
      for (const [uuid, { gpu }] of known) if (!present.has(uuid) && taken.has(gpuName(gpu))) known.delete(uuid);
      const found: Record<string, readonly DeviceTrouble[]> = {};
      const losses: Record<string, { how: "taint"; since: string }> = {};
      for (const [uuid, { gpu, troubles: own }] of known) {
        // Any that is missing may be the one without a name: it is not called lost.
        const silent = present.has(uuid) ? undefined : unreadable.find((each) => (each.uuid ?? uuid) === uuid);
        const all: FoundTrouble[] = [
          ...own,
          ...(silent === undefined
            ? []
            : [
                { key: "unreadable", value: "error", message: `cannot be read: ${silent.why}`, unknown: true } as const,
              ]),
        ];
        const dated = all.map((each) => ({ ...each, since: each.since ?? since(`${each.key}/${uuid}`) }));
        const isLost = !present.has(uuid) && silent === undefined;
        if (dated.length > 0 && !isLost) found[gpuName(gpu)] = dated;
        if (isLost) losses[gpuName(gpu)] = { how: "taint", since: since(`lost/${uuid}`) };
      }
      firstSeen = seen;
      const isIncomplete = isPartial || unreadable.some(({ uuid }) => uuid === undefined || !known.has(uuid));
      return {
        gpus: [...known.values()].map(({ gpu }) => gpu),
        ...{ losses, troubles: found },
        ...(isIncomplete ? { incomplete: true } : {}),
      };
    },
  };
}
