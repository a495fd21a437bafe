import type { Rejection } from "../api/placement.ts";
import { wantsRoom } from "../gang/batch.ts";
import { drainText, isDrainText, leaversOf, type Room, roomStands } from "../gang/drain.ts";
import { goOn, type Steps } from "../gang/in-slices.ts";
import { drainKey } from "../gang/keys.ts";
import { livePods } from "../gang/lifecycle/members.ts";
import { type GangState, memberKey } from "../gang/lifecycle/state.ts";
import { minCountOf } from "../gang/members.ts";
import type { PlanOptions, PlanUnit } from "../gang/plan.ts";
import { soonestRoom } from "../gang/soonest-room.ts";
import type { ClusterModel } from "../topology/model.ts";
import { createAlarms } from "./alarms.ts";
import { byQueueOrder, type Queued } from "./pending-plans.ts";

/**
 * Keeps large gangs from starving. The first unit of the queue that has been refused for want of room for too long gets
 * a room reserved: the places that it would take if those who are there now had left. The model holds these places, so
 * whatever is planned behind it uses only what they leave free, and cannot delay it. One unit at a time. What stands
 * before it in the queue takes no notice. Given up for a while when nobody leaves. Memory alone: after a restart the age
 * of the refusal is in the Gang's status.
 */
export interface Drains {
  /**
   * Ends the reservation of a unit that was deleted or changed, and goes on with the search for a room.
   * @returns gangs that have waited long enough by now, or whose room was found
   */
  review(): string[];
  /** `act` plans one unit: with the reserved room free to it if it is the unit's own or stands before it. */
  turn(each: Queued, act: () => void): void;
  /** After a unit was refused. @returns the refusals, with what its gangs wait for */
  refused(unit: RefusedUnit): readonly Rejection[];
  /** After a unit was placed. */
  placed(keys: readonly string[]): void;
  /** Review again at this time even if nothing happens. */
  nextMs(): number;
  /** Gangs with a room reserved. */
  readonly size: number;
}

interface RefusedUnit {
  readonly unit: PlanUnit;
  /** Its gangs, with their places in the queue. */
  readonly gangs: readonly (Queued & { state: GangState })[];
  readonly rejections: readonly Rejection[];
  readonly options: PlanOptions;
}

interface Reservation {
  readonly unit: string;
  /** Its first gang in the queue. */
  readonly first: Queued;
  readonly members: string;
  /** Gang key → its state as last looked at. */
  readonly seen: Map<string, GangState>;
  readonly room: Room;
  readonly waiting: Waiting;
  /** Devices of the room that others had when it was last looked at. */
  devices: number;
}

interface Waiting {
  readonly first: Queued;
  readonly members: string;
  readonly firstMs: number;
  /** No room is searched sooner. */
  notBeforeMs: number;
  /** As long as nobody leaves its room a gang keeps it. Longer each time that this was in vain. */
  patienceMs: number;
  /** Until something else becomes free than it was then, no room is worth another try. */
  vainAt: number | undefined;
}

/** A search for a room, which takes several turns. */
interface Search {
  readonly unit: string;
  readonly first: Queued;
  readonly members: string;
  readonly steps: Steps<Room | undefined>;
  /** Of the model when it began. */
  readonly version: number;
  /** Once it has come to its end. */
  found?: { readonly result: Room | undefined };
}

/** A search gets so much of a turn, or one step. */
const searchSliceMs = 10;

/** Where no room could be found, the next search is not made sooner. */
const searchPauseMs = 5_000;
/** A room that nobody leaves is kept as long as the bound, and at least so long, the first time. */
const leastPatienceMs = 60_000;
/** So many units that wait are looked through for those that are gone. */
const minPruned = 64;

