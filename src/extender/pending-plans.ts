import type { GangPhase } from "../api/gang.ts";
import { type Blocking, lack, type RejectionReason } from "../api/placement.ts";
import { keptPods, livePods } from "../gang/lifecycle/members.ts";
import { avoiding } from "../gang/lifecycle/refusals.ts";
import { type Context, type GangState, heldPods } from "../gang/lifecycle/state.ts";
import { assignSlots } from "../gang/members.ts";
import { type GangRequest, singlePodGang } from "../gang/plan.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { PodRecord } from "../topology/records.ts";
import { type GangSet, oldestSet, type RuledOut, type Seats } from "./gang-sets.ts";
import { roleCounts } from "./role-counts.ts";

/** Why a gang cannot be planned yet; `first`: what is planned before it. */
export interface Wait {
  readonly reason: Extract<RejectionReason, "WaitingForPlacementGroup" | "InvalidGang">;
  readonly waiting: string;
  /** What is not there. */
  readonly blocking: readonly Blocking[];
  readonly first?: GangSet;
}

export function refusalOf({ reason, waiting, blocking }: Wait) {
  return { reason, message: waiting, blocking };
}

/** Gangs that are planned together, or why the gang cannot be planned yet. */
export type UnitAnswer = GangSet | Wait;

export function waits(waiting: string, ...blocking: readonly Blocking[]): Wait {
  return { reason: "WaitingForPlacementGroup", waiting, blocking };
}

function faulty(waiting: string): Wait {
  return { reason: "InvalidGang", waiting, blocking: [] };
}

/** The role that a gang plays in a group: what it says itself, else what the group's selectors say. */
export function roleIn(group: PlacementGroupRecord, state: GangState): string | undefined {
  const { gang } = state;
  if (gang === undefined || gang.deleting || gang.namespace !== group.namespace) return undefined;
  if (gang.spec.placementGroup !== undefined) {
    return gang.spec.placementGroup === group.name ? gang.spec.role : undefined;
  }
  return group.spec.members.find(
    (member) =>
      member.selector !== undefined &&
      Object.entries(member.selector.matchLabels).every(([key, value]) => gang.labels[key] === value),
  )?.role;
}

/** The group a gang belongs to: by name, else by the first group (in name order) whose selectors match it. */
export function groupOf(state: GangState, groups: readonly PlacementGroupRecord[]): PlacementGroupRecord | undefined {
  return groups.find((group) => roleIn(group, state) !== undefined);
}

/**
 * What has to be planned together with `state`: itself alone, or with the other gangs of its PlacementGroup's base set
 * (the minima per role and what the pairings' ratios ask for besides, oldest first), or, where the base stands, with the
 * gangs without which it would break a ratio; beside the gangs of the group that are placed already.
 * @param ready keys of gangs that are complete and ask for a plan
 * @param nodeFits whether a member may still go to the node that was planned for it
 * @param ruledOut gangs that have no place together: younger ones of their roles are planned in their stead
 */
export function unitFor(
  state: GangState,
  group: PlacementGroupRecord | undefined,
  members: readonly GangState[],
  ready: ReadonlySet<string>,
  nodeFits: Context["nodeFits"],
  ruledOut: readonly RuledOut[] = [],
): UnitAnswer {
  if (group === undefined) {
    const name = state.gang?.spec.placementGroup;
    if (name !== undefined)
      return waits(
        `PlacementGroup ${name} does not exist in namespace ${state.gang?.namespace}`,
        lack(`PlacementGroup ${name}`),
      );
    return { unit: { gangs: [requestOf(state, nodeFits)] }, keys: [state.key] };
  }
  const stray = isPlaced(state) ? undefined : strayText(group, state);
  if (stray !== undefined) return faulty(stray);
  const roles = new Map(group.spec.members.map(({ role }) => [role, gangsOf(group, role, members, ready)]));
  const base = new Map(
    group.spec.members.map(({ role, minInstances }) => [role, Math.max(minInstances, roles.get(role)!.placed.length)]),
  );
  const setOf = (chosen: ReadonlySet<GangState>): GangSet => setIn(group, chosen, roles, nodeFits);
  const chosen = choose(group, roles, base, ruledOut);
  if ("waiting" in chosen) return chosen;
  if (chosen.gangs.has(state)) return setOf(chosen.gangs);
  // The base stands, or is made of others: this one joins it once they are placed.
  if (chosen.gangs.size > 0) {
    const { size } = chosen.gangs;
    return {
      ...waits(`PlacementGroup ${group.name}: its base set is placed first`, lack("gangs", size)),
      first: setOf(chosen.gangs),
    };
  }
  // Members beyond those that it needs change no numbers.
  const joined = isPlaced(state) ? { gangs: new Set([state]) } : join(state, group, roles, ruledOut);
  return "waiting" in joined ? joined : setOf(joined.gangs);
}

