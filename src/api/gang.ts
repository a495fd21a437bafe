import { z } from "zod";
import { condition, constraintFields, dnsLabel, objectName } from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

export const maxPodSetCount = 2000;

const slice = z.object({
  size: z.int().min(1).max(maxPodSetCount),
  level: dnsLabel,
});

const podSet = z.object({
  name: dnsLabel,
  count: z.int().min(1).max(maxPodSetCount),
  minCount: z.int().min(0).max(maxPodSetCount).optional(),
  slices: z.array(slice).max(8).optional(),
});

const constraint = z.object({
  ...constraintFields,
  podSets: z.array(dnsLabel).min(1).max(16).optional(),
});

/** What a Gang asks for; design §4. */
export const gangSpec = z.object({
  podSets: z.array(podSet).min(1).max(16),
  constraints: z.array(constraint).max(16).optional(),
  topology: objectName.default("default"),
  placementGroup: objectName.optional(),
  role: dnsLabel.optional(),
  scheduleTimeoutSeconds: z.int().min(1).max(86_400).default(600),
  disruption: z.enum(["All"]).default("All"),
});

const placedDevice = z.object({
  request: z.string().max(127),
  driver: z.string().max(63),
  pool: z.string().max(253),
  device: z.string().max(63),
});

const placedPod = z.object({
  pod: z.string().max(253),
  podSet: z.string().max(63),
  index: z.int().min(0),
  node: z.string().max(253),
  claims: z
    .array(
      z.object({ claim: z.string().max(253), reference: z.string().max(63), devices: z.array(placedDevice).max(32) }),
    )
    .max(32),
});

/** The hold: kept for as long as the Gang wants the pods, over restarts and rollouts. */
export const gangPlacement = z.object({
  pods: z.array(placedPod).max(maxPodSetCount),
  domains: z.record(z.string(), z.string()).optional(),
  costMs: z.number().optional(),
});

export const gangPhases = ["Pending", "Reserved", "Binding", "Scheduled", "Revoked"] as const;

export const gangStatus = z.object({
  phase: z.enum(gangPhases).optional(),
  observedGeneration: z.int().optional(),
  /** Pods that exist and pods that are bound, for people: `3/4`. */
  members: z.string().max(32).optional(),
  placement: gangPlacement.optional(),
  reservedAt: z.iso.datetime().optional(),
  attempts: z.int().min(0).optional(),
  explanation: z.string().max(4096).optional(),
  conditions: z.array(condition).max(8).optional(),
});

export type GangPhase = (typeof gangPhases)[number];
export type GangPodSet = z.output<typeof podSet>;
export type GangConstraint = z.output<typeof constraint>;
export type GangSpec = z.output<typeof gangSpec>;
export type GangPlacement = z.output<typeof gangPlacement>;
export type GangStatus = z.output<typeof gangStatus>;

export interface Gang extends KubernetesObject {
  spec: GangSpec;
  status?: GangStatus;
}
