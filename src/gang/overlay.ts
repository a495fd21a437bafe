import {
  type AllocationFailure,
  allocateTogether,
  type DeviceChoice,
  isAllocationFailure,
} from "../dra/allocator/allocate.ts";
import { changeUsage, copyUsage, type NodeUsage } from "../topology/inventory.ts";
import { likeness, useText } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import { countSlots, wastesNothing } from "./counting.ts";
import type { ShapeTable } from "./fit.ts";
import type { OwnHold } from "./problem.ts";
import {
  chooseDevices,
  demandsOf,
  maxSlotsPerNode,
  optionsFor,
  roomFor,
  type Shape,
  type Together,
  takeDevices,
} from "./shape.ts";
import { createWideChoice, type Seat, type Seated, type WideTake, wideTakes } from "./wide-choice.ts";

/** What a search has put on nodes so far, above what the model holds. The model itself is never changed. */
export interface Overlay {
  /**
   * Puts one pod on a node if it fits. Where devices that steps of this search have are in its way, there or, if several
   * nodes reach them, elsewhere, those are chosen anew together. `own`: the slot's own hold there, which it may use up.
   * `given`: devices that were chosen before, and stay.
   */
  put(
    step: number,
    node: number,
    table: ShapeTable,
    together: readonly Together[],
    own?: OwnHold,
    given?: DeviceChoice,
  ): boolean;
  /** Devices of what `step` put, as they are now. */
  choiceOf(step: number): DeviceChoice;
  /** Takes back what `step` put there. */
  take(step: number): void;
  /** Steps that may have kept others from the node: those there, and those that reach its devices from elsewhere. */
  stepsOn(node: number): readonly number[];
  /** Pods of the shape that fit now; never too few. */
  room(node: number, table: ShapeTable): number;
  readonly touched: boolean;
  /** Devices that were tried for several pods together, so far. */
  readonly trials: number;
  /** Some choice of devices was given up for its budget: what was refused since may be possible. */
  readonly unsure: boolean;
}

interface Layer {
  /** Resource → amount above the node's load. */
  readonly extra: Record<string, number>;
  readonly usage: NodeUsage;
  readonly steps: number[];
}

interface Entry extends Seated {
  choice: DeviceChoice;
  readonly own: OwnHold | undefined;
}

const nothing: DeviceChoice = { claims: [] };