export function createDrains(parts: {
  model: ClusterModel;
  nowMs: () => number;
  stateOf: (key: string) => GangState | undefined;
  /** How long a refusal has to last; 0: nothing is ever reserved. */
  afterMs: number;
}): Drains {
  const { model, nowMs, stateOf, afterMs } = parts;
  /** By unit. */
  const waiting = new Map<string, Waiting>();
  const alarms = createAlarms();
  let pruneAt = minPruned;
  let current: Reservation | undefined;
  let search: Search | undefined;
  /** Units whose turn it would be if none before them had one searched. */
  const postponed = new Set<string>();
  /** How often rooms that ended were what became free. */
  let ended = 0;

  /** What was reserved is news for everybody who was refused. */
  function end(): void {
    if (current === undefined) return;
    const before = model.capacityVersion;
    hold(model, current.room);
    release(model, current.room);
    ended += model.capacityVersion - before;
    current = undefined;
  }

  /** Grows when something becomes free that was in use. */
  function freed(): number {
    return model.capacityVersion - ended;
  }

  /** Its gangs are not all there, waiting, as they were. */
  function isOver({ seen, members }: Reservation): boolean {
    const states = [...seen.keys()].map(stateOf).filter((state) => state !== undefined);
    if (states.length === seen.size && states.every((state) => seen.get(state.key) === state)) return false;
    for (const state of states) seen.set(state.key, state);
    return states.some(isGoneOrPlaced) || membersOf(states) !== members;
  }

  /** Has it waited long enough? */
  function isDue(unit: string, entry: Waiting, states: readonly GangState[]): boolean {
    const dueMs = Math.max(boundOf(entry, states), entry.notBeforeMs);
    const worthIt = entry.vainAt !== freed();
    alarms.set(unit, worthIt && dueMs > nowMs() ? dueMs : undefined);
    return worthIt && dueMs <= nowMs();
  }

  function boundOf({ firstMs }: Waiting, states: readonly GangState[]): number {
    return Math.min(firstMs, Math.max(...states.map((state) => refusedSince(state) ?? firstMs))) + afterMs;
  }

  function entryOf(unit: string, members: string, first: Queued, states: readonly GangState[]): Waiting {
    const known = waiting.get(unit);
    if (known?.members === members) return known;
    if (waiting.size >= pruneAt) {
      for (const other of waiting.keys()) if (!isRefused(other)) forget(other);
      pruneAt = Math.max(minPruned, 2 * waiting.size);
    }
    const patienceMs = Math.max(leastPatienceMs, afterMs);
    const entry: Waiting = { first, members, firstMs: nowMs(), notBeforeMs: 0, patienceMs, vainAt: undefined };
    // It waits for longer than this planner runs. Its status says whether it had a room, or had given one up.
    if (boundOf(entry, states) <= nowMs() && !states.some(saysDraining)) entry.vainAt = freed();
    waiting.set(unit, entry);
    return entry;
  }

  function isRefused(unit: string): boolean {
    return unit.split(",").every((key) => stateOf(key)?.rejection !== undefined);
  }

  function forget(unit: string): void {
    waiting.delete(unit);
    alarms.set(unit, undefined);
  }

  /** @returns units for which its end is news */
  function goOnSearching(): string[] {
    if (search === undefined || search.found !== undefined) return [];
    const startMs = nowMs();
    const found = goOn(search.steps, () => nowMs() - startMs < searchSliceMs);
    if (found === undefined) return [];
    search.found = found;
    const units = [search.unit, ...postponed];
    postponed.clear();
    return units;
  }

  /** What the search for a room for the unit has found; undefined: nothing yet. */
  function searchedRoom(unit: string, members: string, first: Queued, refused: RefusedUnit): Search["found"] {
    if (search?.unit !== unit || search.members !== members) {
      if (search !== undefined && search.found === undefined) {
        if (search.unit !== unit && byQueueOrder(search.first, first) < 0) {
          postponed.add(unit);
          return undefined;
        }
        if (search.unit !== unit) postponed.add(search.unit);
      }
      const steps = soonestRoom(model, refused.unit, refused.options);
      search = { unit, first, members, steps, version: model.version };
      goOnSearching();
    }
    const { found, version } = search;
    if (found === undefined) return undefined;
    search = undefined;
    // What was found in earlier turns may be gone.
    const stands =
      found.result === undefined || version === model.version || roomStands(model, refused.unit, found.result);
    return stands ? found : { result: undefined };
  }

  /** The room that stands for the unit, or now comes to stand. */
  function reserve(refused: RefusedUnit): Reservation | undefined {
    const { gangs } = refused;
    const states = gangs.map(({ state }) => state);
    const [unit, members] = [unitOf(gangs), membersOf(states)];
    const roomMatters = refused.rejections.some(({ reason }) => wantsRoom.has(reason));
    const mine = current?.unit === unit;
    if (!roomMatters || states.some(isGoneOrPlaced)) {
      forget(unit);
      if (mine) end();
      return undefined;
    }
    const searching = search?.unit === unit;
    if (mine && !searching && current!.members === members && stillStands(current!, refused.unit)) return current;
    const first = gangs.toSorted(byQueueOrder)[0]!;
    const entry = entryOf(unit, members, first, states);
    if (!isDue(unit, entry, states)) return undefined;
    if (current !== undefined && !mine && byQueueOrder(current.first, first) < 0) return undefined;
    const found = searchedRoom(unit, members, first, refused);
    if (found === undefined) return undefined;
    const room = found.result;
    if (room === undefined) entry.notBeforeMs = nowMs() + searchPauseMs;
    if (room !== undefined || mine) end();
    if (room === undefined) return undefined;
    const { devices } = leaversOf(model, room.plans);
    const seen = new Map(states.map((state) => [state.key, state]));
    current = { unit, first, members, seen, room, waiting: entry, devices };
    alarms.set(unit, nowMs() + entry.patienceMs);
    return current;
  }

  /**
   * Nobody left for long: they may run for ever, and what is kept empty serves nobody. For as long as that others may
   * have it; the next try, once somebody has left anywhere, lasts twice as long: who leaves at all is waited for one day.
   */
  function giveUp({ waiting: entry }: Reservation): void {
    entry.notBeforeMs = nowMs() + entry.patienceMs;
    entry.patienceMs *= 2;
    entry.vainAt = freed();
    end();
  }

  /** Only who stands before it in the queue can have taken a place in it; then another room may be left sooner. */
  function stillStands(reservation: Reservation, unit: PlanUnit): boolean {
    const { devices } = leaversOf(model, reservation.room.plans);
    const before = reservation.devices;
    reservation.devices = devices;
    if (devices < before) alarms.set(reservation.unit, nowMs() + reservation.waiting.patienceMs);
    return devices <= before && roomStands(model, unit, reservation.room);
  }

  return {
    review() {
      if (current !== undefined && isOver(current)) end();
      const rang = alarms.due(nowMs());
      if (current !== undefined && rang.includes(current.unit)) giveUp(current);
      // What stands behind the one that has a room waits for its end, which is news for it.
      const mayHave = (unit: string) =>
        current === undefined || byQueueOrder(waiting.get(unit)!.first, current.first) < 0;
      const due = rang.filter((unit) => isRefused(unit) && mayHave(unit));
      return [...due, ...goOnSearching().filter(isRefused)].flatMap((unit) => unit.split(","));
    },
    turn(each, act) {
      const reserved = current;
      const free = reserved !== undefined && (reserved.seen.has(each.key) || byQueueOrder(each, reserved.first) < 0);
      // Nothing becomes free for those who were refused: it is back in a moment.
      if (free) model.attempt(() => release(model, reserved.room));
      act();
      if (current !== undefined && (free || current !== reserved)) hold(model, current.room);
    },
    refused(refused) {
      const reservation = afterMs > 0 ? reserve(refused) : undefined;
      if (reservation === undefined) return refused.rejections;
      const { room } = reservation;
      const text = drainText(room, leaversOf(model, room.plans));
      return refused.rejections.map((rejection) => ({ ...rejection, message: rejection.message + text }));
    },
    placed(keys) {
      forget(keys.toSorted().join());
      if (keys.some((key) => current?.seen.has(key))) end();
    },
    nextMs: () => (search === undefined || search.found !== undefined ? alarms.next() : nowMs()),
    get size() {
      return current?.seen.size ?? 0;
    },
  };
}

