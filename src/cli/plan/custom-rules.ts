import type { Environment } from "@marcbachmann/cel-js";
import { customResourceDefinition, type StructuralSchema } from "../../api/crd.ts";
import { customResources } from "../../api/custom-resources.ts";
import type { KubernetesObject } from "../../api/kubernetes.ts";
import { deviceEnvironment } from "../../dra/allocator/cel/environment.ts";
import { adaptToKubernetes, type ParsedNode } from "../../dra/allocator/cel/rewrite.ts";

/** One rule that an object breaks, with the field it is about. */
export interface Violation {
  readonly path: readonly (string | number)[];
  readonly reason: string;
}

/**
 * What the API server would say of an object of ours beyond its types: the CEL rules of its CRD, and lists whose entries
 * must differ. They are read from the CRD itself, so nothing is said twice. The object's spec has passed its schema, with
 * defaults filled in. Rules about changes do not apply.
 */
export function customViolations(object: KubernetesObject & { kind: string; spec: unknown }): Violation[] {
  const schema = schemaOf(object.kind);
  if (schema === undefined) return [];
  const { status: _, ...rest } = object as { status?: unknown } & typeof object;
  return violationsAt({ ...schema, properties: { spec: schema.properties!["spec"]! } }, rest, []);
}

const schemas = new Map<string, StructuralSchema | undefined>();

function schemaOf(kind: string): StructuralSchema | undefined {
  const resource = customResources.find((each) => each.kind === kind);
  if (!schemas.has(kind)) {
    schemas.set(kind, resource && customResourceDefinition(resource).spec.versions[0]!.schema.openAPIV3Schema);
  }
  return schemas.get(kind);
}

function violationsAt(schema: StructuralSchema, value: unknown, path: Violation["path"]): Violation[] {
  if (value === undefined || value === null) return [];
  const found = rulesOf(schema).flatMap((rule) => broken(rule, schema, value, path) ?? []);
  if (Array.isArray(value)) {
    found.push(...repeated(schema, value, path));
    if (schema.items) found.push(...value.flatMap((each, i) => violationsAt(schema.items!, each, [...path, i])));
    return found;
  }
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    found.push(...violationsAt(field, (value as Record<string, unknown>)[name], [...path, name]));
  }
  return found;
}

interface Rule {
  rule: string;
  message: string;
  messageExpression?: string;
  fieldPath?: string;
}

function rulesOf(schema: StructuralSchema): Rule[] {
  const rules = (schema["x-kubernetes-validations"] ?? []) as Rule[];
  return rules.filter(({ rule }) => !rule.includes("oldSelf"));
}

function broken(rule: Rule, schema: StructuralSchema, value: unknown, path: Violation["path"]): Violation | undefined {
  const self = celValue(schema, value);
  if (evaluate(rule.rule, self) !== false) return undefined;
  const said = rule.messageExpression === undefined ? undefined : evaluate(rule.messageExpression, self);
  const field = rule.fieldPath === undefined ? [] : rule.fieldPath.slice(1).split(".");
  return { path: [...path, ...field], reason: typeof said === "string" ? said : rule.message };
}

/** Entries that are there twice: the same scalar in a set, the same keys in a list of objects. */
function repeated(schema: StructuralSchema, list: readonly unknown[], path: Violation["path"]): Violation[] {
  const type = schema["x-kubernetes-list-type"];
  if (type !== "set" && type !== "map") return [];
  const keys = (schema["x-kubernetes-list-map-keys"] ?? []) as string[];
  const nameOf = (entry: unknown): string =>
    type === "set" ? String(entry) : keys.map((key) => (entry as Record<string, unknown>)[key]).join(", ");
  const names = list.map(nameOf);
  return names.flatMap((name, i) =>
    names.indexOf(name) === i ? [] : [{ path: [...path, i], reason: `${name} is there twice; keep one entry` }],
  );
}

/** Integers are `int` in CEL, which a JavaScript number is not. */
function celValue(schema: StructuralSchema | undefined, value: unknown): unknown {
  if (schema?.["type"] === "integer" && typeof value === "number") return BigInt(value);
  if (Array.isArray(value)) return value.map((each) => celValue(schema?.items, each));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  return Object.fromEntries(entries.map(([name, each]) => [name, celValue(schema?.properties?.[name], each)]));
}

let environment: Environment | undefined;
const compiled = new Map<string, (context: { self: unknown }) => unknown>();

function evaluate(expression: string, self: unknown): unknown {
  environment ??= deviceEnvironment().registerVariable("self", "dyn");
  let program = compiled.get(expression);
  if (program === undefined) {
    const parsed = environment.parse(expression);
    const parse = (text: string) => environment!.parse(text).ast as unknown as ParsedNode;
    adaptToKubernetes(parsed.ast as unknown as ParsedNode, parse);
    program = parsed as (context: { self: unknown }) => unknown;
    compiled.set(expression, program);
  }
  return program({ self });
}
