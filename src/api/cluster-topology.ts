import { z } from "zod";
import { dnsLabel } from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

const level = z.object({
  name: dnsLabel,
  /** The first of these labels that a node has names its domain. */
  nodeLabels: z.array(z.string().min(1).max(317)).min(1).max(16).optional(),
  /** Fully qualified attribute of devices, for levels inside a host. */
  deviceAttribute: z.string().min(3).max(100).optional(),
  gigabytesPerSecond: z.number().positive().optional(),
  microseconds: z.number().nonnegative().optional(),
});

export const clusterTopologySpec = z.object({
  levels: z.array(level).min(1).max(16),
  /** Link between ends that share no level. */
  beyond: z
    .object({ gigabytesPerSecond: z.number().positive().optional(), microseconds: z.number().nonnegative().optional() })
    .optional(),
});

export type TopologyLevel = z.output<typeof level>;
export type ClusterTopologySpec = z.output<typeof clusterTopologySpec>;

export interface ClusterTopology extends KubernetesObject {
  spec: ClusterTopologySpec;
}
