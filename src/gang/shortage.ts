import type { ModelView } from "../topology/model.ts";
import type { ClaimRecord } from "../topology/records.ts";
import { type Conflict, problemOf } from "./conflict.ts";
import { type PodPlace, sharedDomains } from "./cost.ts";
import type { PreparedUnit } from "./prepare.ts";
import { breadthOf, ownDevices, type Place, type Rule, type Slot } from "./problem.ts";
import { search } from "./search.ts";
import { amountOf, classesOf } from "./shape-text.ts";

/** Something of which the pods of a conflict find too little together. */
export interface Shortage {
  /** A device class or a resource, of which any amount more would do; `pods`: neither. */
  readonly resource: string;
  readonly needed: number;
  /** What those of the pods get that fit when as little of it as possible is left out. */
  readonly available: number;
  /** Pods left out; all others fit. */
  readonly without: readonly Slot[];
  /** Path of the domain where the others fit; undefined: in several, or there are no others. */
  readonly domain: string | undefined;
}

/** What one search may spend. */
const searchBudget = 1_000;

/** The narrowest level of which all pods of a conflict have to share a domain. */
export function sharedLevel({ slots, rules }: Pick<Conflict, "slots" | "rules">): Rule | undefined {
  const shared = rules.filter((rule) => {
    const set = rule.setOf(slots[0]!);
    return rule.kind === "colocate" && set !== undefined && slots.every((slot) => rule.setOf(slot) === set);
  });
  return shared.toSorted((a, b) => breadthOf(b) - breadthOf(a))[0];
}

/** What is short, each by itself the cure; where no one thing is, the pods themselves are what is too many. */
export function shortages(view: ModelView, unit: PreparedUnit, conflict: Conflict): Shortage[] {
  return shortOf(view, unit, conflict).map((resource) => shortageOf(view, unit, conflict, resource));
}

/** Resources of which any amount more would do, each by itself; `pods`: of none. */
export function shortOf(view: ModelView, unit: PreparedUnit, { slots, rules }: Conflict): string[] {
  const isCured = (resource: string): boolean => {
    const relaxed = slots.map((slot) => without(slot, resource));
    return search(problemOf(view, unit, relaxed, rules), searchBudget).kind === "found";
  };
  const short = resourcesOf(unit, slots).filter(isCured);
  return short.length > 0 ? short : ["pods"];
}

/** Device classes that the pods claim, then resources that they request. */
function resourcesOf(unit: PreparedUnit, slots: readonly Slot[]): string[] {
  const shapes = [...new Set(slots.map((slot) => unit.tableOf(slot, []).shape))];
  const names = shapes.flatMap(({ demands }) => demands.map(([name]) => name)).filter((name) => name !== "pods");
  return [...new Set([...shapes.flatMap(({ claims }) => classesOf(claims)), ...names])];
}

/** The slot as if it did not ask for that. */
function without(slot: Slot, resource: string): Slot {
  const { [resource]: _, ...requests } = slot.pod.requests;
  return { ...slot, pod: { ...slot.pod, requests }, claims: slot.claims.flatMap((claim) => lessOf(claim, resource)) };
}

/** A claim without its requests for devices of a class; none if it has no others. What is allocated stays. */
function lessOf(claim: ClaimRecord, deviceClass: string): ClaimRecord[] {
  const { requests = [], constraints = [] } = claim.spec.devices ?? {};
  const kept = requests.filter(
    ({ exactly, firstAvailable }) => (exactly ?? firstAvailable?.[0])?.deviceClassName !== deviceClass,
  );
  if (claim.allocation !== undefined || kept.length === requests.length) return [claim];
  if (kept.length === 0) return [];
  const names = new Set(kept.map(({ name }) => name));
  const binding = constraints.flatMap((constraint) => {
    const some = constraint.requests?.filter((name) => names.has(name.split("/")[0]!));
    if (some === undefined) return [constraint];
    return some.length === 0 ? [] : [{ ...constraint, requests: some }];
  });
  return [{ ...claim, spec: { devices: { requests: kept, constraints: binding } } }];
}

function shortageOf(view: ModelView, unit: PreparedUnit, conflict: Conflict, resource: string): Shortage {
  const { slots, rules } = conflict;
  const amount = (list: readonly Slot[]) =>
    list.reduce((sum, slot) => sum + amountOf(unit.tableOf(slot, []).shape, resource), 0);
  const needed = amount(slots);
  for (const left of leftOut(unit, slots, resource)) {
    const others = slots.filter((slot) => !left.includes(slot));
    const result = search(problemOf(view, unit, others, rules), searchBudget);
    if (result.kind !== "found") continue;
    const domain = others.length === 0 ? undefined : domainOf(view, conflict, others, result.places);
    return { resource, needed, available: amount(others), without: left, domain };
  }
  return { resource, needed, available: 0, without: slots, domain: undefined };
}

/** What to try leaving out: one pod of each kind that asks for some of it, least first; then ever more from the end. */
function* leftOut(unit: PreparedUnit, slots: readonly Slot[], resource: string): Generator<readonly Slot[]> {
  const amounts = slots.map((slot) => amountOf(unit.tableOf(slot, []).shape, resource));
  const last = new Map<string, number>();
  for (const [i, slot] of slots.entries()) {
    if (amounts[i]! > 0) last.set(`${slot.gang}/${slot.podSet} ${amounts[i]}`, i);
  }
  const alone = [...last.values()].sort((a, b) => amounts[a]! - amounts[b]! || b - a);
  for (const i of alone) yield [slots[i]!];
  for (let count = 2; count < slots.length; count *= 2) yield slots.slice(-count);
}

function domainOf(
  view: ModelView,
  conflict: Conflict,
  slots: readonly Slot[],
  places: readonly Place[],
): string | undefined {
  const rule = sharedLevel(conflict);
  if (rule === undefined) return undefined;
  const pods = slots.map(({ podSet, index }, i): PodPlace => {
    return { podSet, index, node: places[i]!.node, devices: ownDevices(view, places[i]!) };
  });
  return sharedDomains(view, rule.fabric, pods)[rule.ref.level.name];
}
