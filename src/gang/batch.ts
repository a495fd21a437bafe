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
 * priorities: a joint plan places all of them or counts for nothing.
 */
export function createBatch(model: ClusterModel, holds: BatchHolds, options: PlanOptions = {}): Batch {
  /** Units of this batch that are placed and may be moved, in queue order. Groups stay: one rules over all its unit. */
  const movable: Placed[] = [];
  let tries = maxTries;

  function takeAll(unit: PlanUnit, plans: readonly GangPlan[]): void {
    for (const gang of unit.gangs) {
      const found = planOf(plans, gang);
      if (found !== undefined) holds.take(gang, found.placement);
    }
  }

  function planJointly(unit: PlanUnit, explored: number): PlanResult | undefined {
    for (let count = 1, all = false; !all && tries > 0 && holds.inTime?.() !== false; count *= 2) {
      all = count >= movable.length;
      const others = movable.slice(-count);
      const gangs = [...others.flatMap((other) => other.unit.gangs), ...unit.gangs];
      if (others.length === 0 || podsOf(gangs) > maxPods || hasNamesakes(gangs)) return undefined;
      tries--;
      const joint = model.attempt(() => tryTogether(others, unit, gangs));
      if (joint !== undefined) return { plans: [...joint.plans], explored: explored + joint.explored };
    }
    return undefined;
  }

  /** Moves `others` if they and the unit fit together; else all is as before. */
  function tryTogether(others: readonly Placed[], unit: PlanUnit, gangs: readonly GangRequest[]) {
    for (const other of others) for (const gang of other.unit.gangs) holds.giveBack(gang);
    const budget = Math.min(jointBudget, options.budget ?? jointBudget);
    const result = plan(model, { gangs }, { ...options, budget, explain: false });
    if ("plans" in result && others.every((other) => isWhole(other, result.plans))) {
      movable.splice(-others.length);
      for (const each of [...others.map((other) => other.unit), unit]) {
        const plans = each.gangs.flatMap((gang) => planOf(result.plans, gang) ?? []);
        takeAll(each, plans);
        movable.push({ unit: each, plans });
      }
      return { plans: movable.at(-1)!.plans, explored: result.explored };
    }
    for (const other of others) takeAll(other.unit, other.plans);
    return undefined;
  }

  return {
    plan(unit) {
      const result = plan(model, unit, options);
      if ("plans" in result) {
        takeAll(unit, result.plans);
        if (unit.placementGroup === undefined && result.plans.length > 0) movable.push({ unit, plans: result.plans });
        return result;
      }
      const curable =
        unit.placementGroup === undefined && result.rejections.some(({ reason }) => wantsRoom.has(reason));
      return (curable ? planJointly(unit, result.explored) : undefined) ?? result;
    },
  };
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
