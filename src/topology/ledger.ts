import { type Held, heldKey } from "./held.ts";

/**
 * Who holds which device. A device, or a share of one, has any number of holders (a claim, the pod that runs with it,
 * the hold of a gang) and is free exactly when it has none.
 */
export interface Ledger {
  /** Replaces what a holder holds; an empty list forgets it. */
  set(holder: string, held: readonly Held[]): void;
  /** What of a device is held: the device itself, or each share that somebody has. */
  heldOf(device: string): readonly Held[];
  /** Holders of a device or of any share of it, sorted. With `shareId`: only of that share and of the whole device. */
  holdersOf(device: string, shareId?: string): readonly string[];
  heldBy(holder: string): readonly Held[];
  /** Who holds anything. */
  holders(): readonly string[];
}

/** `onChange` hears of a device, or a share, that gets its first holder (`taken`) or loses its last. */
export function createLedger(onChange: (held: Held, taken: boolean) => void): Ledger {
  /** key of what is held → holders */
  const holders = new Map<string, string[]>();
  /** holder → what it holds */
  const holdings = new Map<string, readonly Held[]>();
  /** device → its shares that are held */
  const shares = new Map<string, Held[]>();

  const add = (holder: string, key: string, held: Held) => {
    const list = holders.get(key);
    if (list) {
      list.push(holder);
      return;
    }
    holders.set(key, [holder]);
    if (typeof held !== "string") shares.set(held.device, [...(shares.get(held.device) ?? []), held]);
    onChange(held, true);
  };
  const remove = (holder: string, key: string, held: Held) => {
    const list = holders.get(key)!;
    list.splice(list.indexOf(holder), 1);
    if (list.length > 0) return;
    holders.delete(key);
    onChange(typeof held === "string" ? held : forgetShare(held.device, key), false);
  };
  /** The share as it was when it got its first holder. */
  const forgetShare = (device: string, key: string): Held => {
    const all = shares.get(device)!;
    const rest = all.filter((each) => heldKey(each) !== key);
    if (rest.length === 0) shares.delete(device);
    else shares.set(device, rest);
    return all.find((each) => heldKey(each) === key)!;
  };
  const heldOf = (device: string): Held[] => [...(holders.has(device) ? [device] : []), ...(shares.get(device) ?? [])];
  return {
    set(holder, next) {
      const before = holdings.get(holder) ?? [];
      if (before.length === 0 && next.length === 0) return;
      const wanted = new Map(next.map((held) => [heldKey(held), held]));
      const had = new Map(before.map((held) => [heldKey(held), held]));
      if (wanted.size === 0) holdings.delete(holder);
      else holdings.set(holder, [...wanted.values()]);
      for (const [key, held] of wanted) if (!had.has(key)) add(holder, key, held);
      for (const [key, held] of had) if (!wanted.has(key)) remove(holder, key, held);
    },
    heldOf,
    holdersOf(device, shareId) {
      const concerned = heldOf(device).filter(
        (held) => shareId === undefined || typeof held === "string" || held.id === shareId,
      );
      return [...new Set(concerned.flatMap((held) => holders.get(heldKey(held))!))].toSorted();
    },
    heldBy: (holder) => holdings.get(holder) ?? [],
    holders: () => [...holdings.keys()],
  };
}
