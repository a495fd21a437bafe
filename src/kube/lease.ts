import type { KubeClient } from "./client.ts";
import type { Timing } from "./timing.ts";

export interface ElectorOptions {
  client: KubeClient;
  namespace: string;
  /** Name of the Lease. */
  name: string;
  /** Must be fresh for every process: who restarts under its old name keeps its old epoch. */
  identity: string;
  /** `epoch` is the Lease's `leaseTransitions`. It starts anew at 0 when somebody deletes the Lease, so fencing needs more. */
  onStartedLeading: (epoch: number) => void;
  /** Called once, before anybody else can hold the Lease when `released`; when `lost`, the process should exit. */
  onStoppedLeading: (reason: "lost" | "released") => void;
  /** Somebody else (or nobody: empty) holds the Lease now. */
  onLeaderChanged?: (identity: string) => void;
  /** Refusals and lost connections; they are retried. */
  onError?: (error: unknown) => void;
  leaseDurationMs?: number;
  renewDeadlineMs?: number;
  retryPeriodMs?: number;
  timing?: Timing;
}

export interface Elector {
  start(): void;
  /** True while the Lease is surely ours: judged by the monotonic clock at this moment, also right after a SIGSTOP. */
  isLeader(): boolean;
  /** Who was last seen to hold the Lease; empty when nobody. */
  leader(): string;
  /** Give the Lease up after the last work is done; the next leader need not wait for it to expire. Never throws. */
  release(): Promise<void>;
}

export declare function createElector(options: ElectorOptions): Elector;
