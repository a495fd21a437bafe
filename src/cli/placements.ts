import {
  lack,
  type PlacedClaim,
  type PlacedPod,
  type Placement,
  type PlanOutput,
  type PlanStats,
  type Rejection,
  type RejectionReason,
  rejectionOf,
  rejectionReasons,
} from "../api/placement.ts";
import type { GangRecord } from "../gang/lifecycle/state.ts";
import { assignSlots, minCountOf, slotKey } from "../gang/members.ts";
import { singlePodGang } from "../gang/plan.ts";
import { deviceKey } from "../topology/held.ts";
import { compareNatural } from "../topology/natural-order.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import type { ClusterState } from "./cluster-state.ts";
import { createPlannerView, type Placed, type PlannerView } from "./planner-view.ts";

/** Pod UID → why a pod without a Gang was refused; the API server keeps that in events only. */
export type SingleRefusals = ReadonlyMap<string, { reason: string; message: string }>;

/** What only the planner itself knows of its search. */
export type SearchStats = Pick<PlanStats, "planMs" | "explored" | "budgetExceeded">;

/**
 * What became of every gang, told by objects: devices by what claims hold, nodes by where pods are bound. A member that
 * is not bound yet counts with the node that is reserved for it once its claims are allocated; a gang with too few such
 * members is a rejection, with the reason in its status. A pod with claims and no Gang is a gang by its own name. What
 * statuses leave out, costs and what blocks, the planner says when it is asked again.
 */
export function placementsOf(
  state: ClusterState,
  known: { search?: SearchStats; refusals?: SingleRefusals } = {},
): PlanOutput {
  const claims = new Map(state.claims.map((claim) => [`${claim.namespace}/${claim.name}`, claim]));
  const planner = createPlannerView(state);
  const live = state.pods.filter((pod) => !pod.terminal && !pod.deleting);
  const byGang = Map.groupBy(live, (pod) => (pod.gang === undefined ? "" : `${pod.namespace}/${pod.gang}`));
  const placed: Placed[] = [];
  const rejections: Rejection[] = [];
  const sort = (result: Placed | Rejection) => ("pods" in result ? placed.push(result) : rejections.push(result));
  for (const gang of state.gangs) {
    const key = `${gang.namespace}/${gang.name}`;
    sort(gangResult(gang, byGang.get(key) ?? [], claims, planner));
    byGang.delete(key);
  }
  for (const pod of byGang.get("") ?? []) {
    if (pod.claims.length > 0) sort(singleResult(pod, claims, planner, known.refusals));
  }
  byGang.delete("");
  for (const pods of byGang.values()) rejections.push(orphanRejection(pods[0]!));

  return {
    placements: placed.map((each) => placementOf(each, placed, planner)).sort(byName),
    rejections: rejections.sort(byName),
    stats: {
      nodes: state.nodes.length,
      devices: planner.deviceCount,
      gangs: placed.length + rejections.length,
      ...(known.search ?? { planMs: 0, explored: 0, budgetExceeded: false }),
    },
  };
}

type Claims = ReadonlyMap<string, ClaimRecord>;
type Named = Pick<Rejection, "namespace" | "gang">;

function byName(a: Named, b: Named): number {
  return compareNatural(a.namespace, b.namespace) || compareNatural(a.gang, b.gang);
}

function placementOf(placed: Placed, all: readonly Placed[], planner: PlannerView): Placement {
  const { gang, pods } = placed;
  const { role, placementGroup, domains, cost } = planner.describe(placed, all);
  return {
    gang: gang.name,
    namespace: gang.namespace,
    ...(role === undefined ? {} : { role }),
    ...(placementGroup === undefined ? {} : { placementGroup }),
    pods: [...pods],
    domains,
    cost,
  };
}

function gangResult(
  gang: GangRecord,
  pods: readonly PodRecord[],
  claims: Claims,
  planner: PlannerView,
): Placed | Rejection {
  const reserved = gang.status.placement?.pods ?? [];
  const { slots } = assignSlots(gang.spec, pods, reserved);
  const placed: PlacedPod[] = [];
  let complete = true;
  for (const podSet of gang.spec.podSets) {
    const before = placed.length;
    for (let index = 0; index < podSet.count; index++) {
      const pod = slots.get(slotKey(podSet.name, index));
      if (pod === undefined) continue;
      const node = reserved.find((slot) => slot.podSet === podSet.name && slot.index === index)?.node;
      const place = placeOf(pod, podSet.name, index, node, claims);
      if (place !== undefined) placed.push(place);
    }
    if (placed.length - before < minCountOf(podSet)) complete = false;
  }
  if (complete) return { gang, pods: placed };
  const orphan = gang.deleting ? pods.find(({ nodeName }) => nodeName === undefined) : undefined;
  return orphan === undefined ? gangRejection(gang, pods, planner) : orphanRejection(orphan, true);
}

