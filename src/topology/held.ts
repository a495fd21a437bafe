import type { PlacedDevice } from "../api/placement.ts";
import type { Consumption } from "./inventory.ts";
import { parseNano } from "./quantity.ts";

/** Something that can be held: a whole device by its key `driver/pool/name`, or one share of a device. */
export type Held = string | Share;

/** One part of a device of which several claims may each have one. */
interface Share {
  /** Key of the device. */
  readonly device: string;
  /** `status.allocation.devices.results[].shareID`. */
  readonly id: string;
  readonly consumed: Consumption;
}

export function deviceKey(driver: string, pool: string, device: string): string {
  return `${driver}/${pool}/${device}`;
}

export function deviceOf(held: Held): string {
  return typeof held === "string" ? held : held.device;
}

/** Differs between things that can be held at the same time. No device's name has a `#`. */
export function heldKey(held: Held): string {
  return typeof held === "string" ? held : `${held.device}#${held.id}`;
}

type Result = Omit<PlacedDevice, "request">;

/**
 * What allocation results hold, as kube-scheduler counts it: administrators' access nothing, a result with a share ID
 * one share, every other one a whole device. A share whose capacity cannot be read holds the whole device.
 */
export function heldBy(results: readonly Result[]): Held[] {
  return results.flatMap((result) => {
    if (result.adminAccess === true) return [];
    const device = deviceKey(result.driver, result.pool, result.device);
    if (result.shareID === undefined) return [device];
    const consumed = consumptionOf(result.consumedCapacity ?? {});
    return [consumed === undefined ? device : { device, id: result.shareID, consumed }];
  });
}

function consumptionOf(capacity: Readonly<Record<string, string>>): Consumption | undefined {
  try {
    return new Map(Object.entries(capacity).map(([name, amount]) => [name, parseNano(amount)]));
  } catch {
    return undefined;
  }
}
