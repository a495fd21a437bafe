import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import type { PlacedPod } from "../api/placement.ts";
import { type ChangeClock, createChangeClock } from "./clock.ts";
import { equalJson } from "./equal.ts";
import type { Fabric } from "./fabric.ts";
import { deviceKey, deviceOf, heldBy, heldKey } from "./held.ts";
import type { NodeInventory, NodeUsage } from "./inventory.ts";
import { createLedger, type Ledger } from "./ledger.ts";
import { createNodeTable, type NodeState, type NodeTable } from "./node-table.ts";
import { createPodTable } from "./pod-table.ts";
import type {
  ClaimRecord,
  DeviceClassRecord,
  NodeRecord,
  PodRecord,
  Resources,
  SliceRecord,
  TaintRuleRecord,
} from "./records.ts";

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
  /** An administrator's taint on devices, whatever their slices say. */
  upsertTaintRule(rule: TaintRuleRecord): void;
  removeTaintRule(name: string): void;
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
  /** All pods and claims by UID; live views. */
  readonly pods: ReadonlyMap<string, PodRecord>;
  readonly claims: ReadonlyMap<string, ClaimRecord>;
  /** Pods that are not terminal and name the claim themselves, instead of having one made from a template. */
  sharersOf(namespace: string, claim: string): readonly PodRecord[];
  /** The ledger knows which devices the running pod had of the claim, whatever became of the claim. */
  remembersDevices(podUid: string, claimName: string): boolean;
  /** A pod uses devices of the node, and nothing tells which: none of the node's is free. Undefined: of no node any more. */
  setUnknown(podUid: string, node: string | undefined): void;
  node(name: string): NodeRecord | undefined;
  /** The named ClusterTopology; `default` always exists. */
  topology(name: string): ClusterTopologySpec | undefined;

  /**
   * Holds devices and node resources of pods that are not bound yet, replacing everything held under `key`
   * (`namespace/name` of the gang). A bound pod of the same namespace and name on the held node is not counted twice.
   */
  hold(key: string, namespace: string, pods: readonly HeldPod[]): void;
  release(key: string): void;
  /**
   * Who holds a device or any share of it: `claim:UID`, `hold:KEY`, `pod:UID`, sorted; empty: free. With `shareId`: who
   * holds that share, or the whole device.
   */
  holdersOf(driver: string, pool: string, device: string, shareId?: string): readonly string[];

  /** Who else holds a device of which the holder has all or a share, as `holdersOf` names them. */
  holdersBeside(holder: string): readonly string[];
  /** What a holder holds, as `holdersOf` names it: keys of devices and shares, sorted. For audits. */
  heldBy(holder: string): readonly string[];
  /** All that hold anything, as `holdersOf` names them. For audits. */
  ledgerHolders(): readonly string[];
  /** What a claim or a pod holds is made anew from its record; any other holder is forgotten. For audits. */
  restore(holder: string): void;

  /** Grows with every change that may free or take anything. */
  readonly version: number;
  /** Grows only when something was freed or added: rejected gangs are worth another try. */
  readonly capacityVersion: number;
  /** Tries out holds: a change that yields nothing has undone all it did, and nothing counts as freed. */
  attempt<T>(change: () => T | undefined): T | undefined;

  /** What the planner reads of it. */
  readonly view: ModelView;
}

/** The model as the planner reads it: dense by node index, which is stable while the node exists. */
export interface ModelView {
  /** Node index → node; undefined where an index is not in use. */
  readonly nodes: readonly (NodeState | undefined)[];
  indexOf(name: string): number | undefined;
  /** `version` of the model when anything about the node last changed. */
  nodeVersion(index: number): number;
  /** Nodes that changed after a version of the model, some perhaps named twice; undefined: too many, look at all. */
  changedSince(version: number): readonly number[] | undefined;
  inventory(index: number): NodeInventory;
  /** What is held on the node; shared, so never to be changed. */
  usage(index: number): NodeUsage;
  /** Domains of a ClusterTopology; `default` always exists. */
  fabric(name: string): Fabric | undefined;
  readonly deviceClasses: ReadonlyMap<string, DeviceClassRecord>;
  /** Grows when a device class changes. */
  readonly classVersion: number;
  readonly managedDrivers: ReadonlySet<string>;
  /** What is held under a key. */
  heldUnder(key: string): readonly HeldPod[];
  /** Keys under which something is held, each with the namespace of its pods. */
  holders(): readonly { readonly key: string; readonly namespace: string }[];
}

