import type { GangPhase } from "../api/gang.ts";
import { keptPods, livePods } from "../gang/lifecycle/members.ts";
import { avoiding } from "../gang/lifecycle/refusals.ts";
import type { Context, GangState } from "../gang/lifecycle/state.ts";
import { type GangRequest, type PlanUnit, singlePodGang } from "../gang/plan.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { PodRecord } from "../topology/records.ts";

/** Gangs that are planned together, or why none of them can be planned yet. */
export type UnitAnswer = { unit: PlanUnit; keys: string[] } | { waiting: string };

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
 * (the minima per role, oldest first), beside the gangs of the group that are placed already.
 * @param ready keys of gangs that are complete and ask for a plan
 * @param nodeFits whether a member may still go to the node that was planned for it
 */
export function unitFor(
  state: GangState,
  group: PlacementGroupRecord | undefined,
  members: readonly GangState[],
  ready: ReadonlySet<string>,
  nodeFits: Context["nodeFits"],
): UnitAnswer {
  if (group === undefined) {
    const name = state.gang?.spec.placementGroup;
    if (name !== undefined)
      return { waiting: `PlacementGroup ${name} does not exist in namespace ${state.gang?.namespace}` };
    return { unit: { gangs: [requestOf(state, nodeFits)] }, keys: [state.key] };
  }
  const chosen = new Set<GangState>();
  const context: GangState[] = [];
  for (const role of group.spec.members) {
    const gangs = members.filter((member) => roleIn(group, member) === role.role).sort(byAge);
    const placed = gangs.filter((gang) => isPlaced(gang));
    const waiting = gangs.filter((gang) => !isPlaced(gang) && ready.has(gang.key));
    const lacking = Math.max(0, role.minInstances - placed.length);
    if (waiting.length < lacking) {
      const have = placed.length + waiting.length;
      return {
        waiting: `PlacementGroup ${group.name}: ${have} of ${role.minInstances} gangs of role ${role.role} are complete`,
      };
    }
    for (const gang of waiting.slice(0, lacking)) chosen.add(gang);
    context.push(...placed);
  }
  if (!chosen.has(state)) {
    // The base stands, or is made of older gangs: this one joins it once they are placed.
    if (chosen.size > 0) return { waiting: `PlacementGroup ${group.name}: its base set is placed first` };
    chosen.add(state);
  }
  const gangs = [...chosen, ...context.filter((gang) => !chosen.has(gang))];
  const { namespace, name, spec } = group;
  return {
    unit: {
      gangs: gangs.map((gang) => requestOf(gang, nodeFits, roleIn(group, gang))),
      placementGroup: { namespace, name, spec },
    },
    keys: [...chosen].map((gang) => gang.key),
  };
}

const placedPhases: ReadonlySet<GangPhase> = new Set(["Preempting", "Reserved", "Binding", "Scheduled"]);

function isPlaced(state: GangState): boolean {
  return state.proposal !== undefined || placedPhases.has(state.gang?.status.phase ?? "Pending");
}

/** Older first; the name decides between gangs of one second. */
function byAge(a: GangState, b: GangState): number {
  return (a.gang?.createdAtMs ?? 0) - (b.gang?.createdAtMs ?? 0) || (a.key < b.key ? -1 : 1);
}

/** What waits for a plan: a gang, or a pod without one. */
export interface Queued {
  readonly key: string;
  readonly priority: number;
  readonly createdAtMs: number;
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
  const pods = livePods(state).map((pod) => avoiding(pod, state.avoided));
  return {
    namespace: gang.namespace,
    name: gang.name,
    spec: gang.spec,
    priority: priorityOf(state),
    createdAtMs: gang.createdAtMs,
    ...(role === undefined ? {} : { role }),
    pods,
    placed: keptPods(state, nodeFits),
  };
}
