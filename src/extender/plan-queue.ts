import type { PreemptedUnit } from "../api/gang.ts";
import type { PlacedPod, Placement, Rejection, RejectionReason } from "../api/placement.ts";
import { type Batch, type BatchHolds, createBatch, wantsRoom } from "../gang/batch.ts";
import { type Context, type GangState, type LifecycleEvent, memberKey } from "../gang/lifecycle/state.ts";
import { slotKey } from "../gang/members.ts";
import { budgetExceededFor, type PlanOptions } from "../gang/plan.ts";
import { expectedWorkload } from "../gang/workload.ts";
import type { ClusterModel } from "../topology/model.ts";
import { createDrains } from "./drains.ts";
import type { GangGroups } from "./gang-groups.ts";
import type { GangHolds } from "./gang-holds.ts";
import { type HeldPlaces, limitFaults, type PlannerLimits, placementFault } from "./limits.ts";
import type { RefusedUnit } from "./outlooks.ts";
import { inAnswerOrder, priorityOf, type Queued, unitFor } from "./pending-plans.ts";
import type { CoordinatorPorts } from "./ports.ts";
import type { RoomMaker } from "./room-maker.ts";
import type { Singles } from "./singles.ts";

/** Gangs that ask for a plan. */
export interface PlanQueue {
  ask(key: string): void;
  readonly size: number;
  /** Gangs that have a room reserved. */
  readonly draining: number;
  /** Plans all that wait, single pods too. @returns false when time was up before the queue was empty. */
  planAll(): boolean;
  /** Plan again at this time even if nobody asks. */
  nextMs(): number;
  /** Runs `act` as in the turn of the gang: what is reserved to those behind it is free to it. */
  turn(state: GangState, act: () => void): void;
}

export interface PlanQueueParts {
  model: ClusterModel;
  ports: Pick<CoordinatorPorts, "nowMs" | "mayPlan" | "planned">;
  limits: PlannerLimits;
  places: HeldPlaces;
  holds: GangHolds;
  groups: GangGroups;
  singles: Singles;
  stateOf(key: string): GangState | undefined;
  nodeFits: Context["nodeFits"];
  /** Whom a unit that found no room may preempt, and the places that it gets then. */
  makeRoom: RoomMaker;
  /** Tells a gang what came of its plan. */
  tell(key: string, event: LifecycleEvent): void;
  /** Told of every unit that was planned in vain. */
  refused(unit: RefusedUnit): void;
  /** Has it decide at once, so that what it was given is held by its state. */
  decide(key: string): void;
}

/** What waits while the fence is broken is looked at again after this. */
const fencePauseMs = 1_000;

/** Planning may not hold the event loop for longer than this before others get their turn. */
const planningSliceMs = 25;
const choosingSliceMs = 15;

