import {
  lack,
  type PlacedPod,
  type Placement,
  type PlanOutput,
  type Rejection,
  rejectionOf,
} from "../../api/placement.ts";
import { firstPlaced, type GangSet, type RefusedSet, type RuledOut, triedText } from "../../extender/gang-sets.ts";
import {
  byQueueOrder,
  groupOf,
  lonePod,
  podKey,
  priorityOf,
  type Queued,
  refusalOf,
  roleIn,
  unitFor,
  type Wait,
  waits,
} from "../../extender/pending-plans.ts";
import { preemptibleIn } from "../../extender/preemptible.ts";
import { isSpoiled } from "../../extender/spoiled-places.ts";
import { createBatch } from "../../gang/batch.ts";
import { counterfactualsOf, preemptionOutlook } from "../../gang/counterfactuals.ts";
import { atOnce } from "../../gang/in-slices.ts";
import { hasAllClaims } from "../../gang/lifecycle/claims.ts";
import { gangStates } from "../../gang/lifecycle/gang-states.ts";
import { keptPods, livePods, membersOf, runningPods } from "../../gang/lifecycle/members.ts";
import { shortPodSet } from "../../gang/lifecycle/scheduled.ts";
import { noteSpoiled } from "../../gang/lifecycle/spoiled.ts";
import { type GangState, heldPods } from "../../gang/lifecycle/state.ts";
import { assignSlots, minCountOf, problemsText, slotKey, validateGang } from "../../gang/members.ts";
import { budgetExceededFor, type GangRequest, type PlanResult, type PlanUnit } from "../../gang/plan.ts";
import { preemptorPriority } from "../../gang/preemption.ts";
import { expectedWorkload } from "../../gang/workload.ts";
import type { PlacementGroupRecord } from "../../kube/project.ts";
import type { ClusterModel } from "../../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { type ClusterState, holdGang, modelOf } from "../cluster-state.ts";
import { orphanRejection } from "../placements.ts";
import { createPlannerView } from "../planner-view.ts";

export interface PlanAllOptions {
  readonly managedDrivers: readonly string[];
  /** Gangs that were found impossible before, by `namespace/name`: their pods wait. */
  readonly refused?: ReadonlyMap<string, Rejection>;
  /** Called after each plan. */
  readonly onPlanned?: (done: number, all: number) => void;
  readonly nowMs: () => number;
}

/** One thing that waits for a place: a gang, or a pod without one. */
type Waiting = Queued & ({ readonly state: GangState } | { readonly pod: PodRecord });

/**
 * Plans all that is pending, in queue order, as the planner would if it began now: each plan sees what those before it
 * took. A PlacementGroup's base set is planned when its first gang's turn comes.
 */
/** So many refused gangs, in queue order, are told what would make room for them. */
const mostOutlooks = 50;

export function planAll(cluster: ClusterState, options: PlanAllOptions): PlanOutput {
  const run = createRun(cluster, options);
  for (let left = run.queue; left.length > 0; ) {
    const later = left.filter((each) => !run.planOne(each));
    if (later.length === left.length) {
      // What waits for its group waits in vain once nobody joins it any more.
      for (const each of later) run.giveUp(each);
      break;
    }
    left = later;
  }
  return run.output();
}

