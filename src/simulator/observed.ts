import type { Pod, ResourceClaim } from "../api/kubernetes.ts";
import { driverName } from "../api/names.ts";
import { failPrepareAnnotation, preparedAnnotation } from "./names.ts";

/** What the simulated kubelets read of pods and claims. */

/** A pod that is bound to a node and refers to claims. */
export interface BoundPod {
  uid: string;
  namespace: string;
  name: string;
  node: string;
  resourceVersion: number;
  /** Succeeded or Failed. */
  terminal: boolean;
  /** It carries the annotation that lets it start. */
  marked: boolean;
  /** Message of the annotation. */
  failPrepare?: string;
  /** `claimName` is absent while the pod's status does not name it yet. */
  claims: readonly { name: string; claimName?: string }[];
}

export interface ObservedClaim {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion: number;
  /** Absent: not allocated. Whole devices of our driver. */
  devices?: readonly ObservedDevice[];
  /** UIDs of pods. */
  reservedFor: readonly string[];
  /** As the driver reads it. */
  object: ResourceClaim;
}

interface ObservedDevice {
  pool: string;
  device: string;
  /** Given for administration: others may use it at the same time. */
  watched?: true;
}

/** Raw Pod → what kubelets read of it; undefined for pods that are not bound or refer to no claim. */
export function boundPod(raw: Pod): BoundPod | undefined {
  const { metadata, spec, status } = raw;
  if (spec.nodeName === undefined || (spec.resourceClaims ?? []).length === 0) return undefined;
  const generated = new Map((status?.resourceClaimStatuses ?? []).map((entry) => [entry.name, entry]));
  const failPrepare = metadata.annotations?.[failPrepareAnnotation];
  return {
    uid: metadata.uid ?? "",
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    node: spec.nodeName,
    resourceVersion: Number(metadata.resourceVersion ?? 0),
    terminal: status?.phase === "Succeeded" || status?.phase === "Failed",
    marked: metadata.annotations?.[preparedAnnotation] === "true",
    ...(failPrepare === undefined ? {} : { failPrepare }),
    claims: (spec.resourceClaims ?? []).flatMap(({ name, resourceClaimName }) => {
      const entry = generated.get(name);
      const claimName = resourceClaimName ?? entry?.resourceClaimName ?? undefined;
      // An entry without a name says that the template needed no claim.
      if (claimName === undefined && entry !== undefined) return [];
      return [{ name, ...(claimName === undefined ? {} : { claimName }) }];
    }),
  };
}

/** A pod that the API server was about to remove. */
export type EndingPod = Pick<BoundPod, "uid" | "namespace" | "name">;

/** Raw Pod → itself, if its deletion leaves it no time; undefined for others. */
export function endingPod({ metadata }: Pod): EndingPod | undefined {
  const { uid = "", namespace = "", name, deletionTimestamp, deletionGracePeriodSeconds } = metadata;
  if (deletionTimestamp === undefined || deletionGracePeriodSeconds !== 0) return undefined;
  return { uid, namespace, name };
}

/** Raw ResourceClaim → what kubelets read of it, and all of it but who wrote which field. */
export function observedClaim(raw: ResourceClaim): ObservedClaim {
  const { managedFields: _, ...metadata } = raw.metadata;
  const { status } = raw;
  // Simulated hardware has no device that is given in parts: those belong to somebody outside the node.
  const results = (status?.allocation?.devices?.results ?? []).filter(
    ({ driver, shareID }) => driver === driverName && shareID === undefined,
  );
  const devices = results.map(({ pool, device, adminAccess }): ObservedDevice => {
    return { pool, device, ...(adminAccess === true ? { watched: true } : {}) };
  });
  return {
    uid: metadata.uid ?? "",
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    resourceVersion: Number(metadata.resourceVersion ?? 0),
    ...(status?.allocation === undefined ? {} : { devices }),
    reservedFor: (status?.reservedFor ?? []).filter((c) => c.resource === "pods").map((consumer) => consumer.uid),
    object: { ...raw, metadata },
  };
}

/** The kubelet calls a driver for claims that hold a device of it, whichever. */
export function concernsDriver({ object }: ObservedClaim): boolean {
  return object.status?.allocation?.devices?.results?.some(({ driver }) => driver === driverName) === true;
}

/** Both hold the same devices, in whatever order. */
export function sameDevices(left: ObservedClaim, right: ObservedClaim): boolean {
  return deviceNames(left.devices) === deviceNames(right.devices);
}

/** `n1/gpu-0 n1/gpu-1` */
export function deviceNames(devices: ObservedClaim["devices"]): string {
  return (devices ?? [])
    .map(({ pool, device }) => `${pool}/${device}`)
    .toSorted()
    .join(" ");
}
