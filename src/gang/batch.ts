import type { Placement, RejectionReason } from "../api/placement.ts";
import type { ClusterModel } from "../topology/model.ts";
import { type GangPlan, type GangRequest, type PlanOptions, type PlanResult, type PlanUnit, plan } from "./plan.ts";

/** Where plans that nobody has begun to carry out are kept, so that later ones see them taken. */
export interface BatchHolds {
  /** The gang gets these places, instead of those that it was given in this batch before. */
  take(gang: GangRequest, placement: Placement): void;
  /** What the gang was given in this batch is free again. */
  giveBack(gang: GangRequest): void;
  /** False: time is up, nothing more is tried out. Default: there is time. */
  inTime?(): boolean;
}

interface Placed {
  readonly unit: PlanUnit;
  readonly plans: readonly GangPlan[];
}

export interface Batch {
  /** Plans a unit on what those before it left, and holds what it gets. */
  plan(unit: PlanUnit): PlanResult;
}

/** Refusals that room could cure, such as other places of earlier gangs. */
export const wantsRoom: ReadonlySet<RejectionReason> = new Set([
  "NoDomainFits",
  "InsufficientDevices",
  "InsufficientResources",
]);

/** Searches that a batch may make in vain: each costs as much as a plan of its own. */
const maxTries = 16;
const maxPods = 256;
const jointBudget = 5_000;

/**
 * Plans that are made in one go, in queue order. Nothing of them is carried out before the batch ends, so a unit that is
 * refused for want of room is planned again together with the last one before it, the last two, four, …: with racks of 6
 * and 5 free nodes, gangs of 3 and 3 that took both racks make room for a gang of 5. Nobody loses its place, whatever the
 * priorities: a joint plan places all of them or counts for nothing. Of PlacementGroups one at a time takes part.
 */
export function createBatch(model: ClusterModel, holds: BatchHolds, options: PlanOptions = {}): Batch {
  /** Units of this batch that are placed and may be moved, in queue order. */
  const movable: Placed[] = [];
  /** PlacementGroups of which a unit was placed: of two units one goes by where the other is, so that both stay. */
  const groups = new Set<string>();
  let tries = maxTries;

  function takeAll(unit: PlanUnit, plans: readonly GangPlan[]): void {
    for (const gang of unit.gangs) {
      const found = planOf(plans, gang);
      if (found !== undefined) holds.take(gang, found.placement);
    }
  }

  function accept(unit: PlanUnit, plans: readonly GangPlan[]): void {
    takeAll(unit, plans);
    const group = groupOf(unit);
    const bound = group !== undefined && (groups.has(group) || unit.gangs.some(({ stands }) => stands));
    if (group !== undefined) groups.add(group);
    if (bound) movable.splice(0, movable.length, ...movable.filter((other) => groupOf(other.unit) !== group));
    else if (plans.length > 0) movable.push({ unit, plans });
  }

  function planJointly(unit: PlanUnit, explored: number): PlanResult | undefined {
    const candidates = withOneGroup(movable, unit);
    for (let count = 1, all = false; !all && tries > 0 && holds.inTime?.() !== false; count *= 2) {
      all = count >= candidates.length;
      const others = candidates.slice(-count);
      const joined = joinUnits([...others.map((other) => other.unit), unit]);
      if (others.length === 0 || podsOf(joined.gangs) > maxPods || hasNamesakes(joined.gangs)) return undefined;
      tries--;
      const joint = model.attempt(() => tryTogether(others, unit, joined));
      if (joint !== undefined) return { plans: [...joint.plans], explored: explored + joint.explored };
    }
    return undefined;
  }

  /** Moves `others` if they and the unit fit together; else all is as before. */
  function tryTogether(others: readonly Placed[], unit: PlanUnit, joined: PlanUnit) {
    for (const other of others) for (const gang of other.unit.gangs) holds.giveBack(gang);
    const budget = Math.min(jointBudget, options.budget ?? jointBudget);
    const result = plan(model, joined, { ...options, budget, explain: false });
    if ("plans" in result && others.every((other) => isWhole(other, result.plans))) {
      for (const other of others) movable.splice(movable.indexOf(other), 1);
      const plansOf = ({ gangs }: PlanUnit) => gangs.flatMap((gang) => planOf(result.plans, gang) ?? []);
      for (const { unit: each } of others) {
        takeAll(each, plansOf(each));
        movable.push({ unit: each, plans: plansOf(each) });
      }
      accept(unit, plansOf(unit));
      return { plans: plansOf(unit), explored: result.explored };
    }
    for (const other of others) takeAll(other.unit, other.plans);
    return undefined;
  }

  return {
    plan(unit) {
      const result = plan(model, unit, options);
      if ("plans" in result) {
        accept(unit, result.plans);
        return result;
      }
      const curable = result.rejections.some(({ reason }) => wantsRoom.has(reason));
      return (curable ? planJointly(unit, result.explored) : undefined) ?? result;
    },
  };
}

/** `namespace/name` of its PlacementGroup. */
function groupOf({ placementGroup }: PlanUnit): string | undefined {
  return placementGroup && `${placementGroup.namespace}/${placementGroup.name}`;
}

/** Without those of PlacementGroups but one: the unit's own, else the one that was placed last. */
function withOneGroup(others: readonly Placed[], { placementGroup }: PlanUnit): Placed[] {
  const kept = placementGroup ? undefined : others.findLast(({ unit }) => unit.placementGroup !== undefined);
  return others.filter((other) => other.unit.placementGroup === undefined || other === kept);
}

/** Units, one of a PlacementGroup at most, as one: the group rules over its own gangs alone. */
function joinUnits(units: readonly PlanUnit[]): PlanUnit {
  const placementGroup = units.find((unit) => unit.placementGroup)?.placementGroup;
  const gangs = units.flatMap((unit) => {
    const isApart = placementGroup !== undefined && unit.placementGroup === undefined;
    return isApart ? unit.gangs.map((gang) => ({ ...gang, apart: true as const })) : unit.gangs;
  });
  return { gangs, ...(placementGroup && { placementGroup }) };
}

/** Surplus that was placed before is not given up for others. */
function isWhole(before: { readonly plans: readonly GangPlan[] }, plans: readonly GangPlan[]): boolean {
  return before.plans.every(({ placement }) => {
    const now = plans.find((each) => isSame(each.placement, placement.namespace, placement.gang));
    return now !== undefined && now.placement.pods.length >= placement.pods.length;
  });
}

function planOf(plans: readonly GangPlan[], { namespace, name }: GangRequest): GangPlan | undefined {
  return plans.find(({ placement }) => isSame(placement, namespace, name));
}

function isSame(placement: Placement, namespace: string, name: string): boolean {
  return placement.gang === name && placement.namespace === namespace;
}

function podsOf(gangs: readonly GangRequest[]): number {
  return gangs.reduce((sum, gang) => sum + gang.pods.length, 0);
}

/** A pod without a Gang may have a Gang's name; answers go by names. */
function hasNamesakes(gangs: readonly GangRequest[]): boolean {
  return new Set(gangs.map(({ namespace, name }) => `${namespace}/${name}`)).size < gangs.length;
}
