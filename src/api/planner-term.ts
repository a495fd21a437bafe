import { z } from "zod";
import { withRules } from "./common.ts";

/**
 * Who plans, and since which term: the parameter of the policy that fences planners (deploy/policies.yaml). A kind of our
 * own, because a policy whose parameter is a built-in kind stops following it once it is deleted and created again.
 */
export const plannerTermSpec = withRules(
  z.object({
    holder: z
      .string()
      .min(1)
      .max(512)
      .describe(
        "Whose writes are let through: UID of the planner's pod; without a pod the identifier of its credential, else its user name.",
      ),
    epoch: z
      .int()
      .min(1)
      .describe(
        "Number of the term. It never falls, and grows with every process that begins to plan. Only writes of this term, by the field manager kllama-planner/EPOCH, are let through; deletions, which have none, by the holder alone.",
      ),
  }),
  [
    {
      rule: "self.epoch > oldSelf.epoch || (self.epoch == oldSelf.epoch && self.holder == oldSelf.holder)",
      message: "a later term has begun: the epoch never falls, and a new holder needs a greater one",
      reason: "FieldValueForbidden",
    },
  ],
).describe("The term, written by the planner that begins it.");

/** Only dry runs write it: how a planner finds out whether the policy knows its term yet. */
export const plannerTermStatus = z
  .object({
    probe: z.string().max(512).optional().describe("Holder that a dry run speaks for. Never stored."),
  })
  .describe("Of no meaning but for probing.");

export type PlannerTermSpec = z.output<typeof plannerTermSpec>;
