import type { ClaimRecord, PodRecord } from "../../topology/records.ts";
import { livePods } from "./members.ts";
import { tellPod } from "./orphans.ts";
import type { Context, Effect, GangState } from "./state.ts";

/** A claim that is deleted and made anew is away for less than this. */
const lostGraceMs = 5_000;
/** As long as kube-controller-manager's memory of what it created (a MutationCache of one hour), and a bit. */
const forgottenMs = 3_660_000;

/**
 * kube-controller-manager believes for an hour that a claim exists which it made for a pod. If somebody deletes the claim in
 * that hour it makes no other, and looks again only when the pod changes. So the pod's owner is told by a condition what
 * helps, and told once more when the hour is over, because that is such a change.
 */
export function tellClaimless(state: GangState, context: Context): { effects: Effect[]; wakeAtMs?: number } {
  const effects: Effect[] = [];
  const claimless = new Map<string, { claim: string; sinceMs: number; told: number }>();
  let wakeAtMs = Number.POSITIVE_INFINITY;
  for (const pod of livePods(state)) {
    const claim = pod.nodeName === undefined ? lostClaim(pod, state.claims) : undefined;
    if (claim === undefined) continue;
    const known = state.claimless.get(pod.uid);
    const before = known?.claim === claim ? known : { sinceMs: context.nowMs, told: 0 };
    const due = [lostGraceMs, forgottenMs].filter((afterMs) => context.nowMs >= before.sinceMs + afterMs).length;
    claimless.set(pod.uid, { claim, sinceMs: before.sinceMs, told: due });
    if (due === 0) wakeAtMs = Math.min(wakeAtMs, before.sinceMs + lostGraceMs);
    else if (due === 1) wakeAtMs = Math.min(wakeAtMs, before.sinceMs + forgottenMs);
    // A write that failed is tried again.
    if (due > before.told || state.pace.has(`tell/${pod.uid}`)) {
      effects.push(tellPod(pod, "ClaimMissing", lostClaimText(pod, claim), context.nowIso()));
    }
  }
  state.claimless = claimless;
  return wakeAtMs === Number.POSITIVE_INFINITY ? { effects } : { effects, wakeAtMs };
}

/** A claim that was made for the pod from a template, and does not exist. */
function lostClaim(pod: PodRecord, claims: ReadonlyMap<string, ClaimRecord>): string | undefined {
  return pod.claims.find(
    ({ claimName, templateName }) => templateName !== undefined && claimName !== undefined && !claims.has(claimName),
  )?.claimName;
}

function lostClaimText({ name }: PodRecord, claim: string): string {
  return `ResourceClaim ${claim} of pod ${name} was deleted; delete the pod, so that it is created anew with another claim`;
}

/** Nothing is said of a claim that may be made anew at this moment. */
export function lostClaimOf(
  state: GangState,
  pod: PodRecord,
  context: Context,
): { reason: string } | { reason?: never; wakeAtMs: number } | undefined {
  const lost = state.claimless.get(pod.uid);
  if (lost === undefined) return undefined;
  const saidAtMs = lost.sinceMs + lostGraceMs;
  return context.nowMs < saidAtMs ? { wakeAtMs: saidAtMs } : { reason: lostClaimText(pod, lost.claim) };
}