function createRun(input: ClusterState, options: PlanAllOptions) {
  const { refused = new Map<string, Rejection>(), managedDrivers, nowMs } = options;
  const cluster = { ...input, claims: input.claims.map((claim) => withAllocator(claim, managedDrivers)) };
  const states = new Map(gangStates(cluster));
  for (const key of refused.keys()) states.delete(key);
  for (const state of states.values()) noteRunning(state);
  const model = modelOf(cluster, states, managedDrivers);
  const nodeFits = (name: string): boolean => {
    const node = model.node(name);
    return node?.ready === true && !node.unschedulable;
  };
  for (const state of states.values()) if (isLost(state, nodeFits)) revoke(model, state);
  for (const state of states.values()) if (state.gang?.status.phase === "Scheduled") noteSpoiledPlaces(state, model);
  const placements = new Map<string, Placement>();
  const rejections = new Map<string, Rejection>(refused);
  const stats = { planMs: 0, explored: 0, budgetExceeded: false };
  const waitsFor = new Map<string, Wait>();
  /** What was refused, to be looked at again when all else has its place. */
  const refusedUnits = new Map<string, PlanUnit>();
  const queue = queueOf(cluster, states, refused, rejections);

  const batch = createBatch(model, { take, giveBack }, { workload: expectedWorkload(model) });

  function search(unit: PlanUnit): PlanResult {
    const startMs = nowMs();
    const result = batch.plan(unit);
    stats.planMs += nowMs() - startMs;
    stats.explored += result.explored;
    stats.budgetExceeded ||= "plans" in result ? budgetExceededFor(result.plans).length > 0 : result.budgetExceeded;
    options.onPlanned?.(placements.size + rejections.size, queue.length);
    return result;
  }

  function take(gang: GangRequest, placement: Placement): void {
    const lone = lonePodOf(gang);
    if (lone !== undefined) {
      placements.set(podKey(lone), placement);
      const held = { placed: placement.pods[0]!, requests: lone.requests, podUid: lone.uid };
      model.hold(podKey(lone), lone.namespace, [held]);
      return;
    }
    const state = states.get(`${gang.namespace}/${gang.name}`)!;
    const places = new Set(placement.pods.map((pod) => slotKey(pod.podSet, pod.index)));
    const pods = [...gang.placed.filter((pod) => !places.has(slotKey(pod.podSet, pod.index))), ...placement.pods];
    state.proposal = { pods, domains: placement.domains, costMs: placement.cost.totalMs };
    holdGang(model, state);
    placements.set(state.key, placement);
  }

  function giveBack(gang: GangRequest): void {
    const lone = lonePodOf(gang);
    if (lone !== undefined) {
      model.release(podKey(lone));
      return;
    }
    const state = states.get(`${gang.namespace}/${gang.name}`)!;
    delete state.proposal;
    holdGang(model, state);
  }

  function planGang(state: GangState): boolean {
    const problems = problemsOf(state, model);
    if (problems.length > 0)
      return settle(rejectionOf(state.gang!, { reason: "InvalidGang", message: problemsText(problems) }));
    const group = groupNamed(cluster.groups, state);
    const members = group === undefined ? [] : [...states.values()].filter((each) => roleIn(group, each) !== undefined);
    const ready = new Set(members.filter((each) => isReady(each, model, nodeFits)).map(({ key }) => key));
    const answer = unitFor(state, group, members, ready, nodeFits);
    if ("waiting" in answer) {
      waitsFor.set(state.key, answer);
      return false;
    }
    const refusedSets: RefusedSet[] = [];
    const next = (ruledOut: readonly RuledOut[]): GangSet | undefined => {
      const set = unitFor(state, group, members, ready, nodeFits, ruledOut);
      return "waiting" in set ? set.first : set;
    };
    const placed = firstPlaced(next, ({ unit }) => search(unit), refusedSets);
    if (placed === undefined || placed === "later") return refuseOldest(refusedSets);
    // Only surplus waits, and none of it fits.
    for (const key of placed.keys) {
      const gang = states.get(key)!;
      if (!placements.has(key)) placements.set(key, unmoved(cluster, gang, keptPods(gang, nodeFits), managedDrivers));
    }
    const { length } = placed.keys;
    waitsFor.set(
      state.key,
      waits(`PlacementGroup ${group?.name}: its base set is placed first`, lack("gangs", length)),
    );
    return placed.keys.includes(state.key);
  }

  function refuseOldest(refusedSets: readonly RefusedSet[]): true {
    const { unit, keys, rejections: found } = refusedSets[0]!;
    const tried = triedText(keys, refusedSets);
    for (const rejection of found) {
      if (!keys.includes(keyOf(rejection))) continue;
      settle({ ...rejection, message: rejection.message + tried });
      refusedUnits.set(keyOf(rejection), unit);
    }
    return true;
  }

  function planPod(pod: PodRecord): void {
    const unit = { gangs: [lonePod(pod)] };
    const result = search(unit);
    if ("plans" in result) return;
    for (const rejection of result.rejections) rejections.set(podKey(pod), rejection);
    refusedUnits.set(podKey(pod), unit);
  }

  function settle(rejection: Rejection): true {
    rejections.set(keyOf(rejection), rejection);
    return true;
  }

  function outlookOf(unit: PlanUnit): string[] {
    const below = preemptorPriority(unit);
    const keys = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
    const groupOfState = (state: GangState) => groupNamed(cluster.groups, state);
    const others =
      below === undefined ? undefined : atOnce(preemptibleIn(model, states.values(), groupOfState, { keys, below }));
    const preempted = preemptionOutlook(model, unit, others?.candidates ?? [], cluster.budgets);
    return [...preempted, ...counterfactualsOf(model, unit)];
  }

  /** What would make room for the first of those that were refused: each takes some searches. */
  function lookOut(): Map<string, string[]> {
    const startMs = nowMs();
    const byUnit = new Map<PlanUnit, string[]>();
    for (const unit of refusedUnits.values()) {
      if (byUnit.size < mostOutlooks && !byUnit.has(unit)) byUnit.set(unit, outlookOf(unit));
    }
    stats.planMs += nowMs() - startMs;
    return new Map([...refusedUnits].map(([key, unit]) => [key, byUnit.get(unit) ?? []]));
  }

  return {
    queue,
    /** @returns false when it has to wait for others. */
    planOne(each: Waiting): boolean {
      if (placements.has(each.key) || rejections.has(each.key)) return true;
      if ("pod" in each) {
        planPod(each.pod);
        return true;
      }
      const { state } = each;
      if (isReserved(state) && !hasNewcomers(state, nodeFits)) {
        placements.set(state.key, unmoved(cluster, state, keptPods(state, nodeFits), managedDrivers));
        return true;
      }
      return planGang(state);
    },
    giveUp(each: Waiting): void {
      if ("state" in each) {
        settle(rejectionOf(each.state.gang!, refusalOf(waitsFor.get(each.key)!)));
      }
    },
    output(): PlanOutput {
      const outlook = lookOut();
      return {
        placements: [...placements.values()],
        rejections: [...rejections].map(([key, each]) => ({ ...each, counterfactuals: outlook.get(key) ?? [] })),
        stats: {
          nodes: cluster.nodes.length,
          devices: model.view.nodes.reduce((sum, _, node) => sum + model.view.inventory(node).devices.length, 0),
          gangs: placements.size + rejections.size,
          ...stats,
          planMs: Math.round(stats.planMs * 1000) / 1000,
        },
      };
    },
  };
}

