import type { PreemptedUnit } from "../api/gang.ts";
import type { Wish } from "../api/placement.ts";
import type { WriteEffect } from "./effects.ts";

/** What the coordinator tells the outside. */
export interface CoordinatorPorts {
  /** Starts a write; its result comes back through `written`. Must not call back synchronously. */
  write(effect: WriteEffect, owner: string): void;
  event(
    subject: { kind: "Gang" | "Pod"; namespace: string; name: string; uid: string },
    event: { reason: string; note: string; warning: boolean },
  ): void;
  answer(call: number, error: string | undefined): void;
  /** False: others may allocate beside us, nothing new is planned. */
  mayPlan(): boolean;
  nowMs(): number;
  nowIso(): string;
  /** Calls `flush` once, after `delayMs`. */
  schedule(delayMs: number): void;
  /** @param budgetExceeded for these the search used up its budget */
  planned(
    outcome: "placed" | "rejected",
    milliseconds: number,
    explored: number,
    reason: string,
    budgetExceeded?: readonly Wish[],
  ): void;
  /** kube-scheduler does not let a pod go where it was planned. */
  planRefused(what: { pod: string; node: string; message: string }): void;
  /** Others have to leave for a gang: that is decided now. */
  preempted(victims: readonly PreemptedUnit[]): void;
  /** Something that kllama should have been asked for came past it. */
  bypassed(how: Bypass): void;
}

/**
 * `ungated`: a pod with claims on managed devices that has no gate. `unmarked`: a pod with a gang's label that kube-scheduler
 * binds without asking. `bound`: a member that somebody else bound.
 */
type Bypass = "ungated" | "unmarked" | "bound";
