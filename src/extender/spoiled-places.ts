import type { PlacedPod } from "../api/placement.ts";
import { isWithheld } from "../dra/allocator/candidates.ts";
import { deviceKey } from "../topology/held.ts";
import { isGone } from "../topology/inventory.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord } from "../topology/records.ts";

/**
 * Whether the pod cannot have some device of the place: its driver publishes it no more, or it has a taint that the pod's claim does
 * not tolerate. Nothing is known of the taints while the claim does not exist yet, nor of what is there while no pool tells; devices
 * of other drivers are kube-scheduler's to judge.
 */
export function isSpoiled({ view, claim }: ClusterModel, placed: PlacedPod, pod: PodRecord): boolean {
  const index = view.indexOf(placed.node);
  if (index === undefined) return false;
  const inventory = view.inventory(index);
  return placed.claims.some(({ reference, devices: given }) => {
    const name = pod.claims.find((each) => each.name === reference)?.claimName;
    const spec = name === undefined ? undefined : claim(pod.namespace, name)?.spec;
    return given.some((each) => {
      if (!view.managedDrivers.has(each.driver)) return false;
      if (isGone(inventory, each)) return true;
      const entry = inventory.devices[inventory.indexOf.get(deviceKey(each.driver, each.pool, each.device)) ?? -1];
      return spec !== undefined && entry !== undefined && isWithheld(entry, spec, each.request);
    });
  });
}
