import type { DeviceSelector, ResourceClaimSpec } from "../../api/kubernetes.ts";
import type { ClaimRecord, DeviceClassRecord } from "../../topology/records.ts";

/**
 * Whose devices a claim asks for, as far as its device classes and requests say it literally (`device.driver == "…"`, the
 * form in which every known driver publishes its class).
 *
 * `managed`: some request may be served by a managed driver, so kllama allocates or refuses the claim.
 * `foreign`: every request names drivers that are not managed; kube-scheduler allocates it alone.
 * `unknown`: a class does not exist (yet).
 */
function claimOwnership(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  managedDrivers: ReadonlySet<string>,
): "managed" | "foreign" | "unknown" {
  const wanted = (spec.devices?.requests ?? []).flatMap((request) => request.exactly ?? request.firstAvailable ?? []);
  let unknown = false;
  for (const { deviceClassName, selectors } of wanted) {
    const deviceClass = classes.get(deviceClassName);
    if (deviceClass === undefined) unknown = true;
    else if (foreignDriver(deviceClass, selectors, managedDrivers) === undefined) return "managed";
  }
  return unknown ? "unknown" : "foreign";
}

/**
 * Whether kube-scheduler allocates the claim and not kllama: by the drivers of the devices that it has, or else of those
 * that it asks for.
 */
export function isLeftToScheduler(
  { spec, allocation }: Pick<ClaimRecord, "spec" | "allocation">,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  managedDrivers: ReadonlySet<string>,
): boolean {
  const results = allocation?.devices?.results ?? [];
  if (results.length > 0) return results.every(({ driver }) => !managedDrivers.has(driver));
  return claimOwnership(spec, classes, managedDrivers) === "foreign";
}

/**
 * A driver that is asked for, when none of those asked for is managed: by the class, or by the request where the class
 * names none.
 */
export function foreignDriver(
  deviceClass: DeviceClassRecord,
  selectors: readonly DeviceSelector[] | undefined,
  managedDrivers: ReadonlySet<string>,
): string | undefined {
  const ofClass = driversIn(deviceClass.selectors);
  const drivers = ofClass.length > 0 ? ofClass : driversIn(selectors ?? []);
  return drivers.some((driver) => managedDrivers.has(driver)) ? undefined : drivers[0];
}

/** Driver names that the selectors compare `device.driver` with; empty: they name none. */
function driversIn(selectors: readonly DeviceSelector[]): string[] {
  const drivers: string[] = [];
  for (const { cel } of selectors) {
    for (const match of (cel?.expression ?? "").matchAll(/device\.driver\s*==\s*(["'])([^"']+)\1/g)) {
      drivers.push(match[2] ?? "");
    }
  }
  return drivers;
}
