import { likeness, useText } from "../topology/likeness.ts";
import type { ModelView } from "../topology/model.ts";
import { countSlots } from "./counting.ts";
import type { Shape } from "./shape.ts";

/** Counts pods that fit on nodes; what was found on one node goes for all that are like it and in the same use. */
export interface SlotCounts {
  /** Pods of the shape that devices of the node allow, at most `room`. */
  on(view: ModelView, node: number, shape: Shape, room: number): number;
  clear(): void;
}

const maxRemembered = 100_000;
/** More pods with shares than this on one node are not told apart. */
const maxShares = 1024;

export function createSlotCounts(): SlotCounts {
  /** what a shape asks of devices → likeness and use of a node → slots */
  const counts = new Map<string, Map<string, number>>();
  let size = 0;
  const countsOf = (key: string): Map<string, number> => {
    if (size > maxRemembered) {
      counts.clear();
      size = 0;
    }
    const known = counts.get(key) ?? new Map<string, number>();
    counts.set(key, known);
    return known;
  };
  return {
    on(view, node, shape, room) {
      const { record } = view.nodes[node]!;
      if (room === 0 || shape.claims.length === 0) return room;
      const inventory = view.inventory(node);
      const count = (most: number) => countSlots(shape, record, most, inventory, () => view.usage(node));
      const like = shape.reads && likeness(inventory, shape.reads);
      if (like === undefined) return count(room);
      const inUse = useText(view.usage(node));
      if (inUse === undefined) return count(room);
      const known = countsOf(shape.deviceKey);
      const key = `${like} ${shape.bindingOn(record)} ${inUse}`;
      let slots = known.get(key);
      if (slots === undefined) {
        // Every pod takes a device, or a share of one.
        slots = count(inventory.sharedDevices > 0 ? maxShares : inventory.devices.length);
        known.set(key, slots);
        size++;
      }
      return Math.min(room, slots);
    },
    clear() {
      counts.clear();
      size = 0;
    },
  };
}
