import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import type { ChangeClock } from "./clock.ts";
import { equalJson } from "./equal.ts";
import { createFabric, type Fabric } from "./fabric.ts";
import { deviceOf, type Held } from "./held.ts";
import {
  assembleInventory,
  type Consumption,
  changeUsage,
  emptyUsage,
  type NodeInventory,
  type NodeUsage,
} from "./inventory.ts";
import { builtInTopology } from "./levels.ts";
import { createNodeLoad, type LoadChange, type NodeLoad } from "./node-load.ts";
import type { NodeRecord, SliceRecord, TaintRuleRecord } from "./records.ts";
import { createSliceIndex } from "./slice-index.ts";

/** A node as the planner sees it. */
export interface NodeState {
  readonly index: number;
  readonly record: NodeRecord;
  readonly load: NodeLoad;
}

interface Devices {
  readonly inventory: NodeInventory;
  readonly usage: NodeUsage;
}

/** Nodes with their devices, loads and domains. */
export interface NodeTable {
  readonly nodes: readonly (NodeState | undefined)[];
  indexOf(name: string): number | undefined;
  nodeVersion(index: number): number;
  /** Nodes that changed after a version of the model, some perhaps named twice; undefined: too many, look at all. */
  changedSince(version: number): readonly number[] | undefined;
  inventory(index: number): NodeInventory;
  usage(index: number): NodeUsage;
  fabric(name: string): Fabric | undefined;
  upsertNode(node: NodeRecord): void;
  removeNode(name: string): void;
  upsertSlice(slice: SliceRecord): void;
  removeSlice(name: string): void;
  upsertTaintRule(rule: TaintRuleRecord): void;
  removeTaintRule(name: string): void;
  upsertTopology(name: string, spec: ClusterTopologySpec): void;
  removeTopology(name: string): void;
  /** A device, or a share of one, got its first holder or lost its last. */
  deviceChanged(held: Held, taken: boolean): void;
  /** A pod uses devices of the node, and nothing tells which. Undefined: of no node any more. */
  setUnknown(podUid: string, node: string | undefined): void;
  /** Changes what pods ask of a node, which need not exist yet. */
  changeLoad(nodeName: string, change: (load: NodeLoad) => LoadChange): void;
}

