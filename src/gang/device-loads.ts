import { freeSlotsInside } from "./counting.ts";
import type { ShapeTable } from "./fit.ts";
import type { Problem } from "./problem.ts";

/** One domain inside a host. */
interface InsideDomain {
  readonly node: number;
  readonly attribute: string;
  readonly value: string;
}

/**
 * How many pods of each shape the groups assigned so far bring to domains inside hosts. As with `DomainLoads`, what
 * does not fit by count is refused before anything is allocated.
 */
export interface DeviceLoads {
  /** False, and nothing changed: it cannot fit. */
  assign(group: number, domain: InsideDomain): boolean;
  unassign(group: number): void;
}

export function createDeviceLoads(problem: Problem): DeviceLoads {
  const { view, tables, slots } = problem;
  /** Domain → pods per shape. */
  const loads = new Map<string, Map<ShapeTable, number>>();
  /** Attribute → slots that are counted. */
  const counted = new Map<string, Set<number>>();
  const undos = new Map<number, { readonly key: string; readonly attribute: string; readonly added: number[] }>();

  const change = (key: string, added: readonly number[], by: 1 | -1) => {
    const load = loads.get(key) ?? new Map<ShapeTable, number>();
    loads.set(key, load);
    for (const slot of added) load.set(tables[slot]!, (load.get(tables[slot]!) ?? 0) + by);
  };
  const unassign = (group: number) => {
    const undo = undos.get(group);
    if (!undo) return;
    undos.delete(group);
    change(undo.key, undo.added, -1);
    for (const slot of undo.added) counted.get(undo.attribute)!.delete(slot);
  };

  return {
    unassign,
    assign(group, { node, attribute, value }) {
      const known = counted.get(attribute) ?? new Set<number>();
      counted.set(attribute, known);
      const added = problem.groups[group]!.slots.filter((slot) => !slots[slot]!.own && !known.has(slot));
      const key = `${node} ${attribute} ${value}`;
      change(key, added, 1);
      for (const slot of added) known.add(slot);
      undos.set(group, { key, attribute, added });
      const inventory = view.inventory(node);
      const usage = view.usage(node);
      // The share of the domain that each shape takes; more than all of it cannot be.
      let share = 0;
      for (const [{ shape, slots: room }, pods] of loads.get(key)!) {
        if (pods === 0) continue;
        const free = freeSlotsInside(shape, inventory, usage, { attribute, value });
        if (pods <= Math.min(room[node]!, free)) share += free === Number.POSITIVE_INFINITY ? 0 : shape.devices * pods;
        else share = Number.POSITIVE_INFINITY;
      }
      const devices = freeSlotsInside(one, inventory, usage, { attribute, value });
      if (share <= devices) return true;
      unassign(group);
      return false;
    },
  };
}

/** A shape of one device. */
const one = { devices: 1, admin: false };
