import type { ResourceClaim } from "../../api/kubernetes.ts";
import { isClaimUid } from "./cdi.ts";
import { ClaimError } from "./claim.ts";
import type { CallState } from "./dra-server.ts";
import type { ClaimReference } from "./grpc.ts";
import { inTurns } from "./in-turns.ts";

/** What calls wait for. */
export interface ClaimCalls {
  claims: readonly ClaimReference[];
  call: CallState;
}

/** A consistent read; undefined: there is no such claim. Ends early, however, once the signal is aborted. */
export type ReadClaim = (namespace: string, name: string, signal?: AbortSignal) => Promise<ResourceClaim | undefined>;

export interface ClaimReading {
  wanted: ClaimReference;
  claim?: ResourceClaim;
  /** Why there is no claim; absent, too, if nobody waited for it any more. */
  error?: unknown;
}

/** Claims that are read from the API server at the same time. */
const readsAtOnce = 64;

/** Claims of all calls, each once. */
export function uniqueClaims(jobs: readonly ClaimCalls[]): ClaimReference[] {
  return [...new Map(jobs.flatMap(({ claims }) => claims.map((claim) => [claim.uid, claim] as const))).values()];
}

/** Tells by UID whether anybody waits for a claim. */
export function waitingFor(jobs: readonly ClaimCalls[]): (claimUid: string) => boolean {
  const callers = new Map<string, CallState[]>();
  for (const { claims, call } of jobs) {
    for (const { uid } of claims) {
      const others = callers.get(uid);
      if (others === undefined) callers.set(uid, [call]);
      else others.push(call);
    }
  }
  return (claimUid) => callers.get(claimUid)?.some(({ cancelled }) => !cancelled) === true;
}

/**
 * Reads the claims of all calls. A read ends when the last call that waits for it is cancelled: what an API server
 * that hangs is asked for in vain would hold up all calls to come.
 */
export async function readClaims(jobs: readonly ClaimCalls[], read: ReadClaim): Promise<ClaimReading[]> {
  const isAwaited = waitingFor(jobs);
  const underWay = new Map<string, AbortController>();
  for (const { claims, call } of jobs) {
    call.once("cancelled", () => {
      // With a text for a reason: the default one takes a stack trace.
      for (const { uid } of claims) if (!isAwaited(uid)) underWay.get(uid)?.abort("nobody waits for it");
    });
  }
  return inTurns(uniqueClaims(jobs), readsAtOnce, async (wanted): Promise<ClaimReading> => {
    if (!isAwaited(wanted.uid)) return { wanted };
    const controller = new AbortController();
    underWay.set(wanted.uid, controller);
    try {
      return await readOne(wanted, read, controller.signal);
    } catch (error) {
      return { wanted, error };
    } finally {
      underWay.delete(wanted.uid);
    }
  });
}

async function readOne(wanted: ClaimReference, read: ReadClaim, signal: AbortSignal): Promise<ClaimReading> {
  const name = `claim ${wanted.namespace}/${wanted.name}`;
  if (!isClaimUid(wanted.uid)) throw new ClaimError(`${name}: ${JSON.stringify(wanted.uid)} is not a UID`);
  const claim = await read(wanted.namespace, wanted.name, signal);
  if (claim === undefined) throw new ClaimError(`${name}: does not exist; recreate the pod`);
  return { wanted, claim };
}
