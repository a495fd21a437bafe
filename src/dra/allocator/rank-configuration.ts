import type { AllocationResult } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import type { DeviceEntry } from "../../topology/inventory.ts";

/**
 * Tells the driver gpu.kllama.ai in which order a claim's devices become ranks: that of the inventory, in which neighbours are
 * close (drivers publish one NVLink domain after another). As configuration of the allocation, before the claim's own, which
 * thereby overrules it. One device has one order, and drivers of others do not know the configuration.
 */
export function withRankOrder(allocation: AllocationResult, devices: readonly DeviceEntry[]): AllocationResult {
  const ours = devices.filter(({ driver }) => driver === driverName).toSorted((a, b) => a.index - b.index);
  const names = [...new Set(ours.map(({ name }) => name))];
  if (names.length < 2) return allocation;
  const parameters = { apiVersion: `${driverName}/v1alpha1`, kind: "DeviceConfig", rankOrder: names };
  const own = { source: "FromClaim" as const, requests: [], opaque: { driver: driverName, parameters } };
  const config = allocation.devices?.config ?? [];
  const firstOfClaim = config.findIndex(({ source }) => source !== "FromClass");
  const at = firstOfClaim === -1 ? config.length : firstOfClaim;
  return { ...allocation, devices: { ...allocation.devices, config: config.toSpliced(at, 0, own) } };
}