/** Why a gang that names the group has no part in it; undefined: it has. */
function strayText(group: PlacementGroupRecord, state: GangState): string | undefined {
  const role = roleIn(group, state);
  const roles = group.spec.members.map((member) => member.role);
  if (role !== undefined && roles.includes(role)) return undefined;
  const has = role === undefined ? "is not set" : `is ${role}, which the group does not have`;
  return `PlacementGroup ${group.name}: the gang's spec.role ${has}; set it to ${alternatives(roles)}`;
}

function alternatives(names: readonly string[]): string {
  return names.length === 1 ? names[0]! : `one of ${names.join(", ")}`;
}

/** The chosen gangs of a group, beside those that are placed. */
function setIn(
  group: PlacementGroupRecord,
  chosen: ReadonlySet<GangState>,
  roles: ReadonlyMap<string, RoleGangs>,
  nodeFits: Context["nodeFits"],
): GangSet {
  const placed = [...roles.values()].flatMap((gangs) => gangs.placed);
  const standing = placed.filter((gang) => !chosen.has(gang));
  const request = (gang: GangState) => requestOf(gang, nodeFits, roleIn(group, gang));
  const { namespace, name, spec } = group;
  return {
    unit: {
      gangs: [...[...chosen].map(request), ...standing.map((gang) => ({ ...request(gang), stands: true as const }))],
      placementGroup: { namespace, name, spec },
    },
    keys: [...chosen].map((gang) => gang.key),
  };
}

interface RoleGangs {
  readonly placed: readonly GangState[];
  /** Complete and without places, oldest first. */
  readonly waiting: readonly GangState[];
}

function gangsOf(
  group: PlacementGroupRecord,
  role: string,
  members: readonly GangState[],
  ready: ReadonlySet<string>,
): RoleGangs {
  const gangs = members.filter((member) => roleIn(group, member) === role).sort(byAge);
  return { placed: gangs.filter(isPlaced), waiting: gangs.filter((gang) => !isPlaced(gang) && ready.has(gang.key)) };
}

/** The gangs that are to be placed so that so many are, and the bounds of the pairings are kept. `first` is one of them. */
function choose(
  { name, spec }: PlacementGroupRecord,
  roles: ReadonlyMap<string, RoleGangs>,
  wanted: ReadonlyMap<string, number>,
  ruledOut: readonly RuledOut[],
  first?: GangState,
): { gangs: Set<GangState> } | Wait {
  const placed = new Map([...roles].map(([role, gangs]) => [role, gangs.placed.length]));
  const needed = roleCounts(spec, placed, wanted);
  if (needed === undefined) {
    return faulty(`PlacementGroup ${name}: the ratios of its pairing contradict each other, no numbers keep them`);
  }
  const seats: Seats[] = [];
  for (const [role, { placed: there, waiting }] of roles) {
    const count = needed.counts.get(role)!;
    const lacking = Math.max(0, count - there.length);
    if (waiting.length < lacking) {
      const why = needed.because.get(role);
      const complete = there.length + waiting.length;
      const have = `${complete} of ${count} gangs of role ${role} are complete`;
      return waits(
        `PlacementGroup ${name}: ${have}${why === undefined ? "" : ` (${why})`}`,
        lack("gangs", count, complete),
      );
    }
    const others = waiting.filter((gang) => gang !== first);
    const own = waiting.length - others.length;
    if (own > 0) seats.push({ waiting: [first!], count: 1 });
    seats.push({ waiting: others, count: lacking - own });
  }
  const gangs = oldestSet(seats, ruledOut);
  if (gangs !== undefined) return { gangs };
  const wantedNow = seats.reduce((sum, { count }) => sum + count, 0);
  return waits(`PlacementGroup ${name}: no other gangs of it fit`, lack("gangs", wantedNow));
}

