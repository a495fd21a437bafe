import type { Logger } from "pino";
import { claimReference } from "../gang/lifecycle/claims.ts";
import { leftoverClaims } from "../gang/lifecycle/leftovers.ts";
import type { Outcome } from "../gang/lifecycle/state.ts";
import type { EventRecorder } from "../kube/events.ts";
import type { Timing } from "../kube/timing.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord } from "../topology/records.ts";
import type { WriteEffect } from "./effects.ts";
import type { PlannerMetrics } from "./metrics.ts";

export interface ReaperOptions {
  model: Pick<ClusterModel, "claims" | "pods">;
  managedDrivers: ReadonlySet<string>;
  /** Writes and lets the model know. */
  write(effect: WriteEffect): Promise<Outcome>;
  recorder: Pick<EventRecorder, "record">;
  metrics: Pick<PlannerMetrics, "reaped">;
  log: Pick<Logger, "warn">;
  timing: Timing;
  /** Time between two looks; 0: none. */
  graceMs: number;
  /** Ends the looks; a write under way is finished. */
  signal: AbortSignal;
}

/**
 * Gives back the devices of claims that belong to nobody (see `leftoverClaims`), seen so in two looks with the same
 * resourceVersion: nothing happened to the claim in between. Looks read what the watches told and cost the API server
 * nothing. Allocation and consumers go in one compare-and-swap on that version, with the planner's own rights and behind its fence;
 * the finalizer stays, for whoever deletes the claim.
 */
export async function runReaper(options: ReaperOptions): Promise<void> {
  const { model, managedDrivers, timing, graceMs, signal } = options;
  if (graceMs === 0) return;
  const look = (): ClaimRecord[] => leftoverClaims(model.claims, { pods: model.pods, managedDrivers });
  let before = new Map<string, string>();
  while (!signal.aborted) {
    await timing.sleep(graceMs, signal);
    if (signal.aborted) return;
    const now = look();
    for (const claim of now) {
      if (signal.aborted) return;
      if (before.get(claim.uid) === claim.resourceVersion) await reap(options, claim);
    }
    before = new Map(now.map(({ uid, resourceVersion }) => [uid, resourceVersion]));
  }
}

async function reap({ write, recorder, metrics, log, graceMs }: ReaperOptions, claim: ClaimRecord): Promise<void> {
  const { namespace, name, uid } = claim;
  const outcome = await write({ type: "clearClaim", id: `claim/${name}`, claim: claimReference(claim) });
  metrics.reaped.inc({ outcome: outcome.ok ? "ok" : "failed" });
  const note = `gave back ${devicesText(claim)}: for ${graceMs / 1000} s nobody stood in reservedFor, and no pod named the claim`;
  // After a failure it is seen again.
  log.warn({ claim: `${namespace}/${name}`, outcome }, outcome.ok ? note : "could not give back what nobody uses");
  if (!outcome.ok) return;
  recorder.record({
    regarding: { apiVersion: "resource.k8s.io/v1", kind: "ResourceClaim", namespace, name, uid },
    type: "Warning",
    reason: "AllocationReclaimed",
    note: `kllama ${note}`,
  });
}

const mostDevices = 8;

function devicesText({ allocation }: ClaimRecord): string {
  const devices = (allocation?.devices?.results ?? []).map(({ pool, device }) => `${pool}/${device}`);
  const more = devices.length - mostDevices;
  return `${devices.slice(0, mostDevices).join(", ")}${more > 0 ? ` and ${more} more devices` : ""}`;
}
