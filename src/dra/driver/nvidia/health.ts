import type { DeviceTrouble } from "../inventory.ts";
import type { BoardReading } from "./reading.ts";

/** Errors of boards → what is wrong with them. Pure: time enters as RFC 3339 texts and milliseconds. */

export interface XidReport {
  xid: number;
  since: string;
  /** Of the last one. */
  atMs: number;
}

/** XIDs that a faulty program causes, or that follow another one (`docs.nvidia.com/deploy/xid-errors`). */
const harmlessXids: ReadonlySet<number> = new Set([13, 31, 43, 45, 68, 109]);

/** How long a board has to be quiet: when its driver says that nothing has to be done, and when it cannot tell. */
const quietMs = { told: 300_000, untold: 1_800_000 } as const;

/** `nvmlDeviceGpuRecoveryAction_t`. */
const recoveryActions = ["none", "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset"];

export function isFault(xid: number): boolean {
  return !harmlessXids.has(xid);
}

/** The report has become history. */
export function isOver({ atMs }: XidReport, { recoveryAction }: BoardReading, nowMs: number): boolean {
  if (recoveryAction !== undefined && recoveryAction !== 0) return false;
  return nowMs - atMs >= (recoveryAction === undefined ? quietMs.untold : quietMs.told);
}

/** A trouble without `since` is dated by whoever keeps the inventory. */
export function boardTroubles(
  board: BoardReading,
  report: XidReport | undefined,
): (Omit<DeviceTrouble, "since"> & { since?: string })[] {
  const troubles: ReturnType<typeof boardTroubles> = [];
  if (report !== undefined) {
    const [value, message] =
      report.xid === 0 ? ["memory", "uncorrectable memory error"] : [String(report.xid), `XID ${report.xid}`];
    troubles.push({ key: "xid", value, since: report.since, message });
  }
  if ((board.uncorrectedEccErrors ?? 0) > 0) {
    const message = `${board.uncorrectedEccErrors} uncorrected memory errors; reset the GPU`;
    troubles.push({ key: "ecc", value: "uncorrected", message });
  }
  const action = board.recoveryAction ?? 0;
  if (action !== 0) {
    const value = recoveryActions[action] ?? `action-${action}`;
    troubles.push({ key: "recovery", value, message: `its driver asks for ${value}` });
  }
  return troubles;
}