function hold(model: ClusterModel, { plans }: Room): void {
  for (const { placement, requests } of plans) {
    const pods = placement.pods.map((placed) => ({ placed, requests: requests.get(placed.pod) ?? {} }));
    // Under no namespace: of nobody's gangs it is said that they would make room.
    model.hold(drainKey(`${placement.namespace}/${placement.gang}`), "", pods);
  }
}

function release(model: ClusterModel, { plans }: Room): undefined {
  for (const { placement } of plans) model.release(drainKey(`${placement.namespace}/${placement.gang}`));
}

function saysDraining({ gang }: GangState): boolean {
  return isDrainText(gang?.status.explanation ?? "");
}

function unitOf(gangs: readonly Queued[]): string {
  return gangs
    .map(({ key }) => key)
    .sort()
    .join();
}

function membersOf(states: readonly GangState[]): string {
  return states.map((state) => `${state.gang?.uid} ${state.gang?.generation} ${memberKey(state)}`).join(";");
}

function isGoneOrPlaced({ gang, proposal }: GangState): boolean {
  return (
    gang === undefined || gang.deleting || proposal !== undefined || (gang.status.phase ?? "Pending") !== "Pending"
  );
}

/**
 * Since when the API server's objects say that it waits: its condition `Planned` is False, and it is complete. Undefined:
 * they do not say it yet.
 */
function refusedSince(state: GangState): number | undefined {
  const said = state.gang?.status.conditions?.find(({ type, status }) => type === "Planned" && status === "False");
  const saidMs = Date.parse(said?.lastTransitionTime ?? "");
  if (Number.isNaN(saidMs)) return undefined;
  const pods = livePods(state);
  const complete = (state.gang?.spec.podSets ?? []).map((podSet, _, { length }) => {
    const own = pods.filter((pod) => length === 1 || pod.podSet === podSet.name);
    return own.map(({ createdAtMs }) => createdAtMs).sort((a, b) => a - b)[minCountOf(podSet) - 1] ?? 0;
  });
  return Math.max(saidMs, ...complete);
}
