import { decideBinding } from "./binding.ts";
import { type Decision, refuseAll } from "./decision.ts";
import { tellClaimless } from "./lost-claims.ts";
import { isUnsettled } from "./member-effects.ts";
import { tellFound, tellOrphans } from "./orphans.ts";
import { decidePending } from "./pending.ts";
import { decidePreempted, writePreempted } from "./preempted.ts";
import { decidePreempting } from "./preempting.ts";
import { expireAvoided } from "./refusals.ts";
import { decideReserved } from "./reserved.ts";
import { decideRevoked } from "./revoked.ts";
import { decideScheduled } from "./scheduled.ts";
import type { Context, GangRecord, GangState } from "./state.ts";
import { sweep } from "./sweep.ts";

/**
 * What to do next, from what is known now: equal states and contexts give equal decisions. It notes in the state when
 * it first saw something that is given time (missing and incoming members, the pause before the next plan).
 */
export function decide(state: GangState, context: Context): Decision {
  const { gang } = state;
  if (gang === undefined || gang.deleting) {
    state.trials.clear();
    const { effects, ...wake } = tellOrphans(state, context);
    return { effects: [...refuseAll(state, gone(state)), ...sweep(state, [], context), ...effects], ...wake };
  }
  if (expireAvoided(state.avoided, context.nowMs)) delete state.rejection;
  const claimless = tellClaimless(state, context);
  const decision = decidePhase(state, gang, context);
  const expiries = state.rejection === undefined ? [] : state.avoided.values();
  const wakeAtMs = Math.min(decision.wakeAtMs ?? Infinity, claimless.wakeAtMs ?? Infinity, ...expiries);
  const effects = [...decision.effects, ...tellFound(state, context), ...claimless.effects];
  return wakeAtMs === Infinity ? { effects } : { effects, wakeAtMs };
}

function decidePhase(state: GangState, gang: GangRecord, context: Context): Decision {
  const { phase } = gang.status;
  // What kube-scheduler said of a place that was given up says nothing of the next one, be it on the same node.
  if (phase !== "Reserved" && phase !== "Binding" && phase !== "Scheduled") state.trials.clear();
  if (phase !== "Binding") delete state.bindingSinceMs;
  if (phase !== "Scheduled") {
    state.crowded = new Map();
    delete state.outlying;
    delete state.spoiled;
  }
  if (phase !== "Binding" && phase !== "Reserved") delete state.releasedAtMs;
  if (phase !== "Reserved") delete state.squeezedSinceMs;
  if (phase !== "Preempting") delete state.vacatedSinceMs;
  if (phase !== "Preempted") delete state.evictionTold;
  // Bindings that are under way are waited for: half a gang can be neither counted nor evicted.
  if ((phase === "Reserved" || phase === "Preempting" || phase === "Scheduled") && context.condemned(state)) {
    const refusals = refuseAll(state, `gang ${state.key} is preempted`);
    const binding = [...state.pods.keys()].some((uid) => isUnsettled(state, `bind/${uid}`, context));
    return { effects: binding ? refusals : [...refusals, writePreempted(state, gang, context)] };
  }
  switch (phase ?? "Pending") {
    case "Pending":
      return decidePending(state, gang, context);
    case "Preempting":
      return decidePreempting(state, gang, context);
    case "Preempted":
      return decidePreempted(state, gang, context);
    case "Reserved":
      return decideReserved(state, gang, context);
    case "Binding":
      return decideBinding(state, gang, context);
    case "Scheduled":
      return decideScheduled(state, gang, context);
    case "Revoked":
      return decideRevoked(state, gang, context);
  }
}

function gone(state: GangState): string {
  return `Gang ${state.key} does not exist; create it or remove the label from the pod`;
}
