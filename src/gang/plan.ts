import type { GangSpec } from "../api/gang.ts";
import type { PlacedPod, Placement, Rejection } from "../api/placement.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { PodRecord, Resources } from "../topology/records.ts";

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
  /** Slots already held or running: they stay, and their domains bind the newcomers. */
  placed: readonly PlacedPod[];
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
  /** Search steps before the planner gives up and says so; default 20,000. */
  budget?: number;
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
