import type { DeviceRequestAllocationResult, ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import { type ClaimConfiguration, claimConfiguration, type Sharing } from "./device-configuration.ts";
import type { ClaimReference } from "./grpc.ts";
import { type Inventory, type InventoryDevice, lossOf } from "./inventory.ts";
import type { PreparedClaim } from "./prepared-claim.ts";

/** What the API server says about a claim → what is to be prepared. Pure. */

/** One device that a claim holds here. */
export interface AllocatedDevice {
  /** Name of the request; of a subrequest, the part before the slash. */
  request: string;
  device: InventoryDevice;
  /** Given for administration: others may use it at the same time. */
  adminAccess: boolean;
  sharing?: Sharing;
}

/** The node's devices by name. */
export type DeviceLookup = { devices: ReadonlyMap<string, InventoryDevice> } & Pick<Inventory, "losses" | "unread">;

/** The claim cannot be prepared now. The message is for the pod's events: object, field, remedy. */
export class ClaimError extends Error {}

/**
 * The claim's devices on this node in rank order, which becomes their order inside the container. Throws ClaimError
 * when the claim is another one by now, has no devices here, or holds what this node cannot give.
 */
export function allocatedDevices(
  claim: ResourceClaim,
  wanted: ClaimReference,
  pool: string,
  inventory: DeviceLookup,
): AllocatedDevice[] {
  const name = `claim ${wanted.namespace}/${wanted.name}`;
  if (claim.metadata.uid !== wanted.uid) {
    throw new ClaimError(`${name}: has UID ${claim.metadata.uid} now, not ${wanted.uid}; recreate the pod`);
  }
  const allocation = claim.status?.allocation;
  if (allocation === undefined)
    throw new ClaimError(`${name}: status.allocation is missing; wait until it is allocated`);
  const results = (allocation.devices?.results ?? []).filter((result) => result.driver === driverName);
  if (results.length === 0) throw new ClaimError(`${name}: holds no device of driver ${driverName}`);
  const { rankOrder, sharing } = configurationOf(name, claim);
  const found = results.map((result) => {
    const device = located(name, result, pool, inventory);
    const shared = sharing(result.request);
    // An administrator looks, and changes nothing for those who use the device.
    if (shared === undefined || device.adminAccess) return device;
    refuseSharing(name, device, shared);
    return { ...device, sharing: shared };
  });
  return inRankOrder(found, rankOrder, name);
}

/** The claim is the one that was prepared and holds the same devices, of which none has become another board by now. */
export function stillHolds(claim: ResourceClaim, prepared: PreparedClaim, { devices }: DeviceLookup): boolean {
  if (claim.metadata.uid !== prepared.uid) return false;
  const results = (claim.status?.allocation?.devices?.results ?? []).filter(({ driver }) => driver === driverName);
  const held = results.map(({ request, pool, device }) => `${requestOf(request)} ${pool} ${device}`);
  const known = prepared.devices.map(({ request, pool, device }) => `${request} ${pool} ${device}`);
  if (held.toSorted().join("\n") !== known.toSorted().join("\n")) return false;
  return prepared.devices.every(({ device, gpu }) => (devices.get(device)?.gpu.uuid ?? gpu.uuid) === gpu.uuid);
}

/** Of a subrequest, the part before the slash. */
function requestOf(name: string): string {
  return name.split("/", 1)[0]!;
}

function located(
  name: string,
  result: DeviceRequestAllocationResult,
  pool: string,
  inventory: DeviceLookup,
): AllocatedDevice {
  if (result.pool !== pool) {
    throw new ClaimError(`${name}: holds device ${result.pool}/${result.device}, which is not on node ${pool}`);
  }
  if (inventory.unread !== undefined) {
    throw new ClaimError(`${name}: the devices of node ${pool} could not be read yet: ${inventory.unread}`);
  }
  const device = inventory.devices.get(result.device);
  if (device === undefined) throw new ClaimError(`${name}: node ${pool} has no device ${result.device}`);
  const loss = lossOf(result.device, inventory.losses);
  if (loss !== undefined) throw new ClaimError(`${name}: device ${result.device} is lost since ${loss.since}`);
  const adminAccess = result.adminAccess === true;
  if (adminAccess && device.partition !== undefined && device.partition.standing === undefined) {
    throw new ClaimError(
      `${name}: device ${device.name} exists only while a claim has it, which adminAccess must not change; ask for other devices`,
    );
  }
  return { request: requestOf(result.request), device, adminAccess };
}

function refuseSharing(name: string, { device }: AllocatedDevice, { strategy }: Sharing): void {
  if (device.gpu.amd !== undefined)
    throw new ClaimError(`${name}: device ${device.name} knows no ${strategy}; leave it out`);
  if (strategy === "TimeSlicing" && device.partition !== undefined) {
    throw new ClaimError(`${name}: device ${device.name} is a partition; TimeSlicing is for whole GPUs, leave it out`);
  }
}

function configurationOf(name: string, claim: ResourceClaim): ClaimConfiguration {
  try {
    return claimConfiguration(claim);
  } catch (error) {
    throw new ClaimError(`${name}: ${(error as Error).message}`);
  }
}

function inRankOrder(found: readonly AllocatedDevice[], order: readonly string[], name: string): AllocatedDevice[] {
  const ranks = new Map(order.map((device, rank) => [device, rank]));
  const stranger = order.find((device) => !found.some((each) => each.device.name === device));
  if (stranger !== undefined)
    throw new ClaimError(`${name}: rankOrder names ${stranger}, which the claim does not hold`);
  const rank = ({ device }: AllocatedDevice): number => ranks.get(device.name) ?? ranks.size;
  return found.toSorted((a, b) => rank(a) - rank(b) || compare(place(a), place(b)));
}

/** PCI addresses have a fixed width: they sort as text. */
function place({ device }: AllocatedDevice): string {
  return `${device.gpu.pciBusID} ${String(device.partition?.start ?? 0).padStart(2, "0")}`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
