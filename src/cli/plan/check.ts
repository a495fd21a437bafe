import type { z } from "zod";
import { clusterTopologySpec } from "../../api/cluster-topology.ts";
import { gangSpec, gangStatus } from "../../api/gang.ts";
import type { ResourceClaimSpec } from "../../api/kubernetes.ts";
import { llmClusterSpec } from "../../api/llm-cluster.ts";
import { schedulingGroup, servingGroup } from "../../api/names.ts";
import { placementGroupSpec } from "../../api/placement-group.ts";
import { compileExpression } from "../../dra/allocator/cel/expression.ts";
import type { SourceObject } from "../../kube/documents.ts";
import { parseMilli, parseNano } from "../../topology/quantity.ts";
import { customViolations, type Violation } from "./custom-rules.ts";
import { builtInSchemas, metadata, podGroup } from "./schemas.ts";

const customSpecs: Readonly<Record<string, z.ZodType>> = {
  Gang: gangSpec,
  PlacementGroup: placementGroupSpec,
  ClusterTopology: clusterTopologySpec,
  LLMCluster: llmClusterSpec,
};

/** Is it one of our own kinds? Another group may have a kind of the same name. */
export function isCustom({ apiVersion, kind }: { apiVersion: string; kind: string }): boolean {
  const group = kind === "LLMCluster" ? servingGroup : schedulingGroup;
  return customSpecs[kind] !== undefined && apiVersion.startsWith(`${group}/`);
}

type RawObject = SourceObject["object"];

/**
 * The object as the API server would keep it, our own kinds with their defaults, or what it would refuse of it.
 * Kinds that are not planned with come back as they are.
 */
export function checked(raw: RawObject): { object: RawObject; notes: Violation[] } | { violations: Violation[] } {
  const object = withoutNulls(raw) as RawObject;
  if (isCustom(object)) return checkedCustom(object as RawObject & { spec?: unknown });
  const schema = builtInSchemas[object.kind];
  if (schema === undefined) return { object, notes: [] };
  const parsed = schema.safeParse(object);
  if (!parsed.success) return { violations: parsed.error.issues.map(toViolation) };
  const selectors = selectorFaults(object);
  const allocated = isAllocated(object);
  const violations = [...quantityFaults(object), ...(allocated ? [] : selectors)];
  if (violations.length > 0) return { violations };
  return {
    object: parsed.data as RawObject,
    notes: [...(allocated ? selectors.map(asNote) : []), ...idleRule(object)],
  };
}

/** What looks as if it meant all devices. */
function idleRule(object: RawObject): Violation[] {
  const { kind, spec } = object as RawObject & { spec?: { deviceSelector?: unknown } };
  if (kind !== "DeviceTaintRule" || spec?.deviceSelector !== undefined) return [];
  const reason = "is missing, so that the rule taints no device; write {} for all";
  return [{ path: ["spec", "deviceSelector"], reason }];
}

function isAllocated(object: RawObject): boolean {
  const { status } = object as { status?: { allocation?: unknown } };
  return object.kind === "ResourceClaim" && status?.allocation !== undefined;
}

/** What a claim holds it holds, whatever it asked for in words that are not known here. */
function asNote({ path, reason }: Violation): Violation {
  return { path, reason: `${reason}; the claim keeps the devices that it holds` };
}

/** What is wrong with a PodGroup. */
export function podGroupFaults(object: RawObject): Violation[] {
  return podGroup.safeParse(object).error?.issues.map(toViolation) ?? [];
}

function checkedCustom(raw: RawObject & { spec?: unknown; status?: unknown }): ReturnType<typeof checked> {
  const parsed = customSpecs[raw.kind]!.safeParse(raw.spec ?? {});
  const faults = [
    ...faultsIn("metadata", metadata.safeParse(raw.metadata)),
    ...faultsIn("spec", parsed),
    ...(raw.kind === "Gang" ? faultsIn("status", gangStatus.safeParse(raw.status ?? {})) : []),
  ];
  if (!parsed.success || faults.length > 0) return { violations: faults };
  const object = { ...raw, spec: parsed.data };
  const violations = customViolations(object);
  if (violations.length > 0) return { violations };
  return { object, notes: unknownFields(raw.spec, parsed.data, ["spec"]) };
}

function faultsIn(field: string, { error }: { error?: z.ZodError | undefined }): Violation[] {
  return error?.issues.map((issue) => toViolation({ ...issue, path: [field, ...issue.path] })) ?? [];
}

/** The API server drops fields that a schema does not have; a misspelt one would be missed by nobody. */
function unknownFields(raw: unknown, known: unknown, path: Violation["path"]): Violation[] {
  if (typeof raw !== "object" || raw === null || typeof known !== "object" || known === null) return [];
  return Object.entries(raw).flatMap(([name, value]) => {
    const at = [...path, Array.isArray(raw) ? Number(name) : name];
    const kept = (known as Record<string, unknown>)[name];
    if (kept !== undefined) return unknownFields(value, kept, at);
    return [{ path: at, reason: "is no field, and is left out" }];
  });
}

/** `labels:` with nothing after it says nothing, as in the API server. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.entries(value).filter(([, field]) => field !== null);
  return Object.fromEntries(fields.map(([name, field]) => [name, withoutNulls(field)]));
}

function toViolation(issue: { path: readonly PropertyKey[]; message: string }): Violation {
  const path = issue.path.map((part) => (typeof part === "symbol" ? String(part) : part));
  return { path, reason: issue.message };
}

/** `spec.podSets[0].count` */
export function fieldName(path: Violation["path"]): string {
  return path.map((part, i) => (typeof part === "number" ? `[${part}]` : `${i === 0 ? "" : "."}${part}`)).join("");
}

