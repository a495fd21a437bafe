import type { Timing } from "../../kube/timing.ts";
import type { DeviceHealthMessage } from "./grpc.ts";
import { devicesByGpu, lossOf } from "./inventory.ts";
import type { Machine } from "./machine.ts";

/** A device of which the kubelet hears nothing for 30 seconds becomes Unknown in its pod's status. */
const repeatMs = 10_000;

/**
 * Sends the health of every device now, after each change, and every ten seconds. Returns what ends that.
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
  const { gpus, losses } = machine.inventory();
  const last_updated_time = Math.floor(at.getTime() / 1000);
  return devicesByGpu(gpus).flatMap((group) =>
    group.map(({ name }) => {
      const loss = lossOf(name, losses);
      return {
        device: { pool_name: pool, device_name: name },
        health: loss === undefined ? "HEALTHY" : "UNHEALTHY",
        last_updated_time,
        health_check_timeout_seconds: 0,
        message: loss === undefined ? "" : `lost since ${loss.since}`,
      };
    }),
  );
}
