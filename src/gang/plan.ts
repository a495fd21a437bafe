import type { GangSpec } from "../api/gang.ts";
import { type PlacedPod, type Placement, type Rejection, type Wish, wishes } from "../api/placement.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PodRecord, Resources } from "../topology/records.ts";
import { explainObstacles, explainSearch } from "./explain.ts";
import { fitCache, type Workload } from "./fit.ts";
import { withoutLeftovers } from "./left-claims.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { placementOf } from "./result.ts";
import { type Solution, solveUnit } from "./solve.ts";

/** One gang that wants pods placed. */
export interface GangRequest {
  namespace: string;
  name: string;
  spec: GangSpec;
  priority: number;
  createdAtMs: number;
  /** Role in the unit's PlacementGroup where a selector gives it; default: `spec.role`. */
  role?: string;
  /** Live members; terminal and deleted pods left out. */
  pods: readonly PodRecord[];
  /** UID → node of members that are bound, also where `pods` do not say so yet. */
  bound?: ReadonlyMap<string, string>;
  /** Slots already held or running: they stay, and their domains bind the newcomers. */
  placed: readonly PlacedPod[];
  /** Slots of `placed` where nobody runs and to which nobody returns, as `slotKey` names them: they bind nobody. */
  loose?: ReadonlySet<string>;
  /**
   * It stands already, and others of its group are planned beside it: its places bind them. What it lacks is planned when it
   * asks for it itself, and keeps nobody waiting.
   */
  stands?: true;
  /** It is planned together with a PlacementGroup's gangs and has no part in the group. */
  apart?: true;
}

/** Gangs that are placed all together or not at all: one gang, or the base set of a PlacementGroup. */
export interface PlanUnit {
  gangs: readonly GangRequest[];
  placementGroup?: { namespace: string; name: string; spec: PlacementGroupSpec };
}

/** What one gang got: `placement.pods` are those newly placed; `requests` is keyed by pod name. */
export interface GangPlan {
  placement: Placement;
  requests: ReadonlyMap<string, Resources>;
}

export type PlanResult =
  | { plans: GangPlan[]; explored: number }
  | { rejections: Rejection[]; explored: number; budgetExceeded: boolean };

export interface PlanOptions {
  /**
   * Values that the search may try in vain before it gives up and says so; default 20,000. Two tries per pod and
   * domain, which a search without detours takes, do not count.
   */
  budget?: number;
  /**
   * What pods to come will ask for, by experience. Where it is known, a single pod goes where it leaves most of the free
   * devices to them; else to the tightest node.
   */
  workload?: Workload;
  /** False: without reasons, which may take longer than the search itself; default: true. */
  explain?: boolean;
}

const defaultBudget = 20_000;

/**
 * Places all gangs of a unit together, or says why not; the model is not changed. Deterministic: the same model and
 * unit give the same answer, in whatever order nodes, pods and gangs came.
 */
export function plan(model: ClusterModel, unit: PlanUnit, options: PlanOptions = {}): PlanResult {
  fitCache(model).expect(options.workload);
  const result = planOn(model, unit, options);
  const other = "plans" in result ? undefined : withoutLeftovers(model, unit);
  const again = other && planOn(other, unit, { ...options, explain: false });
  return again && "plans" in again ? again : result;
}

function planOn(model: ClusterModel, unit: PlanUnit, options: PlanOptions): PlanResult {
  const prepared = prepareUnit(model, unit);
  if (Array.isArray(prepared)) {
    return { rejections: explainObstacles(unit, prepared), explored: 0, budgetExceeded: false };
  }
  const solution = solveUnit(model, prepared, unit.placementGroup, options.budget ?? defaultBudget);
  if (solution.kind === "found")
    return { plans: plansOf(model, unit, prepared, solution), explored: solution.explored };
  return {
    rejections: options.explain === false ? [] : explainSearch(model, unit, prepared, solution.kind),
    explored: solution.explored,
    budgetExceeded: solution.kind === "budget",
  };
}

/** One plan per gang that got pods placed, in the order of the unit. */
function plansOf(model: ClusterModel, unit: PlanUnit, prepared: PreparedUnit, solution: Solution): GangPlan[] {
  return unit.gangs.flatMap((request) => {
    const gang = prepared.gangs.findIndex((each) => each.request === request);
    const mine = solution.decided.filter(({ slot }) => slot.gang === gang);
    if (mine.length === 0) return [];
    return [
      {
        placement: {
          ...placementOf(model, unit, prepared, gang, solution.decided),
          ...(solution.open.length > 0 && { budgetExceeded: [...solution.open] }),
        },
        requests: new Map(mine.map(({ slot }) => [slot.pod.name, slot.pod.requests])),
      },
    ];
  });
}

/** Wishes for which the search used up its budget, in some of the plans. */
export function budgetExceededFor(plans: readonly GangPlan[]): Wish[] {
  const all = new Set(plans.flatMap(({ placement }) => placement.budgetExceeded ?? []));
  return wishes.filter((wish) => all.has(wish));
}

/** The gang of a pod that belongs to none: one pod set with one pod. */
export function singlePodGang(pod: PodRecord): GangSpec {
  return {
    podSets: [{ name: pod.podSet ?? "pod", count: 1 }],
    topology: "default",
    scheduleTimeoutSeconds: 600,
    disruption: "All",
  };
}
