import type { DeviceLevel, Domain } from "../topology/fabric.ts";
import type { ModelView } from "../topology/model.ts";
import type { NodeState } from "../topology/node-table.ts";
import { countSlotsInside, freeSlotsInside } from "./counting.ts";
import type { ShapeTable } from "./fit.ts";
import { deviceLevelOn, type Group, type Problem, valuesInside } from "./problem.ts";
import type { Together } from "./shape.ts";

/** A domain and how many pods of a shape fit into it; without a path: there is none. */
interface DomainRoom {
  readonly path: string | undefined;
  readonly room: number;
}

/** The domain with most room for a shape among those that the group may use. */
export function bestDomain(problem: Problem, group: Group, table: ShapeTable): DomainRoom {
  const { ref, fabric } = group.rule;
  const host = bestHost(problem, group, table);
  if (ref.kind === "device") return host;
  const sums = table.sums(fabric, ref.level.index, "slots");
  const pinned = new Set(group.pins.map(({ node }) => ref.level.domainOf[node]!));
  let best: Domain | undefined;
  for (const domain of ref.level.domains) {
    if (!domain || (pinned.size > 0 && !pinned.has(domain.id))) continue;
    const difference = best ? sums[domain.id]! - sums[best.id]! : 1;
    if (difference > 0 || (difference === 0 && domain.key < best!.key)) best = domain;
  }
  const room = best ? sums[best.id]! : 0;
  return host.path !== undefined && (!best || host.room > room) ? host : { path: best?.path, room };
}

/** Of the hosts that have domains of the level inside, the one with most room in one of them. */
function bestHost(problem: Problem, group: Group, table: ShapeTable): DomainRoom {
  const { view } = problem;
  const pinned = new Set(group.pins.map(({ node }) => node));
  let best: DomainRoom = { path: undefined, room: 0 };
  const isBetter = (name: string, room: number) =>
    best.path === undefined || room > best.room || (room === best.room && name < best.path);
  for (const node of view.nodes) {
    const level = node && deviceLevelOn(group.rule.ref, node.index);
    if (!level || (pinned.size > 0 && !pinned.has(node.index))) continue;
    const { name } = node.record;
    const inside = valuesInside(view, node.index, level.attribute);
    // Pods without devices have the host alone in common.
    const told = inside.length > 0 || (group.rule.ref.kind === "device" && table.shape.devices === 0);
    if (!told || !isBetter(name, table.slots[node.index]!)) continue;
    const room = roomInside(view, table, node, level, inside, (bound) => isBetter(name, bound));
    if (room !== undefined && isBetter(name, room)) best = { path: name, room };
  }
  return best;
}

/** Pods of a shape that fit into one of the domains inside a host; undefined: at most so many that it is not worth it. */
function roomInside(
  view: ModelView,
  { shape, slots }: ShapeTable,
  { index, record }: NodeState,
  { attribute }: DeviceLevel,
  values: readonly string[],
  worthwhile: (bound: number) => boolean,
): number | undefined {
  const most = slots[index]!;
  if (values.length < 2 || shape.devices === 0) return most;
  const inventory = view.inventory(index);
  const usage = view.usage(index);
  const largest = (room: (inside: Together) => number) =>
    Math.max(...values.map((value) => room({ attribute, value })));
  if (!worthwhile(largest((inside) => freeSlotsInside(shape, inventory, usage, inside)))) return undefined;
  return largest((inside) => countSlotsInside(shape, record, most, inventory, usage, inside));
}
