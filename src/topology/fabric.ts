import type { ClusterTopologySpec, TopologyLevel } from "../api/cluster-topology.ts";
import { levelValue } from "./levels.ts";
import { comparePlain, naturalKey } from "./natural-order.ts";
import type { NodeRecord } from "./records.ts";

/** A place that a level names: all nodes whose labels agree from the broadest level down to this one. */
export interface Domain {
  readonly id: number;
  /** Label values from broad to narrow joined by `/`; levels that the nodes lack are left out. */
  readonly path: string;
  /** Per broader level: the domain that contains this one; -1 where its nodes lack the label. */
  readonly ancestors: readonly number[];
  /** Dense node indices, in no particular order. */
  readonly nodes: number[];
  /** Unique within the level; sorts domains naturally. */
  readonly key: string;
}

/** A level that reads node labels. */
export interface NodeLevel {
  readonly name: string;
  readonly index: number;
  readonly nodeLabels: readonly string[];
  /** Its domains inside hosts that have none of the labels; absent: such hosts are in no domain of it. */
  readonly inside?: DeviceLevel;
  readonly link: Pick<TopologyLevel, "gigabytesPerSecond" | "microseconds">;
  /** Domain id → domain; undefined where an id is not in use. */
  readonly domains: readonly (Domain | undefined)[];
  /** Node index → domain id; -1: the node lacks the labels. */
  readonly domainOf: Int32Array;
}

/** A level inside a host; its domains are values of a device attribute, together with the host. */
export interface DeviceLevel {
  readonly name: string;
  readonly attribute: string;
  readonly link: Pick<TopologyLevel, "gigabytesPerSecond" | "microseconds">;
}

/**
 * The domains of one ClusterTopology over the nodes of the model, kept up to date node by node. Domain ids and node
 * indices are dense, so that sums over them are typed arrays.
 */
export interface Fabric {
  readonly spec: ClusterTopologySpec;
  readonly nodeLevels: readonly NodeLevel[];
  readonly deviceLevels: readonly DeviceLevel[];
  /** Grows when a node enters, leaves or moves. */
  readonly structureVersion: number;
  setNode(index: number, node: NodeRecord): void;
  removeNode(index: number): void;
  /** Place of each node in the order of domains, then of names: neighbours in it are close. */
  rankOf(node: number): number;
}

interface MutableLevel extends NodeLevel {
  domains: (Domain | undefined)[];
  domainOf: Int32Array;
  readonly idByKey: Map<string, number>;
  readonly freeIds: number[];
}

export function createFabric(spec: ClusterTopologySpec): Fabric {
  const levels: MutableLevel[] = [];
  const deviceLevels: DeviceLevel[] = [];
  for (const level of spec.levels) {
    const { name, nodeLabels, deviceAttribute: attribute } = level;
    const inside = attribute === undefined ? undefined : { name, attribute, link: level };
    if (nodeLabels) levels.push({ ...newLevel(level, nodeLabels, levels.length), ...(inside && { inside }) });
    else if (inside) deviceLevels.push(inside);
  }
  const orderKeys = new Map<number, string>();
  let structureVersion = 0;
  let ranks = new Int32Array(0);
  let ranksVersion = -1;

  const leave = (index: number): boolean => {
    if (!orderKeys.delete(index)) return false;
    for (const level of levels) leaveLevel(level, index);
    return true;
  };
  return {
    spec,
    nodeLevels: levels,
    deviceLevels,
    get structureVersion() {
      return structureVersion;
    },
    setNode(index, node) {
      const values = levels.map((level) => levelValue(level.nodeLabels, node));
      const orderKey = `${values.map((value) => naturalKey(value ?? "")).join("\0")}\0${naturalKey(node.name)}\0${node.name}`;
      if (orderKeys.get(index) === orderKey) return;
      leave(index);
      orderKeys.set(index, orderKey);
      enterLevels(levels, index, values);
      structureVersion++;
    },
    removeNode(index) {
      if (leave(index)) structureVersion++;
    },
    rankOf(node) {
      if (ranksVersion !== structureVersion) {
        ranks = rank(orderKeys);
        ranksVersion = structureVersion;
      }
      return ranks[node] ?? -1;
    },
  };
}

function newLevel(level: TopologyLevel, nodeLabels: readonly string[], index: number): MutableLevel {
  return {
    name: level.name,
    index,
    nodeLabels,
    link: level,
    domains: [],
    domainOf: new Int32Array(16).fill(-1),
    idByKey: new Map(),
    freeIds: [],
  };
}

function enterLevels(levels: readonly MutableLevel[], index: number, values: readonly (string | undefined)[]): void {
  const ancestors: number[] = [];
  let key = "";
  let path = "";
  for (const [l, level] of levels.entries()) {
    if (index >= level.domainOf.length) level.domainOf = grown(level.domainOf, index + 1);
    const value = values[l];
    key = `${key}\0${naturalKey(value ?? "")}\0${value ?? ""}`;
    if (value === undefined) {
      level.domainOf[index] = -1;
      ancestors.push(-1);
      continue;
    }
    path = path === "" ? value : `${path}/${value}`;
    const domain = domainFor(level, key, path, ancestors);
    domain.nodes.push(index);
    level.domainOf[index] = domain.id;
    ancestors.push(domain.id);
  }
}

function domainFor(level: MutableLevel, key: string, path: string, ancestors: readonly number[]): Domain {
  const known = level.idByKey.get(key);
  if (known !== undefined) return level.domains[known]!;
  const id = level.freeIds.pop() ?? level.domains.length;
  const domain: Domain = { id, path, ancestors: ancestors.slice(), nodes: [], key };
  level.domains[id] = domain;
  level.idByKey.set(key, id);
  return domain;
}

function leaveLevel(level: MutableLevel, index: number): void {
  const id = level.domainOf[index] ?? -1;
  level.domainOf[index] = -1;
  const domain = level.domains[id];
  if (id < 0 || !domain) return;
  const at = domain.nodes.indexOf(index);
  domain.nodes[at] = domain.nodes.at(-1)!;
  domain.nodes.pop();
  if (domain.nodes.length > 0) return;
  level.idByKey.delete(domain.key);
  level.domains[id] = undefined;
  level.freeIds.push(id);
}

function grown(array: Int32Array, length: number): Int32Array {
  const larger = new Int32Array(Math.max(length, array.length * 2)).fill(-1);
  larger.set(array);
  return larger;
}

function rank(orderKeys: ReadonlyMap<number, string>): Int32Array<ArrayBuffer> {
  const entries = [...orderKeys].sort((a, b) => comparePlain(a[1], b[1]));
  const highest = entries.reduce((most, [index]) => Math.max(most, index), -1);
  const ranks = new Int32Array(highest + 1).fill(-1);
  for (const [position, [index]] of entries.entries()) ranks[index] = position;
  return ranks;
}
