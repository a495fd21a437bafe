import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import { type Leavers, leaversOf, type Room, type Stays, staying } from "./drain.ts";
import { fitCache, type ShapeTable } from "./fit.ts";
import type { Steps } from "./in-slices.ts";
import { busyNodes, fewestOf, likeliestDomains } from "./likely-room.ts";
import { type GangPlan, type PlanOptions, type PlanUnit, plan } from "./plan.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { sharedLevels } from "./shared-levels.ts";
import { fitsIn } from "./try-out.ts";
import { withEmptied } from "./what-if.ts";

/** Clusters that differ from the present one and are searched at most, and what the plan in one of them may spend. */
const maxTries = 48;
const planBudget = 5_000;

/**
 * The room that has fewest devices to be left, among the likeliest domains of the narrowest level that will do; undefined
 * where the unit would not even fit if all left whom kllama gave a place. Pods that belong to no gang and name no claim
 * stay: nobody who plans them can be kept from coming back.
 */
export function* soonestRoom(model: ClusterModel, unit: PlanUnit, options: PlanOptions = {}): Steps<Room | undefined> {
  const prepared = prepareUnit(model, unit);
  if (Array.isArray(prepared) || prepared.base.length === 0) return undefined;
  const stays = staying(model);
  yield;
  const look: Look = { model, unit, prepared, options, stays, tries: 0 };
  const candidates = busyNodes(model, unit, prepared);
  for (const level of sharedLevels(prepared)) {
    const rooms: (Room & Leavers)[] = [];
    for (const { path, nodes } of likeliestDomains(prepared, level, candidates)) {
      const room = yield* roomOn(look, nodes, `${level.name} ${path}`);
      if (room !== undefined) rooms.push(room);
    }
    const [soonest] = rooms.sort((a, b) => a.devices - b.devices || comparePlain(a.where ?? "", b.where ?? ""));
    if (soonest !== undefined) return { where: soonest.where, plans: soonest.plans };
  }
  const anywhere = yield* roomOn(look, candidates, undefined);
  return anywhere && { where: undefined, plans: anywhere.plans };
}

/** One search for a room. */
interface Look {
  readonly model: ClusterModel;
  readonly unit: PlanUnit;
  readonly prepared: PreparedUnit;
  readonly options: PlanOptions;
  readonly stays: Stays;
  /** So far. */
  tries: number;
}

/** The room on so few of the nodes, from the first on, as will do. */
function* roomOn(look: Look, nodes: readonly number[], where: string | undefined): Steps<(Room & Leavers) | undefined> {
  const { model, unit, prepared, options, stays } = look;
  const least = yield* fewestWithSlots(look, nodes);
  if (least === undefined) return undefined;
  const fits = (emptied: readonly number[]): boolean =>
    ++look.tries <= maxTries && fitsIn(model, unit, withEmptied(model, emptied, stays));
  const count = yield* fewestOf(nodes, fits, least);
  if (count === undefined) return undefined;
  yield;
  const other = withEmptied(model, nodes.slice(0, count), stays);
  const result = fitCache(model).lend(other.model.view, other.changed, () =>
    plan(other.model, unit, { ...options, budget: planBudget }),
  );
  if (!("plans" in result)) return undefined;
  const plans = neededOf(prepared, result.plans);
  return { where, plans, ...leaversOf(model, plans) };
}

/** So many nodes are looked at in one step. */
const nodesPerStep = 256;

/**
 * With fewer of the leading nodes emptied there are not even enough slots in the whole cluster, whatever the rules say;
 * undefined: not with all of them. One look per node, where a search would have to look at all of them again.
 */
function* fewestWithSlots({ model, prepared, stays }: Look, nodes: readonly number[]): Steps<number | undefined> {
  const cache = fitCache(model);
  let missing = missingSlots(model, prepared);
  for (let first = 0; first < nodes.length && missing.size > 0; first += nodesPerStep) {
    const part = nodes.slice(first, first + nodesPerStep);
    const { model: other } = withEmptied(model, part, stays);
    for (const [i, node] of part.entries()) {
      for (const [table, slots] of missing) {
        const gain = cache.slotsIn(other.view, table, node) - table.slots[node]!;
        if (gain < slots) missing.set(table, slots - gain);
        else missing.delete(table);
      }
      if (missing.size === 0) return first + i + 1;
    }
    yield;
    // The tables are those of now.
    if (missing.size > 0) missing = new Map([...missing].map(([table, slots]) => [cache.table(table.shape), slots]));
  }
  return missing.size === 0 ? 1 : undefined;
}

/** How many slots of each shape the unit lacks in the cluster as it is. */
function missingSlots(model: ClusterModel, { base, tableOf }: PreparedUnit): Map<ShapeTable, number> {
  const cache = fitCache(model);
  const pods = new Map<ShapeTable, number>();
  for (const slot of base) {
    // What it holds already takes nothing that is free.
    if (slot.own !== undefined) continue;
    const table = cache.table(tableOf(slot, []).shape);
    pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  return new Map([...pods].flatMap(([table, count]) => (count > table.total ? [[table, count - table.total]] : [])));
}

/** Members beyond `minCount` are no reason to keep others off. */
function neededOf({ base }: PreparedUnit, plans: readonly GangPlan[]): GangPlan[] {
  const needed = new Set(base.map(({ pod }) => `${pod.namespace}/${pod.name}`));
  return plans.flatMap((each) => {
    const { placement } = each;
    const pods = placement.pods.filter(({ pod }) => needed.has(`${placement.namespace}/${pod}`));
    return pods.length === 0 ? [] : [{ ...each, placement: { ...placement, pods } }];
  });
}
