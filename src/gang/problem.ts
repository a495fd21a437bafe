import type { PlacedPod } from "../api/placement.ts";
import type { DeviceChoice } from "../dra/allocator/allocate.ts";
import type { DeviceLevel, Fabric, NodeLevel } from "../topology/fabric.ts";
import { deviceKey } from "../topology/held.ts";
import { attributeValue, devicesByValue } from "../topology/inventory.ts";
import type { HeldPod, ModelView } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import type { ShapeTable } from "./fit.ts";
import type { Alone } from "./shape.ts";

/** A place for one pod that the planner has to find. */
export interface Slot {
  /** Position of the gang within the unit. */
  readonly gang: number;
  readonly podSet: string;
  readonly index: number;
  readonly pod: PodRecord;
  readonly claims: readonly ClaimRecord[];
  /** UIDs of claims that another slot of the gang gets devices for: this one has to be on its node. */
  readonly borrows?: ReadonlySet<string>;
  /** What the gang holds for this very slot already: only this slot may use it. */
  readonly own?: OwnHold;
}

export interface OwnHold {
  readonly node: number;
  readonly namespace: string;
  /** Name of the pod that it is held for. */
  readonly pod: string;
  readonly held: Pick<HeldPod, "requests">;
  /** Holder's name of the slot in the node's load. */
  readonly slot: string;
  /** Devices that nothing but this hold keeps, by index in the node's inventory. */
  readonly devices: readonly number[];
}

/** A slot with a place already: a running pod, a hold, or what this plan decided before. */
export interface Pin {
  readonly gang: number;
  readonly podSet: string;
  readonly index: number;
  readonly node: number;
  readonly placed?: PlacedPod;
  /** Where this plan decided it: indices of its devices on the node. */
  readonly devices?: readonly number[];
}

/** What a search found for a slot. */
export interface Place {
  readonly node: number;
  readonly choice: DeviceChoice;
}

/** A slot that this plan placed before, and keeps. */
export interface Decided {
  readonly slot: Slot;
  readonly table: ShapeTable;
  readonly place: Place;
}

export type LevelRef =
  | { readonly kind: "node"; readonly level: NodeLevel }
  | { readonly kind: "device"; readonly level: DeviceLevel };

/** The level in terms of devices, on a node where devices tell its domains; undefined: labels do, or nothing does. */
export function deviceLevelOn(ref: LevelRef, node: number): DeviceLevel | undefined {
  if (ref.kind === "device") return ref.level;
  return (ref.level.domainOf[node] ?? -1) >= 0 ? undefined : ref.level.inside;
}

/** A constraint of a gang, of its slices or of its PlacementGroup, before it meets the slots. */
export interface Rule {
  readonly kind: "colocate" | "spread";
  readonly fabric: Fabric;
  readonly ref: LevelRef;
  readonly maxSkew: number;
  readonly required: boolean;
  /**
   * Names the set that a slot belongs to under this rule; undefined: the rule does not concern it. Slots of one set are
   * held together (or apart); slices make one set each.
   */
  readonly setOf: (slot: Pick<Slot, "gang" | "podSet" | "index">) => string | undefined;
  /** What it is about, for messages: `pod set workers`, `slice of 4 pods`. */
  readonly title: string;
  /** For slices: what surrounds a slot's set. Sets with the same surroundings can trade places when their members look alike. */
  readonly surroundings?: (slot: Pick<Slot, "gang" | "podSet" | "index">) => string;
}

/** Slots that have to share one domain. */
export interface Group {
  readonly rule: Rule;
  readonly slots: readonly number[];
  readonly pins: readonly Pin[];
  /** Groups of the same signature can trade places. */
  readonly signature: string | undefined;
}

/** Slots that have to be spread over domains. */
export interface Spread {
  readonly rule: Rule;
  readonly level: NodeLevel;
  readonly slots: readonly number[];
  readonly pins: readonly Pin[];
}

/** Slots that can trade places: same shape, same groups, same spreads. */
export interface Bundle {
  readonly slots: readonly number[];
  readonly table: ShapeTable;
  readonly groups: readonly number[];
  readonly spreads: readonly number[];
  readonly own?: OwnHold;
}

