import type { PlacedClaim, PlacedPod, Placement, PlacementCost } from "../api/placement.ts";
import { placedDevice } from "../dra/allocator/result.ts";
import type { ClusterModel } from "../topology/model.ts";
import { type PlacedGang, type PodPlace, placementCost, podPlace, sharedDomains } from "./cost.ts";
import { devicesOf } from "./lifecycle/members.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import { type Decided, ownDevices } from "./problem.ts";
import { lentDevices } from "./shared-claims.ts";

/** The answer for one gang of a unit; `decided` are the new places of all its gangs. */
export function placementOf(
  model: ClusterModel,
  unit: PlanUnit,
  prepared: PreparedUnit,
  gang: number,
  decided: readonly Decided[],
): Placement {
  const { request, fabric } = prepared.gangs[gang]!;
  const role = request.role ?? request.spec.role;
  const order = new Map(request.spec.podSets.map(({ name }, i) => [name, i]));
  const mine = decided.filter(({ slot }) => slot.gang === gang);
  const lenders = mine.map((each) => placedPod(model, each, []));
  const pods = mine
    .map((each) => placedPod(model, each, [...request.placed, ...lenders]))
    .sort((a, b) => order.get(a.podSet)! - order.get(b.podSet)! || a.index - b.index);
  const places = podPlaces(model, prepared, gang, decided);
  return {
    gang: request.name,
    namespace: request.namespace,
    ...(role !== undefined && { role }),
    ...(unit.placementGroup && !request.apart && { placementGroup: unit.placementGroup.name }),
    pods,
    domains: sharedDomains(model.view, fabric, places),
    cost: costOf(model, unit, prepared, gang, decided),
  };
}

/** `lenders`: pods that have the devices of claims which this one borrows. */
function placedPod(model: ClusterModel, { slot, place }: Decided, lenders: readonly PlacedPod[]): PlacedPod {
  const { record } = model.view.nodes[place.node]!;
  const { devices } = model.view.inventory(place.node);
  let next = 0;
  const claims = slot.claims.map((claim, i): PlacedClaim => {
    const reference = slot.pod.claims[i]!.name;
    if (claim.allocation) return { claim: claim.name, reference, devices: devicesOf(claim) };
    if (slot.borrows?.has(claim.uid))
      return { claim: claim.name, reference, devices: lentDevices(lenders, claim.name) };
    const chosen = place.choice.claims[next++]!.devices.map((each) =>
      placedDevice(devices[each.device]!, each, claim.uid),
    );
    return { claim: claim.name, reference, devices: chosen };
  });
  return { pod: slot.pod.name, podSet: slot.podSet, index: slot.index, node: record.name, claims };
}

/** Where all pods of a gang are: those that were placed before and the new ones. */
function podPlaces(model: ClusterModel, prepared: PreparedUnit, gang: number, decided: readonly Decided[]): PodPlace[] {
  const pinned = prepared.pins.flatMap(({ gang: of, placed }) =>
    of === gang && placed ? (podPlace(model.view, placed) ?? []) : [],
  );
  const placed = decided.flatMap((each): PodPlace[] => {
    if (each.slot.gang !== gang) return [];
    const { podSet, index } = each.slot;
    return [{ podSet, index, node: each.place.node, devices: ownDevices(model.view, each.place) }];
  });
  return [...pinned, ...placed];
}

function costOf(
  model: ClusterModel,
  unit: PlanUnit,
  prepared: PreparedUnit,
  gang: number,
  decided: readonly Decided[],
): PlacementCost {
  const placed = (i: number): PlacedGang => {
    const { request, role, fabric } = prepared.gangs[i]!;
    return { name: request.name, role, spec: request.spec, fabric, pods: podPlaces(model, prepared, i, decided) };
  };
  const ofRole = (role: string) =>
    [...prepared.gangs.keys()].filter((i) => prepared.gangs[i]!.role === role).map(placed);
  const group = unit.placementGroup && { spec: unit.placementGroup.spec, fabric: prepared.fabric, ofRole };
  return placementCost(model.view, placed(gang), group);
}
