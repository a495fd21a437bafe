import type { Timing } from "../../kube/timing.ts";
import type { DeviceHealthMessage } from "./grpc.ts";
import { devicesByGpu, lossOf, troublesOf } from "./inventory.ts";
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
  return devicesByGpu(inventory.gpus).flatMap((group) =>
    group.map(({ name }) => {
      const loss = lossOf(name, inventory.losses);
      const ill = troublesOf(name, inventory).filter(({ healthy }) => healthy !== true);
      const messages = [
        ...(loss === undefined ? [] : [`lost since ${loss.since}`]),
        ...ill.map(({ message, since }) => `${message} since ${since}`),
      ];
      return {
        device: { pool_name: pool, device_name: name },
        health: messages.length === 0 ? "HEALTHY" : "UNHEALTHY",
        last_updated_time,
        health_check_timeout_seconds: 0,
        message: messages.join("; ").slice(0, maxMessageLength),
      };
    }),
  );
}