/** `heldOf`: what of the device `driver/pool/name` is held. */
export function createNodeTable(clock: ChangeClock, heldOf: (device: string) => readonly Held[]): NodeTable {
  const nodes: (NodeState | undefined)[] = [];
  const indexByName = new Map<string, number>();
  const freeIndices: number[] = [];
  const versions: number[] = [];
  const changes = createChangeLog();
  const loads = new Map<string, NodeLoad>();
  /** node index → devices; absent: to be assembled when next asked for */
  const assembled = new Map<number, Devices>();
  /** device key → node indices whose assembled inventory has it */
  const homes = new Map<string, number[]>();
  const slices = createSliceIndex();
  /** pod UID → node of which it uses devices, nobody knows which */
  const unknown = new Map<string, string>();
  const fabrics = new Map<string, Fabric>([["default", createFabric(builtInTopology)]]);

  const touch = (index: number | undefined, freed: boolean) => {
    clock.tick(freed);
    if (index === undefined) return;
    versions[index] = clock.version;
    changes.add(index, clock.version);
  };
  const dropDevices = (index: number) => {
    const devices = assembled.get(index);
    if (!devices) return;
    assembled.delete(index);
    for (const { key } of devices.inventory.devices) {
      const remaining = homes.get(key)!.filter((home) => home !== index);
      if (remaining.length === 0) homes.delete(key);
      else homes.set(key, remaining);
    }
  };
  const devicesOf = (index: number): Devices => {
    const known = assembled.get(index);
    if (known) return known;
    const { record } = nodes[index]!;
    const inventory = assembleInventory(record, slices.of(record.name));
    const usage = emptyUsage(inventory);
    const isUnknown = unknown.size > 0 && [...unknown.values()].includes(record.name);
    for (const { key, index: device } of inventory.devices) {
      homes.set(key, [...(homes.get(key) ?? []), index]);
      if (isUnknown) changeUsage(inventory, usage, device, 1);
      for (const held of heldOf(key)) changeUsage(inventory, usage, device, 1, consumedBy(held));
    }
    const devices = { inventory, usage };
    assembled.set(index, devices);
    return devices;
  };
  const slicesChanged = (concerned: Iterable<string> | undefined) => {
    const indices =
      concerned === undefined ? indexByName.values() : [...concerned].map((name) => indexByName.get(name));
    for (const index of indices) {
      if (index === undefined) continue;
      dropDevices(index);
      touch(index, true);
    }
    clock.tick(true);
  };
  const setFabric = (name: string, spec: ClusterTopologySpec) => {
    const fabric = createFabric(spec);
    for (const state of nodes) if (state) fabric.setNode(state.index, state.record);
    fabrics.set(name, fabric);
    clock.tick(true);
  };
  const loadOf = (name: string): NodeLoad => {
    let load = loads.get(name);
    if (!load) {
      load = createNodeLoad();
      loads.set(name, load);
    }
    return load;
  };

  return {
    nodes,
    indexOf: (name) => indexByName.get(name),
    nodeVersion: (index) => versions[index] ?? 0,
    changedSince: changes.since,
    inventory: (index) => devicesOf(index).inventory,
    usage: (index) => devicesOf(index).usage,
    fabric: (name) => fabrics.get(name),
    upsertNode(node) {
      const known = indexByName.get(node.name);
      if (known !== undefined && equalJson(nodes[known]!.record, node)) return;
      const index = known ?? freeIndices.pop() ?? nodes.length;
      nodes[index] = { index, record: node, load: loadOf(node.name) };
      indexByName.set(node.name, index);
      dropDevices(index);
      for (const fabric of fabrics.values()) fabric.setNode(index, node);
      touch(index, true);
    },
    removeNode(name) {
      const index = indexByName.get(name);
      if (index === undefined) return;
      dropDevices(index);
      for (const fabric of fabrics.values()) fabric.removeNode(index);
      indexByName.delete(name);
      nodes[index] = undefined;
      freeIndices.push(index);
      if (loads.get(name)?.empty) loads.delete(name);
      touch(index, false);
    },
    upsertSlice(slice) {
      const before = slices.get(slice.name);
      if (equalJson(before, slice)) return;
      const left = before ? slices.remove(before) : [];
      slicesChanged(union(left, slices.set(slice)));
    },
    removeSlice(name) {
      const before = slices.get(name);
      if (before) slicesChanged(slices.remove(before));
    },
    upsertTaintRule(rule) {
      const before = slices.rule(rule.name);
      if (equalJson(before, rule)) return;
      const left = before ? slices.removeRule(before) : [];
      slicesChanged(union(left, slices.setRule(rule)));
    },
    removeTaintRule(name) {
      const before = slices.rule(name);
      if (before) slicesChanged(slices.removeRule(before));
    },
    upsertTopology(name, spec) {
      if (!equalJson(fabrics.get(name)?.spec, spec)) setFabric(name, spec);
    },
    removeTopology(name) {
      if (name === "default") {
        if (fabrics.get(name)?.spec !== builtInTopology) setFabric(name, builtInTopology);
      } else if (fabrics.delete(name)) clock.tick(false);
    },
    deviceChanged(held, taken) {
      clock.tick(!taken);
      const device = deviceOf(held);
      for (const index of homes.get(device) ?? []) {
        const { inventory, usage } = assembled.get(index)!;
        changeUsage(inventory, usage, inventory.indexOf.get(device)!, taken ? 1 : -1, consumedBy(held));
        touch(index, !taken);
      }
    },
    setUnknown(podUid, node) {
      const before = unknown.get(podUid);
      if (before === node) return;
      if (node === undefined) unknown.delete(podUid);
      else unknown.set(podUid, node);
      for (const name of [before, node]) {
        const index = indexByName.get(name ?? "");
        if (index === undefined) continue;
        dropDevices(index);
        touch(index, name === before);
      }
    },
    changeLoad(nodeName, change) {
      const load = loadOf(nodeName);
      const { changed, freed } = change(load);
      const index = indexByName.get(nodeName);
      if (load.empty && index === undefined) loads.delete(nodeName);
      if (changed) touch(index, freed);
    },
  };
}

/** Nodes of either; undefined: any node. */
function union(left: Iterable<string> | undefined, right: Iterable<string> | undefined): Iterable<string> | undefined {
  return left === undefined || right === undefined ? undefined : new Set([...left, ...right]);
}

/** What is consumed of a device that is held in shares; undefined: all of it is held. */
function consumedBy(held: Held): Consumption | undefined {
  return typeof held === "string" ? undefined : held.consumed;
}

const longestLog = 8192;

/** Which nodes changed lately, so that who was up to date need not look at all of them. */
function createChangeLog() {
  let nodes: number[] = [];
  let versions: number[] = [];
  /** What changed at this version or before it is forgotten. */
  let forgotten = 0;
  return {
    add(node: number, version: number): void {
      if (nodes.length === longestLog) {
        forgotten = versions[longestLog / 2 - 1]!;
        nodes = nodes.slice(longestLog / 2);
        versions = versions.slice(longestLog / 2);
      }
      nodes.push(node);
      versions.push(version);
    },
    since(version: number): number[] | undefined {
      if (version < forgotten) return undefined;
      let first = versions.length;
      while (first > 0 && versions[first - 1]! > version) first--;
      return nodes.slice(first);
    },
  };
}
