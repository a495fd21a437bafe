import { bindMarker, memberMarker } from "../api/names.ts";
import {
  type AllocateOptions,
  type AllocationFailure,
  allocateOnNode,
  type DeviceChoice,
  isAllocationFailure,
} from "../dra/allocator/allocate.ts";
import { type ClaimProblem, type CompiledClaim, compileClaim, isClaimProblem } from "../dra/allocator/claim.ts";
import type { Fabric } from "../topology/fabric.ts";
import { changeUsage, copyUsage, type NodeInventory, type NodeUsage } from "../topology/inventory.ts";
import { levelValue } from "../topology/levels.ts";
import type { ModelView } from "../topology/model.ts";
import { matchesNodeSelector } from "../topology/node-selector.ts";
import type { ClaimRecord, NodeRecord, PodRecord } from "../topology/records.ts";
import { nodeRefusal } from "./node-match.ts";

/** What makes two pods interchangeable for the planner: equal wishes, requests and claims. */
export interface Shape {
  readonly key: string;
  /** A pod of the shape: its selectors and tolerations stand for all. */
  readonly pod: PodRecord;
  /** Resource → amount, `pods` included, marker resources left out; zero amounts left out. */
  readonly demands: readonly (readonly [resource: string, amount: number])[];
  /** Claims that still need devices. */
  readonly claims: readonly CompiledClaim[];
  /** Claims that have devices already: they tie the pod to nodes. */
  readonly allocated: readonly ClaimRecord[];
  /** How devices for one pod are to be chosen on a node. */
  optionsOn(node: NodeRecord): AllocateOptions;
  /** Devices that one pod needs at least. */
  readonly devices: number;
}

/** Devices of one pod share the value of the attribute, except on nodes that have one of the labels. */
export interface Alone {
  readonly attribute: string;
  readonly unlessLabels: readonly string[];
}

/** A device attribute whose value earlier choices have fixed. */
export interface Together {
  readonly attribute: string;
  readonly value: string;
}

/** More slots than this on one node are not told apart. */
const maxSlotsPerNode = 1024;

const markers: ReadonlySet<string> = new Set([bindMarker, memberMarker]);

