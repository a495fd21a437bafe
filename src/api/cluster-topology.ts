import { z } from "zod";
import { celNeighbours, dnsLabel, keyedBy, withRules } from "./common.ts";

const maxLevels = 16;

const labelKey = z
  .string()
  .min(1)
  .max(317)
  .regex(/^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/);

/** Bandwidth in 10⁹ bytes per second and one direction. */
const gigabytesPerSecond = z.number().positive().optional();
const microseconds = z.number().nonnegative().optional();

const level = withRules(
  z.object({
    name: dnsLabel.describe("Unique name that gangs refer to, for example rack."),
    /** The first of these labels that a node has names its domain. */
    nodeLabels: z
      .array(labelKey)
      .min(1)
      .max(16)
      .optional()
      .describe(
        "Node labels; the first one that a node has names its domain. A node with none is in no domain of the level, unless deviceAttribute tells domains inside it.",
      ),
    /** Fully qualified attribute of devices, for domains inside a host; beside `nodeLabels`: inside hosts that have none of them. */
    deviceAttribute: z
      .string()
      .min(3)
      .max(100)
      .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\/[A-Za-z_][A-Za-z0-9_]*$/)
      .optional()
      .describe(
        "Attribute of devices, with its domain, whose value names the device's domain inside the host, for example resource.kubernetes.io/numaNode. Beside nodeLabels it counts on nodes that have none of them: a host by itself may be an NVLink domain.",
      ),
    gigabytesPerSecond: gigabytesPerSecond.describe(
      "Bandwidth between two ends that share this level and no narrower one, in 10^9 bytes per second and direction.",
    ),
    microseconds: microseconds.describe("Latency between two such ends, in microseconds."),
  }),
  [
    {
      rule: "has(self.nodeLabels) || has(self.deviceAttribute)",
      message: "a level is told by nodeLabels, by deviceAttribute, or by both; give at least one of them",
      messageExpression:
        "'level ' + self.name + ' is told by nodeLabels, by deviceAttribute, or by both; give at least one of them'",
    },
  ],
).describe("One level of the topology.");

export const clusterTopologySpec = withRules(
  z.object({
    levels: keyedBy(z.array(level).min(1).max(maxLevels), "name").describe(
      "Levels from broad to narrow; those inside a host come last. A domain is its whole path: equal names under different parents are different domains.",
    ),
    /** Link between ends that share no level. */
    beyond: z
      .object({
        gigabytesPerSecond: gigabytesPerSecond.describe("Bandwidth in 10^9 bytes per second and direction."),
        microseconds: microseconds.describe("Latency in microseconds."),
      })
      .optional()
      .describe("Link between two ends that share no level at all."),
  }),
  [
    {
      rule: `${celNeighbours(maxLevels)}.all(i, i >= size(self.levels) || has(self.levels[i - 1].nodeLabels) || !has(self.levels[i].nodeLabels))`,
      message: "levels with deviceAttribute alone lie inside a host: list them after all levels with nodeLabels",
      fieldPath: ".levels",
    },
  ],
).describe("The levels, written by the administrator of the cluster.");

export type TopologyLevel = z.output<typeof level>;
export type ClusterTopologySpec = z.output<typeof clusterTopologySpec>;
