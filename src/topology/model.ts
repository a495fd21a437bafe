import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import type { PlacedPod } from "../api/placement.ts";
import type { ClaimRecord, DeviceClassRecord, NodeRecord, PodRecord, Resources, SliceRecord } from "./records.ts";

/** One slot of a gang that is held: the place it was promised and what it asks of the node. */
export interface HeldPod {
  placed: PlacedPod;
  requests: Resources;
  /** The pod that fills the slot; absent while nobody does. */
  podUid?: string;
}

/**
 * The one mutable picture of the cluster. Upserts are idempotent and cost what their own object costs, so that watch
 * events may be repeated or replayed.
 *
 * The ledger is the union of what claims hold, of devices of pods that still run (also when their claim is gone), and
 * of holds. A device is free exactly when nothing holds it.
 */
export interface ClusterModel {
  upsertNode(node: NodeRecord): void;
  removeNode(name: string): void;
  upsertSlice(slice: SliceRecord): void;
  removeSlice(name: string): void;
  upsertDeviceClass(deviceClass: DeviceClassRecord): void;
  removeDeviceClass(name: string): void;
  upsertTopology(name: string, spec: ClusterTopologySpec): void;
  removeTopology(name: string): void;
  /** A bound pod that is not terminal uses node resources, and devices of its claims even when a claim is gone. */
  upsertPod(pod: PodRecord): void;
  removePod(uid: string): void;
  /** A claim's allocation holds its devices. */
  upsertClaim(claim: ClaimRecord): void;
  removeClaim(uid: string): void;

  claim(namespace: string, name: string): ClaimRecord | undefined;
  pod(uid: string): PodRecord | undefined;
  node(name: string): NodeRecord | undefined;

  /**
   * Holds devices and node resources of pods that are not bound yet, replacing everything held under `key`
   * (`namespace/name` of the gang). A bound pod of the same namespace and name on the held node is not counted twice.
   */
  hold(key: string, namespace: string, pods: readonly HeldPod[]): void;
  release(key: string): void;
  /** Who holds a device: `claim:UID`, `hold:KEY`, `pod:UID`, sorted; empty: free. For audits and messages. */
  holdersOf(driver: string, pool: string, device: string): readonly string[];

  /** Grows with every change that may free or take anything. */
  readonly version: number;
  /** Grows only when something was freed or added: rejected gangs are worth another try. */
  readonly capacityVersion: number;
}
