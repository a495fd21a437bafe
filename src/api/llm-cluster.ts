import { z } from "zod";
import { condition, constraintFields, dnsLabel, objectName } from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

const placement = z.object({
  topology: objectName.default("default"),
  constraints: z.array(z.object(constraintFields)).max(8).optional(),
  placementGroup: objectName.optional(),
  role: dnsLabel.optional(),
});

const deviceRequest = z.object({
  deviceClassName: objectName.default("gpu.kllama.ai"),
  /** CEL over `device`, as in a ResourceClaim. */
  selectors: z.array(z.string().min(1).max(10_240)).max(8).optional(),
  /** Devices of one pod share this attribute (for example an NVLink domain inside the host). */
  matchAttribute: z.string().max(100).optional(),
});

/** One tensor-parallel instance: `replicas` pods of `gpusPerPod` GPUs each, useless apart. */
export const llmClusterSpec = z.object({
  model: z.string().max(253).optional(),
  image: z.string().min(1).max(512),
  tensorParallelSize: z.int().min(1).max(2048),
  replicas: z.int().min(1).max(256),
  gpusPerPod: z.int().min(1).max(32),
  port: z.int().min(1).max(65_535).default(8000),
  args: z.array(z.string().max(4096)).max(128).optional(),
  env: z
    .array(z.object({ name: z.string().min(1).max(253), value: z.string().max(32_768) }))
    .max(128)
    .optional(),
  resources: z
    .object({
      requests: z.record(z.string(), z.string()).optional(),
      limits: z.record(z.string(), z.string()).optional(),
    })
    .optional(),
  nodeSelector: z.record(z.string(), z.string()).optional(),
  tolerations: z
    .array(
      z.object({
        key: z.string().max(317).optional(),
        operator: z.enum(["Exists", "Equal"]).optional(),
        value: z.string().max(63).optional(),
        effect: z.enum(["NoSchedule", "PreferNoSchedule", "NoExecute"]).optional(),
      }),
    )
    .max(32)
    .optional(),
  priorityClassName: objectName.optional(),
  startupTimeoutSeconds: z.int().min(1).max(86_400).default(600),
  devices: deviceRequest.prefault({}),
  placement: placement.prefault({}),
  podDisruptionBudget: z
    .object({ enabled: z.boolean().default(true), minAvailable: z.int().min(0).max(256).default(1) })
    .prefault({}),
});

export const llmClusterStatus = z.object({
  observedGeneration: z.int().optional(),
  readyReplicas: z.int().min(0).optional(),
  /** `ready/wanted` pods, for people. */
  ready: z.string().max(32).optional(),
  gang: z.string().max(253).optional(),
  url: z.string().max(512).optional(),
  conditions: z.array(condition).max(8).optional(),
});

export type LLMClusterSpec = z.output<typeof llmClusterSpec>;
export type LLMClusterStatus = z.output<typeof llmClusterStatus>;

export interface LLMCluster extends KubernetesObject {
  spec: LLMClusterSpec;
  status?: LLMClusterStatus;
}
