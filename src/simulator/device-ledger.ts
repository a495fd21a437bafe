/** Which prepared claim uses which device and counter of the simulated hardware. */

/** What the simulated hardware has now. Counters belong to a node: the partitions of one GPU draw on the same ones. */
export interface Hardware {
  /** The node does not answer: nothing can be prepared there now. */
  isDown(node: string): boolean;
  /** The device is broken. */
  isLost(node: string, device: string): boolean;
  /** The device exists only while a claim has it: a partition that is cut for it. */
  isCut(node: string, device: string): boolean;
  /** What a device takes of its node's counters; undefined: no such device there. */
  counters(node: string, device: string): readonly CounterUse[] | undefined;
  capacity(node: string, counter: string): number;
}

export interface CounterUse {
  counter: string;
  amount: number;
}

/** Why a device cannot be used. `holders` are UIDs of claims. */
export interface DeviceConflict {
  kind: "DeviceInUse" | "CounterExceeded" | "UnknownDevice" | "DeviceLost";
  device: string;
  holders: readonly string[];
  message: string;
}

export interface DeviceLedger {
  /** What keeps the device from being used at all. */
  fault(node: string, device: string): DeviceConflict | undefined;
  /** What keeps the devices from being used together, on top of what is in use. */
  conflict(node: string, devices: readonly string[]): DeviceConflict | undefined;
  enter(claimUid: string, node: string, devices: readonly string[]): void;
  leave(claimUid: string): void;
}

export function createDeviceLedger(hardware: Hardware): DeviceLedger {
  const entries = new Map<string, { node: string; takes: ReadonlyMap<string, number> }>();
  /** `NODE/device/NAME` or `NODE/counter/NAME` → claim → amount. */
  const usage = new Map<string, Map<string, number>>();

  return {
    fault,
    conflict(node, devices) {
      const wanted = new Map<string, number>();
      for (const device of devices) {
        const broken = fault(node, device);
        if (broken !== undefined) return broken;
        const key = `${node}/device/${device}`;
        if (inUse(key) + (wanted.get(key) ?? 0) > 0) {
          return {
            kind: "DeviceInUse",
            device,
            holders: holdersOf(key),
            message: `device ${node}/${device} is in use`,
          };
        }
        wanted.set(key, 1);
        for (const { counter, amount } of hardware.counters(node, device) ?? []) {
          const exceeded = counterConflict(node, device, counter, amount, wanted);
          if (exceeded !== undefined) return exceeded;
        }
      }
      return undefined;
    },
    enter(claimUid, node, devices) {
      const takes = new Map<string, number>();
      for (const device of devices) {
        takes.set(`${node}/device/${device}`, 1);
        for (const { counter, amount } of hardware.counters(node, device) ?? []) {
          const key = `${node}/counter/${counter}`;
          takes.set(key, (takes.get(key) ?? 0) + amount);
        }
      }
      entries.set(claimUid, { node, takes });
      for (const [key, amount] of takes) {
        const holders = usage.get(key) ?? new Map<string, number>();
        usage.set(key, holders.set(claimUid, amount));
      }
    },
    leave(claimUid) {
      for (const key of entries.get(claimUid)?.takes.keys() ?? []) {
        const holders = usage.get(key);
        if (holders?.delete(claimUid) === true && holders.size === 0) usage.delete(key);
      }
      entries.delete(claimUid);
    },
  };

  function fault(node: string, device: string): DeviceConflict | undefined {
    if (hardware.counters(node, device) === undefined) {
      return { kind: "UnknownDevice", device, holders: [], message: `node ${node} has no device ${device}` };
    }
    if (!hardware.isLost(node, device)) return undefined;
    return { kind: "DeviceLost", device, holders: [], message: `device ${node}/${device} is lost` };
  }

  function counterConflict(
    node: string,
    device: string,
    counter: string,
    amount: number,
    wanted: Map<string, number>,
  ): DeviceConflict | undefined {
    const key = `${node}/counter/${counter}`;
    const before = inUse(key) + (wanted.get(key) ?? 0);
    const capacity = hardware.capacity(node, counter);
    wanted.set(key, (wanted.get(key) ?? 0) + amount);
    if (before + amount <= capacity) return undefined;
    const message = `device ${node}/${device} takes ${amount} of ${counter}, but ${before} of ${capacity} are in use`;
    return { kind: "CounterExceeded", device, holders: holdersOf(key), message };
  }

  function inUse(key: string): number {
    let total = 0;
    for (const amount of usage.get(key)?.values() ?? []) total += amount;
    return total;
  }

  function holdersOf(key: string): string[] {
    return [...(usage.get(key)?.keys() ?? [])];
  }
}
