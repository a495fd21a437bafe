import type { KubernetesObject, ObjectMeta } from "../../../src/api/kubernetes.ts";

/** An object as the API server keeps it. Never changed: a write makes a new one. */
export interface StoredObject extends KubernetesObject {
  metadata: ObjectMeta & { uid: string; resourceVersion: string };
  spec?: unknown;
  status?: unknown;
}

/** What the double knows of a resource: only those that kllama, or a model around it, reads or writes. */
export interface ResourceType {
  group: string;
  version: string;
  resource: string;
  kind: string;
  namespaced: boolean;
  /** Has a status subresource: writes to the object leave the status alone, and the other way round. */
  status?: boolean;
  /** Defined by a CustomResourceDefinition: counts generations, and its updates must name a resourceVersion. */
  custom?: boolean;
  /** The kind of an unconditional update is refused: it must name the resourceVersion that it replaces. */
  conditional?: boolean;
}

const core = { group: "", version: "v1" };
const dra = { group: "resource.k8s.io", version: "v1" };
const ours = { group: "scheduling.kllama.ai", version: "v1alpha1", custom: true, conditional: true };

const resourceTypes: readonly ResourceType[] = [
  { ...core, resource: "pods", kind: "Pod", namespaced: true, status: true },
  { ...core, resource: "nodes", kind: "Node", namespaced: false, status: true },
  { ...dra, resource: "resourceclaims", kind: "ResourceClaim", namespaced: true, status: true },
  { ...dra, resource: "resourceslices", kind: "ResourceSlice", namespaced: false },
  { ...dra, resource: "deviceclasses", kind: "DeviceClass", namespaced: false },
  { ...ours, resource: "gangs", kind: "Gang", namespaced: true, status: true },
  { ...ours, resource: "placementgroups", kind: "PlacementGroup", namespaced: true, status: true },
  { ...ours, resource: "plannerterms", kind: "PlannerTerm", namespaced: false, status: true },
  { ...ours, resource: "clustertopologies", kind: "ClusterTopology", namespaced: false },
  {
    group: "policy",
    version: "v1",
    resource: "poddisruptionbudgets",
    kind: "PodDisruptionBudget",
    namespaced: true,
    status: true,
    custom: true,
  },
  { group: "coordination.k8s.io", version: "v1", resource: "leases", kind: "Lease", namespaced: true },
  { group: "events.k8s.io", version: "v1", resource: "events", kind: "Event", namespaced: true },
];

/** What a path names. */
export interface Target {
  type: ResourceType;
  namespace?: string;
  name?: string;
  subresource?: string;
}

const known = new Map<string, Target | undefined>();

/** @returns undefined for a path that names no resource of the double. */
export function parsePath(path: string): Target | undefined {
  const seen = known.get(path);
  if (seen !== undefined || known.has(path)) return seen;
  if (known.size > 10_000) known.clear();
  const target = parse(path);
  known.set(path, target);
  return target;
}

function parse(path: string): Target | undefined {
  const segments = path.split("/").slice(1).map(decodeURIComponent);
  const group = segments[0] === "api" ? "" : segments[1];
  const rest = segments.slice(group === "" ? 1 : 2);
  const version = rest.shift();
  const namespace = rest[0] === "namespaces" && rest.length > 2 ? rest.splice(0, 2)[1] : undefined;
  const [resource, name, subresource] = rest;
  const type = resourceTypes.find(
    (each) => each.group === group && each.version === version && each.resource === resource,
  );
  if (type === undefined) return undefined;
  return {
    type,
    ...(namespace === undefined ? {} : { namespace }),
    ...(name === undefined ? {} : { name }),
    ...(subresource === undefined ? {} : { subresource }),
  };
}
