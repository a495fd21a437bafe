import type { DeviceToleration, ResourceClaimSpec } from "../../api/kubernetes.ts";
import type { RejectionReason } from "../../api/placement.ts";
import type { DeviceEntry } from "../../topology/inventory.ts";
import type { DeviceClassRecord } from "../../topology/records.ts";

/** Why a claim cannot be planned at all, on any node: the object, the field and the remedy are named. */
export interface ClaimProblem {
  readonly reason: RejectionReason;
  readonly message: string;
}

/** One way to satisfy a request: `exactly`, or one entry of `firstAvailable`. */
export interface CompiledAlternative {
  /** What `results[].request` says: `request` or `request/subrequest`. */
  readonly name: string;
  readonly className: string;
  readonly mode: "ExactCount" | "All";
  /** Devices wanted; 0 with mode `All`. */
  readonly count: number;
  readonly tolerations: readonly DeviceToleration[];
  /** Class and request selectors; an error is a fault of the expression on this device. */
  readonly matches: (entry: DeviceEntry) => boolean | { readonly error: string };
}

export interface CompiledRequest {
  readonly name: string;
  readonly alternatives: readonly CompiledAlternative[];
}

export interface CompiledConstraint {
  readonly kind: "match" | "distinct";
  readonly attribute: string;
  /** Per request and alternative: does the constraint cover it? */
  readonly covers: readonly (readonly boolean[])[];
}

/** A claim that can be planned. */
export interface CompiledClaim {
  /** Equal specs and classes have an equal shape: a key for caches. */
  readonly shape: string;
  readonly requests: readonly CompiledRequest[];
  readonly constraints: readonly CompiledConstraint[];
  readonly managedDrivers: ReadonlySet<string>;
}

/** Compiles a claim's spec against its device classes. Results may only be of managed drivers. */
export function compileClaim(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  managedDrivers: ReadonlySet<string>,
): CompiledClaim | ClaimProblem {
  throw new Error(`not implemented: ${spec.devices?.requests?.length} ${classes.size} ${managedDrivers.size}`);
}

export function isClaimProblem(value: CompiledClaim | ClaimProblem): value is ClaimProblem {
  return "reason" in value;
}