export function createPlanQueue(parts: PlanQueueParts): PlanQueue {
  const { model, ports, limits, places, holds, groups, singles, stateOf, nodeFits, makeRoom, tell, decide } = parts;
  const wantsPlan = new Set<string>();
  /** Those that asked for a plan in this round. */
  const asked = new Set<string>();
  let retryAtMs = Number.POSITIVE_INFINITY;
  const drains = createDrains({ model, nowMs: ports.nowMs, stateOf, afterMs: limits.drainAfterMs });

  /**
   * Plans gangs and single pods in the order of their answers, in one batch: nothing of it is carried out before its end, so that
   * earlier ones can still make room for later ones.
   * @returns false when time was up before the queue was empty.
   */
  function planAll(): boolean {
    asked.clear();
    for (const key of drains.review()) wantsPlan.add(key);
    const startMs = ports.nowMs();
    const inTime = (): boolean => ports.nowMs() - startMs <= planningSliceMs;
    const gangs = [...wantsPlan].map(stateOf).filter((state) => state !== undefined);
    for (const { key } of gangs) asked.add(key);
    const queue = inAnswerOrder([...gangs.map(queued), ...singles.waiting()]);
    // Most turns ask for no plan: they need no look at what the cluster's pods ask for either.
    if (queue.length === 0) return true;
    if (!ports.mayPlan()) {
      retryAtMs = startMs + fencePauseMs;
      return true;
    }
    retryAtMs = Number.POSITIVE_INFINITY;
    const decided = new Map<string, Placement>();
    const batchHolds: BatchHolds = {
      take(gang, placement) {
        if (singles.take(gang, placement)) return;
        const key = `${gang.namespace}/${gang.name}`;
        decided.set(key, placement);
        const state = stateOf(key);
        if (state !== undefined)
          holds.tryOut(state, [...withoutPlaces(gang.placed, placement.pods), ...placement.pods]);
      },
      giveBack(gang) {
        if (singles.giveBack(gang)) return;
        const key = `${gang.namespace}/${gang.name}`;
        decided.delete(key);
        const state = stateOf(key);
        if (state !== undefined) holds.restore(state);
      },
      inTime,
    };
    const preempting = new Map<string, readonly PreemptedUnit[]>();
    const options = { workload: expectedWorkload(model) };
    const batch = createBatch(model, batchHolds, options);
    const unmoved: string[] = [];
    let done = true;
    for (const each of queue) {
      if (!inTime()) {
        done = false;
        break;
      }
      drains.turn(each, () => {
        if ("uid" in each) singles.planOne(each.uid, batch);
        else if (wantsPlan.has(each.key)) {
          const planned = planOne(each.state, { batch, batchHolds, options, preempting });
          if (planned === "later") done = false;
          else unmoved.push(...planned);
        }
      });
      // Who stands behind it in the queue waits: it could take what the other is about to be given.
      if (!done) break;
    }
    for (const key of new Set([...decided.keys(), ...unmoved])) acceptPlan(key, decided.get(key), preempting.get(key));
    return done;
  }

  /** @returns gangs that were planned; those that got nothing new keep what they have. `later`: it goes on next turn */
  function planOne(state: GangState, { batch, batchHolds, options, preempting }: Turn): string[] | "later" {
    const members = groups.companions(state);
    const answer = unitFor(state, groups.of(state), members, readyAmong(members), nodeFits);
    wantsPlan.delete(state.key);
    // Whoever has been preempted since it asked has to leave first.
    if (state.gang === undefined || !isOpen(state)) return [];
    if ("waiting" in answer) {
      refuse(state, "WaitingForPlacementGroup", answer.waiting);
      return [];
    }
    if (overLimit(answer.keys)) return [];
    const startMs = ports.nowMs();
    const result = batch.plan(answer.unit);
    const milliseconds = ports.nowMs() - startMs;
    for (const key of answer.keys) wantsPlan.delete(key);
    if ("plans" in result) {
      ports.planned("placed", milliseconds, result.explored, "", budgetExceededFor(result.plans));
      drains.placed(answer.keys);
      return answer.keys;
    }
    const room = result.rejections.every(({ reason }) => wantsRoom.has(reason))
      ? makeRoom(answer.unit, answer.keys, [...preempting.values()].flat(), { ...options, inTime: sliceOf(ports) })
      : undefined;
    if (room === "later") {
      wantsPlan.add(state.key);
      return "later";
    }
    if (room !== undefined) {
      ports.planned("placed", ports.nowMs() - startMs, result.explored, "", budgetExceededFor(room.plans));
      drains.placed(answer.keys);
      for (const gang of answer.unit.gangs) {
        const found = room.plans.find(({ placement }) => keyOf(placement) === `${gang.namespace}/${gang.name}`);
        if (found === undefined) continue;
        batchHolds.take(gang, found.placement);
        if (room.preempting.length > 0) preempting.set(keyOf(found.placement), room.preempting);
      }
      return answer.keys;
    }
    ports.planned("rejected", milliseconds, result.explored, result.rejections[0]?.reason ?? "");
    const gangs = answer.keys.flatMap((key) => stateOf(key) ?? []).map(queued);
    const rejections = drains.refused({ unit: answer.unit, gangs, rejections: result.rejections, options });
    for (const key of answer.keys) refuseOne(key, rejections);
    parts.refused({ unit: answer.unit, keys: answer.keys, rejections });
    return [];
  }

  /** Refuses the gangs of a unit if one of them is over a limit of this installation. */
  function overLimit(keys: readonly string[]): boolean {
    const states = keys.map((key) => stateOf(key)).filter((state) => state !== undefined);
    const faults = limitFaults(states, places, limits);
    if (faults.every((fault) => fault === undefined)) return false;
    for (const [i, state] of states.entries()) {
      wantsPlan.delete(state.key);
      const fault = faults[i] ?? {
        reason: "WaitingForPlacementGroup" as const,
        message: "another gang of the PlacementGroup is over a limit",
      };
      refuse(state, fault.reason, fault.message);
    }
    return true;
  }

  /** Whoever asked is answered, even if only others of its group are at fault: it asks for nothing until then. */
  function refuseOne(key: string, rejections: readonly Rejection[]): void {
    const rejection = rejections.find((each) => keyOf(each) === key);
    if (rejection !== undefined) {
      tell(key, { type: "rejected", rejection, capacityVersion: model.capacityVersion });
      return;
    }
    const names = rejections.map(({ gang }) => gang).join(", ");
    const message = `is placed together with ${names}, which cannot be placed now`;
    const state = stateOf(key);
    if (state !== undefined) refuse(state, "WaitingForPlacementGroup", message);
  }

  /**
   * Gangs of a group become complete one by one. Those that were refused, for want of the others or of room, are still
   * ready when their members are the same; they do not ask again by themselves. Also one that was refused a moment ago,
   * so that it keeps its turn.
   */
  function readyAmong(members: readonly GangState[]): ReadonlySet<string> {
    const open = new Set(members.filter(isOpen).map(({ key }) => key));
    const refused = members.filter((member) => member.rejection?.members === memberKey(member));
    return new Set([...wantsPlan, ...asked, ...refused.map(({ key }) => key)].filter((key) => open.has(key)));
  }

  /** Takes the devices in the model at once: the next plan of this turn sees them taken. */
  function acceptPlan(
    key: string,
    placement: Placement | undefined,
    preempting: readonly PreemptedUnit[] | undefined,
  ): void {
    const state = stateOf(key);
    if (placement !== undefined && placement.pods.length > 0) {
      const fault = state === undefined ? undefined : placementFault(state, placement);
      if (state !== undefined && fault !== undefined) {
        holds.restore(state);
        refuse(state, fault.reason, fault.message);
        return;
      }
      tell(key, { type: "planned", placement, ...(preempting === undefined ? {} : { preempting }) });
      decide(key);
      return;
    }
    if (state !== undefined) refuse(state, "InsufficientDevices", "the members beyond minCount wait for room");
  }

  function refuse(state: GangState, reason: RejectionReason, message: string): void {
    const { namespace, name } = state.gang ?? { namespace: "", name: "" };
    const rejection = { gang: name, namespace, reason, message, blocking: [], counterfactuals: [] };
    tell(state.key, { type: "rejected", rejection, capacityVersion: model.capacityVersion });
  }

  return {
    ask: (key) => {
      wantsPlan.add(key);
    },
    get size() {
      return wantsPlan.size;
    },
    get draining() {
      return drains.size;
    },
    planAll,
    nextMs: () => Math.min(drains.nextMs(), retryAtMs),
    turn: (state, act) => drains.turn(queued(state), act),
  };
}