export function createOverlay(view: ModelView): Overlay {
  const layers = new Map<number, Layer>();
  const entries = new Map<number, Entry>();
  /** Step → what it took of devices that several nodes can reach. */
  const wide = new Map<number, WideTake[]>();
  const likeChoices = createLikeChoices(view);
  const wideChoice = createWideChoice(view);
  let trials = 0;
  let unsure = false;

  const changeWide = (layer: Layer, node: number, taken: readonly WideTake[], by: 1 | -1) => {
    const inventory = view.inventory(node);
    for (const { node: home, key, share } of taken) {
      const device = inventory.indexOf.get(key);
      if (home !== node && device !== undefined) changeUsage(inventory, layer.usage, device, by, share);
    }
  };
  /** Tells the other nodes of what a step took, or gives back. */
  const spreadWide = (step: number, taken: WideTake[], by: 1 | -1) => {
    for (const [node, layer] of layers) changeWide(layer, node, taken, by);
    if (by === 1) wide.set(step, taken);
    else wide.delete(step);
  };
  const layerOf = (node: number): Layer => {
    const known = layers.get(node);
    if (known) return known;
    const layer: Layer = { extra: {}, usage: copyUsage(view.usage(node)), steps: [] };
    for (const taken of wide.values()) changeWide(layer, node, taken, 1);
    layers.set(node, layer);
    return layer;
  };
  /** What steps of this search on other nodes took of devices that this node can reach, too. */
  const takenElsewhere = (node: number): WideTake[] => {
    if (wide.size === 0 || !view.inventory(node).wide) return [];
    const { indexOf } = view.inventory(node);
    return [...wide].flatMap(([step, taken]) =>
      step < 0 ? [] : taken.filter(({ node: home, key }) => home !== node && indexOf.has(key)),
    );
  };
  /** Nothing of the node differs from the model. */
  const isUntouched = (node: number) => !layers.has(node) && (wide.size === 0 || !view.inventory(node).wide);
  /** Lifts (`by` -1) or restores (1) a slot's own hold. */
  const changeOwn = (layer: Layer, own: OwnHold, by: 1 | -1) => {
    const { load } = view.nodes[own.node]!;
    const { namespace, pod } = own;
    if (load.heldBy(`${namespace}/${pod}`, own.slot)) {
      for (const [name, amount] of demandsOf(own.held)) layer.extra[name] = (layer.extra[name] ?? 0) + by * amount;
    }
    const inventory = view.inventory(own.node);
    for (const device of own.devices) changeUsage(inventory, layer.usage, device, by);
  };
  const roomOn = (node: number, shape: Shape, layer: Layer | undefined): number => {
    const { record, load } = view.nodes[node]!;
    return roomFor(shape.demands, record.allocatable, layer ? sum(load.used, layer.extra, shape) : load.used);
  };
  const choose = (node: number, shape: Shape, usage: NodeUsage, together: readonly Together[]) => {
    if (shape.claims.length === 0) return nothing;
    const choose = () => chooseDevices(shape, view.nodes[node]!.record, view.inventory(node), usage, together);
    const choice = together.length === 0 ? likeChoices.of(node, shape, usage, choose) : choose();
    if (!isAllocationFailure(choice)) return choice;
    if (choice.reason === "BudgetExceeded") unsure = true;
    return undefined;
  };
  /** Takes the devices of a step on a node, or gives them back; everywhere. */
  const changeDevices = (step: number, layer: Layer, { node, choice }: Entry, by: 1 | -1) => {
    takeDevices(view.inventory(node), layer.usage, choice, by);
    const taken = by === 1 ? wideTakes(view, node, choice) : (wide.get(step) ?? []);
    if (taken.length > 0) spreadWide(step, taken, by);
  };
  /** Some pod has administrator's access: what it may have depends on the order, so they are not allocated together. */
  const isWatched = ({ steps }: Layer, shape: Shape): boolean =>
    shape.admin || steps.some((step) => entries.get(step)!.shape.admin);
  /** Steps on the node whose devices can be chosen anew at once, to the good of one more pod of the shape. */
  const movable = (node: number, shape: Shape, layer: Layer, together: readonly Together[]): number[] => {
    if (shape.claims.length === 0 || isWatched(layer, shape)) return [];
    const steps = layer.steps.filter((step) => step >= 0 && entries.get(step)!.shape.claims.length > 0);
    const others = steps.map((step) => entries.get(step)!);
    const alike = others.every((entry) => entry.shape.key === shape.key && sameTogether(entry.together, together));
    return alike && wastesNothing(shape, view.inventory(node)) ? [] : steps;
  };
  /**
   * Finds devices for all pods of the steps and `more` of the shape together. `commit`: the steps get theirs.
   * Undefined: there are none.
   */
  const rearrange = (
    node: number,
    layer: Layer,
    steps: readonly number[],
    { shape, together, more, commit }: { shape: Shape; together: readonly Together[]; more: number; commit: boolean },
  ): DeviceChoice | undefined => {
    const { record } = view.nodes[node]!;
    const moved = steps.map((step) => [step, entries.get(step)!] as const);
    for (const [step, entry] of moved) changeDevices(step, layer, entry, -1);
    const newcomer = { claims: shape.claims, options: optionsFor(shape, record, together) };
    const pods = [
      ...moved.map(([, entry]) => {
        return { claims: entry.shape.claims, options: optionsFor(entry.shape, record, entry.together) };
      }),
      ...Array.from({ length: more }, () => newcomer),
    ];
    const result = allocateTogether(view.inventory(node), layer.usage, pods);
    trials += result.trials;
    const { choices } = result;
    const failed = isAllocationFailure(choices);
    if (failed && choices.reason === "BudgetExceeded") unsure = true;
    for (const [i, [step, entry]] of moved.entries()) {
      if (!failed && commit) entry.choice = choices[i]!;
      changeDevices(step, layer, entry, 1);
    }
    return failed ? undefined : choices.at(-1);
  };
  /** Finds devices for one more pod where others, on several nodes or one by one, give up theirs; they get what is found for them. */
  const chooseAnew = (layer: Layer, newcomer: Seat): DeviceChoice | undefined => {
    const tried = !isWatched(layer, newcomer.shape);
    if (newcomer.shape.claims.length === 0 || (tried && takenElsewhere(newcomer.node).length === 0)) return undefined;
    const moved = wideChoice.inTheWay(newcomer, entries).map((step) => [step, entries.get(step)!] as const);
    if (moved.length === 0 || (tried && moved.every(([, { node }]) => node === newcomer.node))) return undefined;
    const layerAt = (node: number) => (node === newcomer.node ? layer : layers.get(node)!);
    for (const [step, entry] of moved) changeDevices(step, layerAt(entry.node), entry, -1);
    const others = moved.map(([, entry]) => entry);
    const result = wideChoice.choose(newcomer, others, (node) => layerAt(node).usage);
    trials += result.trials;
    unsure ||= result.budgetExceeded;
    for (const [i, [step, entry]] of moved.entries()) {
      entry.choice = result.choices?.[i + 1] ?? entry.choice;
      changeDevices(step, layerAt(entry.node), entry, 1);
    }
    return result.choices?.[0];
  };
  /** Pods of the shape that fit on a node now, if nobody elsewhere gives up devices. */
  const count = (node: number, layer: Layer, shape: Shape, most: number): number => {
    const { record } = view.nodes[node]!;
    const found = countSlots(shape, record, most, view.inventory(node), () => layer.usage);
    if (found < most && layer.steps.length > 0 && shape.claims.length > 0 && isWatched(layer, shape)) return most;
    const steps = found < most ? movable(node, shape, layer, []) : [];
    if (steps.length === 0) return found;
    const more = rearrange(node, layer, steps, { shape, together: [], more: found + 1, commit: false });
    return more || unsure ? most : found;
  };

  /** No more pods than fit without this search, less those of the shape that it has put there. */
  const emptyRoom = (node: number, { shape, slots }: ShapeTable, layer: Layer): number => {
    const there = layer.steps.map((step) => entries.get(step)!);
    // A hold that is lifted leaves more room than there was.
    if (slots[node]! >= maxSlotsPerNode || there.some(({ own }) => own !== undefined)) return Number.POSITIVE_INFINITY;
    return Math.max(0, slots[node]! - there.filter((entry) => entry.shape.key === shape.key).length);
  };

  return {
    put(step, node, table, together, own, given) {
      const { shape } = table;
      const ownHere = own?.node === node ? own : undefined;
      const untouched = isUntouched(node) && !ownHere;
      if (table.admits[node] !== 1 || (untouched && table.slots[node] === 0)) return false;
      const layer = layerOf(node);
      if (ownHere) changeOwn(layer, ownHere, -1);
      let choice: DeviceChoice | undefined;
      if (roomOn(node, shape, layer) > 0) {
        choice = given ?? choose(node, shape, layer.usage, together);
        const steps = choice ? [] : movable(node, shape, layer, together);
        if (steps.length > 0) choice = rearrange(node, layer, steps, { shape, together, more: 1, commit: true });
        choice ??= chooseAnew(layer, { node, shape, together });
      }
      if (!choice) {
        if (ownHere) changeOwn(layer, ownHere, 1);
        if (layer.steps.length === 0) layers.delete(node);
        return false;
      }
      for (const [name, amount] of shape.demands) layer.extra[name] = (layer.extra[name] ?? 0) + amount;
      const entry: Entry = { node, shape, together, choice, own: ownHere };
      changeDevices(step, layer, entry, 1);
      layer.steps.push(step);
      entries.set(step, entry);
      return true;
    },
    choiceOf: (step) => entries.get(step)!.choice,
    take(step) {
      const entry = entries.get(step);
      if (!entry) return;
      const layer = layers.get(entry.node)!;
      changeDevices(step, layer, entry, -1);
      entries.delete(step);
      layer.steps.splice(layer.steps.lastIndexOf(step), 1);
      if (layer.steps.length === 0) {
        layers.delete(entry.node);
        return;
      }
      for (const [name, amount] of entry.shape.demands) layer.extra[name]! -= amount;
      if (entry.own) changeOwn(layer, entry.own, 1);
    },
    stepsOn(node) {
      const here = layers.get(node)?.steps ?? [];
      if (takenElsewhere(node).length === 0) return here;
      // Whoever has devices there may have kept those who have these from taking others.
      const elsewhere = new Set([...wide.values()].map((taken) => taken[0]!.node));
      return [...here, ...[...elsewhere].flatMap((other) => (other === node ? [] : layers.get(other)!.steps))];
    },
    room(node, table) {
      if (isUntouched(node)) return table.slots[node]!;
      if (table.admits[node] !== 1) return 0;
      const layer = layerOf(node);
      if (layer.steps.length === 0) layers.delete(node);
      const { shape } = table;
      const most = Math.min(roomOn(node, shape, layer), emptyRoom(node, table, layer));
      const found = count(node, layer, shape, most);
      const elsewhere = found < most && shape.claims.length > 0 ? takenElsewhere(node) : [];
      if (elsewhere.length === 0) return found;
      // Those elsewhere may do with others: only who is put here finds out.
      changeWide(layer, node, elsewhere, -1);
      const atMost = count(node, layer, shape, most);
      changeWide(layer, node, elsewhere, 1);
      return atMost;
    },
    get touched() {
      return layers.size > 0;
    },
    get trials() {
      return trials;
    },
    get unsure() {
      return unsure;
    },
  };
}