/** Everything pending in queue order; pods whose Gang does not exist, or is being deleted, are refused at once. */
function queueOf(
  { pods }: ClusterState,
  states: ReadonlyMap<string, GangState>,
  refused: ReadonlyMap<string, Rejection>,
  rejections: Map<string, Rejection>,
): Waiting[] {
  const queue: Waiting[] = [...states.values()].filter(isPending).map((state) => ({
    state,
    key: state.key,
    priority: priorityOf(state),
    createdAtMs: state.gang!.createdAtMs,
  }));
  for (const pod of pods) {
    if (pod.nodeName !== undefined || pod.terminal || pod.deleting) continue;
    const key = `${pod.namespace}/${pod.gang}`;
    if (pod.gang === undefined) {
      queue.push({ pod, key: podKey(pod), priority: pod.priority, createdAtMs: pod.createdAtMs });
    } else if (isOrphan(states.get(key)) && !refused.has(key) && !rejections.has(key)) {
      rejections.set(key, orphanRejection(pod, states.has(key)));
    }
  }
  return queue.sort(byQueueOrder);
}

/** Its pods belong to nobody. */
function isOrphan(state: GangState | undefined): boolean {
  return state?.gang === undefined || state.gang.deleting;
}

function lonePodOf({ pods: [pod] }: GangRequest): PodRecord | undefined {
  return pod?.gang === undefined ? pod : undefined;
}

function keyOf({ namespace, gang }: Pick<Rejection, "namespace" | "gang">): string {
  return `${namespace}/${gang}`;
}

/** A member has no node yet, or the gang lacks members that it needs. */
function isPending(state: GangState): boolean {
  const { gang } = state;
  if (gang === undefined || gang.deleting) return false;
  const pods = livePods(state);
  if (pods.some((pod) => pod.nodeName === undefined)) return true;
  return assignSlots(gang.spec, pods, heldPods(state)).missing.length > 0;
}

