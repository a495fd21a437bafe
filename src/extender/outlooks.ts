import type { Rejection, RejectionReason } from "../api/placement.ts";
import { wantsRoom } from "../gang/batch.ts";
import { counterfactualSteps } from "../gang/counterfactuals.ts";
import { goOn, type Steps } from "../gang/in-slices.ts";
import { type GangState, type LifecycleEvent, memberKey } from "../gang/lifecycle/state.ts";
import type { PlanUnit } from "../gang/plan.ts";
import type { ClusterModel } from "../topology/model.ts";
import { createAlarms } from "./alarms.ts";

/**
 * Finds out what would make room for gangs that stay refused, and tells them. That takes many times what a plan takes, so
 * it is done in slices, when nobody waits for a plan, in a small part of the planner's time.
 */
export interface Outlooks {
  /** After a unit was refused. */
  refused(unit: RefusedUnit): void;
  /** Goes on for one slice of time, if it is time for one. */
  work(): void;
  /** There is work at this time even if nothing happens. */
  nextMs(): number;
}

export interface RefusedUnit {
  readonly unit: PlanUnit;
  /** Its gangs that are to be placed. */
  readonly keys: readonly string[];
  readonly rejections: readonly Rejection[];
}

/** Beside those that want room: nodes that return may cure them, and where more is free a search may find sooner. */
const curable: ReadonlySet<RejectionReason> = new Set([
  ...wantsRoom,
  "NoMatchingDevice",
  "NoNodeMatches",
  "BudgetExceeded",
]);

/** A refusal has to stand for so long: much of what is refused is placed a moment later. */
const settleMs = 2_000;
/** No gang is told something new more often. */
const pauseMs = 10_000;
/** No further step is begun after this, and then nothing is done for so many times as long as it took. */
const sliceMs = 10;
const restFactor = 19;

export function createOutlooks(parts: {
  model: ClusterModel;
  nowMs: () => number;
  stateOf: (key: string) => GangState | undefined;
  tell: (key: string, event: LifecycleEvent) => void;
  /** Runs `act` with what is reserved to those behind the gang in the queue free to it. */
  turn: (state: GangState, act: () => void) => void;
}): Outlooks {
  const { model, nowMs, stateOf, tell, turn } = parts;
  /** Refused units by their keys, as of the latest refusal; those in `ready` have stood for long enough. */
  const units = new Map<string, RefusedUnit>();
  const ready = new Set<string>();
  const alarms = createAlarms();
  let current: { readonly keys: readonly string[]; readonly steps: Steps<readonly string[]> } | undefined;
  let restsUntilMs = Number.NEGATIVE_INFINITY;

  function forget(id: string): void {
    units.delete(id);
    ready.delete(id);
    alarms.set(id, undefined);
  }

  function refused(each: RefusedUnit): void {
    const { keys, rejections } = each;
    const id = keys.join();
    // What runs and lacks members is not refused whole.
    if (!rejections.some(({ reason }) => curable.has(reason)) || !keys.every(isPending)) {
      forget(id);
      return;
    }
    // Refused again and again it stands all the same.
    if (!units.has(id)) alarms.set(id, nowMs() + settleMs);
    units.set(id, each);
  }

  function isPending(key: string): boolean {
    const state = stateOf(key);
    if (state?.gang === undefined || state.gang.deleting || state.proposal !== undefined) return false;
    return (state.gang.status.phase ?? "Pending") === "Pending";
  }

  /** Its gangs are still refused, and their members the same. */
  function stands(keys: readonly string[]): boolean {
    return keys.every((key) => {
      const state = stateOf(key);
      return isPending(key) && state?.rejection !== undefined && state.rejection.members === memberKey(state);
    });
  }

  function wake(): void {
    for (const id of alarms.due(nowMs())) {
      const { keys } = units.get(id)!;
      const lastMs = Math.max(...keys.map((key) => stateOf(key)?.outlookAtMs ?? Number.NEGATIVE_INFINITY));
      if (lastMs + pauseMs > nowMs()) alarms.set(id, lastMs + pauseMs);
      else ready.add(id);
    }
  }

  function begin(): typeof current {
    for (const id of ready) {
      const { unit, keys } = units.get(id)!;
      forget(id);
      if (stands(keys)) return { keys, steps: counterfactualSteps(model, unit) };
    }
    return undefined;
  }

  /** @returns false when there was nothing to do. */
  function step(): boolean {
    if (current !== undefined && !stands(current.keys)) current = undefined;
    current ??= begin();
    if (current === undefined) return false;
    const { keys, steps } = current;
    let found: ReturnType<typeof goOn<readonly string[]>>;
    turn(stateOf(keys[0]!)!, () => {
      found = goOn(steps, () => false);
    });
    if (found === undefined) return true;
    current = undefined;
    for (const key of keys) tell(key, { type: "outlook", counterfactuals: found.result });
    return true;
  }

  return {
    refused,
    work() {
      wake();
      const startMs = nowMs();
      if (startMs < restsUntilMs) return;
      let endMs = startMs;
      while (endMs - startMs < sliceMs && step()) endMs = nowMs();
      restsUntilMs = endMs + restFactor * (endMs - startMs);
    },
    nextMs: () => (current !== undefined || ready.size > 0 ? restsUntilMs : alarms.next()),
  };
}
