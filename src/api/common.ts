import { z } from "zod";

/** DNS-1123 label: names of pod sets, roles, levels. */
export const dnsLabel = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);

/** A Kubernetes object name (DNS-1123 subdomain). */
export const objectName = z
  .string()
  .min(1)
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/);

/** `metav1.Condition`; list-map keyed by `type`. */
export const condition = z.object({
  type: z.string().min(1).max(316),
  status: z.enum(["True", "False", "Unknown"]),
  reason: z.string().min(1).max(1024),
  message: z.string().max(32768),
  lastTransitionTime: z.iso.datetime(),
  observedGeneration: z.int().min(0).optional(),
});

/** Fields shared by the constraints of Gang (over pod sets) and PlacementGroup (over roles). */
export const constraintFields = {
  type: z.enum(["colocate", "spread"]).default("colocate"),
  level: dnsLabel,
  mode: z.enum(["required", "preferred"]).default("required"),
  maxSkew: z.int().min(1).max(10_000).optional(),
};
