import type { PreemptedUnit } from "../api/gang.ts";
import { lack, type PlacedPod, type Placement, type Rejection, rejectionOf } from "../api/placement.ts";
import { type Batch, type BatchHolds, createBatch, wantsRoom } from "../gang/batch.ts";
import { type Context, type GangState, type LifecycleEvent, memberKey } from "../gang/lifecycle/state.ts";
import { slotKey } from "../gang/members.ts";
import type { PlanOptions, PlanResult } from "../gang/plan.ts";
import { expectedWorkload } from "../gang/workload.ts";
import type { ClusterModel } from "../topology/model.ts";
import { createDrains } from "./drains.ts";
import type { GangGroups } from "./gang-groups.ts";
import type { GangHolds } from "./gang-holds.ts";
import { firstPlaced, type GangSet, type RefusedSet, type RuledOut, triedText } from "./gang-sets.ts";
import { type HeldPlaces, limitFaults, type PlannerLimits, placementFault } from "./limits.ts";
import type { RefusedUnit } from "./outlooks.ts";
import { inAnswerOrder, priorityOf, type Queued, refusalOf, unitFor, waits } from "./pending-plans.ts";
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

/** A search among the gangs of a group that took no end in a turn; what it found stands until room is freed. */
interface SetSearch {
  readonly id: string;
  readonly capacityVersion: number;
  readonly refused: RefusedSet[];
}