export interface Problem {
  readonly view: ModelView;
  readonly slots: readonly Slot[];
  /** Parallel to `slots`. */
  readonly tables: readonly ShapeTable[];
  readonly groups: readonly Group[];
  readonly spreads: readonly Spread[];
  readonly bundles: readonly Bundle[];
  /** Where bundles are kept compact when nothing else says so. */
  readonly fabric: Fabric;
  /** What this plan has decided already; counts as used. */
  readonly decided: readonly Decided[];
  /** Running pods, holds, and what this plan has decided. */
  readonly pins: readonly Pin[];
}

/** All levels of a fabric, broad to narrow. */
export function levelsOf({ nodeLevels, deviceLevels }: Fabric): LevelRef[] {
  return [
    ...nodeLevels.map((level): LevelRef => ({ kind: "node", level })),
    ...deviceLevels.map((level): LevelRef => ({ kind: "device", level })),
  ];
}

/** Finds the level of a fabric by name. */
export function levelOf(fabric: Fabric, name: string): LevelRef | undefined {
  return levelsOf(fabric).find(({ level }) => level.name === name);
}

/** Domains inside a host: values of the attribute that its devices have, sorted. */
export function valuesInside(view: ModelView, node: number, attribute: string): string[] {
  return [...devicesByValue(view.inventory(node), attribute).keys()];
}

/** Values of a device attribute that a pinned pod's devices have. */
export function pinnedValues(view: ModelView, pin: Pin, attribute: string): string[] {
  const inventory = view.inventory(pin.node);
  const indices =
    pin.devices ??
    (pin.placed?.claims ?? []).flatMap(({ devices }) =>
      devices.flatMap(({ driver, pool, device }) =>
        view.managedDrivers.has(driver) ? (inventory.indexOf.get(deviceKey(driver, pool, device)) ?? []) : [],
      ),
    );
  return [...new Set(indices.map((index) => attributeValue(inventory.devices[index]!, attribute) ?? ""))].sort();
}

/** Paths of the domains in which pinned pods of a group are, sorted. */
export function pinnedDomains(view: ModelView, { rule: { ref }, pins }: Group): string[] {
  const paths = pins.flatMap((pin) => {
    const inside = deviceLevelOn(ref, pin.node);
    if (!inside) return ref.kind === "node" ? (ref.level.domains[ref.level.domainOf[pin.node] ?? -1]?.path ?? []) : [];
    if (ref.kind === "node" && valuesInside(view, pin.node, inside.attribute).length === 0) return [];
    const { name } = view.nodes[pin.node]!.record;
    const values = pinnedValues(view, pin, inside.attribute);
    // A pod without devices is somewhere on its host, wherever others on it are.
    return values.length === 0 ? name : values.map((value) => `${name}/${value.slice(value.indexOf(":") + 1)}`);
  });
  return [...new Set(paths)].filter((path) => !paths.some((other) => other.startsWith(`${path}/`))).sort();
}

/**
 * Brings slots, pins and rules together.
 * @param tableOf slot counts for a slot, all devices of which are as `alone` says
 */
export function buildProblem(input: {
  view: ModelView;
  slots: readonly Slot[];
  pins: readonly Pin[];
  decided: readonly Decided[];
  rules: readonly Rule[];
  fabric: Fabric;
  tableOf: (slot: Slot, alone: readonly Alone[]) => ShapeTable;
}): Problem {
  const { view, slots, rules, fabric, decided } = input;
  const pins = [...input.pins, ...decided.map((each) => pinOf(view, each))];
  const alone = slots.map(() => new Map<string, Alone>());
  const sets: { rule: Rule; slots: number[]; pins: Pin[] }[] = [];
  for (const rule of rules) {
    for (const set of setsOf(rule, slots, pins)) {
      if (set.slots.length === 0) continue;
      sets.push({ rule, ...set });
      const demand = rule.kind === "colocate" ? aloneUnder(rule.ref) : undefined;
      if (demand) for (const slot of set.slots) alone[slot]!.set(JSON.stringify(demand), demand);
    }
  }
  const tables = slots.map((slot, i) => input.tableOf(slot, inKeyOrder(alone[i]!)));
  const groups: Group[] = sets
    .filter(({ rule }) => rule.kind === "colocate")
    .map((set) => ({ ...set, signature: signatureOf(set, slots, tables, rules) }));
  const spreads = sets.flatMap((set) =>
    set.rule.kind === "spread" && set.rule.ref.kind === "node" ? [{ ...set, level: set.rule.ref.level }] : [],
  );
  const bundles = bundlesOf(slots, tables, groups, spreads);
  return { view, slots, tables, groups, spreads, bundles, fabric, decided, pins };
}