/** What was chosen on one node goes for all that are like it and in the same use: large gangs go to many such. */
function createLikeChoices(view: ModelView) {
  const known = new Map<Shape, Map<string, DeviceChoice>>();
  return {
    of(node: number, shape: Shape, usage: NodeUsage, choose: () => DeviceChoice | AllocationFailure) {
      const like = shape.reads && likeness(view.inventory(node), shape.reads);
      const inUse = like === undefined ? undefined : useText(usage);
      if (inUse === undefined) return choose();
      const choices = known.get(shape) ?? new Map<string, DeviceChoice>();
      known.set(shape, choices);
      const key = `${like} ${shape.bindingOn(view.nodes[node]!.record)} ${inUse}`;
      const before = choices.get(key);
      if (before !== undefined) return before;
      const choice = choose();
      if (!isAllocationFailure(choice)) choices.set(key, choice);
      return choice;
    },
  };
}

function sameTogether(a: readonly Together[], b: readonly Together[]): boolean {
  return (
    a.length === b.length && a.every((each, i) => each.attribute === b[i]!.attribute && each.value === b[i]!.value)
  );
}

/** Load and overlay together, of the resources that the shape asks for. */
function sum(
  used: Readonly<Record<string, number>>,
  extra: Readonly<Record<string, number>>,
  shape: Shape,
): Record<string, number> {
  const total: Record<string, number> = {};
  for (const [name] of shape.demands) total[name] = (used[name] ?? 0) + (extra[name] ?? 0);
  return total;
}
