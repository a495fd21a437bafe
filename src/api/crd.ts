import { z } from "zod";

/** One column of `kubectl get`; `priority` above 0 shows with `-o wide` only. */
export interface PrinterColumn {
  name: string;
  type: "string" | "integer" | "number" | "boolean" | "date";
  jsonPath: string;
  description?: string;
  priority?: number;
}

/** A kind of ours: its names, and the zod schemas of its `spec` and, if it has one, its `status`. */
export interface CustomResource {
  group: string;
  version: string;
  kind: string;
  plural: string;
  singular: string;
  shortNames: readonly string[];
  scope: "Namespaced" | "Cluster";
  description: string;
  spec: z.ZodType;
  /** Present: the kind has the status subresource, so that writers of `spec` cannot write it. */
  status?: z.ZodType;
  /** Rules over the whole object: `self.spec`, `self.metadata.name`, … */
  rules?: readonly object[];
  columns: readonly PrinterColumn[];
}

/** A node of a structural OpenAPI v3 schema, as CustomResourceDefinitions carry it. */
export interface StructuralSchema {
  [keyword: string]: unknown;
  properties?: Record<string, StructuralSchema>;
  items?: StructuralSchema;
}

/** @returns the `apiextensions.k8s.io/v1` CustomResourceDefinition; throws as `structuralSchema` does. */
export function customResourceDefinition(resource: CustomResource) {
  const { group, version, kind, plural, singular, shortNames, scope, columns, status } = resource;
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope,
      names: {
        kind,
        listKind: `${kind}List`,
        plural,
        singular,
        ...(shortNames.length === 0 ? {} : { shortNames }),
        categories: ["kllama"],
      },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          ...(status === undefined ? {} : { subresources: { status: {} } }),
          additionalPrinterColumns: columns,
          schema: { openAPIV3Schema: objectSchema(resource) },
        },
      ],
    },
  };
}

function objectSchema(resource: CustomResource): StructuralSchema {
  const { kind, description, spec, status, rules } = resource;
  return {
    type: "object",
    description,
    required: ["spec"],
    properties: {
      apiVersion: { type: "string", description: "Group and version of this object's schema." },
      kind: { type: "string", description: `Always ${kind}.` },
      metadata: { type: "object" },
      spec: structuralSchema(spec, `${kind}.spec`),
      ...(status === undefined ? {} : { status: structuralSchema(status, `${kind}.status`) }),
    },
    ...(rules === undefined ? {} : { "x-kubernetes-validations": rules }),
  };
}

/**
 * zod schema → structural schema (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources, "Specifying a
 * structural schema"). `path` names the schema in errors. Throws on what a structural schema cannot say: unions,
 * intersections, references, transforms, objects with unknown fields. CEL rules, list types and `x-kubernetes-*`
 * markers ride along as zod metadata.
 */
export function structuralSchema(schema: z.ZodType, path: string): StructuralSchema {
  return toStructural(z.toJSONSchema(schema, { target: "openapi-3.0", io: "input" }) as StructuralSchema, path);
}

/** Keywords that mean the same on both sides. */
const sameKeywords = new Set([
  "type",
  "description",
  "default",
  "enum",
  "format",
  "pattern",
  "minimum",
  "maximum",
  "exclusiveMinimum",
  "exclusiveMaximum",
  "minLength",
  "maxLength",
  "minItems",
  "maxItems",
  "required",
  "nullable",
]);

/** Kept as it is and not checked by the API server, for what only kllama writes and checks itself. */
const unchecked = "x-kubernetes-preserve-unknown-fields";

function toStructural(node: StructuralSchema, path: string): StructuralSchema {
  if (node["type"] === undefined) {
    throw new Error(
      `${path}: ${JSON.stringify(Object.keys(node))} names no single type; a structural schema needs one type per field, so use an enum and optional fields instead of unions`,
    );
  }
  const result: StructuralSchema = {};
  if (node[unchecked] === true) {
    return { type: node["type"], description: node["description"], [unchecked]: true };
  }
  for (const [keyword, value] of Object.entries(node)) {
    if (!isImplied(node, keyword, value)) result[keyword] = converted(keyword, value, path);
  }
  return result;
}

/** What zod adds by itself: the bounds of a safe integer, its pattern of a date, and "no other fields", which pruning does. */
function isImplied(node: StructuralSchema, keyword: string, value: unknown): boolean {
  return (
    (keyword === "maximum" && value === Number.MAX_SAFE_INTEGER) ||
    (keyword === "minimum" && value === Number.MIN_SAFE_INTEGER) ||
    (keyword === "pattern" && node["format"] === "date-time") ||
    (keyword === "additionalProperties" && value === false)
  );
}

function converted(keyword: string, value: unknown, path: string): unknown {
  if (sameKeywords.has(keyword) || keyword.startsWith("x-kubernetes-")) return value;
  if (keyword === "items") return toStructural(value as StructuralSchema, `${path}[]`);
  if (keyword === "additionalProperties") return toStructural(value as StructuralSchema, `${path}{}`);
  if (keyword === "properties") {
    const fields = Object.entries(value as Record<string, StructuralSchema>);
    return Object.fromEntries(fields.map(([name, field]) => [name, toStructural(field, `${path}.${name}`)]));
  }
  throw new Error(`${path}: a structural schema has no ${JSON.stringify(keyword)}; say it otherwise or as a CEL rule`);
}
