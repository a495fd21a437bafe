import { type ClaimProblem, type CompiledClaim, compileClaim, type Given } from "../dra/allocator/claim.ts";
import type { Fabric } from "../topology/fabric.ts";
import type { NodeInventory } from "../topology/inventory.ts";
import { likeness } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import { createFragmentation, type Fragmentation, type WorkloadMix } from "./fragmentation.ts";
import type { LazyOrder } from "./score.ts";
import { type Alone, roomFor, type Shape, shapeOf, shapeRefusal } from "./shape.ts";
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
  /** Nodes that admit the shape and have devices which several claims may each have a part of. */
  readonly sharing: number;
  /** Nodes that admit the shape and have devices which other nodes reach, too. */
  readonly reaching: number;
  /** Domain id → sum of `slots`, or of `spare`, over the nodes of the domain. */
  sums(fabric: Fabric, level: number, what: "slots" | "spare"): Int32Array;
  /** How much one pod on a node makes the fragmentation grow; absent while no workload is known. */
  readonly growth: ((node: number) => number) | undefined;
  /** Nodes with at least so many slots, tightest first, as the model has them. */
  tightest(fabric: Fabric, key: TightnessKey): LazyOrder<number>;
}

interface MutableTable extends ShapeTable {
  slots: Int32Array;
  spare: Int32Array;
  admits: Uint8Array;
  total: number;
  sharing: number;
  reaching: number;
  /** Node index → 1 where it counts for `sharing`, plus 2 where it counts for `reaching`. */
  kinds: Uint8Array;
  /** Model version of the last refresh. */
  seen: number;
  lastUse: number;
  sumCache: Map<Fabric, { structureVersion: number; slots: Int32Array[]; spare: Int32Array[] }>;
  growth: ((node: number) => number) | undefined;
  /** What `growth` rests on, and what it found: node → growth, NaN where it has to look again. */
  fragmentation: Fragmentation | undefined;
  growths: Float64Array;
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
    sharing: 0,
    reaching: 0,
    kinds: new Uint8Array(0),
    seen: -1,
    lastUse: 0,
    sumCache: new Map(),
    orders: [],
    growth: undefined,
    fragmentation: undefined,
    growths: new Float64Array(0),
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
    table.admits = copyInto(new Uint8Array(count + 16), table.admits);
    table.kinds = copyInto(new Uint8Array(count + 16), table.kinds);
  }
  for (const [fabric, cache] of table.sumCache) {
    if (cache.structureVersion !== fabric.structureVersion) table.sumCache.delete(fabric);
  }
  const changed = view.changedSince(table.seen);
  if (changed) for (const index of changed) refreshNode(table, view, index, counts);
  else for (let index = 0; index < count; index++) refreshNode(table, view, index, counts);
  table.seen = version;
}

function copyInto<T extends Int32Array | Uint8Array>(target: T, source: T): T {
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
  const kinds = admits && table.shape.claims.length > 0 ? kindsOf(view.inventory(index)) : 0;
  const before = table.kinds[index]!;
  table.sharing += (kinds & 1) - (before & 1);
  table.reaching += (kinds >> 1) - (before >> 1);
  table.kinds[index] = kinds;
  const same = slots === table.slots[index] && spare === table.spare[index];
  if (same && table.growth === undefined) return;
  table.growths[index] = Number.NaN;
  addToSums(table, index, slots - table.slots[index]!, spare - table.spare[index]!);
  for (const { tightness } of table.orders) tightness.changed(index);
  table.total += slots - table.slots[index]!;
  table.slots[index] = slots;
  table.spare[index] = spare;
}

function kindsOf({ sharedDevices, wide }: NodeInventory): number {
  return (sharedDevices > 0 ? 1 : 0) + (wide ? 2 : 0);
}

/** Other ideas of the workload make all nodes look different. */
function setFragmentation(table: MutableTable, fragmentation: Fragmentation | undefined): void {
  if (table.fragmentation === fragmentation && table.growths.length >= table.slots.length) return;
  table.fragmentation = fragmentation;
  table.orders = table.orders.filter(({ key }) => key.first !== "growth");
  table.growths = new Float64Array(fragmentation === undefined ? 0 : table.slots.length).fill(Number.NaN);
  table.growth =
    fragmentation &&
    ((node) => {
      if (Number.isNaN(table.growths[node])) table.growths[node] = fragmentation.growth(node, table.shape);
      return table.growths[node]!;
    });
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
  /** `shapeOf`, remembered for as long as there are this pod and these claims. */
  shape(
    pod: PodRecord,
    claims: readonly ClaimRecord[],
    alone: readonly Alone[],
    islands?: string[],
    given?: readonly Given[],
  ): Shape | ClaimProblem;
  /** The shape's table, up to date with the model. */
  table(shape: Shape): ShapeTable;
  /** How many pods of a table's shape fit on a node as another view has it, which admits the same pods there. */
  slotsIn(other: ModelView, table: ShapeTable, node: number): number;
  /** What pods to come will ask for, for all tables from now on; undefined: nothing is known of it. */
  expect(workload: Workload | undefined): void;
  /** By that; undefined: nothing is known of it. */
  fragmentation(): Fragmentation | undefined;
  /**
   * Lends the tables to a view that differs in some nodes, while `run` plans on that and on nothing else: making new
   * ones would mean looking at every node.
   */
  lend<T>(other: ModelView, changed: readonly number[], run: () => T): T;
}

