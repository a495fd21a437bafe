import type { AllocationResult, ResourceClaimSpec } from "../../api/kubernetes.ts";
import type { DeviceEntry } from "../../topology/inventory.ts";
import type { DeviceClassRecord } from "../../topology/records.ts";

/**
 * `status.allocation` as kube-scheduler's allocator would write it for these devices.
 * `timestamp`: RFC 3339 in whole seconds; without it the binding fails with "status.allocation: field is immutable".
 */
export function toAllocation(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  placed: readonly { readonly request: string; readonly device: DeviceEntry }[],
  nodeName: string,
  timestamp: string,
): AllocationResult {
  throw new Error(`not implemented: ${spec} ${classes.size} ${placed.length} ${nodeName} ${timestamp}`);
}
