import type { DeviceTaint, ResourceSlice } from "../../api/kubernetes.ts";

/**
 * The wanted slices with the times at which their taints were published first: a driver that was restarted knows of a trouble only
 * since then, but whoever tolerates it for some minutes counts from its beginning. Pure.
 */
export function withKnownTimes(wanted: readonly ResourceSlice[], published: readonly ResourceSlice[]): ResourceSlice[] {
  const known = new Map<string, string>();
  for (const { name, taints = [] } of published.flatMap(({ spec }) => spec.devices ?? [])) {
    for (const taint of taints) if (taint.timeAdded !== undefined) known.set(keyOf(name, taint), taint.timeAdded);
  }
  if (known.size === 0) return [...wanted];
  const dated = (device: string, taint: DeviceTaint): DeviceTaint => {
    const first = known.get(keyOf(device, taint));
    const { timeAdded: own } = taint;
    if (first === undefined || (own !== undefined && Date.parse(own) <= Date.parse(first))) return taint;
    return { ...taint, timeAdded: first };
  };
  return wanted.map((slice) => {
    const { devices } = slice.spec;
    if (devices === undefined) return slice;
    const timed = devices.map((device) =>
      device.taints === undefined
        ? device
        : { ...device, taints: device.taints.map((taint) => dated(device.name, taint)) },
    );
    return { ...slice, spec: { ...slice.spec, devices: timed } };
  });
}

function keyOf(device: string, { key, value, effect }: DeviceTaint): string {
  return JSON.stringify([device, key, value, effect]);
}