/** What a level demands of the devices of each pod by itself. */
function aloneUnder({ kind, level }: LevelRef): Alone | undefined {
  if (kind === "device") return { attribute: level.attribute, unlessLabels: [] };
  return level.inside && { attribute: level.inside.attribute, unlessLabels: level.nodeLabels };
}

function inKeyOrder<T>(map: ReadonlyMap<string, T>): T[] {
  return [...map].sort(([a], [b]) => comparePlain(a, b)).map(([, value]) => value);
}

function pinOf(view: ModelView, { slot, place }: Decided): Pin {
  return {
    gang: slot.gang,
    podSet: slot.podSet,
    index: slot.index,
    node: place.node,
    devices: ownDevices(view, place),
  };
}

/** Devices of a place that its pod computes with, and not those which kube-scheduler gives it besides. */
export function ownDevices(view: ModelView, { node, choice }: Place): number[] {
  const { devices } = view.inventory(node);
  const isOwn = ({ device }: { device: number }) => view.managedDrivers.has(devices[device]!.driver);
  return choice.claims.flatMap((claim) => claim.devices.filter(isOwn).map(({ device }) => device));
}

function setsOf(rule: Rule, slots: readonly Slot[], pins: readonly Pin[]) {
  const sets = new Map<string, { slots: number[]; pins: Pin[] }>();
  const setFor = (name: string) => {
    const known = sets.get(name) ?? { slots: [], pins: [] };
    sets.set(name, known);
    return known;
  };
  for (const [i, slot] of slots.entries()) {
    const name = rule.setOf(slot);
    if (name !== undefined) setFor(name).slots.push(i);
  }
  for (const pin of pins) {
    const name = rule.setOf(pin);
    if (name !== undefined) setFor(name).pins.push(pin);
  }
  return sets.values();
}

/**
 * Sets without pins and holds can trade places when their members look alike, in order: of one shape, under the same
 * rules, and in the same sets of those rules whose domains are chosen before.
 */
function signatureOf(
  set: { rule: Rule; slots: readonly number[]; pins: readonly Pin[] },
  slots: readonly Slot[],
  tables: readonly ShapeTable[],
  rules: readonly Rule[],
): string | undefined {
  const { surroundings } = set.rule;
  if (!surroundings || set.pins.length > 0 || set.slots.some((slot) => slots[slot]!.own)) return undefined;
  const depth = breadthOf(set.rule);
  const before = rules.map((rule) => rule !== set.rule && breadthOf(rule) <= depth);
  const members = set.slots.map((slot) => {
    const names = rules.map((rule, i) => {
      const name = rule.setOf(slots[slot]!);
      return before[i] ? (name ?? 0) : Number(name !== undefined);
    });
    return [tables[slot]!.shape.key, names];
  });
  return JSON.stringify([surroundings(slots[set.slots[0]!]!), rules.indexOf(set.rule), members]);
}

/** Place of a rule's level among those of its fabric, broad to narrow. */
export function breadthOf({ ref, fabric }: Pick<Rule, "ref" | "fabric">): number {
  return ref.kind === "node" ? ref.level.index : fabric.nodeLevels.length + fabric.deviceLevels.indexOf(ref.level);
}

function bundlesOf(
  slots: readonly Slot[],
  tables: readonly ShapeTable[],
  groups: readonly Group[],
  spreads: readonly Spread[],
): Bundle[] {
  const groupsOf = slots.map((): number[] => []);
  const spreadsOf = slots.map((): number[] => []);
  for (const [g, group] of groups.entries()) for (const slot of group.slots) groupsOf[slot]!.push(g);
  for (const [s, spread] of spreads.entries()) for (const slot of spread.slots) spreadsOf[slot]!.push(s);
  const bundles = new Map<string, Bundle & { slots: number[] }>();
  for (const [i, slot] of slots.entries()) {
    const table = tables[i]!;
    const key = slot.own ? `own ${i}` : `${groupsOf[i]!.join()} ${spreadsOf[i]!.join()} ${table.shape.key}`;
    const bundle = bundles.get(key) ?? {
      slots: [],
      table,
      groups: groupsOf[i]!,
      spreads: spreadsOf[i]!,
      ...(slot.own && { own: slot.own }),
    };
    bundle.slots.push(i);
    bundles.set(key, bundle);
  }
  return [...bundles.values()];
}
