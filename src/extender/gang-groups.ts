import type { PlacedPod } from "../api/placement.ts";
import { type Context, type GangState, heldPods } from "../gang/lifecycle/state.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { PodRecord } from "../topology/records.ts";
import { groupOf, roleIn } from "./pending-plans.ts";
import { baseCounts } from "./role-counts.ts";

/** PlacementGroups, and the gangs that belong to them. */
export interface GangGroups {
  set(key: string, group: PlacementGroupRecord | undefined): void;
  readonly size: number;
  /** The group of a gang; undefined: it belongs to none, or its group does not exist (yet). */
  of(state: GangState): PlacementGroupRecord | undefined;
  members(group: PlacementGroupRecord): GangState[];
  /** The gangs of its group, itself among them; none without a group. */
  companions(state: GangState): GangState[];
  /** The barrier of a group: its base set commits only when every gang that it needs is complete at it. */
  isReady(state: GangState): boolean;
  /** Tells places of the gang that are not where the others of its group are. */
  outlying(state: GangState): (place: PlacedPod) => boolean;
}

type OutlyingIn = (
  group: PlacementGroupRecord,
  members: readonly GangState[],
) => (own: GangState, place: PlacedPod) => boolean;

/**
 * @param states every gang that is known, now
 * @param leavesRoomForAll whether a node has room for these pods now
 * @param outlyingIn tells places of gangs of a group that are not where the others are
 */
export function createGangGroups(
  states: () => GangState[],
  leavesRoomForAll: Context["leavesRoomForAll"] = () => true,
  outlyingIn: OutlyingIn = () => () => false,
): GangGroups {
  const groups = new Map<string, PlacementGroupRecord>();

  function of(state: GangState): PlacementGroupRecord | undefined {
    if (groups.size === 0 || state.gang === undefined) return undefined;
    const { namespace, spec } = state.gang;
    if (spec.placementGroup !== undefined) return groups.get(`${namespace}/${spec.placementGroup}`);
    return groupOf(
      state,
      [...groups.values()].filter((group) => group.namespace === namespace),
    );
  }

  function members(group: PlacementGroupRecord): GangState[] {
    return states().filter((state) => roleIn(group, state) !== undefined);
  }

  /** The gangs of the group, with the one that decides as it is now. */
  function membersNow(group: PlacementGroupRecord, state: GangState): GangState[] {
    return members(group).map((member) => (member.key === state.key ? state : member));
  }

  return {
    set(key, group) {
      if (group === undefined) groups.delete(key);
      else groups.set(key, group);
    },
    get size() {
      return groups.size;
    },
    of,
    members,
    companions(state) {
      const group = of(state);
      return group === undefined ? [] : members(group);
    },
    isReady(state) {
      const group = of(state);
      if (group === undefined) return state.gang?.spec.placementGroup === undefined;
      const all = membersNow(group, state);
      const isOutlying = outlyingIn(group, all);
      const isAstray = (member: GangState): boolean =>
        member.gang?.status.phase === "Reserved" && heldPods(member).some((place) => isOutlying(member, place));
      const isThere = (member: GangState): boolean => isAtBarrier(member, leavesRoomForAll) && !isAstray(member);
      return [...baseCounts(group.spec)].every(([role, count]) => {
        const there = all.filter((member) => roleIn(group, member) === role && isThere(member));
        return there.length >= count;
      });
    },
    outlying(state) {
      const group = of(state);
      if (group === undefined) return () => false;
      const isOutlying = outlyingIn(group, membersNow(group, state));
      return (place) => isOutlying(state, place);
    },
  };
}

function isAtBarrier(state: GangState, leavesRoomForAll: Context["leavesRoomForAll"]): boolean {
  const { phase, placement } = state.gang?.status ?? {};
  if (phase === "Binding" || phase === "Scheduled") return true;
  if (phase !== "Reserved" || isGivenUp(state)) return false;
  const byName = new Map([...state.pods.values()].filter((pod) => !pod.deleting).map((pod) => [pod.name, pod]));
  const comers = new Map<string, PodRecord[]>();
  const arrived = (placement?.pods ?? []).every(({ pod: name, node }) => {
    const pod = byName.get(name);
    if (pod === undefined || pod.nodeName !== undefined) return pod !== undefined;
    comers.set(node, [...(comers.get(node) ?? []), pod]);
    return state.arrivals.get(pod.uid)?.node === node;
  });
  return arrived && [...comers].every(([node, pods]) => leavesRoomForAll(node, pods));
}

/** It will not be committed: its spec was edited, or its revocation is on its way. Who counted on it would be alone. */
function isGivenUp({ gang, inFlight }: GangState): boolean {
  const writing = inFlight.get("status");
  const revokes = writing?.type === "writeStatus" && writing.transition !== "Binding";
  return revokes || gang?.status.observedGeneration !== gang?.generation;
}
