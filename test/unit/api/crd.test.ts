import { describe, expect, test } from "vitest";
import { z } from "zod";
import { distinct, immutable, keyedBy, withRules } from "../../../src/api/common.ts";
import { customResourceDefinition, type StructuralSchema, structuralSchema } from "../../../src/api/crd.ts";
import { customResources } from "../../../src/api/custom-resources.ts";

describe("structuralSchema", () => {
  test("golden: everything that a structural schema can say", () => {
    const rule = { rule: "self.count > 1", message: "more than one" };
    const schema = withRules(
      z.object({
        name: z
          .string()
          .min(1)
          .max(63)
          .regex(/^[a-z]+$/)
          .describe("Its name."),
        count: immutable(z.int().min(1).max(5), "count", "make another").default(3).describe("How many."),
        size: z.int().optional(),
        ratio: z.number().positive().optional(),
        at: z.iso.datetime().optional(),
        mode: z.enum(["a", "b"]).default("a"),
        labels: z.record(z.string(), z.string().max(63)).optional(),
        tags: distinct(z.array(z.string()).max(4)).optional(),
        parts: keyedBy(z.array(z.object({ name: z.string() })).max(2), "name"),
        nested: z.object({ on: z.boolean().default(true) }).prefault({}),
      }),
      [rule],
    ).describe("A thing.");

    expect(structuralSchema(schema, "Thing.spec")).toEqual({
      type: "object",
      description: "A thing.",
      required: ["name", "parts"],
      "x-kubernetes-validations": [rule],
      properties: {
        name: { type: "string", minLength: 1, maxLength: 63, pattern: "^[a-z]+$", description: "Its name." },
        count: {
          type: "integer",
          minimum: 1,
          maximum: 5,
          default: 3,
          description: "How many.",
          "x-kubernetes-validations": [
            {
              rule: "self == oldSelf",
              message: "count cannot change after creation; make another",
              reason: "FieldValueForbidden",
            },
          ],
        },
        size: { type: "integer" },
        ratio: { type: "number", minimum: 0, exclusiveMinimum: true },
        at: { type: "string", format: "date-time" },
        mode: { type: "string", enum: ["a", "b"], default: "a" },
        labels: { type: "object", additionalProperties: { type: "string", maxLength: 63 } },
        tags: { type: "array", items: { type: "string" }, maxItems: 4, "x-kubernetes-list-type": "set" },
        parts: {
          type: "array",
          maxItems: 2,
          items: { type: "object", required: ["name"], properties: { name: { type: "string" } } },
          "x-kubernetes-list-type": "map",
          "x-kubernetes-list-map-keys": ["name"],
        },
        nested: { type: "object", default: {}, properties: { on: { type: "boolean", default: true } } },
      },
    });
  });

  test.each([
    ["a union", z.union([z.string(), z.int()])],
    [
      "a discriminated union",
      z.discriminatedUnion("t", [z.object({ t: z.literal("a") }), z.object({ t: z.literal("b") })]),
    ],
    ["an intersection", z.intersection(z.string().min(1), z.string().max(2))],
    ["any value", z.unknown()],
    ["an object with unknown fields", z.looseObject({ a: z.string() })],
    ["a tuple", z.tuple([z.string(), z.int()])],
    ["a reference", z.string().meta({ id: "Shared" })],
    ["a recursion", recursive()],
    ["two patterns", z.string().regex(/a/).regex(/b/)],
  ])("%s is refused, with its path", (_what, field) => {
    expect(() => structuralSchema(z.object({ list: z.array(z.object({ field })) }), "Thing.spec")).toThrow(
      /^Thing\.spec\.list\[\]\.field.*structural schema/s,
    );
  });
});

describe.each(customResources)("$kind", (resource) => {
  const definition = customResourceDefinition(resource);
  const [version] = definition.spec.versions;
  const fields = [...fieldsOf(version!.schema.openAPIV3Schema, resource.kind)];

  test("every field explains itself", () => {
    const silent = fields.filter(
      ({ path, schema }) => !path.endsWith(".metadata") && schema["description"] === undefined,
    );
    expect(silent.map(({ path }) => path)).toEqual([]);
  });

  test("every list and every string has a largest size, so that no object is too large and no CEL rule too costly", () => {
    const open = fields.filter(({ path, schema }) => !/\.(apiVersion|kind)$/.test(path) && isUnbounded(schema));
    expect(open.map(({ path }) => path)).toEqual([]);
  });

  test("what is not a spec field of users is a status that they cannot write", () => {
    expect(version!.subresources).toEqual(resource.status === undefined ? undefined : { status: {} });
  });
});

function recursive(): z.ZodType {
  const tree: z.ZodType = z.object({ children: z.array(z.lazy(() => tree)) });
  return tree;
}

function isUnbounded(schema: StructuralSchema): boolean {
  if (schema["type"] === "array") return schema["maxItems"] === undefined;
  if (schema["type"] !== "string") return false;
  return [schema["maxLength"], schema["enum"], schema["format"]].every((bound) => bound === undefined);
}

function* fieldsOf(schema: StructuralSchema, path: string): Generator<{ path: string; schema: StructuralSchema }> {
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    yield { path: `${path}.${name}`, schema: field };
    yield* fieldsOf(field, `${path}.${name}`);
  }
  if (schema.items !== undefined) {
    if (schema.items.type !== "object") yield { path: `${path}[]`, schema: { description: "", ...schema.items } };
    yield* fieldsOf(schema.items, `${path}[]`);
  }
}
