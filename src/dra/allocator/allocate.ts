import type { RejectionReason } from "../../api/placement.ts";
import type { NodeInventory, NodeUsage } from "../../topology/inventory.ts";
import type { CompiledClaim } from "./claim.ts";

/** Devices per claim, parallel to the claims given; within a claim by request, then by device index. */
export interface DeviceChoice {
  readonly claims: readonly { readonly devices: readonly { readonly request: string; readonly device: number }[] }[];
}

/** Why the claims do not fit the node as it is; `resource` names a device class. */
export interface AllocationFailure {
  readonly reason: RejectionReason;
  readonly message: string;
  readonly needed: number;
  readonly available: number;
  readonly resource: string;
}

export interface AllocateOptions {
  /**
   * All devices of the call share the value of each attribute (fully qualified). `value` pins it, in the form of
   * `attributeValue`: the value that devices chosen before, here or on other nodes, have.
   */
  readonly together?: readonly { readonly attribute: string; readonly value?: string }[];
  /** Attributes that name islands, broad to narrow; devices of one request come from as few and as small ones as fit. */
  readonly islands?: readonly string[];
  /** Device trials after which the search gives up with reason `BudgetExceeded`. */
  readonly budget?: number;
}

/**
 * Chooses devices for all claims of one pod on one node. Complete up to the budget, deterministic; `usage` is as
 * before when it returns.
 */
export function allocateOnNode(
  inventory: NodeInventory,
  usage: NodeUsage,
  claims: readonly CompiledClaim[],
  options: AllocateOptions = {},
): DeviceChoice | AllocationFailure {
  throw new Error(`not implemented: ${inventory.node} ${usage.used.length} ${claims.length} ${options.budget}`);
}

export function isAllocationFailure(value: DeviceChoice | AllocationFailure): value is AllocationFailure {
  return "reason" in value;
}
