import type {
  AllocationResult,
  DeviceRequest,
  DeviceRequestAllocationResult,
  ExactDeviceRequest,
  ResourceClaimSpec,
} from "../../api/kubernetes.ts";
import type { PlacedDevice } from "../../api/placement.ts";
import type { DeviceEntry } from "../../topology/inventory.ts";
import { formatNano } from "../../topology/quantity.ts";
import type { DeviceClassRecord } from "../../topology/records.ts";
import type { ChosenDevice } from "./allocate.ts";
import { shareId } from "./share-id.ts";

type AllocationConfig = NonNullable<NonNullable<AllocationResult["devices"]>["config"]>;

/**
 * `status.allocation` as kube-scheduler's allocator would write it for these devices; `request` as in `DeviceChoice`.
 * `timestamp`: RFC 3339 in whole seconds; without it the binding fails with "status.allocation: field is immutable".
 */
export function toAllocation(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  placed: readonly Placed[],
  nodeName: string,
  timestamp: string,
): AllocationResult {
  const results = placed.map((each) => toResult(spec, each));
  const chosen = new Set(placed.map(({ request }) => request));
  const config = [...classConfig(spec, classes, chosen), ...claimConfig(spec, chosen)];
  const onNode = { key: "metadata.name", operator: "In" as const, values: [nodeName] };
  return {
    devices: { results, ...(config.length === 0 ? {} : { config }) },
    nodeSelector: { nodeSelectorTerms: [{ matchFields: [onNode] }] },
    allocationTimestamp: timestamp,
  };
}

type Grant = Pick<DeviceRequestAllocationResult, "adminAccess" | "shareID" | "consumedCapacity">;

/** A device for a request, with what `placedDevice` said of it. */
interface Placed extends Pick<PlacedDevice, keyof Grant> {
  readonly request: string;
  readonly device: DeviceEntry;
}

/** A chosen device as placements and allocations tell it. `claimUid`: of the claim that gets it. */
export function placedDevice(
  entry: DeviceEntry,
  { request, admin, share }: ChosenDevice,
  claimUid: string,
): PlacedDevice {
  const { driver, pool, name, key } = entry;
  const consumed = [...(share ?? [])].map(([capacity, nano]) => [capacity, formatNano(nano)] as const);
  return {
    request,
    driver,
    pool,
    device: name,
    ...(admin === undefined ? {} : { adminAccess: true }),
    ...(share === undefined ? {} : { shareID: shareId(claimUid, request, key) }),
    ...(consumed.length === 0 ? {} : { consumedCapacity: Object.fromEntries(consumed) }),
  };
}

function toResult(
  spec: ResourceClaimSpec,
  { request, device: entry, adminAccess, shareID, consumedCapacity }: Placed,
): DeviceRequestAllocationResult {
  const { driver, pool, name, device } = entry;
  const { bindingConditions = [], bindingFailureConditions = [] } = device;
  const tolerations = chosenAlternatives(spec, new Set([request]))[0]?.wanted.tolerations ?? [];
  return {
    request,
    driver,
    pool,
    device: name,
    ...(adminAccess === undefined ? {} : { adminAccess }),
    ...(shareID === undefined ? {} : { shareID }),
    ...(consumedCapacity === undefined ? {} : { consumedCapacity }),
    ...(tolerations.length === 0 ? {} : { tolerations }),
    ...(bindingConditions.length === 0 ? {} : { bindingConditions }),
    ...(bindingFailureConditions.length === 0 ? {} : { bindingFailureConditions }),
  };
}

interface ChosenAlternative {
  request: DeviceRequest;
  /** `request` or `request/subrequest`. */
  name: string;
  wanted: ExactDeviceRequest;
}

/** Per request of the claim, what its devices were chosen for. */
function chosenAlternatives(spec: ResourceClaimSpec, chosen: ReadonlySet<string>): ChosenAlternative[] {
  return (spec.devices?.requests ?? []).flatMap((request) => {
    const alternatives =
      request.exactly === undefined
        ? (request.firstAvailable ?? []).map((wanted) => ({ request, name: `${request.name}/${wanted.name}`, wanted }))
        : [{ request, name: request.name, wanted: request.exactly }];
    return alternatives.filter(({ name }) => chosen.has(name));
  });
}

/** Each class's configuration once, for all requests that use the class. */
function classConfig(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  chosen: ReadonlySet<string>,
): AllocationConfig {
  const requestsOf = new Map<string, string[]>();
  for (const { name, wanted } of chosenAlternatives(spec, chosen)) {
    const requests = requestsOf.get(wanted.deviceClassName) ?? [];
    requestsOf.set(wanted.deviceClassName, [...requests, name]);
  }
  return [...requestsOf].flatMap(([className, requests]) =>
    (classes.get(className)?.config ?? []).map((config) => ({ source: "FromClass" as const, requests, ...config })),
  );
}

/** The claim's own configuration, as far as it is for everything or for something that was chosen. */
function claimConfig(spec: ResourceClaimSpec, chosen: ReadonlySet<string>): AllocationConfig {
  const alternatives = chosenAlternatives(spec, chosen);
  return (spec.devices?.config ?? [])
    .filter(({ requests = [] }) => {
      const applies = ({ request, name }: ChosenAlternative) =>
        requests.includes(request.name) || requests.includes(name);
      return requests.length === 0 || alternatives.some(applies);
    })
    .map((config) => ({ source: "FromClaim" as const, ...config }));
}
