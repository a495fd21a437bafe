import { allocateAcross, type NodeToAllocate } from "../dra/allocator/across.ts";
import { type DeviceChoice, matchingDevices } from "../dra/allocator/allocate.ts";
import type { Consumption, NodeUsage } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import { optionsFor, type Shape, type Together } from "./shape.ts";

/** A pod on a node, and what earlier choices demand of its devices. */
export interface Seat {
  readonly node: number;
  readonly shape: Shape;
  readonly together: readonly Together[];
}

/** One that has devices. */
export interface Seated extends Seat {
  readonly choice: DeviceChoice;
}

/** A device, or a share of one, that other nodes can reach too. */
export interface WideTake {
  readonly node: number;
  readonly key: string;
  readonly share: Consumption | undefined;
}

/** What a pod takes of devices that several nodes can reach. */
export function wideTakes(view: ModelView, node: number, choice: DeviceChoice): WideTake[] {
  const { devices, wide } = view.inventory(node);
  if (!wide) return [];
  return choice.claims.flatMap((claim) =>
    claim.devices.flatMap(({ device, admin, share }): WideTake[] => {
      const entry = devices[device]!;
      return entry.wide && admin === undefined ? [{ node, key: entry.key, share }] : [];
    }),
  );
}

/** Chooses devices anew for pods on several nodes together. */
export interface WideChoice {
  /**
   * Who has devices that a newcomer could take, whoever has such as these could take instead, and so on, nearest first:
   * all other pods may keep what they have.
   */
  inTheWay(newcomer: Seat, seated: ReadonlyMap<number, Seated>): number[];
  /**
   * Devices for the newcomer, and for each of the others in their order; undefined: there are none, or, with
   * `budgetExceeded`, none were found. `usageOf`: what is held on a node without all of them.
   */
  choose(
    newcomer: Seat,
    others: readonly Seat[],
    usageOf: (node: number) => NodeUsage,
  ): {
    readonly choices: readonly DeviceChoice[] | undefined;
    readonly budgetExceeded: boolean;
    readonly trials: number;
  };
}

/** Devices that are tried at most to choose for pods of several nodes together. */
const acrossBudget = 5_000;

export function createWideChoice(view: ModelView): WideChoice {
  const known = new Map<Shape, Map<number, ReadonlySet<string>>>();
  /** What pods of a shape could take on a node: names of groups of devices. */
  const reachOf = ({ node, shape }: Seat): ReadonlySet<string> => {
    const byNode = known.get(shape) ?? new Map<number, ReadonlySet<string>>();
    known.set(shape, byNode);
    const reach = byNode.get(node) ?? new Set(couldTake(view, node, shape));
    byNode.set(node, reach);
    return reach;
  };
  const groupsHeld = ({ node, choice }: Seated): string[] =>
    choice.claims.flatMap(({ devices }) =>
      devices.flatMap(({ device, admin }) => (admin === undefined ? groupName(view, node, device) : [])),
    );
  return {
    inTheWay(newcomer, seated) {
      const wanted = new Set(reachOf(newcomer));
      const rest = new Map([...seated].filter(([step]) => step >= 0).map(([step, seat]) => [step, groupsHeld(seat)]));
      const found: number[] = [];
      for (let before = -1; before < found.length; ) {
        before = found.length;
        const next = [...rest].filter(([, held]) => held.some((group) => wanted.has(group))).map(([step]) => step);
        for (const step of next) {
          rest.delete(step);
          found.push(step);
          for (const group of reachOf(seated.get(step)!)) wanted.add(group);
        }
      }
      return found;
    },
    choose(newcomer, others, usageOf) {
      const links = linksOf([newcomer, ...others]);
      const nodes = links.map((seats): NodeToAllocate => {
        const { node } = seats[0]!;
        const { record } = view.nodes[node]!;
        const pods = seats.map(({ shape, together }) => {
          return { claims: shape.claims, options: optionsFor(shape, record, together) };
        });
        return { inventory: view.inventory(node), usage: usageOf(node), pods };
      });
      const { choices, ...rest } = allocateAcross(nodes, acrossBudget);
      if (choices === undefined) return { choices, ...rest };
      const bySeat = new Map(links.flatMap((seats, i) => seats.map((seat, k) => [seat, choices[i]![k]!] as const)));
      return { choices: [newcomer, ...others].map((seat) => bySeat.get(seat)!), ...rest };
    },
  };
}

/** Seats of one node together; where one has administrator's access, each by itself: what it may have depends on the order. */
function linksOf(seats: readonly Seat[]): Seat[][] {
  const byNode = Map.groupBy(seats, ({ node }) => node);
  return [...byNode.values()].flatMap((list) => {
    return list.some(({ shape }) => shape.admin) ? list.map((seat) => [seat]) : [list];
  });
}

function couldTake(view: ModelView, node: number, { claims }: Shape): string[] {
  const inventory = view.inventory(node);
  return claims.flatMap((claim) =>
    claim.requests.flatMap((_, request) =>
      matchingDevices(inventory, claim, request).map((device) => groupName(view, node, device)),
    ),
  );
}

/** Devices with different names are not in each other's way. */
function groupName(view: ModelView, node: number, device: number): string {
  const { wide, counters, driver, pool, key, group } = view.inventory(node).devices[device]!;
  if (!wide) return `${node} ${group}`;
  return counters.length > 0 ? `${driver}/${pool}` : key;
}
