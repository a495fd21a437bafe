/**
 * Who holds which device. A device has any number of holders (a claim, the pod that runs with it, the hold of a gang)
 * and is free exactly when it has none.
 */
export interface Ledger {
  /** Replaces what a holder holds; an empty list forgets it. */
  set(holder: string, devices: readonly string[]): void;
  held(device: string): boolean;
  holdersOf(device: string): readonly string[];
  devicesOf(holder: string): readonly string[];
}

/** `onChange` hears of a device that gets its first holder (`taken`) or loses its last. */
export function createLedger(onChange: (device: string, taken: boolean) => void): Ledger {
  /** device key → holders */
  const holders = new Map<string, string[]>();
  /** holder → device keys */
  const devices = new Map<string, readonly string[]>();

  const add = (holder: string, device: string) => {
    const list = holders.get(device);
    if (list) {
      list.push(holder);
      return;
    }
    holders.set(device, [holder]);
    onChange(device, true);
  };
  const remove = (holder: string, device: string) => {
    const list = holders.get(device)!;
    list.splice(list.indexOf(holder), 1);
    if (list.length > 0) return;
    holders.delete(device);
    onChange(device, false);
  };
  return {
    set(holder, next) {
      const before = devices.get(holder) ?? [];
      if (before.length === 0 && next.length === 0) return;
      const wanted = new Set(next);
      const had = new Set(before);
      if (wanted.size === 0) devices.delete(holder);
      else devices.set(holder, [...wanted]);
      for (const device of wanted) if (!had.has(device)) add(holder, device);
      for (const device of had) if (!wanted.has(device)) remove(holder, device);
    },
    held: (device) => holders.has(device),
    holdersOf: (device) => (holders.get(device) ?? []).toSorted(),
    devicesOf: (holder) => devices.get(holder) ?? [],
  };
}