/** Node and devices of a pod that is bound, or that holds its claims on `reservedNode`. */
function placeOf(
  pod: PodRecord,
  podSet: string,
  index: number,
  reservedNode: string | undefined,
  claims: Claims,
): PlacedPod | undefined {
  const placed = pod.claims.map((reference) => placedClaim(pod, reference, claims));
  const node = pod.nodeName ?? (placed.every((claim) => claim !== undefined) ? reservedNode : undefined);
  if (node === undefined) return undefined;
  return { pod: pod.name, podSet, index, node, claims: placed.filter((claim) => claim !== undefined) };
}

function placedClaim(pod: PodRecord, reference: PodRecord["claims"][number], claims: Claims): PlacedClaim | undefined {
  const claim = claims.get(`${pod.namespace}/${reference.claimName}`);
  if (claim?.allocation === undefined) return undefined;
  const results = claim.allocation.devices?.results ?? [];
  return {
    claim: claim.name,
    reference: reference.name,
    devices: results.map(({ request, driver, pool, device }) => ({ request, driver, pool, device })),
  };
}

function gangRejection(gang: GangRecord, pods: readonly PodRecord[], planner: PlannerView): Rejection {
  const { phase, explanation, conditions } = gang.status;
  const bound = pods.filter((pod) => pod.nodeName !== undefined).length;
  const wanted = gang.spec.podSets.reduce((sum, podSet) => sum + minCountOf(podSet), 0);
  const counts = `${pods.length} pods exist, ${bound} of ${wanted} are bound`;
  const reason = closedReason(conditions?.find((condition) => condition.type === "Planned")?.reason);
  const message = `${phase ?? "no status yet"}: ${explanation === undefined ? "" : `${explanation}; `}${counts}`;
  return rejection(gang, reason, message, phase === "Pending" ? planner.refusalOf(gang) : undefined);
}

/** A gang whose members are about to be bound was refused by nobody: it waits for them. */
function closedReason(reason: string | undefined): RejectionReason {
  return rejectionReasons.find((known) => known === reason) ?? "WaitingForMembers";
}

/** @param now what the planner says now: its details belong to the reason only if that is still the same */
function rejection(
  gang: { namespace: string; name: string },
  reason: RejectionReason,
  message: string,
  now?: Rejection,
): Rejection {
  const { blocking, counterfactuals } = now?.reason === reason ? now : { blocking: [], counterfactuals: [] };
  return { ...rejectionOf(gang, { reason, message, blocking }), counterfactuals };
}

function singleResult(
  pod: PodRecord,
  claims: Claims,
  planner: PlannerView,
  refusals: SingleRefusals | undefined,
): Placed | Rejection {
  const spec = singlePodGang(pod);
  const place = placeOf(pod, spec.podSets[0]!.name, 0, pod.nominatedNodeName, claims);
  if (place !== undefined) return { gang: { namespace: pod.namespace, name: pod.name, spec }, pods: [place] };
  const refusal = refusals?.get(pod.uid);
  const message = refusal?.message ?? pod.unschedulableMessage ?? "its claims hold no devices yet";
  return rejection(pod, closedReason(refusal?.reason), message, refusal && planner.refusalOfPod(pod));
}

/** Why pods wait whose Gang does not exist, or is being deleted. */
export function orphanRejection(pod: PodRecord, deleting = false): Rejection {
  const name = pod.gang ?? "";
  const what = deleting ? "is being deleted; create it again when it is gone" : "does not exist; create it";
  const message = `pod ${pod.name} is labelled with Gang ${name}, which ${what} or remove the label`;
  const blocking = [lack(`Gang ${name}`)];
  return rejectionOf({ namespace: pod.namespace, name }, { reason: "WaitingForMembers", message, blocking });
}

/** Devices that two claims hold, or one claim twice, as `driver/pool/device`: nobody may ever see one. */
export function devicesHeldTwice({ placements }: PlanOutput): string[] {
  const claimOf = new Map<string, string>();
  const twice = new Set<string>();
  for (const { namespace, pods } of placements) {
    for (const { claim, devices } of pods.flatMap((pod) => pod.claims)) {
      const holder = `${namespace}/${claim}`;
      const keys = devices.map(({ driver, pool, device }) => deviceKey(driver, pool, device));
      for (const [position, key] of keys.entries()) {
        if ((claimOf.get(key) ?? holder) !== holder || keys.indexOf(key) !== position) twice.add(key);
        claimOf.set(key, holder);
      }
    }
  }
  return [...twice].sort(compareNatural);
}
