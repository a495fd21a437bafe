import type { NodeLevel } from "../topology/fabric.ts";
import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import { problemOf } from "./conflict.ts";
import { fitCache } from "./fit.ts";
import { atOnce, type Steps } from "./in-slices.ts";
import { nameOf, namespaceOf } from "./keys.ts";
import type { PlanUnit } from "./plan.ts";
import { choosePreemption } from "./preemption.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { search } from "./search.ts";
import { sharedLevels } from "./shared-levels.ts";
import type { Victim } from "./victims.ts";
import { isDown, type WhatIf, withEmptied, withoutGang, withReturned } from "./what-if.ts";

/** Clusters that differ from the present one and are searched at most, and what each search may spend. */
const maxTries = 24;
const searchBudget = 1_000;
/** Of each kind so many are looked at, the likeliest first. */
const maxGangs = 8;
const maxDomains = 4;

/**
 * What would make room for a unit that `plan` refused, each tried out: `if gang X leaves` (of the same namespace: of
 * other tenants nothing is told), `if 2 nodes return to rack r7` (cordoned or not ready now), `if 2 nodes of rack r7
 * become free` (whoever uses them now). At most one of each kind; costs some searches more than the plan itself. Empty
 * also where no search was made.
 */
export function counterfactualsOf(model: ClusterModel, unit: PlanUnit): string[] {
  return atOnce(counterfactualSteps(model, unit));
}

/** The same, in steps of one search each. */
function* counterfactualSteps(model: ClusterModel, unit: PlanUnit): Steps<string[]> {
  const prepared = prepareUnit(model, unit);
  if (Array.isArray(prepared) || prepared.base.length === 0) return [];
  let tries = 0;
  const fitsIn = (other: ClusterModel): boolean => {
    const there = prepareUnit(other, unit);
    if (Array.isArray(there)) return false;
    const rules = there.rules.filter((rule) => rule.required);
    return search(problemOf(other.view, there, there.base, rules), searchBudget).kind === "found";
  };
  const fits = ({ model: other, changed }: WhatIf): boolean =>
    ++tries <= maxTries && fitCache(model).lend(other.view, changed, () => fitsIn(other));
  const texts = yield* leaving(model, unit, fits);
  for (const [makeOther, candidates, text] of [
    [withReturned, downNodes(model), returnText],
    [withEmptied, busyNodes(model, unit, prepared), freeText],
  ] as const) {
    const found = yield* fewest(prepared, candidates, (nodes) => fits(makeOther(model, nodes)));
    if (found) texts.push(text(found));
  }
  return texts;
}

interface Fewest {
  readonly count: number;
  /** Level and path; undefined: anywhere. */
  readonly where: string | undefined;
}

function returnText({ count, where }: Fewest): string {
  const to = where === undefined ? "" : ` to ${where}`;
  return count === 1 ? `if 1 node returns${to}` : `if ${count} nodes return${to}`;
}

function freeText({ count, where }: Fewest): string {
  const of = where === undefined ? "" : ` of ${where}`;
  return count === 1 ? `if 1 node${of} becomes free` : `if ${count} nodes${of} become free`;
}

/**
 * Whom the planner would have leave for the unit if it may: `by preemption of gang X and 2 gangs of others`. Names only of
 * the unit's namespaces. Nothing where it would preempt nobody.
 */
export function preemptionOutlook(model: ClusterModel, unit: PlanUnit, candidates: readonly Victim[]): string[] {
  const found = atOnce(choosePreemption(model, unit, candidates, {}));
  if (found === undefined || found.victims.length === 0) return [];
  const namespaces = new Set(unit.gangs.map(({ namespace }) => namespace));
  const keys = found.victims.flatMap(({ leavers }) => leavers.flatMap(({ key }) => key ?? []));
  const pods = found.victims.flatMap(({ leavers }) =>
    leavers.flatMap((each) => (each.key === undefined ? each.pods : [])),
  );
  const named = [
    ...keys.flatMap((key) => (namespaces.has(namespaceOf(key)) ? [`gang ${nameOf(key)}`] : [])),
    ...pods.flatMap(({ namespace, name }) => (namespaces.has(namespace) ? [`pod ${name}`] : [])),
  ];
  const others = keys.length + pods.length - named.length;
  const list = [
    ...named,
    ...(others === 0 ? [] : [others === 1 ? "1 of another tenant" : `${others} of other tenants`]),
  ];
  return [`by preemption of ${list.join(", ")}`];
}

/** Other gangs of the namespace, those that hold least first. */
function* leaving(model: ClusterModel, unit: PlanUnit, fits: (other: WhatIf) => boolean): Steps<string[]> {
  const own = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
  const namespaces = new Set(unit.gangs.map(({ namespace }) => namespace));
  const others = [...namespaces]
    .flatMap((namespace) => model.view.holdersIn(namespace))
    .filter((key) => !own.has(key))
    .map((key) => ({ key, pods: model.view.heldUnder(key).length }))
    .sort((a, b) => a.pods - b.pods || comparePlain(a.key, b.key));
  for (const { key } of others.slice(0, maxGangs)) {
    yield;
    if (fits(withoutGang(model, key))) return [`if gang ${nameOf(key)} leaves`];
  }
  return [];
}

/** Cordoned nodes and those that are not ready. */
function downNodes({ view }: ClusterModel): number[] {
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
      const busy = inUse(index) > 0 || Object.keys(load.used).length > 0;
      return busy ? [{ index, devices: view.inventory(index).devices.length, used: inUse(index) }] : [];
    })
    .sort(
      (a, b) =>
        b.devices - a.devices || a.used - b.used || prepared.fabric.rankOf(a.index) - prepared.fabric.rankOf(b.index),
    )
    .map(({ index }) => index);
}

/**
 * So few of the nodes are enough: of one domain of a level that the pods have to share, narrow levels first, else of
 * the whole cluster.
 */
function* fewest(
  prepared: PreparedUnit,
  candidates: readonly number[],
  fits: (nodes: readonly number[]) => boolean,
): Steps<Fewest | undefined> {
  if (candidates.length === 0) return undefined;
  for (const level of sharedLevels(prepared)) {
    let best: Fewest | undefined;
    for (const { path, nodes } of likeliestDomains(prepared, level, candidates)) {
      const count = yield* fewestOf(nodes, fits);
      if (count !== undefined && (!best || count < best.count)) best = { count, where: `${level.name} ${path}` };
    }
    if (best) return best;
  }
  const count = yield* fewestOf(candidates, fits);
  return count === undefined ? undefined : { count, where: undefined };
}

/**
 * So many leading nodes are enough; undefined: not even all.
 * @param least fewer are not, that is known: then that many are tried first, and more if need be, since trying takes time
 *   by their number
 */
export function* fewestOf(
  nodes: readonly number[],
  fits: (nodes: readonly number[]) => boolean,
  least?: number,
): Steps<number | undefined> {
  let tooFew = (least ?? 1) - 1;
  let enough = least ?? nodes.length;
  for (yield; !fits(nodes.slice(0, enough)); yield) {
    if (enough >= nodes.length) return undefined;
    tooFew = enough;
    enough = Math.min(nodes.length, 2 * enough);
  }
  while (enough - tooFew > 1) {
    const middle = Math.floor((enough + tooFew) / 2);
    yield;
    if (fits(nodes.slice(0, middle))) enough = middle;
    else tooFew = middle;
  }
  return enough;
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
