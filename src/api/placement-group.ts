import { z } from "zod";
import {
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

const member = z
  .object({
    role: dnsLabel.describe("Unique name of the role, for example prefill."),
    /** Labels of the Gangs that play the role; a Gang may also name the group and its role itself. */
    selector: z
      .object({
        matchLabels: z.record(z.string(), z.string()).describe("Labels that a Gang of this namespace must all have."),
      })
      .optional()
      .describe("Gangs that play the role. A Gang may also name the group and its role itself."),
    minInstances: z
      .int()
      .min(0)
      .max(256)
      .default(1)
      .describe("Gangs of the role without which the group does not start. Default 1."),
  })
  .describe("One role of the group.");

const constraint = withRules(
  z.object({
    ...constraintFields,
    roles: distinct(z.array(dnsLabel).min(1).max(16))
      .optional()
      .describe("Roles that the constraint holds for, taken together. Default: all of the group."),
  }),
  constraintRules,
).describe("Where the gangs of the group lie in relation to each other.");

const ratio = z
  .string()
  .max(16)
  .regex(/^[0-9]{1,6}(\.[0-9]{1,6})?$/);

const pairing = withRules(
  z.object({
    from: dnsLabel.describe("Role that hands KV cache over, for example prefill."),
    to: dnsLabel.describe("Role that receives it, for example decode."),
    /** Bounds of (instances of `from`) : (instances of `to`), as decimal strings such as "0.5". */
    minRatio: ratio
      .optional()
      .describe(
        'Least number of `from` instances per `to` instance, a decimal number in quotes such as "0.5": a `to` instance waits until as many can be placed with it.',
      ),
    maxRatio: ratio
      .optional()
      .describe(
        'Largest number of `from` instances per `to` instance, a decimal number in quotes such as "2": a `from` instance beyond it waits until another `to` instance can be placed with it.',
      ),
    /** Bytes of KV cache that one request hands over: weighs the distance between the two. */
    bytesPerRequest: z
      .int()
      .min(0)
      .optional()
      .describe("KV cache that one request hands over, in bytes: weighs the distance between the two roles."),
    maxTransferMilliseconds: z
      .int()
      .min(1)
      .max(86_400_000)
      .optional()
      .describe(
        "Required bound on the predicted time of handing over `bytesPerRequest`, in milliseconds. Default: no bound.",
      ),
  }),
  [
    {
      rule: "!has(self.maxRatio) || double(self.maxRatio) > 0.0",
      message: "maxRatio must be above 0; leave it out for no bound",
      fieldPath: ".maxRatio",
    },
    {
      rule: "!has(self.minRatio) || !has(self.maxRatio) || double(self.minRatio) <= double(self.maxRatio)",
      message: "minRatio must not exceed maxRatio",
      messageExpression:
        "'minRatio (' + self.minRatio + ') must not exceed maxRatio (' + self.maxRatio + '); both count instances of ' + self.from + ' per instance of ' + self.to",
      fieldPath: ".minRatio",
    },
    {
      rule: "self.from != self.to",
      message: "from and to must be different roles",
      fieldPath: ".to",
    },
    {
      rule: "!has(self.maxTransferMilliseconds) || has(self.bytesPerRequest)",
      message: "maxTransferMilliseconds bounds the transfer of bytesPerRequest; give both",
      fieldPath: ".bytesPerRequest",
    },
  ],
).describe("Two roles of which one hands KV cache to the other.");

export const placementGroupSpec = withRules(
  z.object({
    members: keyedBy(z.array(member).min(1).max(16), "role").describe(
      "The roles. Their minima together are the base set, which is placed all or nothing; later instances land where the group already is.",
    ),
    constraints: z.array(constraint).max(16).optional().describe("Placement rules over roles."),
    pairing: keyedBy(z.array(pairing).max(16), "from", "to")
      .optional()
      .describe("Which roles hand KV cache to which, and how much."),
    topology: objectName
      .default("default")
      .describe("ClusterTopology whose levels the group speaks of. Default: default."),
  }),
  [
    {
      rule: "!has(self.constraints) || self.constraints.all(c, !has(c.roles) || c.roles.all(r, self.members.exists(m, m.role == r)))",
      message: "constraints[].roles must name roles of this group (members[].role)",
      messageExpression:
        "'constraints[].roles must name roles of this group, which are %s'.format([self.members.map(m, m.role)])",
      fieldPath: ".constraints",
    },
    {
      rule: "!has(self.pairing) || self.pairing.all(p, self.members.exists(m, m.role == p.from) && self.members.exists(m, m.role == p.to))",
      message: "pairing[].from and pairing[].to must name roles of this group (members[].role)",
      messageExpression:
        "'pairing[].from and pairing[].to must name roles of this group, which are %s'.format([self.members.map(m, m.role)])",
      fieldPath: ".pairing",
    },
  ],
).describe("How the gangs belong together.");

export const placementGroupStatus = z
  .object({
    phase: z
      .enum(["Pending", "Scheduled"])
      .optional()
      .describe("Pending: the base set is not placed yet. Scheduled: it is bound."),
    observedGeneration,
    conditions: conditions("Scheduled: the base set is bound."),
  })
  .describe("What became of it; written by kllama alone.");

export type PlacementGroupSpec = z.output<typeof placementGroupSpec>;
export type PlacementGroupConstraint = z.output<typeof constraint>;
