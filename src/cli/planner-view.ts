import { type PlacedPod, type Placement, type Rejection, rejectionOf } from "../api/placement.ts";
import { groupOf, refusalOf, roleIn, unitFor } from "../extender/pending-plans.ts";
import { type PlacedGang, placementCost, podPlace, sharedDomains } from "../gang/cost.ts";
import { counterfactualsOf } from "../gang/counterfactuals.ts";
import { gangStates } from "../gang/lifecycle/gang-states.ts";
import type { GangRecord } from "../gang/lifecycle/state.ts";
import { type PlanUnit, plan, singlePodGang } from "../gang/plan.ts";
import type { PlacementGroupRecord } from "../kube/project.ts";
import type { PodRecord } from "../topology/records.ts";
import { type ClusterState, modelOf } from "./cluster-state.ts";

/** A gang and where its pods are. */
export interface Placed {
  gang: Pick<GangRecord, "namespace" | "name" | "spec">;
  pods: readonly PlacedPod[];
}

type Group = Pick<Placement, "role" | "placementGroup">;

/**
 * What the planner makes of a cluster that was read. A Gang's status is kept small, because every gang writes one; what
 * it leaves out is worked out again from the same objects by the same functions.
 */
export interface PlannerView {
  /** Devices that all nodes publish together, partitions included. */
  readonly deviceCount: number;
  /** The gang's part in a PlacementGroup, the domains that all of its pods share, and what their traffic costs there. */
  describe(placed: Placed, all: readonly Placed[]): Group & Pick<Placement, "domains" | "cost">;
  /** Asks for a plan, of which nothing is carried out. @returns why there is none; undefined: there is one. */
  refusalOf(gang: GangRecord): Rejection | undefined;
  /** The same for a pod without a Gang. */
  refusalOfPod(pod: PodRecord): Rejection | undefined;
}

/** So many refused gangs are told what would make room for them: each takes some searches. */
const mostOutlooks = 50;

export function createPlannerView(state: ClusterState, managedDrivers?: readonly string[]): PlannerView {
  const gangs = gangStates(state);
  const model = modelOf(state, gangs, managedDrivers);
  const { view } = model;
  const fabricOf = (name: string) => view.fabric(name) ?? view.fabric("default")!;

  const groupNamed = ({ namespace, name, spec }: Placed["gang"]): PlacementGroupRecord | undefined => {
    const groups = state.groups.filter((group) => group.namespace === namespace);
    if (spec.placementGroup !== undefined) return groups.find((group) => group.name === spec.placementGroup);
    const known = gangs.get(`${namespace}/${name}`);
    return known && groupOf(known, groups);
  };
  const placedGang = ({ gang, pods }: Placed): PlacedGang => {
    const group = groupNamed(gang);
    const known = gangs.get(`${gang.namespace}/${gang.name}`);
    return {
      name: gang.name,
      role: group && known ? roleIn(group, known) : gang.spec.role,
      spec: gang.spec,
      fabric: fabricOf(gang.spec.topology),
      pods: pods.flatMap((pod) => podPlace(view, pod) ?? []),
    };
  };
  let outlooks = 0;
  const refused = (unit: PlanUnit, { namespace, name }: { namespace: string; name: string }): Rejection | undefined => {
    const result = plan(model, unit);
    if ("plans" in result) return undefined;
    const rejection = result.rejections.find((each) => each.gang === name && each.namespace === namespace);
    if (rejection === undefined || outlooks >= mostOutlooks) return rejection;
    outlooks++;
    return { ...rejection, counterfactuals: [...counterfactualsOf(model, unit)] };
  };
  const nodeFits = (name: string): boolean => {
    const node = model.node(name);
    return node?.ready === true && !node.unschedulable;
  };

  return {
    deviceCount: view.nodes.reduce((sum, _, node) => sum + view.inventory(node).devices.length, 0),
    describe(placed, all) {
      const group = groupNamed(placed.gang);
      const gang = placedGang(placed);
      const siblings = all.filter((other) => group !== undefined && groupNamed(other.gang) === group);
      const ofRole = (role: string) => siblings.map(placedGang).filter((sibling) => sibling.role === role);
      const name = group?.name ?? placed.gang.spec.placementGroup;
      return {
        ...(gang.role === undefined ? {} : { role: gang.role }),
        ...(name === undefined ? {} : { placementGroup: name }),
        // Pods on a node that is gone share nothing with the others.
        domains: gang.pods.length < placed.pods.length ? {} : sharedDomains(view, gang.fabric, gang.pods),
        cost: placementCost(view, gang, group && { spec: group.spec, fabric: fabricOf(group.spec.topology), ofRole }),
      };
    },
    refusalOf(gang) {
      const known = gangs.get(`${gang.namespace}/${gang.name}`);
      if (known === undefined) return undefined;
      const group = groupNamed(gang);
      const members = [...gangs.values()].filter((each) => group !== undefined && roleIn(group, each) !== undefined);
      const pending = new Set(members.map(({ key }) => key));
      const answer = unitFor(known, group, members, pending, nodeFits);
      return "waiting" in answer ? rejectionOf(gang, refusalOf(answer)) : refused(answer.unit, gang);
    },
    refusalOfPod(pod) {
      const { namespace, name, priority, createdAtMs } = pod;
      const spec = singlePodGang(pod);
      return refused({ gangs: [{ namespace, name, spec, priority, createdAtMs, pods: [pod], placed: [] }] }, pod);
    },
  };
}