export function createPlanQueue(parts: PlanQueueParts): PlanQueue {
  const { model, ports, limits, places, holds, groups, singles, stateOf, nodeFits, makeRoom, tell, decide } = parts;
  const wantsPlan = new Set<string>();
  /** Those that asked for a plan in this round. */
  const asked = new Set<string>();
  /** Keys of those that were answered since everybody was who had asked. */
  const answered = new Set<string>();
  let retryAtMs = Number.POSITIVE_INFINITY;
  let unfinished: SetSearch | undefined;
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
    const all = inAnswerOrder([...gangs.map(queued), ...singles.waiting()]);
    // Most turns ask for no plan: they need no look at what the cluster's pods ask for either.
    if (all.length === 0) return true;
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
    const turn: Turn = { batch, batchHolds, options, decided, preempting, searched: new Set() };
    const unmoved: string[] = [];
    const queue = notYetAnswered(all);
    let done = true;
    for (const each of queue) {
      if (!inTime()) {
        done = false;
        break;
      }
      drains.turn(each, () => {
        if ("uid" in each) singles.planOne(each.uid, batch);
        else if (wantsPlan.has(each.key)) {
          const planned = planOne(each.state, turn);
          if (planned === "later") done = false;
          else unmoved.push(...planned);
        }
      });
      // Who stands behind it in the queue waits: it could take what the other is about to be given.
      if (!done) break;
      answered.add(each.key);
    }
    for (const key of new Set([...decided.keys(), ...unmoved])) acceptPlan(key, decided.get(key), preempting.get(key));
    if (done) answered.clear();
    return done && queue.length === all.length;
  }

  /**
   * Who is refused asks again whenever something becomes free. Where that is more often than everybody can be answered, the
   * old ones, answered again and again, would keep those behind them from ever being planned.
   */
  function notYetAnswered<T extends Queued>(queue: readonly T[]): readonly T[] {
    const rest = queue.filter(({ key }) => !answered.has(key));
    if (rest.length > 0) return rest;
    answered.clear();
    return queue;
  }

  /** @returns gangs that were planned; those that got nothing new keep what they have. `later`: it goes on next turn */
  function planOne(state: GangState, turn: Turn): readonly string[] | "later" {
    const { next, wait } = setsFor(state);
    const first = next([]);
    wantsPlan.delete(state.key);
    // Whoever has been preempted since it asked has to leave first.
    if (state.gang === undefined || !isOpen(state)) return [];
    if (first === undefined || turn.searched.has(first.keys.join())) {
      refuse(state, refusalOf(wait));
      return [];
    }
    const startMs = ports.nowMs();
    let explored = 0;
    const tryOne = ({ unit, keys }: GangSet): PlanResult => {
      const limited = overLimit(keys);
      if (limited.length > 0) return { rejections: limited, explored: 0, budgetExceeded: false };
      const result = turn.batch.plan(unit);
      explored += result.explored;
      return result;
    };
    const search = searchFor(state);
    const { refused } = search;
    const found = firstPlaced(next, tryOne, refused, sliceOf(ports)) ?? roomFor(refused, turn);
    unfinished = found === "later" ? search : undefined;
    if (found === "later") {
      wantsPlan.add(state.key);
      return "later";
    }
    turn.searched.add(first.keys.join());
    const answered = found ?? refused[0]!;
    const reason = found === undefined ? (refused[0]?.rejections[0]?.reason ?? "") : "";
    const exceeded = new Set(found?.keys.flatMap((key) => turn.decided.get(key)?.budgetExceeded ?? []));
    const outcome = found === undefined ? "rejected" : "placed";
    ports.planned(outcome, ports.nowMs() - startMs, explored, reason, [...exceeded]);
    for (const key of answered.keys) wantsPlan.delete(key);
    if (found === undefined) refuseAll(refused, turn.options);
    else drains.placed(found.keys);
    const others = found === undefined ? [] : refused.flatMap(({ keys }) => keys);
    for (const key of new Set([state.key, ...others])) {
      const other = answered.keys.includes(key) ? undefined : stateOf(key);
      if (other !== undefined) refuse(other, refusalOf(wait));
    }
    return found?.keys ?? [];
  }

  /** Whom it may be planned with, set after set, and what it is told if others of its group are planned first. */
  function setsFor(state: GangState) {
    const group = groups.of(state);
    const members = groups.companions(state);
    const ready = readyAmong(members);
    const answer = unitFor(state, group, members, ready, nodeFits);
    return {
      wait: "waiting" in answer ? answer : waits(`PlacementGroup ${group?.name}: its base set is placed first`),
      next(ruledOut: readonly RuledOut[]): GangSet | undefined {
        const set = ruledOut.length === 0 ? answer : unitFor(state, group, members, ready, nodeFits, ruledOut);
        return "waiting" in set ? set.first : set;
      },
    };
  }

  /** The search that took no end, if nothing has changed since. */
  function searchFor(state: GangState): SetSearch {
    const members = [state, ...groups.companions(state)];
    const id = members.map((each) => `${each.key} ${each.gang?.generation} ${memberKey(each)}`).join(";");
    const { capacityVersion } = model;
    const goesOn = members.length > 1 && unfinished?.id === id && unfinished.capacityVersion === capacityVersion;
    return goesOn ? unfinished! : { id, capacityVersion, refused: [] };
  }

  /** Others leave for the oldest set that lacks room. */
  function roomFor(refused: readonly RefusedSet[], turn: Turn): GangSet | "later" | undefined {
    const set = refused.find(isCurable);
    if (set === undefined) return undefined;
    const { batchHolds, preempting } = turn;
    const decided = [...preempting.values()].flat();
    const room = makeRoom(set.unit, set.keys, decided, { ...turn.options, inTime: sliceOf(ports) });
    if (room === undefined || room === "later") return room;
    for (const gang of set.unit.gangs) {
      const found = room.plans.find(({ placement }) => keyOf(placement) === `${gang.namespace}/${gang.name}`);
      if (found === undefined) continue;
      batchHolds.take(gang, found.placement);
      if (room.preempting.length > 0) preempting.set(keyOf(found.placement), room.preempting);
    }
    return set;
  }

  /** The oldest set is told why it has no place, and who was tried in its stead. */
  function refuseAll(refused: readonly RefusedSet[], options: PlanOptions): void {
    const { unit, keys, rejections } = refused[0]!;
    const gangs = keys.flatMap((key) => stateOf(key) ?? []).map(queued);
    const tried = triedText(keys, refused);
    const said = rejections.map((each) => ({ ...each, message: each.message + tried }));
    const drained = drains.refused({ unit, gangs, rejections: said, options });
    for (const key of keys) refuseOne(key, drained);
    parts.refused({ unit, keys, rejections: drained });
  }

  /** Refusals of the gangs of a unit if one of them is over a limit of this installation. */
  function overLimit(keys: readonly string[]): Rejection[] {
    const states = keys.map((key) => stateOf(key)).filter((state) => state !== undefined);
    const faults = limitFaults(states, places, limits);
    const within = faults.filter((fault) => fault === undefined).length;
    if (within === faults.length) return [];
    const other = {
      reason: "WaitingForPlacementGroup" as const,
      message: "another gang of the PlacementGroup is over a limit",
      blocking: [lack("gangs", faults.length, within)],
    };
    return states.map(({ gang }, i) => rejectionOf(gang!, faults[i] ?? other));
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
    if (state !== undefined) refuse(state, { reason: "WaitingForPlacementGroup", message });
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
        refuse(state, fault);
        return;
      }
      tell(key, { type: "planned", placement, ...(preempting === undefined ? {} : { preempting }) });
      decide(key);
      return;
    }
    if (state !== undefined) {
      refuse(state, { reason: "InsufficientDevices", message: "the members beyond minCount wait for room" });
    }
  }

  function refuse(state: GangState, why: Parameters<typeof rejectionOf>[1]): void {
    const rejection = rejectionOf(state.gang ?? { namespace: "", name: "" }, why);
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
  /** Gang → its new places. */
  decided: ReadonlyMap<string, Placement>;
  /** Gang → whom it preempts. */
  preempting: Map<string, readonly PreemptedUnit[]>;
  /** Sets whose groups were answered, one set or another: by the keys of the oldest. */
  searched: Set<string>;
}

function isCurable({ rejections }: RefusedSet): boolean {
  return rejections.every(({ reason }) => wantsRoom.has(reason));
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
function queued(state: GangState): Queued & { state: GangState } {
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
