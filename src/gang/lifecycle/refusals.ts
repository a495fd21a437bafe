import type { PlacedPod } from "../../api/placement.ts";
import type { PodRecord } from "../../topology/records.ts";
import { isBoundTo } from "./members.ts";
import type { Context, Effect, GangState } from "./state.ts";

/**
 * Places that kube-scheduler refuses although the planner found them fit: it judges more than the planner does (host
 * ports, affinity between pods, volumes, other plugins). Its word stands, and the gang is planned without that node.
 */

/** kube-scheduler tries a pod again within its longest back-off, 10 s; it may only have seen the claims too late. */
export const refusalSettlesMs = 15_000;
/**
 * For a condition that may be older than the release, as a new refusal with the same text would not change it; and for
 * a member of a running gang, whose own place is worth some patience.
 */
export const patienceMs = 60_000;
const avoidMs = 300_000;

/** A released member on its way to the barrier. */
export interface Trial {
  readonly node: string;
  /** What kube-scheduler said of the pod before. */
  readonly before: string | undefined;
  readonly sinceMs: number;
  /** When it was first seen to say something else. */
  refusedAtMs?: number;
}

/** node → until when no member is planned there. */
export type AvoidedNodes = Map<string, number>;

export interface Refusal {
  slot: PlacedPod;
  pod: PodRecord;
  message: string;
}

/**
 * The first released member of which kube-scheduler says for some time that it does not fit its place. Notes in the
 * state since when each is tried.
 * @param afterMs how long a new refusal has to stand
 */
export function refusedMember(
  state: GangState,
  members: readonly [PlacedPod, PodRecord][],
  context: Context,
  afterMs: number,
): { refusal?: Refusal; wakeAtMs?: number } {
  let wakeAtMs: number | undefined;
  for (const [slot, pod] of members) {
    const trial = trialOf(state, slot, pod, context.nowMs);
    const message = pod.unschedulableMessage;
    if (trial === undefined || message === undefined) continue;
    if (message !== trial.before) trial.refusedAtMs ??= context.nowMs;
    const dueAtMs = trial.refusedAtMs === undefined ? trial.sinceMs + patienceMs : trial.refusedAtMs + afterMs;
    if (context.nowMs >= dueAtMs) return { refusal: { slot, pod, message } };
    wakeAtMs = Math.min(wakeAtMs ?? dueAtMs, dueAtMs);
  }
  return wakeAtMs === undefined ? {} : { wakeAtMs };
}

function trialOf(state: GangState, slot: PlacedPod, pod: PodRecord, nowMs: number): Trial | undefined {
  const arrived = state.arrivals.get(pod.uid)?.node === slot.node;
  if (arrived || pod.nodeName !== undefined || isBoundTo(state, pod, slot.node)) {
    state.trials.delete(pod.uid);
    return undefined;
  }
  if (pod.gates.length > 0) {
    // Nothing is said of a gated pod: what is first seen together with its release is news.
    state.trials.set(pod.uid, newTrial(slot.node, pod, nowMs));
    return undefined;
  }
  const known = state.trials.get(pod.uid);
  const trial = known?.node === slot.node ? { ...known } : newTrial(slot.node, pod, nowMs);
  state.trials.set(pod.uid, trial);
  return trial;
}

function newTrial(node: string, pod: PodRecord, sinceMs: number): Trial {
  return { node, before: pod.unschedulableMessage, sinceMs };
}

/** Takes kube-scheduler at its word: the next plans of the gang leave the node out. */
export function heed(state: GangState, { slot, pod, message }: Refusal, nowMs: number): Effect {
  state.trials.delete(pod.uid);
  avoid(state.avoided, slot.node, nowMs);
  return { type: "planRefused", id: `refused/${pod.uid}`, pod: pod.name, node: slot.node, message };
}

export function avoid(avoided: AvoidedNodes, node: string, nowMs: number): void {
  avoided.set(node, nowMs + avoidMs);
}

/** Forgets what is over. @returns whether there was any: a refused plan is worth another try then */
export function expireAvoided(avoided: AvoidedNodes, nowMs: number): boolean {
  const over = [...avoided].filter(([, untilMs]) => untilMs <= nowMs);
  for (const [node] of over) avoided.delete(node);
  return over.length > 0;
}

/** The pod as the planner should take it. */
export function avoiding(pod: PodRecord, avoided: AvoidedNodes): PodRecord {
  return avoided.size === 0 ? pod : { ...pod, avoidedNodes: [...avoided.keys()].sort() };
}
