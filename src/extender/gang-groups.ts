import type { Context, GangState } from "../gang/lifecycle/state.ts";
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
}

/**
 * @param states every gang that is known, now
 * @param leavesRoomForAll whether a node has room for these pods now
 */
export function createGangGroups(
  states: () => GangState[],
  leavesRoomForAll: Context["leavesRoomForAll"] = () => true,
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
      const all = members(group).map((member) => (member.key === state.key ? state : member));
      return [...baseCounts(group.spec)].every(([role, count]) => {
        const there = all.filter((member) => roleIn(group, member) === role && isAtBarrier(member, leavesRoomForAll));
        return there.length >= count;
      });
    },
  };
}

function isAtBarrier(state: GangState, leavesRoomForAll: Context["leavesRoomForAll"]): boolean {
  const { phase, placement } = state.gang?.status ?? {};
  if (phase === "Binding" || phase === "Scheduled") return true;
  if (phase !== "Reserved") return false;
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
