import type { NodeLevel } from "../topology/fabric.ts";
import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { Steps } from "./in-slices.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import { isDown } from "./what-if.ts";

/** Where room could be made for a unit: nodes and domains that are worth a try, the likeliest first. */

/** Of each level so many domains. */
const maxDomains = 4;

/** Cordoned nodes and those that are not ready. */
export function downNodes({ view }: ClusterModel): number[] {
  return view.nodes.flatMap((node) => (node && isDown(node.record) ? node.index : []));
}

/** Nodes that admit pods of the unit, and that somebody else uses; the largest first, of those the least used. */
export function busyNodes({ view }: ClusterModel, unit: PlanUnit, prepared: PreparedUnit): number[] {
  const tables = [...new Set(prepared.base.map((slot) => prepared.tableOf(slot, [])))];
  const own = new Set(unit.gangs.flatMap(({ placed }) => placed.map(({ node }) => view.indexOf(node) ?? -1)));
  for (const slot of prepared.base) if (slot.own) own.add(slot.own.node);
  const inUse = (node: number) => view.usage(node).used.reduce((sum, used) => sum + Math.min(1, used), 0);
  return view.nodes
    .flatMap((node) => {
      if (!node || own.has(node.index) || !tables.some(({ admits }) => admits[node.index] === 1)) return [];
      const { index, load } = node;
      const used = inUse(index);
      const busy = used > 0 || Object.keys(load.used).length > 0;
      return busy ? [{ index, devices: view.inventory(index).devices.length, used }] : [];
    })
    .sort(
      (a, b) =>
        b.devices - a.devices || a.used - b.used || prepared.fabric.rankOf(a.index) - prepared.fabric.rankOf(b.index),
    )
    .map(({ index }) => index);
}

/** Domains with most room now, beside what the candidates may bring. */
export function likeliestDomains(
  { base, tableOf, fabric }: PreparedUnit,
  level: NodeLevel,
  candidates: readonly number[],
) {
  const byDomain = Map.groupBy(candidates, (node) => level.domainOf[node] ?? -1);
  byDomain.delete(-1);
  const table = base.map((slot) => tableOf(slot, [])).reduce((a, b) => (b.shape.devices > a.shape.devices ? b : a));
  const room = fabric.nodeLevels.includes(level) ? table.sums(fabric, level.index, "slots") : undefined;
  return [...byDomain]
    .map(([id, nodes]) => ({ ...level.domains[id]!, nodes, room: (room?.[id] ?? 0) + nodes.length }))
    .sort((a, b) => b.room - a.room || comparePlain(a.key, b.key))
    .slice(0, maxDomains)
    .map(({ path, nodes }) => ({ path, nodes }));
}

/**
 * So many leading ones are enough; undefined: not even all.
 * @param least fewer are not, that is known: then that many are tried first, and more if need be, since trying takes time
 *   by their number
 */
export function* fewestOf<T>(
  list: readonly T[],
  areEnough: (some: readonly T[]) => boolean,
  least?: number,
): Steps<number | undefined> {
  let tooFew = (least ?? 1) - 1;
  let enough = least ?? list.length;
  for (yield; !areEnough(list.slice(0, enough)); yield) {
    if (enough >= list.length) return undefined;
    tooFew = enough;
    enough = Math.min(list.length, 2 * enough);
  }
  while (enough - tooFew > 1) {
    const middle = Math.floor((enough + tooFew) / 2);
    yield;
    if (areEnough(list.slice(0, middle))) enough = middle;
    else tooFew = middle;
  }
  return enough;
}
