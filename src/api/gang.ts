import { z } from "zod";
import {
  celNeighbours,
  conditions,
  constraintFields,
  constraintRules,
  distinct,
  dnsLabel,
  keyedBy,
  objectName,
  observedGeneration,
  withRules,
} from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

const maxPodSetCount = 2000;
const maxSlices = 8;

const slice = z
  .object({
    size: z
      .int()
      .min(1)
      .max(maxPodSetCount)
      .describe("Pods per slice: the first `size` pods by index, the next `size`, and so on."),
    level: dnsLabel.describe("Level of the ClusterTopology in one domain of which each slice lies."),
  })
  .describe("Every `size` pods, consecutive by index, lie in one domain of `level`.");

const podSet = withRules(
  z.object({
    name: dnsLabel.describe("Unique in the gang; pods name it with the label scheduling.kllama.ai/pod-set."),
    count: z.int().min(1).max(maxPodSetCount).describe("Pods that the set has when whole."),
    minCount: z
      .int()
      .min(0)
      .max(maxPodSetCount)
      .optional()
      .describe(
        "Pods without which the gang does not start. Default: `count`. Pods beyond it are placed when they fit and wait without blocking when they do not. Where so few pods break a spread that more of them keep, the gang starts with more.",
      ),
    slices: z
      .array(slice)
      .max(maxSlices)
      .optional()
      .describe("Keeps consecutive pods together, broad to narrow; each size divides the one before and `count`."),
  }),
  [
    {
      rule: "!has(self.minCount) || self.minCount <= self.count",
      message: "minCount must not exceed count",
      messageExpression:
        "'minCount (%d) must not exceed count (%d); lower minCount or raise count'.format([self.minCount, self.count])",
      fieldPath: ".minCount",
    },
    {
      rule: "!has(self.slices) || self.slices.all(s, self.count % s.size == 0)",
      message: "every slice size must divide count; change the size or the count",
      messageExpression:
        "'every slice size must divide count (%d), which %s do not; change the size or the count'.format([self.count, self.slices.filter(s, self.count % s.size != 0).map(s, s.size)])",
      fieldPath: ".slices",
    },
    {
      rule: `!has(self.slices) || ${celNeighbours(maxSlices)}.all(i, i >= size(self.slices) || self.slices[i - 1].size % self.slices[i].size == 0)`,
      message: "slices go from broad to narrow: every size must divide the size before it; reorder or change the sizes",
      fieldPath: ".slices",
    },
  ],
).describe("Pods of the gang that are alike.");

const constraint = withRules(
  z.object({
    ...constraintFields,
    podSets: distinct(z.array(dnsLabel).min(1).max(16))
      .optional()
      .describe("Names of the pod sets that the constraint holds for, taken together. Default: all of the gang."),
  }),
  constraintRules,
).describe("Where the pods of the gang lie in relation to each other, running and pending members together.");

/** What a Gang asks for; design §4. */
export const gangSpec = withRules(
  z.object({
    podSets: keyedBy(z.array(podSet).min(1).max(16), "name").describe(
      `The pods of the gang, in sets of equal ones; at most ${maxPodSetCount} pods together.`,
    ),
    constraints: z
      .array(constraint)
      .max(16)
      .optional()
      .describe("Placement rules over pod sets. On conflict between preferred ones the earlier wins."),
    topology: objectName
      .default("default")
      .describe(
        "ClusterTopology whose levels the gang speaks of. Default: default, which exists even when nobody wrote it.",
      ),
    placementGroup: objectName
      .optional()
      .describe("PlacementGroup in the same namespace that the gang joins, if no selector of the group names it."),
    role: dnsLabel.optional().describe("Role that the gang plays in its PlacementGroup, for example prefill."),
    scheduleTimeoutSeconds: z
      .int()
      .min(1)
      .max(86_400)
      .default(600)
      .describe(
        "Seconds within which a reserved gang must be bound once its members are released; at least 15 when kube-scheduler has tried them before, because it tries again up to 10 s later. Then its reservation is given back and it is planned anew. If by then fewer than minCount members could be bound, those are deleted. Default 600.",
      ),
    disruption: z
      .enum(["All"])
      .default("All")
      .describe("What fails together when a gang cannot be bound whole: All, the whole gang. Nothing else exists yet."),
  }),
  [
    {
      rule: `self.podSets.map(p, p.count).sum() <= ${maxPodSetCount}`,
      message: `a gang has at most ${maxPodSetCount} pods; split it into several gangs`,
      messageExpression: `'a gang has at most ${maxPodSetCount} pods, these pod sets have %d; split it into several gangs'.format([self.podSets.map(p, p.count).sum()])`,
      fieldPath: ".podSets",
    },
    {
      rule: "self.podSets.exists(p, !has(p.minCount) || p.minCount > 0)",
      message: "at least one pod set needs a minCount of 1 or more; a gang that needs no pod waits for nothing",
      fieldPath: ".podSets",
    },
    {
      rule: "!has(self.constraints) || self.constraints.all(c, !has(c.podSets) || c.podSets.all(n, self.podSets.exists(p, p.name == n)))",
      message: "constraints[].podSets must name pod sets of this gang (podSets[].name)",
      messageExpression:
        "'constraints[].podSets must name pod sets of this gang, which are %s'.format([self.podSets.map(p, p.name)])",
      fieldPath: ".constraints",
    },
  ],
).describe("What the gang asks for.");

