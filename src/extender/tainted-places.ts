import type { PlacedPod } from "../api/placement.ts";
import { isWithheld } from "../dra/allocator/candidates.ts";
import { deviceKey } from "../topology/held.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";

/**
 * Whether some device of the place has a taint that keeps it from the pod: one that the pod's claim does not tolerate. Nothing is known
 * of claims that do not exist yet; devices of other drivers are kube-scheduler's to judge.
 */
export function isTainted({ view, claim }: ClusterModel, placed: PlacedPod, pod: PodRecord): boolean {
  const index = view.indexOf(placed.node);
  if (index === undefined) return false;
  const { devices, indexOf } = view.inventory(index);
  return placed.claims.some(({ reference, devices: given }) => {
    const name = pod.claims.find((each) => each.name === reference)?.claimName;
    const spec = name === undefined ? undefined : claim(pod.namespace, name)?.spec;
    return given.some(({ request, driver, pool, device }) => {
      if (spec === undefined || !view.managedDrivers.has(driver)) return false;
      const entry = devices[indexOf.get(deviceKey(driver, pool, device)) ?? -1];
      return entry !== undefined && isWithheld(entry, spec, request);
    });
  });
}