// ---- Quantities ----------------------------------------------------------------------------------------------------

type Quantities = Record<string, string | number> | undefined;

function quantityFaults(object: RawObject): Violation[] {
  const faults: Violation[] = [];
  const check = (quantities: Quantities, path: Violation["path"]): void => {
    for (const [name, quantity] of Object.entries(quantities ?? {})) {
      const fault = quantityFault(name, quantity);
      if (fault !== undefined) faults.push({ path: [...path, name], reason: fault });
    }
  };
  for (const { quantities, path } of quantitiesOf(object)) check(quantities, path);
  return faults;
}

function quantityFault(name: string, quantity: string | number): string | undefined {
  try {
    const negative = name === "cpu" ? parseMilli(String(quantity)) < 0 : parseNano(String(quantity)) < 0n;
    return negative ? `${quantity} is below 0` : undefined;
  } catch {
    return `${JSON.stringify(quantity)} is no quantity; write for example "4", 500m or 64Gi`;
  }
}

interface Resources {
  requests?: Quantities;
  limits?: Quantities;
}

function quantitiesOf(object: RawObject): { quantities: Quantities; path: Violation["path"] }[] {
  if (object.kind === "Node") {
    const { status } = object as { status?: { allocatable?: Quantities; capacity?: Quantities } };
    return (["allocatable", "capacity"] as const).map((field) => ({
      quantities: status?.[field],
      path: ["status", field],
    }));
  }
  if (object.kind === "ResourceSlice") return quantitiesOfSlice(object);
  const at = podSpecOf(object);
  if (at === undefined) return [];
  const { spec, path } = at;
  const ofResources = (resources: Resources | undefined, prefix: Violation["path"]) =>
    (["requests", "limits"] as const).map((field) => ({ quantities: resources?.[field], path: [...prefix, field] }));
  const ofContainers = (["containers", "initContainers"] as const).flatMap((list) =>
    (spec[list] ?? []).flatMap(({ resources }, i) => ofResources(resources, [...path, list, i, "resources"])),
  );
  return [
    ...ofContainers,
    ...ofResources(spec.resources, [...path, "resources"]),
    { quantities: spec.overhead, path: [...path, "overhead"] },
  ];
}

type Amounts = Record<string, { value: string | number }>;

interface SliceSpec {
  devices?: { capacity?: Amounts; consumesCounters?: { counters: Amounts }[] }[];
  sharedCounters?: { counters: Amounts }[];
}

function quantitiesOfSlice(object: RawObject): { quantities: Quantities; path: Violation["path"] }[] {
  const { devices = [], sharedCounters = [] } = (object as unknown as { spec: SliceSpec }).spec;
  const list = (amounts: Amounts = {}, path: Violation["path"]) =>
    Object.entries(amounts).map(([name, { value }]) => ({ quantities: { value }, path: [...path, name] }));
  return [
    ...devices.flatMap(({ capacity, consumesCounters = [] }, i) => [
      ...list(capacity, ["spec", "devices", i, "capacity"]),
      ...consumesCounters.flatMap(({ counters }, j) =>
        list(counters, ["spec", "devices", i, "consumesCounters", j, "counters"]),
      ),
    ]),
    ...sharedCounters.flatMap(({ counters }, i) => list(counters, ["spec", "sharedCounters", i, "counters"])),
  ];
}

interface PodSpec {
  containers?: { resources?: Resources }[];
  initContainers?: { resources?: Resources }[];
  resources?: Resources;
  overhead?: Quantities;
}

function podSpecOf(object: RawObject): { spec: PodSpec; path: Violation["path"] } | undefined {
  const { spec } = object as unknown as { spec?: PodSpec & { template?: { spec?: PodSpec } } };
  if (object.kind === "Pod" && spec !== undefined) return { spec, path: ["spec"] };
  const template = spec?.template?.spec;
  return template && { spec: template, path: ["spec", "template", "spec"] };
}

// ---- CEL selectors -------------------------------------------------------------------------------------------------

function selectorFaults(object: RawObject): Violation[] {
  return selectorsOf(object).flatMap(({ expression, path }) => {
    const result = compileExpression(expression);
    return "problem" in result ? [{ path, reason: `the CEL expression does not compile: ${result.problem}` }] : [];
  });
}

type Selectors = { cel?: { expression: string } }[] | undefined;

function selectorsOf(object: RawObject): { expression: string; path: Violation["path"] }[] {
  const list = (selectors: Selectors, path: Violation["path"]) =>
    (selectors ?? []).flatMap(({ cel }, i) =>
      cel === undefined ? [] : [{ expression: cel.expression, path: [...path, "selectors", i, "cel", "expression"] }],
    );
  const { spec } = object as unknown as {
    spec: ResourceClaimSpec & { selectors?: Selectors; spec?: ResourceClaimSpec };
  };
  if (object.kind === "DeviceClass") return list(spec.selectors, ["spec"]);
  const at =
    object.kind === "ResourceClaim" ? { claim: spec, path: ["spec"] } : { claim: spec?.spec, path: ["spec", "spec"] };
  if (object.kind !== "ResourceClaim" && object.kind !== "ResourceClaimTemplate") return [];
  return (at.claim?.devices?.requests ?? []).flatMap((request, i) => {
    const path = [...at.path, "devices", "requests", i];
    return [
      ...list(request.exactly?.selectors, [...path, "exactly"]),
      ...(request.firstAvailable ?? []).flatMap(({ selectors }, j) => list(selectors, [...path, "firstAvailable", j])),
    ];
  });
}
