import { gangGate, gangLabel } from "../../api/names.ts";
import type { PodRecord } from "../../topology/records.ts";
import { livePods } from "./members.ts";
import type { Context, Effect, GangState, PodNews } from "./state.ts";

/** A Gang is often created a moment after its pods, or deleted a moment before them. */
const orphanGraceMs = 30_000;

/**
 * Gated pods whose Gang does not exist are told so once, by a condition, which outlives events and restarts of the
 * planner: who finds it there does not say it again.
 */
export function tellOrphans(state: GangState, context: Context): { effects: Effect[]; wakeAtMs?: number } {
  const orphans = livePods(state).filter(isWaiting);
  if (orphans.length === 0) {
    delete state.goneSinceMs;
    return { effects: [] };
  }
  state.goneSinceMs ??= context.nowMs;
  const effects: Effect[] = [];
  let wakeAtMs = Number.POSITIVE_INFINITY;
  for (const pod of orphans) {
    if (pod.gangCondition === "False") continue;
    const dueMs = Math.max(state.goneSinceMs, pod.createdAtMs) + orphanGraceMs;
    if (dueMs <= context.nowMs) effects.push(tellPod(pod, "GangNotFound", orphanText(state, pod), context.nowIso()));
    else wakeAtMs = Math.min(wakeAtMs, dueMs);
  }
  return wakeAtMs === Number.POSITIVE_INFINITY ? { effects } : { effects, wakeAtMs };
}

function isWaiting(pod: PodRecord): boolean {
  return pod.nodeName === undefined && pod.gates.includes(gangGate);
}

function orphanText(state: GangState, { namespace, name }: PodRecord): string {
  const what = state.gang?.deleting ? "is being deleted: create it again when it is gone" : "does not exist: create it";
  return (
    `the pod waits for Gang ${state.key}, which ${what}, or correct the pod's label ${gangLabel}, ` +
    `or let the pod go alone with: kllama release ${name} -n ${namespace}`
  );
}

/** The Gang is there: what pods were told before is over. */
export function tellFound(state: GangState, context: Context): Effect[] {
  delete state.goneSinceMs;
  return livePods(state)
    .filter((pod) => pod.gangCondition === "False")
    .map((pod) => tellPod(pod, "GangFound", `Gang ${state.key} exists`, context.nowIso()));
}

export function tellPod(
  { namespace, name, uid }: PodRecord,
  reason: PodNews,
  message: string,
  atIso: string,
): Effect & { type: "tellPod" } {
  const status = reason === "GangNotFound" ? "False" : "True";
  return { type: "tellPod", id: `tell/${uid}`, pod: { namespace, name, uid }, status, reason, message, atIso };
}