/** What is decided in one go. */
interface Turn {
  batch: Batch;
  batchHolds: BatchHolds;
  options: PlanOptions;
  /** Gang → whom it preempts. */
  preempting: Map<string, readonly PreemptedUnit[]>;
}

/** So much of a turn for who makes room, whatever planning took before: one step per turn would take many turns. */
function sliceOf({ nowMs }: Pick<CoordinatorPorts, "nowMs">): () => boolean {
  const startMs = nowMs();
  return () => nowMs() - startMs <= choosingSliceMs;
}

/** It waits for places, or runs and may have more. */
function isOpen({ gang }: GangState): boolean {
  const phase = gang?.status.phase ?? "Pending";
  return phase === "Pending" || phase === "Scheduled";
}

/** How a gang stands in the queue. */
export function queued(state: GangState): Queued & { state: GangState } {
  const { key } = state;
  return { key, priority: priorityOf(state), createdAtMs: state.gang?.createdAtMs ?? 0, state };
}

function withoutPlaces(pods: readonly PlacedPod[], taken: readonly PlacedPod[]): PlacedPod[] {
  const slots = new Set(taken.map(({ podSet, index }) => slotKey(podSet, index)));
  return pods.filter(({ podSet, index }) => !slots.has(slotKey(podSet, index)));
}

function keyOf(subject: { namespace: string; gang: string }): string {
  return `${subject.namespace}/${subject.gang}`;
}
