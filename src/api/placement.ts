/** The planner's two answers, in the output format that `plan`, `snapshot --placements` and `start -o json` print. */

/** One device that a request of a claim got; the optional fields are those of `status.allocation.devices.results[]`. */
export interface PlacedDevice {
  request: string;
  driver: string;
  pool: string;
  device: string;
  adminAccess?: boolean;
  shareID?: string;
  consumedCapacity?: Record<string, string>;
}

/**
 * `claim` is the ResourceClaim's name; offline, where the claim does not exist yet, it equals `reference`: its name
 * under `pod.spec.resourceClaims`, which outlives a recreated pod whose claim gets a new name.
 */
export interface PlacedClaim {
  claim: string;
  reference: string;
  devices: PlacedDevice[];
}

export interface PlacedPod {
  pod: string;
  podSet: string;
  /** Place of the pod within its pod set; the hold of a Gang is per pod set and index. */
  index: number;
  node: string;
  claims: PlacedClaim[];
}

/** Predicted communication cost, in milliseconds per unit of traffic stated in `assumes`. */
export interface PlacementCost {
  totalMs: number;
  byLink: { from: string; to: string; level: string; milliseconds: number }[];
  assumes: string[];
  /** Traffic that is not in `totalMs`, and why. Left out: there is none. */
  unpriced?: string[];
}

/**
 * Something better than was found: a preferred rule kept or a spread more even, more of the surplus placed, traffic that
 * costs less, pods in a narrower domain.
 */
export const wishes = ["PreferredRules", "Surplus", "Traffic", "Compactness"] as const;
export type Wish = (typeof wishes)[number];

export interface Placement {
  gang: string;
  namespace: string;
  role?: string;
  placementGroup?: string;
  pods: PlacedPod[];
  /** level name → whole path of the domain that holds all pods of the gang, label values joined by `/`. */
  domains: Record<string, string>;
  cost: PlacementCost;
  /** For these the search used up its budget before it knew whether there is something better. Left out: for none. */
  budgetExceeded?: Wish[];
}

/** The closed list of reasons why a gang is not placed. */
export const rejectionReasons = [
  "WaitingForMembers",
  "InvalidGang",
  "UnknownTopology",
  "UnknownLevel",
  "UnsupportedClaim",
  "MixedDrivers",
  "NoMatchingDevice",
  "InsufficientDevices",
  "InsufficientResources",
  "NoNodeMatches",
  "NoDomainFits",
  "WaitingForPlacementGroup",
  "GangTooLarge",
  "NamespaceLimit",
  "BudgetExceeded",
  /** Its reservation was given back; a new plan follows. The planner itself never says so. */
  "Revoked",
] as const;
export type RejectionReason = (typeof rejectionReasons)[number];

/**
 * One thing that blocks: `needed` and `available` count `resource` (a device class, a resource name, `nodes`, `pods`, `gangs`,
 * `claims`, or one object that is not there by its kind and name).
 */
export interface Blocking {
  level: string;
  domain?: string;
  resource: string;
  needed: number;
  available: number;
}

/**
 * Names of pods that have no place together under rules, in words. `smallest`: any fewer pods of the gang (of several gangs,
 * where they are of several) have one under all that is required of them, and these pods under any fewer rules; `irreducible`:
 * all but any one of them have; `unknown`: the search for fewer used up its budget.
 */
export interface Conflict {
  pods: string[];
  rules: string[];
  size: "smallest" | "irreducible" | "unknown";
}

export interface Rejection {
  gang: string;
  namespace: string;
  reason: RejectionReason;
  message: string;
  blocking: Blocking[];
  /** Nothing is short, and nothing in the cluster would help: what is written is wrong, as the message says. */
  needsCorrection?: true;
  /** Pods that have no place together. Left out: no search was made, or it used up its budget. */
  conflict?: Conflict;
  counterfactuals: string[];
}

const correctable: ReadonlySet<RejectionReason> = new Set([
  "InvalidGang",
  "UnknownLevel",
  "UnsupportedClaim",
  "MixedDrivers",
  "GangTooLarge",
]);

/** A refusal that no search was made for, or before it is known what would make room. */
export function rejectionOf(
  { namespace, name }: { namespace: string; name: string },
  { reason, message, blocking = [] }: Pick<Rejection, "reason" | "message"> & { blocking?: readonly Blocking[] },
): Rejection {
  const needsCorrection = correctable.has(reason) && { needsCorrection: true as const };
  return { gang: name, namespace, reason, message, blocking: [...blocking], ...needsCorrection, counterfactuals: [] };
}

/** Too few objects of a kind, or one that is not there. */
export function lack(resource: string, needed = 1, available = 0): Blocking {
  return { level: "cluster", resource, needed, available };
}

export interface PlanStats {
  nodes: number;
  devices: number;
  gangs: number;
  planMs: number;
  explored: number;
  /** Some search used up its budget: it is said of which rejection or placement. */
  budgetExceeded: boolean;
}

export interface PlanOutput {
  placements: Placement[];
  rejections: Rejection[];
  stats: PlanStats;
}