/** A gang beside those that are placed, with those without which it would break a ratio. */
function join(
  state: GangState,
  group: PlacementGroupRecord,
  roles: ReadonlyMap<string, RoleGangs>,
  ruledOut: readonly RuledOut[],
): { gangs: Set<GangState> } | Wait {
  const own = roleIn(group, state)!;
  const wanted = new Map([...roles].map(([role, { placed }]) => [role, placed.length + (role === own ? 1 : 0)]));
  return choose(group, roles, wanted, ruledOut, state);
}

const placedPhases: ReadonlySet<GangPhase> = new Set(["Preempting", "Reserved", "Binding", "Scheduled"]);

function isPlaced(state: GangState): boolean {
  return state.proposal !== undefined || placedPhases.has(state.gang?.status.phase ?? "Pending");
}

/** Older first; the name decides between gangs of one second. */
export function byAge(a: GangState, b: GangState): number {
  return (a.gang?.createdAtMs ?? 0) - (b.gang?.createdAtMs ?? 0) || (a.key < b.key ? -1 : 1);
}

/** What waits for a plan: a gang, or a pod without one. */
export interface Queued {
  readonly key: string;
  readonly priority: number;
  readonly createdAtMs: number;
  /** A pod that came past the gate: kube-scheduler tries it again and again until it has its devices. */
  readonly bypasses?: true;
}

/** Names a pod without a Gang in the queue: a Gang may have its name. */
export function podKey({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name} (pod)`;
}

/** The pod as a gang of its own; labels of whoever owns it mean nothing in it. */
export function lonePod(pod: PodRecord): GangRequest {
  const { podSet: _, ...rest } = pod;
  const member = { ...rest, index: 0 };
  const { namespace, name, priority, createdAtMs } = pod;
  return { namespace, name, spec: singlePodGang(member), priority, createdAtMs, pods: [member], placed: [] };
}

/** Higher priority first, then older, then by name. */
export function byQueueOrder(a: Queued, b: Queued): number {
  return b.priority - a.priority || a.createdAtMs - b.createdAtMs || comparePlain(a.key, b.key);
}

/** Of an endless number of them at most so many are answered before others, in one turn. */
const bypassesFirst = 16;

/** As they are answered: queue order, but of each priority some pods that came past the gate go first. */
export function inAnswerOrder<T extends Queued>(queue: readonly T[]): T[] {
  const sorted = queue.toSorted(byQueueOrder);
  const first = new Set(sorted.filter(({ bypasses }) => bypasses).slice(0, bypassesFirst));
  return sorted.toSorted((a, b) => b.priority - a.priority || Number(first.has(b)) - Number(first.has(a)));
}

/** The lowest of its pods': PriorityClasses are bounded by quota, a field of the Gang would not be. */
export function priorityOf(state: GangState): number {
  if (state.priority !== undefined && state.priority !== Number.POSITIVE_INFINITY) return state.priority;
  let lowest = Number.POSITIVE_INFINITY;
  for (const pod of state.pods.values()) lowest = Math.min(lowest, pod.priority);
  return lowest === Number.POSITIVE_INFINITY ? 0 : lowest;
}

function requestOf(state: GangState, nodeFits: Context["nodeFits"], role?: string): GangRequest {
  const { gang } = state;
  if (gang === undefined) throw new Error(`gang ${state.key} is planned without its object`);
  // Whoever carries the label and has no slot is nobody to the planner. Of rivals those win whose place it is now.
  const { slots } = assignSlots(gang.spec, livePods(state), heldPods(state));
  const pods = [...slots.values()].map((pod) => avoiding(pod, state.avoided));
  return {
    namespace: gang.namespace,
    name: gang.name,
    spec: gang.spec,
    priority: priorityOf(state),
    createdAtMs: gang.createdAtMs,
    ...(role === undefined ? {} : { role }),
    pods,
    bound: state.bound,
    placed: keptPods(state, nodeFits),
    ...(state.outlying?.size ? { loose: state.outlying } : {}),
  };
}
