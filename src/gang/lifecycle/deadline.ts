import { refusalSettlesMs } from "./refusals.ts";
import type { Context, GangRecord, GangState } from "./state.ts";

/**
 * Its members have so long from their release on, which may come late: others are released first. Members that
 * kube-scheduler has tried before have no gate any more, and it may try them again only after its longest back-off.
 */
export function deadlineOf(state: GangState, gang: GangRecord, context: Context): number {
  return Math.max(gang.reservedAtMs ?? context.nowMs, state.releasedAtMs ?? 0) + timeoutMs(gang);
}

/** `spec.scheduleTimeoutSeconds`, or longer after a first attempt. */
export function timeoutMs(gang: GangRecord): number {
  const leastMs = (gang.status.attempts ?? 0) > 0 ? refusalSettlesMs : 0;
  return Math.max(leastMs, gang.spec.scheduleTimeoutSeconds * 1000);
}
