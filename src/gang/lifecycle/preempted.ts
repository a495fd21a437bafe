import type { PodRecord } from "../../topology/records.ts";
import { assignSlots, minCountOf } from "../members.ts";
import { disrupt } from "./binding.ts";
import { type Decision, refuseAll } from "./decision.ts";
import { isUnsettled } from "./member-effects.ts";
import { holdsGuards } from "./revoked.ts";
import type { Context, Effect, GangRecord, GangState, PodReference } from "./state.ts";
import { write } from "./status.ts";
import { sweep } from "./sweep.ts";

/** So many refusals in a row, a quarter of a minute at least, are told. */
const toldAfter = 8;
/** And so many, half a minute at least, are taken for final. */
const finalAfter = 14;

const explanation =
  "preempted: its nodes and devices are for a gang of higher priority; it is planned again when its pods are gone";

/** Gives up the places at once, by compare-and-swap; evictions follow. */
export function writePreempted(state: GangState, gang: GangRecord, context: Context): Effect {
  return write(state, gang, "Preempted", context, {
    explanation,
    attempts: (gang.status.attempts ?? 0) + 1,
    conditions: [
      { type: "Planned", status: "False", reason: "Preempted", message: explanation },
      { type: "Scheduled", status: "False", reason: "Preempted", message: explanation },
    ],
  });
}

/**
 * Evicts every member that is bound, and gives back what the others have reserved. Members that are recreated meanwhile
 * wait. Only when nobody is left on a node the gang is pending again.
 */
export function decidePreempted(state: GangState, gang: GangRecord, context: Context): Decision {
  const there = [...state.pods.values()].filter((pod) => isThere(state, pod, context));
  const staying = there.filter((pod) => !pod.deleting && !state.evicted.has(pod.uid));
  const clearing = sweep(state, [], context);
  const effects = [...refuseAll(state, `gang ${state.key} was preempted`), ...clearing];
  const pending = (why: string): Decision => ({
    effects: [...effects, write(state, gang, "Pending", context, { explanation: why, conditions: [] })],
  });
  const broken = isBroken(gang, staying);
  const refusals = staying.map(({ uid }) => state.pace.get(`evict/${uid}`)?.attempts ?? 0);
  if (staying.length > 0 && !broken && staying.length === there.length && Math.min(...refusals) >= finalAfter) {
    return pending("was to be preempted, and the API server evicts none of its pods: it stays");
  }
  for (const pod of staying) {
    const attempts = state.pace.get(`evict/${pod.uid}`)?.attempts ?? 0;
    // Without the others it is of no use, and nobody's availability hangs on it.
    effects.push(broken && attempts >= finalAfter ? disrupt(pod) : evictPod(pod));
  }
  effects.push(...tellRefusal(state, staying));
  const unsettled = [...state.pods.keys()].some((uid) => isUnsettled(state, `bind/${uid}`, context));
  if (there.length > 0 || unsettled || clearing.length > 0 || holdsGuards(state)) return { effects };
  return pending(explanation);
}

/** A member on a node. One that is ending on a node that is lost may end never. */
function isThere(state: GangState, pod: PodRecord, context: Context): boolean {
  const node = pod.nodeName ?? state.bound.get(pod.uid);
  if (node === undefined || pod.terminal || !pod.bindMarker) return false;
  return !pod.deleting || context.nodeFits(node);
}

/** Too few stay for what the gang needs. */
function isBroken(gang: GangRecord, staying: readonly PodRecord[]): boolean {
  const slots = [...assignSlots(gang.spec, staying, []).slots.keys()];
  return gang.spec.podSets.some(
    (podSet) => slots.filter((slot) => slot.startsWith(`${podSet.name}/`)).length < minCountOf(podSet),
  );
}

function tellRefusal(state: GangState, staying: readonly PodRecord[]): Effect[] {
  if (state.evictionTold === true) return [];
  for (const pod of staying) {
    const refused = state.pace.get(`evict/${pod.uid}`);
    if (refused === undefined || refused.attempts < toldAfter) continue;
    state.evictionTold = true;
    const note = `pod ${pod.name} is to make room and is not evicted: ${refused.message}`.slice(0, 1024);
    return [{ type: "event", id: "eviction", reason: "GangEvictionRefused", note, warning: true }];
  }
  return [];
}

export function evictPod({ namespace, name, uid }: PodReference): Effect {
  return { type: "evictPod", id: `evict/${uid}`, pod: { namespace, name, uid } };
}