/** Pods that stand for all that come, with their claims, and how many are like each. */
export type Workload = readonly {
  readonly pod: PodRecord;
  readonly claims: readonly ClaimRecord[];
  readonly weight: number;
}[];

interface KnownShape {
  readonly claims: readonly ClaimRecord[];
  readonly asked: string;
  readonly shape: Shape | ClaimProblem;
}

/** Tables take memory by nodes: many for small clusters, few for the largest. */
const maxTables = (nodes: number): number => Math.max(128, Math.min(1024, Math.floor(2_000_000 / Math.max(1, nodes))));
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
  let shapes = new WeakMap<PodRecord, KnownShape[]>();
  let classVersion = view.classVersion;
  /** What classes say is part of compiled claims, so of shapes and of what was counted for them. */
  const heedClasses = (): void => {
    if (classVersion === view.classVersion) return;
    classVersion = view.classVersion;
    compiled.clear();
    tables.clear();
    counts.clear();
    shapes = new WeakMap();
  };
  let expected: { workload: Workload; classVersion: number; fragmentation: Fragmentation } | undefined;
  let uses = 0;
  const cache: FitCache = {
    compile(claim) {
      heedClasses();
      const key = JSON.stringify(claim.spec);
      let result = compiled.get(key);
      if (!result) {
        if (compiled.size >= maxCompiled) compiled.clear();
        result = compileClaim(claim.spec, view.deviceClasses, view.managedDrivers);
        compiled.set(key, result);
      }
      return result;
    },
    shape(pod, claims, alone, islands, given) {
      heedClasses();
      const known = shapes.get(pod) ?? [];
      const asked = JSON.stringify([alone, islands ?? null, given]);
      const isSame = (each: KnownShape): boolean =>
        each.asked === asked &&
        each.claims.length === claims.length &&
        each.claims.every((claim, i) => claim === claims[i]);
      const before = known.find(isSame);
      if (before !== undefined) return before.shape;
      const shape = shapeOf(pod, claims, cache, alone, islands, given);
      shapes.set(pod, [...known.slice(-7), { claims, asked, shape }]);
      return shape;
    },
    table(shape) {
      let table = tables.get(shape.key);
      if (!table) {
        if (tables.size >= maxTables(view.nodes.length)) tables.delete(oldest(tables));
        table = newTable(shape);
        tables.set(shape.key, table);
      }
      table.lastUse = ++uses;
      if (table.seen !== model.version) refresh(table, view, model.version, counts);
      setFragmentation(table, expected?.fragmentation);
      return table;
    },
    slotsIn(other, { shape, admits }, node) {
      return admits[node] === 1 && other.nodes[node] !== undefined ? slotsOn(other, node, shape, counts) : 0;
    },
    fragmentation: () => expected?.fragmentation,
    expect(workload) {
      if (workload === undefined || workload.length === 0) expected = undefined;
      else if (expected?.workload !== workload || expected.classVersion !== view.classVersion) {
        const fragmentation = createFragmentation(view, mixOf(workload, cache));
        expected = { workload, classVersion: view.classVersion, fragmentation };
      }
    },
    lend(other, changed, run) {
      const lent = new Set<MutableTable>();
      const table = (shape: Shape): ShapeTable => {
        const own = cache.table(shape) as MutableTable;
        if (!lent.has(own)) for (const index of changed) refreshNode(own, other, index, counts);
        lent.add(own);
        return own;
      };
      caches.set(other, { ...cache, table });
      try {
        return run();
      } finally {
        caches.delete(other);
        for (const own of lent) for (const index of changed) refreshNode(own, view, index, counts);
      }
    },
  };
  caches.set(model.view, cache);
  return cache;
}

function mixOf(workload: Workload, cache: FitCache): WorkloadMix {
  const total = workload.reduce((sum, { weight }) => sum + weight, 0);
  return workload.flatMap(({ pod, claims, weight }) => {
    const shape = shapeOf(pod, claims, cache, [], undefined);
    // Pods that ask kube-scheduler alone for devices ask nothing of ours.
    if ("reason" in shape || shape.claims.every(({ left }) => left)) return [];
    return [{ shape, weight: weight / total }];
  });
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
