import type { ResourceClaim } from "../../api/kubernetes.ts";
import type { KubeError } from "../../kube/client.ts";
import type { Timing } from "../../kube/timing.ts";
import type { ReadClaim } from "./claim-reads.ts";
import { CheckpointDamaged, type ClaimStore } from "./claim-store.ts";
import type { Machine } from "./machine.ts";
import type { Preparation } from "./preparation.ts";
import type { PreparedClaim } from "./prepared-claim.ts";
import { createReconciler, type Repairs } from "./reconcile.ts";
import { type Lost, type Memory, putAside, rebuildClaims } from "./recovery.ts";

export interface UpkeepOptions {
  memory: Memory;
  preparation: Preparation;
  store: ClaimStore;
  machine: Machine;
  pool: string;
  checkpoint: string;
  cdiFolder: string;
  timing: Timing;
  readClaim: ReadClaim;
  /** A prepared claim as the API server has it now. */
  onPresent(claim: PreparedClaim, object: ResourceClaim): void;
  findForeign(): Promise<void>;
  /** `aside`: where the old checkpoint is kept. */
  onRebuilt(lost: Lost, aside: string | undefined): void;
  onRepairs(repairs: Repairs): void;
  onError(part: "recovery" | "reconcile", error: unknown): void;
}

export interface Upkeep {
  /** The checkpoint is being rebuilt, for this reason: nobody knows yet which devices are in use. undefined: it is not. */
  rebuilding(): string | undefined;
  stop(): Promise<void>;
}

const reconcileMs = 300_000;
/** After a failure: doubled each time. */
const retryMs = { first: 2_000, mostOfRecovery: 30_000 } as const;

/** Rebuilds a checkpoint that was lost, also while it runs; reconciles at once and every five minutes. */
export function startUpkeep(options: UpkeepOptions): Upkeep {
  const { store, timing, memory } = options;
  const ended = new AbortController();
  let rebuilding = memory.lost?.why;
  let aside: string | undefined;
  const running = run();
  return {
    rebuilding: () => rebuilding,
    async stop() {
      ended.abort();
      await running;
    },
  };

  async function run(): Promise<void> {
    const { lost } = memory;
    if (lost !== undefined) await untilRebuilt(lost);
    const reconcile = createReconciler(options);
    let pauseMs: number = retryMs.first;
    while (!ended.signal.aborted) {
      const { failures, ...repairs } = await reconcile();
      for (const error of failures) options.onError("reconcile", error);
      options.onRepairs(repairs);
      const damaged = failures.find((error) => error instanceof CheckpointDamaged);
      if (damaged !== undefined) {
        await untilRebuilt({ kind: "corrupt", why: damaged.why });
        continue;
      }
      if (failures.length === 0) pauseMs = retryMs.first;
      await timing.sleep(failures.length === 0 ? reconcileMs : pauseMs, ended.signal);
      if (failures.length > 0) pauseMs = Math.min(2 * pauseMs, reconcileMs);
    }
  }

  async function untilRebuilt(lost: Lost): Promise<void> {
    rebuilding = lost.why;
    aside = undefined;
    for (
      let pauseMs: number = retryMs.first;
      !ended.signal.aborted;
      pauseMs = Math.min(2 * pauseMs, retryMs.mostOfRecovery)
    ) {
      try {
        return await rebuild(lost);
      } catch (error) {
        options.onError("recovery", error);
        rebuilding = `${lost.why}; the last try: ${reasonFor(error as Error)}`;
        await timing.sleep(pauseMs, ended.signal);
      }
    }
  }

  async function rebuild(lost: Lost): Promise<void> {
    const rebuilt = await rebuildClaims(options);
    // Not before: a restart in the meantime has to find what this one found.
    aside ??= await putAside(options.checkpoint);
    await options.preparation.exclusively(async () => {
      for (const claim of rebuilt) if (!store.claims.has(claim.uid)) store.claims.set(claim.uid, claim);
      await store.save();
    });
    rebuilding = undefined;
    options.onRebuilt(lost, aside);
  }
}

/** Every pod's owner reads it: requests name claims, which may be another tenant's. */
function reasonFor(error: Error & Partial<Pick<KubeError, "status" | "reason">>): string {
  const { status, reason } = error;
  if (status === undefined) return error.message;
  return `the API server ${status === 0 ? "did not answer" : `answered ${status}`} (${reason})`;
}
