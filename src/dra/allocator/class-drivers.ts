import type { ResourceClaimSpec } from "../../api/kubernetes.ts";
import type { DeviceClassRecord } from "../../topology/records.ts";

/**
 * Whose devices a claim asks for, as far as its device classes say it literally (`device.driver == "…"`, the form in
 * which every known driver publishes its class).
 *
 * `managed`: some request may be served by a managed driver, so kllama allocates or refuses the claim.
 * `foreign`: every request names drivers that are not managed; kube-scheduler allocates it alone.
 * `unknown`: a class does not exist (yet).
 */
export function claimOwnership(
  spec: ResourceClaimSpec,
  classes: ReadonlyMap<string, DeviceClassRecord>,
  managedDrivers: ReadonlySet<string>,
): "managed" | "foreign" | "unknown" {
  const names = (spec.devices?.requests ?? []).flatMap((request) =>
    request.exactly === undefined
      ? (request.firstAvailable ?? []).map((alternative) => alternative.deviceClassName)
      : [request.exactly.deviceClassName],
  );
  let unknown = false;
  for (const name of names) {
    const deviceClass = classes.get(name);
    if (deviceClass === undefined) {
      unknown = true;
      continue;
    }
    const drivers = driversOf(deviceClass);
    if (drivers.length === 0 || drivers.some((driver) => managedDrivers.has(driver))) return "managed";
  }
  return unknown ? "unknown" : "foreign";
}

/** Driver names that the class's selectors compare `device.driver` with; empty: the class does not name any. */
export function driversOf(deviceClass: DeviceClassRecord): string[] {
  const drivers: string[] = [];
  for (const selector of deviceClass.selectors) {
    const expression = selector.cel?.expression ?? "";
    for (const match of expression.matchAll(/device\.driver\s*==\s*(["'])([^"']+)\1/g)) drivers.push(match[2] ?? "");
  }
  return drivers;
}
