import { z } from "zod";
import { condition, constraintFields, dnsLabel } from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

const member = z.object({
  role: dnsLabel,
  /** Labels of the Gangs that play the role; a Gang may also name the group and its role itself. */
  selector: z.object({ matchLabels: z.record(z.string(), z.string()) }).optional(),
  minInstances: z.int().min(0).max(256).default(1),
});

const constraint = z.object({
  ...constraintFields,
  roles: z.array(dnsLabel).min(1).max(16).optional(),
});

const pairing = z.object({
  from: dnsLabel,
  to: dnsLabel,
  /** Bounds of (instances of `from`) : (instances of `to`), as decimal strings such as "0.5". */
  minRatio: z.string().max(16).optional(),
  maxRatio: z.string().max(16).optional(),
  /** Bytes of KV cache that one request hands over: weighs the distance between the two. */
  bytesPerRequest: z.int().min(0).optional(),
  maxTransferMilliseconds: z.int().min(1).optional(),
});

export const placementGroupSpec = z.object({
  members: z.array(member).min(1).max(16),
  constraints: z.array(constraint).max(16).optional(),
  pairing: z.array(pairing).max(16).optional(),
  topology: dnsLabel.default("default"),
});

export const placementGroupStatus = z.object({
  phase: z.enum(["Pending", "Scheduled"]).optional(),
  observedGeneration: z.int().optional(),
  conditions: z.array(condition).max(8).optional(),
});

export type PlacementGroupSpec = z.output<typeof placementGroupSpec>;
export type PlacementGroupConstraint = z.output<typeof constraint>;

export interface PlacementGroup extends KubernetesObject {
  spec: PlacementGroupSpec;
  status?: z.output<typeof placementGroupStatus>;
}
