import type { Timing } from "../../kube/timing.ts";
import type { DeviceHealthMessage } from "./grpc.ts";
import { deviceTable, type Inventory, lossOf, troublesOf } from "./inventory.ts";
import type { Machine } from "./machine.ts";

/**
 * A device of which the kubelet hears nothing for 30 seconds becomes Unknown in its pod's status; all do when another process
 * of the driver ends, until they are told again.
 */
const repeatMs = 5_000;
/** Of the kubelet's API. */
const maxMessageLength = 1024;

/**
 * Sends the health of every device now, after each change, and every five seconds. Returns what ends that.
 */
export function watchHealth(
  machine: Machine,
  pool: string,
  timing: Timing,
  send: (devices: DeviceHealthMessage[]) => void,
): () => void {
  const tell = (): void => send(deviceHealth(machine, pool, timing.wallClock()));
  const ended = new AbortController();
  const unsubscribe = machine.onChange(tell);
  const repeat = async (): Promise<void> => {
    while (!ended.signal.aborted) {
      tell();
      await timing.sleep(repeatMs, ended.signal);
    }
  };
  void repeat();
  return () => {
    unsubscribe();
    ended.abort();
  };
}

function deviceHealth(machine: Machine, pool: string, at: Date): DeviceHealthMessage[] {
  const inventory = machine.inventory();
  const last_updated_time = Math.floor(at.getTime() / 1000);
  return [...deviceTable(inventory.gpus).keys()].map((name) => {
    const { state, messages } = stateOf(name, inventory);
    return {
      device: { pool_name: pool, device_name: name },
      health: ({ ok: "HEALTHY", unknown: "UNKNOWN", unhealthy: "UNHEALTHY", lost: "UNHEALTHY" } as const)[state],
      last_updated_time,
      health_check_timeout_seconds: 0,
      message: messages.join("; ").slice(0, maxMessageLength),
    };
  });
}

export type DeviceState = "ok" | "unhealthy" | "unknown" | "lost";

/** How a device is, and why it is not well. */
export function stateOf(name: string, inventory: Inventory): { state: DeviceState; messages: string[] } {
  const loss = lossOf(name, inventory.losses);
  const troubles = troublesOf(name, inventory).filter(({ healthy }) => healthy !== true);
  const { stale } = inventory;
  const messages = [
    ...(loss === undefined ? [] : [`lost since ${loss.since}`]),
    ...troubles.map(({ message, since }) => `${message} since ${since}`),
    ...(stale === undefined ? [] : [`cannot be read: ${stale}`]),
  ];
  if (loss !== undefined) return { state: "lost", messages };
  if (troubles.some(({ unknown }) => unknown !== true)) return { state: "unhealthy", messages };
  return { state: messages.length === 0 ? "ok" : "unknown", messages };
}
