import type { KubeClient } from "./client.ts";
import type { Timing } from "./timing.ts";

/** The object an event is about. */
export interface EventReference {
  apiVersion: string;
  kind: string;
  /** Absent for cluster-scoped objects: their events live in namespace `default`. */
  namespace?: string;
  name: string;
  uid: string;
}

export interface EventInput {
  regarding: EventReference;
  related?: EventReference;
  type: "Normal" | "Warning";
  /** PascalCase, for machines: `GangPlanned`. */
  reason: string;
  /** What was done or attempted, PascalCase: `Plan`. Default: the reason. */
  action?: string;
  /** For people; cut at 1,024 bytes. */
  note: string;
}

export interface EventRecorder {
  /** Queues the event; returns at once and never throws. The same object, reason and note within 10 minutes become one series. */
  record(event: EventInput): void;
  /** Resolves when everything recorded so far is written or given up. */
  flush(): Promise<void>;
  /** Flushes (bounded by `timeoutMs`, default 2,000) and stops. */
  close(timeoutMs?: number): Promise<void>;
  stats(): { written: number; dropped: number; failed: number };
}

export interface EventRecorderOptions {
  client: KubeClient;
  /** Becomes `reportingController`. */
  component: string;
  /** Becomes `reportingInstance`, such as the pod's name. */
  instance: string;
  timing?: Timing;
}

export declare function createEventRecorder(options: EventRecorderOptions): EventRecorder;