/** What a pod asks of a node, as kube-scheduler counts it. */
export function demandsOf(pod: Pick<PodRecord, "requests">): [resource: string, amount: number][] {
  const demands: [string, number][] = [["pods", 1]];
  for (const [name, amount] of Object.entries(pod.requests)) {
    if (amount > 0 && !markers.has(name) && name !== "pods") demands.push([name, amount]);
  }
  return demands.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** How often the demands fit beside what is used. A node that does not report `pods` has no limit on their number. */
export function roomFor(
  demands: Shape["demands"],
  allocatable: NodeRecord["allocatable"],
  used: Readonly<Record<string, number>>,
): number {
  let room = maxSlotsPerNode;
  for (const [name, amount] of demands) {
    const total = allocatable[name] ?? (name === "pods" ? maxSlotsPerNode : 0);
    room = Math.min(room, Math.floor((total - (used[name] ?? 0)) / amount));
  }
  return Math.max(0, room);
}

export function takeDevices(inventory: NodeInventory, usage: NodeUsage, choice: DeviceChoice, by: 1 | -1): void {
  for (const claim of choice.claims) {
    for (const { device, admin, share } of claim.devices) {
      if (admin === undefined) changeUsage(inventory, usage, device, by, share);
    }
  }
}

/** Does the node admit pods of the shape at all, however much is free? Undefined: yes. */
export function shapeRefusal(shape: Shape, node: NodeRecord): string | undefined {
  const refusal = nodeRefusal(shape.pod, node);
  if (refusal) return refusal;
  const elsewhere = shape.allocated.some(
    ({ allocation }) => allocation?.nodeSelector && !matchesNodeSelector(allocation.nodeSelector, node),
  );
  return elsewhere ? "cannot reach devices that its claims have already" : undefined;
}

/** How many pods of the shape a node takes as it is, one after the other. */
function slotsOn(view: ModelView, index: number, shape: Shape): number {
  const { record, load } = view.nodes[index]!;
  return countSlots(shape, record, roomFor(shape.demands, record.allocatable, load.used), view.inventory(index), () =>
    view.usage(index),
  );
}

/** Chooses devices for one pod of the shape; those of earlier pods may have fixed values of attributes. */
export function chooseDevices(
  { claims, optionsOn }: Shape,
  node: NodeRecord,
  inventory: NodeInventory,
  usage: NodeUsage,
  together: readonly Together[] = [],
): DeviceChoice | AllocationFailure {
  const options = optionsOn(node);
  if (together.length === 0) return allocateOnNode(inventory, usage, claims, options);
  return allocateOnNode(inventory, usage, claims, {
    ...options,
    together: [...(options.together ?? []), ...together],
  });
}

/** As many pods of the shape as devices allow, at most `room`. */
export function countSlots(
  shape: Shape,
  node: NodeRecord,
  room: number,
  inventory: NodeInventory,
  usage: () => NodeUsage,
  together: readonly Together[] = [],
): number {
  if (room === 0 || shape.claims.length === 0) return room;
  let trial = usage();
  for (let slots = 0; slots < room; slots++) {
    const choice = chooseDevices(shape, node, inventory, trial, together);
    if (isAllocationFailure(choice)) return slots;
    if (slots === 0) trial = copyUsage(trial);
    takeDevices(inventory, trial, choice, 1);
  }
  return room;
}

/** Per node and per domain: how many pods of one shape fit. Brought up to date by looking at changed nodes only. */
export interface ShapeTable {
  readonly shape: Shape;
  /** Node index → pods of the shape that fit now. */
  readonly slots: Int32Array;
  /** Node index → devices that nobody holds: how much of the node a placement could spoil. */
  readonly spare: Int32Array;
  /** Node index → 1 when the node admits the shape. */
  readonly admits: Uint8Array;
  /** Sum of `slots` over all nodes. */
  readonly total: number;
  /** Domain id → sum of `slots`, or of `spare`, over the nodes of the domain. */
  sums(fabric: Fabric, level: number, what: "slots" | "spare"): Int32Array;
}

interface MutableTable extends ShapeTable {
  slots: Int32Array;
  spare: Int32Array;
  admits: Uint8Array;
  total: number;
  /** Model version of the last refresh. */
  seen: number;
  lastUse: number;
  sumCache: Map<Fabric, { structureVersion: number; slots: Int32Array[]; spare: Int32Array[] }>;
}

function newTable(shape: Shape): MutableTable {
  const table: MutableTable = {
    shape,
    slots: new Int32Array(0),
    spare: new Int32Array(0),
    admits: new Uint8Array(0),
    total: 0,
    seen: -1,
    lastUse: 0,
    sumCache: new Map(),
    sums(fabric, level, what) {
      let cache = table.sumCache.get(fabric);
      if (cache?.structureVersion !== fabric.structureVersion) {
        cache = { structureVersion: fabric.structureVersion, slots: [], spare: [] };
        table.sumCache.set(fabric, cache);
      }
      cache[what][level] ??= domainSums(fabric, level, table[what]);
      return cache[what][level];
    },
  };
  return table;
}

function domainSums(fabric: Fabric, level: number, perNode: Int32Array): Int32Array {
  const { domains, domainOf } = fabric.nodeLevels[level]!;
  const sums = new Int32Array(domains.length);
  for (let node = 0; node < perNode.length; node++) {
    const domain = domainOf[node] ?? -1;
    if (domain >= 0) sums[domain]! += perNode[node]!;
  }
  return sums;
}

function refresh(table: MutableTable, view: ModelView, version: number): void {
  const count = view.nodes.length;
  if (table.slots.length < count) {
    table.slots = copyInto(new Int32Array(count + 16), table.slots);
    table.spare = copyInto(new Int32Array(count + 16), table.spare);
    const admits = new Uint8Array(count + 16);
    admits.set(table.admits);
    table.admits = admits;
  }
  for (let index = 0; index < count; index++) {
    if (view.nodeVersion(index) > table.seen) refreshNode(table, view, index);
  }
  for (const [fabric, cache] of table.sumCache) {
    if (cache.structureVersion !== fabric.structureVersion) table.sumCache.delete(fabric);
  }
  table.seen = version;
}

function copyInto(target: Int32Array<ArrayBuffer>, source: Int32Array): Int32Array<ArrayBuffer> {
  target.set(source);
  return target;
}

function refreshNode(table: MutableTable, view: ModelView, index: number): void {
  const state = view.nodes[index];
  const admits = state !== undefined && shapeRefusal(table.shape, state.record) === undefined;
  const slots = admits ? slotsOn(view, index, table.shape) : 0;
  let spare = 0;
  if (admits && table.shape.claims.length > 0) for (const used of view.usage(index).used) if (used === 0) spare++;
  addToSums(table, index, slots - table.slots[index]!, spare - table.spare[index]!);
  table.total += slots - table.slots[index]!;
  table.slots[index] = slots;
  table.spare[index] = spare;
  table.admits[index] = admits ? 1 : 0;
}

function addToSums(table: MutableTable, index: number, slots: number, spare: number): void {
  for (const [fabric, cache] of table.sumCache) {
    if (cache.structureVersion !== fabric.structureVersion) continue;
    for (const { index: level, domainOf } of fabric.nodeLevels) {
      const domain = domainOf[index] ?? -1;
      if (domain < 0) continue;
      if (cache.slots[level]) cache.slots[level][domain]! += slots;
      if (cache.spare[level]) cache.spare[level][domain]! += spare;
    }
  }
}

/** Compiled claims and slot counts, kept between plans of one model. */
export interface FitCache {
  compile(claim: ClaimRecord): CompiledClaim | ClaimProblem;
  /** The shape's table, up to date with the model. */
  table(shape: Shape): ShapeTable;
}

const maxTables = 128;
const maxCompiled = 4096;
const caches = new WeakMap<ModelView, FitCache>();

/** The cache of a model. What it returns depends on the model's present state alone. */
export function fitCache(model: { readonly view: ModelView; readonly version: number }): FitCache {
  const known = caches.get(model.view);
  if (known) return known;
  const { view } = model;
  const compiled = new Map<string, CompiledClaim | ClaimProblem>();
  const tables = new Map<string, MutableTable>();
  let classVersion = view.classVersion;
  let uses = 0;
  const cache: FitCache = {
    compile(claim) {
      if (classVersion !== view.classVersion) {
        classVersion = view.classVersion;
        compiled.clear();
        tables.clear();
      }
      const key = JSON.stringify(claim.spec);
      let result = compiled.get(key);
      if (!result) {
        if (compiled.size >= maxCompiled) compiled.clear();
        result = compileClaim(claim.spec, view.deviceClasses, view.managedDrivers);
        compiled.set(key, result);
      }
      return result;
    },
    table(shape) {
      let table = tables.get(shape.key);
      if (!table) {
        if (tables.size >= maxTables) tables.delete(oldest(tables));
        table = newTable(shape);
        tables.set(shape.key, table);
      }
      table.lastUse = ++uses;
      if (table.seen !== model.version) refresh(table, view, model.version);
      return table;
    },
  };
  caches.set(model.view, cache);
  return cache;
}

function oldest(tables: ReadonlyMap<string, MutableTable>): string {
  let result = "";
  let lastUse = Number.POSITIVE_INFINITY;
  for (const [key, table] of tables) {
    if (table.lastUse >= lastUse) continue;
    lastUse = table.lastUse;
    result = key;
  }
  return result;
}

/**
 * The shape of a pod whose claims exist. `alone`: what all devices of this one pod have in common.
 * `islands`: attributes that name islands inside a host, broad to narrow; undefined: the allocator's own.
 */
export function shapeOf(
  pod: PodRecord,
  claims: readonly ClaimRecord[],
  cache: FitCache,
  alone: readonly Alone[],
  islands: readonly string[] | undefined,
): Shape | ClaimProblem {
  const pending: CompiledClaim[] = [];
  const allocated: ClaimRecord[] = [];
  for (const claim of claims) {
    if (claim.allocation) {
      allocated.push(claim);
      continue;
    }
    const compiled = cache.compile(claim);
    if (isClaimProblem(compiled)) {
      return { reason: compiled.reason, message: `ResourceClaim ${claim.name}: ${compiled.message}` };
    }
    pending.push(compiled);
  }
  const demands = demandsOf(pod);
  const key = JSON.stringify([
    demands,
    Object.entries(pod.nodeSelector).sort(([a], [b]) => (a < b ? -1 : 1)),
    pod.nodeAffinity ?? null,
    pod.tolerations,
    pending.map(({ shape }) => shape),
    allocated.map(({ uid, allocation }) => [uid, allocation?.nodeSelector ?? null]),
    alone,
    islands ?? null,
  ]);
  const options: AllocateOptions = { together: alone, ...(islands && { islands }) };
  const optionsOn = (node: NodeRecord): AllocateOptions => {
    const binding = alone.filter(({ unlessLabels }) => levelValue(unlessLabels, node) === undefined);
    return binding.length === alone.length ? options : { ...options, together: binding };
  };
  return { key, pod, demands, claims: pending, allocated, optionsOn, devices: leastDevices(pending) };
}

function leastDevices(claims: readonly CompiledClaim[]): number {
  return claims
    .flatMap((claim) => claim.requests)
    .reduce((sum, { alternatives }) => sum + Math.min(...alternatives.map(({ count }) => Math.max(1, count))), 0);
}
