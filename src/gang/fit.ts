import { type ClaimProblem, type CompiledClaim, compileClaim } from "../dra/allocator/claim.ts";
import type { Fabric } from "../topology/fabric.ts";
import { likeness } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import type { ClaimRecord } from "../topology/records.ts";
import type { LazyOrder } from "./score.ts";
import { roomFor, type Shape, shapeRefusal } from "./shape.ts";
import { createSlotCounts, type SlotCounts } from "./slot-counts.ts";
import { createTightness, type Tightness, type TightnessKey } from "./tightness.ts";

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
  /** Nodes with at least so many slots, tightest first, as the model has them. */
  tightest(fabric: Fabric, key: TightnessKey): LazyOrder<number>;
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
  orders: { fabric: Fabric; structureVersion: number; key: TightnessKey; tightness: Tightness }[];
}

/** Orders that a table keeps up to date at a time. */
const maxOrders = 8;

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
    orders: [],
    tightest(fabric, key) {
      const known = table.orders.find(
        (each) => each.fabric === fabric && each.key.least === key.least && each.key.first === key.first,
      );
      if (known?.structureVersion === fabric.structureVersion) return known.tightness.order();
      const { structureVersion } = fabric;
      const order = { fabric, structureVersion, key, tightness: createTightness(fabric, table, key) };
      table.orders = [order, ...table.orders.filter((each) => each !== known)].slice(0, maxOrders);
      return order.tightness.order();
    },
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

function refresh(table: MutableTable, view: ModelView, version: number, counts: SlotCounts): void {
  const count = view.nodes.length;
  if (table.slots.length < count) {
    table.slots = copyInto(new Int32Array(count + 16), table.slots);
    table.spare = copyInto(new Int32Array(count + 16), table.spare);
    const admits = new Uint8Array(count + 16);
    admits.set(table.admits);
    table.admits = admits;
  }
  for (const [fabric, cache] of table.sumCache) {
    if (cache.structureVersion !== fabric.structureVersion) table.sumCache.delete(fabric);
  }
  const changed = view.changedSince(table.seen);
  if (changed) for (const index of changed) refreshNode(table, view, index, counts);
  else for (let index = 0; index < count; index++) refreshNode(table, view, index, counts);
  table.seen = version;
}

function copyInto(target: Int32Array<ArrayBuffer>, source: Int32Array): Int32Array<ArrayBuffer> {
  target.set(source);
  return target;
}

function refreshNode(table: MutableTable, view: ModelView, index: number, counts: SlotCounts): void {
  const state = view.nodes[index];
  const admits = state !== undefined && shapeRefusal(table.shape, state.record) === undefined;
  const slots = admits ? slotsOn(view, index, table.shape, counts) : 0;
  let spare = 0;
  if (admits && table.shape.claims.length > 0) for (const used of view.usage(index).used) if (used === 0) spare++;
  table.admits[index] = admits ? 1 : 0;
  if (slots === table.slots[index] && spare === table.spare[index]) return;
  addToSums(table, index, slots - table.slots[index]!, spare - table.spare[index]!);
  for (const { tightness } of table.orders) tightness.changed(index);
  table.total += slots - table.slots[index]!;
  table.slots[index] = slots;
  table.spare[index] = spare;
}

/** How many pods of the shape a node takes as it is, one after the other. */
function slotsOn(view: ModelView, index: number, shape: Shape, counts: SlotCounts): number {
  const { record, load } = view.nodes[index]!;
  return counts.on(view, index, shape, roomFor(shape.demands, record.allocatable, load.used));
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
  const counts = createSlotCounts();
  let classVersion = view.classVersion;
  let uses = 0;
  const cache: FitCache = {
    compile(claim) {
      if (classVersion !== view.classVersion) {
        classVersion = view.classVersion;
        compiled.clear();
        tables.clear();
        counts.clear();
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
      if (table.seen !== model.version) refresh(table, view, model.version, counts);
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

/** Reads the devices of all nodes, which else the first plan has to do. Costs nothing for nodes that were read before. */
export function warmUp(view: ModelView): void {
  for (const node of view.nodes) if (node) likeness(view.inventory(node.index), []);
  view.fabric("default")?.rankOf(0);
}