/** Its place is in the status already: it is not planned anew. */
function isReserved({ gang }: GangState): boolean {
  const phase = gang?.status.phase;
  return phase === "Preempting" || phase === "Reserved" || phase === "Binding" || phase === "Scheduled";
}

/** Members without a place of their own. */
function hasNewcomers(state: GangState, nodeFits: (node: string) => boolean): boolean {
  const kept = keptPods(state, nodeFits);
  const places = new Set(kept.map((pod) => slotKey(pod.podSet, pod.index)));
  const { slots, missing } = assignSlots(state.gang!.spec, livePods(state), [...kept]);
  return missing.length > 0 || [...slots.keys()].some((slot) => !places.has(slot));
}

/** Files and snapshots leave out who wrote an allocation; of managed drivers the planner writes all. */
function withAllocator(claim: ClaimRecord, managedDrivers: readonly string[]): ClaimRecord {
  const results = claim.allocation?.devices?.results ?? [];
  const isOurs = results.length > 0 && results.every(({ driver }) => managedDrivers.includes(driver));
  return isOurs ? { ...claim, allocatedByPlanner: true } : claim;
}

/** A gang of which enough runs, and whose status says nothing of it: the first that the planner would write. */
function noteRunning(state: GangState): void {
  const { gang } = state;
  if (gang === undefined || gang.deleting || (gang.status.phase ?? "Pending") !== "Pending") return;
  const pods = runningPods(state);
  if (shortPodSet(gang, pods) !== undefined) return;
  state.gang = { ...gang, status: { ...gang.status, phase: "Scheduled", placement: { pods } } };
}

function noteSpoiledPlaces(state: GangState, model: ClusterModel): void {
  const members = membersOf(state, state.gang!, heldPods(state));
  noteSpoiled(state, members, { isSpoiled: (placed, pod) => isSpoiled(model, placed, pod) });
}

/** Before the commit a reservation whose node is lost is given back as a whole. */
function isLost(state: GangState, nodeFits: (node: string) => boolean): boolean {
  return state.gang?.status.phase === "Reserved" && heldPods(state).some(({ node }) => !nodeFits(node));
}

function revoke(model: ClusterModel, state: GangState): void {
  const { gang } = state;
  if (gang !== undefined) state.gang = { ...gang, status: { ...gang.status, phase: "Revoked" } };
  holdGang(model, state);
}

function groupNamed(groups: readonly PlacementGroupRecord[], state: GangState): PlacementGroupRecord | undefined {
  const { gang } = state;
  const near = groups.filter((group) => group.namespace === gang?.namespace);
  const named = gang?.spec.placementGroup;
  return named === undefined ? groupOf(state, near) : near.find(({ name }) => name === named);
}

function problemsOf(state: GangState, model: ClusterModel): string[] {
  const { spec } = state.gang!;
  const topology = model.topology(spec.topology);
  // The planner itself refuses what the topology lacks, with the reason of its own.
  if (topology === undefined || validateGang(spec, topology).length > 0) return [];
  return assignSlots(spec, livePods(state), heldPods(state)).problems;
}

/** Complete and not placed: it can be planned together with its group. */
function isReady(state: GangState, model: ClusterModel, nodeFits: (node: string) => boolean): boolean {
  const { gang } = state;
  if (gang === undefined || problemsOf(state, model).length > 0) return false;
  const { slots } = assignSlots(gang.spec, livePods(state), keptPods(state, nodeFits));
  return gang.spec.podSets.every((podSet) => {
    const claimed = [...slots].filter(
      ([key, pod]) => key.startsWith(`${podSet.name}/`) && hasAllClaims(pod, state.claims),
    );
    return claimed.length >= minCountOf(podSet);
  });
}

/** A gang whose members keep the places that they have. */
function unmoved(
  cluster: ClusterState,
  state: GangState,
  pods: readonly PlacedPod[],
  managedDrivers: readonly string[],
): Placement {
  const { namespace, name, spec } = state.gang!;
  const placed = { gang: { namespace, name, spec }, pods };
  const { domains, cost, role, placementGroup } = createPlannerView(cluster, managedDrivers).describe(placed, [placed]);
  return {
    gang: name,
    namespace,
    ...(role === undefined ? {} : { role }),
    ...(placementGroup === undefined ? {} : { placementGroup }),
    pods: [...pods],
    domains,
    cost,
  };
}
