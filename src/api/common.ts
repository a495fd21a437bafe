import { z } from "zod";

/** One rule in CEL, checked by the API server on every write; `oldSelf` in a rule makes it a rule about changes. */
export interface ValidationRule {
  rule: string;
  message: string;
  /** CEL that yields the message instead, when the message should name values. */
  messageExpression?: string;
  reason?: "FieldValueInvalid" | "FieldValueForbidden" | "FieldValueRequired" | "FieldValueDuplicate";
  fieldPath?: string;
}

/** Attaches CEL rules to the schema of a field; they reach the CRD as `x-kubernetes-validations`. */
export function withRules<T extends z.ZodType>(schema: T, rules: readonly ValidationRule[]): T {
  return schema.meta({ "x-kubernetes-validations": rules });
}

/** A field that keeps the value it was created with; `remedy` says what to do instead. */
export function immutable<T extends z.ZodType>(schema: T, field: string, remedy: string): T {
  const message = `${field} cannot change after creation; ${remedy}`;
  return withRules(schema, [{ rule: "self == oldSelf", message, reason: "FieldValueForbidden" }]);
}

/** A list whose entries have distinct `keys`: the API server refuses repeated ones and merges by them in server-side apply. */
export function keyedBy<T extends z.ZodType>(schema: T, ...keys: string[]): T {
  return schema.meta({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys });
}

/** CEL has no loop over positions: the positions 1 to length - 1 written out, so that a rule can compare neighbours. */
export function celNeighbours(length: number): string {
  return `[${Array.from({ length: length - 1 }, (_, index) => index + 1).join(", ")}]`;
}

/** A list of scalars without repetition. */
export function distinct<T extends z.ZodType>(schema: T): T {
  return schema.meta({ "x-kubernetes-list-type": "set" });
}

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
const condition = z
  .object({
    type: z.string().min(1).max(316).describe("What the condition is about, unique in the list."),
    status: z.enum(["True", "False", "Unknown"]).describe("Whether the condition holds."),
    reason: z.string().min(1).max(1024).describe("Why, as one CamelCase word for programs."),
    message: z.string().max(32_768).describe("Why, for people."),
    lastTransitionTime: z.iso.datetime().describe("When `status` last changed (RFC 3339)."),
    observedGeneration: z.int().min(0).optional().describe("`metadata.generation` of the object that was judged."),
  })
  .describe("One aspect of the object's state, as in metav1.Condition.");

/** `status.conditions` of every kind. */
export function conditions(description: string) {
  return keyedBy(z.array(condition).max(8), "type").optional().describe(description);
}

/** `metadata.generation` that the writer of a status had seen. */
export const observedGeneration = z
  .int()
  .optional()
  .describe(
    "`metadata.generation` that this status speaks about; older than the object's: the change is not seen yet.",
  );

/** Fields shared by the constraints of Gang (over pod sets) and PlacementGroup (over roles). */
export const constraintFields = {
  type: z
    .enum(["colocate", "spread"])
    .default("colocate")
    .describe(
      "`colocate`: all in one domain of `level`. `spread`: the domains of `level` differ by at most `maxSkew`. Default colocate.",
    ),
  level: dnsLabel.describe(
    "Name of a level of the ClusterTopology, for example rack or nvlink. A level of devices holds for all devices of the pods.",
  ),
  mode: z
    .enum(["required", "preferred"])
    .default("required")
    .describe(
      "`required`: wait rather than break it. `preferred`: meet it if that is possible; on conflict the earlier entry wins. Default required.",
    ),
  maxSkew: z
    .int()
    .min(1)
    .max(10_000)
    .optional()
    .describe("For `type: spread`: largest allowed difference, in pods, between two domains of `level`. Default 1."),
};

/** Rules of one constraint, whatever it constrains. */
export const constraintRules: readonly ValidationRule[] = [
  {
    rule: "self.type == 'spread' || !has(self.maxSkew)",
    message: "maxSkew belongs to type: spread; remove it or set the type",
    fieldPath: ".maxSkew",
  },
];
