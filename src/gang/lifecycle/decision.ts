import type { Effect, GangState } from "./state.ts";

/** What to do next, and when to look again (milliseconds) if nothing happens before. */
export interface Decision {
  effects: Effect[];
  wakeAtMs?: number;
}

/** Lets the held bind call of a pod go, without an error. */
export function answer(podUid: string, call: number): Effect & { type: "answer" } {
  return { type: "answer", id: `answer/${podUid}`, podUid, call };
}

/** Lets all held bind calls of the gang go, with an error. */
export function refuseAll(state: GangState, error: string): Effect[] {
  return [...state.arrivals].map(([podUid, arrival]) => ({ ...answer(podUid, arrival.call), error }));
}
