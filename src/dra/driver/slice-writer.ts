import type { ResourceSlice } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import type { KubeClient } from "../../kube/client.ts";
import { resourcePath } from "../../kube/paths.ts";
import { differingFields, sliceChanges } from "./slice-changes.ts";

/** Writes a pool's ResourceSlices, and only what differs from what is there. */

export function slicePath(name?: string): string {
  return resourcePath({ group: "resource.k8s.io", version: "v1", resource: "resourceslices", name });
}

/** Selects the slices of this driver on a node. */
export function poolSelector(nodeName: string): string {
  return `spec.driver=${driverName},spec.nodeName=${nodeName}`;
}

/** A field of a slice that the API server did not keep: it drops fields of features that are off, and says nothing. */
export interface Dropped {
  sent: ResourceSlice;
  kept: ResourceSlice;
  /** Paths, such as `spec.devices.0.taints`. */
  fields: readonly string[];
}

export interface Written {
  /** Slices that the pool has now. */
  slices: number;
  /** Deletions, updates and creations. */
  writes: number;
  dropped: readonly Dropped[];
}

/** Turns `current` into what `build` makes of a generation: deletions, then updates, then creations. */
export async function writeSlices(
  client: KubeClient,
  current: readonly ResourceSlice[],
  build: (generation: number) => readonly ResourceSlice[],
): Promise<Written> {
  const { remove, update, create } = sliceChanges(current, build);
  const dropped: Dropped[] = [];
  const check = (sent: ResourceSlice, kept: ResourceSlice): void => {
    const fields = differingFields(sent.spec, kept.spec);
    if (fields.length > 0) dropped.push({ sent, kept, fields });
  };
  for (const { metadata } of remove) {
    const { uid, resourceVersion } = metadata;
    await client.request("DELETE", slicePath(metadata.name), { body: { preconditions: { uid, resourceVersion } } });
  }
  for (const slice of update) {
    check(slice, await client.request<ResourceSlice>("PUT", slicePath(slice.metadata.name), { body: slice }));
  }
  for (const slice of create) {
    check(slice, await client.request<ResourceSlice>("POST", slicePath(), { body: slice }));
  }
  const writes = remove.length + update.length + create.length;
  return { slices: current.length - remove.length + create.length, writes, dropped };
}

/** What an administrator has to do about it. */
export function droppedMessage({ sent, fields }: Dropped): string {
  const shown = fields.slice(0, 3).join(", ");
  return `ResourceSlice ${sent.metadata.name}: the API server did not keep ${shown}; turn on its feature gates for dynamic resource allocation (DRAPartitionableDevices, DRADeviceTaints), then restart the node agent`;
}
