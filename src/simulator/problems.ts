import type { Verdict } from "./judge.ts";
import type { BoundPod } from "./observed.ts";

/** Why a pod may not start. */
export interface Problem {
  kind: Verdict["kind"] | "NotAllocated" | "NotReserved" | "NodeDown" | "WronglyUndone";
  podUid: string;
  namespace: string;
  pod: string;
  node: string;
  /** Name of the claim. */
  claim?: string;
  device?: string;
  /** UIDs of the claims that use what this one wants. */
  holders: readonly string[];
  message: string;
  /** What the driver said. */
  refusal?: string;
}

/** Kinds that no correct scheduler, planner and driver bring about. */
const violations: ReadonlySet<Problem["kind"]> = new Set([
  "DeviceInUse",
  "CounterExceeded",
  "UnknownDevice",
  "WrongNode",
  "AllocationChanged",
  "WronglyPrepared",
  "WronglyRefused",
  "WronglyUndone",
]);
/**
 * Kinds that no lagging watch brings about. `WronglyRefused` is none of them: a claim that failed in the same batch may have
 * been in the way, and a kubelet asks again.
 */
const certain: ReadonlySet<Problem["kind"]> = new Set([
  "NodeDown",
  "DeviceLost",
  "PrepareFailed",
  "WronglyPrepared",
  "WronglyUndone",
]);

/** The problem shows that an invariant is broken. */
export function isViolation(problem: Problem): boolean {
  return violations.has(problem.kind);
}

/** No lagging watch brings it about: asking again is of no use. */
export function isCertain(problem: Problem): boolean {
  return certain.has(problem.kind);
}

export function problemOf(
  pod: BoundPod,
  kind: Problem["kind"],
  message: string,
  more: Partial<Pick<Problem, "claim" | "device" | "holders" | "refusal">> = {},
): Problem {
  return {
    kind,
    podUid: pod.uid,
    namespace: pod.namespace,
    pod: pod.name,
    node: pod.node,
    holders: [],
    message,
    ...more,
  };
}