/** An empty cluster. `managedDrivers`: drivers whose devices kllama alone allocates. */
export function createClusterModel(options: { managedDrivers: readonly string[] }): ClusterModel {
  const clock = createChangeClock();
  const ledger: Ledger = createLedger((held, taken) => nodes.deviceChanged(held, taken));
  const nodes: NodeTable = createNodeTable(clock, (device) => ledger.heldOf(device));
  const pods = createPodTable(clock, nodes, ledger);
  const holds = createHolds(nodes, ledger);
  const classes = createDeviceClasses(clock);
  const { upsertNode, removeNode, upsertTopology, removeTopology, setUnknown } = nodes;
  return {
    setUnknown,
    upsertNode,
    removeNode,
    upsertSlice: nodes.upsertSlice,
    removeSlice: nodes.removeSlice,
    upsertTaintRule: nodes.upsertTaintRule,
    removeTaintRule: nodes.removeTaintRule,
    upsertTopology,
    removeTopology,
    upsertDeviceClass: classes.upsert,
    removeDeviceClass: classes.remove,
    ...pods,
    node: (name) => nodes.nodes[nodes.indexOf(name) ?? -1]?.record,
    topology: (name) => nodes.fabric(name)?.spec,
    hold: holds.hold,
    release: (key) => holds.hold(key, "", []),
    holdersOf: (driver, pool, device, shareId) => ledger.holdersOf(deviceKey(driver, pool, device), shareId),
    holdersBeside: (holder) => ledger.heldBy(holder).flatMap((held) => ledger.holdersOf(deviceOf(held))),
    heldBy: (holder) => ledger.heldBy(holder).map(heldKey).sort(),
    ledgerHolders: ledger.holders,
    restore: (holder) =>
      holder.startsWith("hold:") ? holds.forget(holder.slice("hold:".length)) : pods.restore(holder),
    get version() {
      return clock.version;
    },
    get capacityVersion() {
      return clock.capacityVersion;
    },
    attempt: clock.attempt,
    view: {
      nodes: nodes.nodes,
      indexOf: nodes.indexOf,
      nodeVersion: nodes.nodeVersion,
      changedSince: nodes.changedSince,
      inventory: nodes.inventory,
      usage: nodes.usage,
      fabric: nodes.fabric,
      deviceClasses: classes.classes,
      get classVersion() {
        return classes.version();
      },
      managedDrivers: new Set(options.managedDrivers),
      heldUnder: holds.heldUnder,
      holders: holds.holders,
    },
  };
}

function createDeviceClasses(clock: ChangeClock) {
  const classes = new Map<string, DeviceClassRecord>();
  let version = 0;
  return {
    classes: classes as ReadonlyMap<string, DeviceClassRecord>,
    version: () => version,
    upsert(record: DeviceClassRecord) {
      if (equalJson(classes.get(record.name), record)) return;
      classes.set(record.name, record);
      version++;
      clock.tick(true);
    },
    remove(name: string) {
      if (!classes.delete(name)) return;
      version++;
      clock.tick(false);
    },
  };
}

/** Names one slot of a hold. */
export function holdSlot(key: string, placed: PlacedPod): string {
  return `${key}/${placed.podSet}/${placed.index}`;
}

function createHolds(nodes: NodeTable, ledger: Ledger) {
  /** key → slots held under it */
  const held = new Map<string, { namespace: string; pods: readonly HeldPod[] }>();

  const setLoad = (key: string, namespace: string, pod: HeldPod, requests: Resources | undefined) =>
    nodes.changeLoad(pod.placed.node, (load) =>
      load.setHold(`${namespace}/${pod.placed.pod}`, holdSlot(key, pod.placed), requests),
    );
  return {
    /** Also what the ledger has and nobody put there. */
    forget(key: string) {
      const before = held.get(key);
      held.delete(key);
      for (const pod of before?.pods ?? []) setLoad(key, before!.namespace, pod, undefined);
      ledger.set(`hold:${key}`, []);
    },
    heldUnder: (key: string): readonly HeldPod[] => held.get(key)?.pods ?? [],
    holders: () => [...held].map(([key, { namespace }]) => ({ key, namespace })),
    hold(key: string, namespace: string, pods: readonly HeldPod[]) {
      const before = held.get(key);
      if (equalJson(before?.pods ?? [], pods)) return;
      const bySlot = (list: readonly HeldPod[]) => new Map(list.map((pod) => [holdSlot(key, pod.placed), pod]));
      const old = bySlot(before?.pods ?? []);
      const next = bySlot(pods);
      if (pods.length > 0) held.set(key, { namespace, pods });
      else held.delete(key);
      // What stays is not taken away for a moment: that would look as if something had become free.
      for (const [slot, pod] of old) {
        if (!equalJson(pod, next.get(slot))) setLoad(key, before!.namespace, pod, undefined);
        else next.delete(slot);
      }
      for (const pod of next.values()) setLoad(key, namespace, pod, pod.requests);
      const devices = pods.flatMap(({ placed }) => placed.claims.flatMap((claim) => claim.devices));
      ledger.set(`hold:${key}`, heldBy(devices));
    },
  };
}
