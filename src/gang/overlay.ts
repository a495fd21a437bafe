import { type DeviceChoice, isAllocationFailure } from "../dra/allocator/allocate.ts";
import { type Consumption, changeUsage, copyUsage, type NodeUsage } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import type { ShapeTable } from "./fit.ts";
import type { OwnHold } from "./problem.ts";
import { chooseDevices, countSlots, demandsOf, roomFor, type Shape, type Together, takeDevices } from "./shape.ts";

/** What a search has put on nodes so far, above what the model holds. The model itself is never changed. */
export interface Overlay {
  /**
   * Puts one pod on a node if it fits. `own`: the slot's own hold there, which it may use up. `given`: devices that
   * were chosen before.
   */
  put(
    step: number,
    node: number,
    table: ShapeTable,
    together: readonly Together[],
    own?: OwnHold,
    given?: DeviceChoice,
  ): DeviceChoice | undefined;
  /** Takes back what `step` put there. */
  take(step: number): void;
  /** Steps that have put something on the node. */
  stepsOn(node: number): readonly number[];
  /** Pods of the shape that fit now. */
  room(node: number, table: ShapeTable): number;
  readonly touched: boolean;
}

interface Layer {
  /** Resource → amount above the node's load. */
  readonly extra: Record<string, number>;
  readonly usage: NodeUsage;
  readonly steps: number[];
}

interface Entry {
  readonly node: number;
  readonly shape: Shape;
  readonly choice: DeviceChoice;
  readonly own: OwnHold | undefined;
}

/** A device, or a share of one, that other nodes can reach too. */
interface WideTake {
  readonly node: number;
  readonly key: string;
  readonly share: Consumption | undefined;
}

const nothing: DeviceChoice = { claims: [] };

export function createOverlay(view: ModelView): Overlay {
  const layers = new Map<number, Layer>();
  const entries = new Map<number, Entry>();
  /** Step → what it took of devices that several nodes can reach. */
  const wide = new Map<number, WideTake[]>();

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
    const choice = chooseDevices(shape, view.nodes[node]!.record, view.inventory(node), usage, together);
    return isAllocationFailure(choice) ? undefined : choice;
  };

  return {
    put(step, node, table, together, own, given) {
      const { shape } = table;
      const ownHere = own?.node === node ? own : undefined;
      const untouched = isUntouched(node) && !ownHere;
      if (table.admits[node] !== 1 || (untouched && table.slots[node] === 0)) return undefined;
      const layer = layerOf(node);
      if (ownHere) changeOwn(layer, ownHere, -1);
      const choice = roomOn(node, shape, layer) > 0 ? (given ?? choose(node, shape, layer.usage, together)) : undefined;
      if (!choice) {
        if (ownHere) changeOwn(layer, ownHere, 1);
        if (layer.steps.length === 0) layers.delete(node);
        return undefined;
      }
      for (const [name, amount] of shape.demands) layer.extra[name] = (layer.extra[name] ?? 0) + amount;
      takeDevices(view.inventory(node), layer.usage, choice, 1);
      const taken = wideTakes(view, node, choice);
      if (taken.length > 0) spreadWide(step, taken, 1);
      layer.steps.push(step);
      entries.set(step, { node, shape, choice, own: ownHere });
      return choice;
    },
    take(step) {
      const entry = entries.get(step);
      if (!entry) return;
      entries.delete(step);
      const taken = wide.get(step);
      if (taken) spreadWide(step, taken, -1);
      const layer = layers.get(entry.node)!;
      layer.steps.splice(layer.steps.lastIndexOf(step), 1);
      if (layer.steps.length === 0) {
        layers.delete(entry.node);
        return;
      }
      for (const [name, amount] of entry.shape.demands) layer.extra[name]! -= amount;
      takeDevices(view.inventory(entry.node), layer.usage, entry.choice, -1);
      if (entry.own) changeOwn(layer, entry.own, 1);
    },
    stepsOn: (node) => layers.get(node)?.steps ?? [],
    room(node, table) {
      if (isUntouched(node)) return table.slots[node]!;
      if (table.admits[node] !== 1) return 0;
      const layer = layerOf(node);
      if (layer.steps.length === 0) layers.delete(node);
      const { shape } = table;
      const { record } = view.nodes[node]!;
      return countSlots(shape, record, roomOn(node, shape, layer), view.inventory(node), () => layer.usage);
    },
    get touched() {
      return layers.size > 0;
    },
  };
}

function wideTakes(view: ModelView, node: number, choice: DeviceChoice): WideTake[] {
  const { devices, wide } = view.inventory(node);
  if (!wide) return [];
  return choice.claims.flatMap((claim) =>
    claim.devices.flatMap(({ device, admin, share }): WideTake[] => {
      const entry = devices[device]!;
      return entry.wide && admin === undefined ? [{ node, key: entry.key, share }] : [];
    }),
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
