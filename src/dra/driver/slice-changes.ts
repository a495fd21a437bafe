import type { ResourceSlice } from "../../api/kubernetes.ts";

/** What turns a node's published slices into the wanted ones; to be done in the order of the fields. */
export interface SliceChanges {
  remove: readonly ResourceSlice[];
  /** With the `resourceVersion` of what they replace. */
  update: readonly ResourceSlice[];
  create: readonly ResourceSlice[];
}

/**
 * Upstream's rule (`k8s.io/dynamic-resource-allocation/resourceslice`): the pool keeps its generation when a single
 * existing slice changes and none comes or goes; else every slice is written with the next generation, and consumers
 * ignore the pool until all are there. `build` makes the wanted slices of a generation.
 */
export function sliceChanges(
  current: readonly ResourceSlice[],
  build: (generation: number) => readonly ResourceSlice[],
): SliceChanges {
  const generation = Math.max(0, ...current.map((slice) => slice.spec.pool.generation));
  const published = new Map(current.map((slice) => [slice.metadata.name, slice]));
  const wanted = build(Math.max(1, generation));
  const names = new Set(wanted.map((slice) => slice.metadata.name));
  const remove = current.filter((slice) => !names.has(slice.metadata.name));
  const differing = wanted.filter((slice) => {
    const known = published.get(slice.metadata.name);
    return known === undefined || !same(slice.spec, known.spec) || !sameOwner(slice, known);
  });
  const fresh = differing.some((slice) => !published.has(slice.metadata.name));
  if (remove.length === 0 && !fresh && differing.length <= 1) {
    return { remove, update: differing.map((slice) => replacing(slice, published)), create: [] };
  }
  const next = build(generation + 1);
  return {
    remove,
    update: next.filter((s) => published.has(s.metadata.name)).map((slice) => replacing(slice, published)),
    create: next.filter((slice) => !published.has(slice.metadata.name)),
  };
}

/** Paths of the fields of `sent` that `kept` lacks or has otherwise: what an API server dropped. */
export function differingFields(sent: unknown, kept: unknown, path = "spec"): string[] {
  if (typeof sent !== "object" || sent === null) return sent === kept ? [] : [path];
  if (typeof kept !== "object" || kept === null) return isEmpty(sent) ? [] : [path];
  if (Array.isArray(sent) && sent.length !== (kept as unknown[]).length) return [path];
  return Object.entries(sent).flatMap(([key, value]) =>
    value === undefined ? [] : differingFields(value, (kept as Record<string, unknown>)[key], `${path}.${key}`),
  );
}

/** The API server omits empty lists and objects. */
function isEmpty(value: object): boolean {
  return Object.keys(value).length === 0;
}

/** Both ways: a field that has to go counts as well. */
function same(left: unknown, right: unknown): boolean {
  return differingFields(left, right).length === 0 && differingFields(right, left).length === 0;
}

function sameOwner(left: ResourceSlice, right: ResourceSlice): boolean {
  return left.metadata.ownerReferences?.[0]?.uid === right.metadata.ownerReferences?.[0]?.uid;
}

function replacing(slice: ResourceSlice, published: ReadonlyMap<string, ResourceSlice>): ResourceSlice {
  const resourceVersion = published.get(slice.metadata.name)?.metadata.resourceVersion;
  return { ...slice, metadata: { ...slice.metadata, ...(resourceVersion === undefined ? {} : { resourceVersion }) } };
}