const placedDevice = z
  .object({
    request: z.string().max(127).describe("Request of the claim, with the chosen subrequest if it has any."),
    driver: z.string().max(63).describe("DRA driver of the device."),
    pool: z.string().max(253).describe("Pool of the device."),
    device: z.string().max(63).describe("Name of the device in its pool."),
    adminAccess: z.boolean().exactOptional().describe("Administrator's access, which holds nothing."),
    shareID: z
      .string()
      .max(36)
      .exactOptional()
      .describe("Which share of a device that several claims may have parts of."),
    consumedCapacity: z
      .record(z.string(), z.string())
      .exactOptional()
      .describe("What the share takes of the device's capacities."),
  })
  .describe("One device.");

const placedClaim = z
  .object({
    claim: z.string().max(253).describe("ResourceClaim of the pod."),
    reference: z.string().max(63).describe("Its name under the pod's spec.resourceClaims."),
    devices: z.array(placedDevice).max(32).describe("Devices that the claim holds."),
  })
  .describe("A claim of the pod and what it holds.");

const placedPod = z
  .object({
    pod: z.string().max(253).describe("Name of the pod."),
    podSet: z.string().max(63).describe("Pod set that it belongs to."),
    index: z.int().min(0).describe("Its index in the pod set, from 0: the place is held for this index."),
    node: z.string().max(253).describe("Node that it runs on, or will."),
    claims: z.array(placedClaim).max(32).describe("Its claims."),
  })
  .meta({
    description:
      "Node and devices of one pod: pod, podSet, index, node, claims[] of claim, reference, devices[] of request, driver, pool, device.",
    // Checking every field of every device costs the API server as much as the rest of a status update; only the
    // planner writes this, and it checks what it reads.
    "x-kubernetes-preserve-unknown-fields": true,
  });

/** The hold: kept for as long as the Gang wants the pods, over restarts and rollouts. */
const gangPlacement = z.object({
  pods: z.array(placedPod).max(maxPodSetCount).describe("Node and devices per pod."),
  domains: z
    .record(z.string(), z.string())
    .optional()
    .describe("Level → domain that holds the whole gang, as the path of its names from the broadest level on."),
  costMs: z
    .number()
    .optional()
    .describe("Predicted cost of communication in milliseconds, from the link figures of the ClusterTopology."),
});

/** Names nobody: a UID tells a tenant nothing of another's objects. */
const preemptedUnit = z
  .object({
    kind: z.enum(["Gang", "Pod"]).describe("What it is."),
    uid: z.string().max(64).describe("Its UID."),
    attempts: z
      .int()
      .min(0)
      .exactOptional()
      .describe("Of a Gang: its status.attempts at the decision, so that a later place of it is left alone."),
  })
  .describe("A Gang or a pod that makes room.");

const gangPhases = ["Pending", "Preempting", "Reserved", "Binding", "Scheduled", "Preempted", "Revoked"] as const;

export const gangStatus = z
  .object({
    phase: z
      .enum(gangPhases)
      .optional()
      .describe(
        "Pending: waits for members or room. Preempting: has a place, and waits until those of lower priority have left it. Reserved: nodes and devices are held, members are released. Binding: committed, members are being bound. Scheduled: bound. Preempted: makes room for a gang of higher priority, its bound members are evicted. Revoked: the reservation was given back, a new plan follows.",
      ),
    observedGeneration,
    /** Pods that exist and pods that are bound, for people: `3/4`. */
    members: z.string().max(32).optional().describe("Pods against pods wanted, for people, for example 3/4."),
    placement: gangPlacement
      .optional()
      .describe(
        "Where the pods are, or will be. It is held for as long as the gang wants the pods, over restarts and rollouts.",
      ),
    reservedAt: z.iso.datetime().optional().describe("When the present reservation was made (RFC 3339)."),
    attempts: z.int().min(0).optional().describe("Reservations that were given back so far."),
    preempting: z
      .array(preemptedUnit)
      .max(1024)
      .optional()
      .describe("While Preempting: who makes room. Written before anybody is evicted."),
    explanation: z.string().max(4096).optional().describe("Why the gang is where it is, or why it is not placed."),
    conditions: conditions(
      "Planned: there is a placement. Scheduled: the needed members are bound. Degraded: needed members are missing.",
    ),
  })
  .describe("What became of it; written by kllama alone.");

export type GangPhase = (typeof gangPhases)[number];
export type GangPodSet = z.output<typeof podSet>;
export type GangConstraint = z.output<typeof constraint>;
export type GangSpec = z.output<typeof gangSpec>;
export type GangPlacement = z.output<typeof gangPlacement>;
export type PreemptedUnit = z.output<typeof preemptedUnit>;
export type GangStatus = z.output<typeof gangStatus>;

export interface Gang extends KubernetesObject {
  spec: GangSpec;
  status?: GangStatus;
}
