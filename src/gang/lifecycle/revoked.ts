import { isGuardOf } from "./claims.ts";
import { type Decision, refuseAll } from "./decision.ts";
import type { Context, Effect, GangRecord, GangState } from "./state.ts";
import { write } from "./status.ts";
import { sweep } from "./sweep.ts";

const firstReplanMs = 1_000;
const lastReplanMs = 60_000;

/** Gives everything back; only when nothing is held any more the gang is pending again. */
export function decideRevoked(state: GangState, gang: GangRecord, context: Context): Decision {
  const reason = gang.status.explanation ?? "revoked";
  const clearing = sweep(state, [], context);
  delete state.missingSinceMs;
  const effects = [...refuseAll(state, `gang ${state.key} was revoked: ${reason}`), ...clearing];
  if (clearing.length > 0 || holdsGuards(state)) return { effects };
  const attempts = gang.status.attempts ?? 1;
  state.replanAtMs = context.nowMs + replanPauseMs(attempts);
  effects.push(write(state, gang, "Pending", context, { explanation: reason, conditions: [] }));
  return { effects, wakeAtMs: state.replanAtMs };
}

/** How long a gang that gave up its places so many times waits for the next plan. */
export function replanPauseMs(attempts: number): number {
  return Math.min(lastReplanMs, firstReplanMs * 2 ** (attempts - 1));
}

/** Some claim is still reserved for the gang. */
export function holdsGuards(state: GangState): boolean {
  return [...state.claims.values()].some((claim) => claim.reservedFor.some((each) => isGuardOf(state.key, each)));
}

/** The other way out of `Reserved`: either this or the commit wins the compare-and-swap. */
export function writeRevoked(state: GangState, gang: GangRecord, reason: string, context: Context): Effect {
  return write(state, gang, "Revoked", context, {
    explanation: reason,
    attempts: (gang.status.attempts ?? 0) + 1,
    conditions: [
      { type: "Planned", status: "False", reason: "Revoked", message: reason },
      { type: "Scheduled", status: "False", reason: "Revoked", message: reason },
    ],
  });
}
