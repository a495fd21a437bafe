/** The patches that kllama and Kubernetes' own controllers send, applied to JSON values without changing them. */

type Json = Record<string, unknown>;

/** RFC 7386. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Json = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], value);
  }
  return merged;
}

/** Lists that Kubernetes' strategic merge patch merges by a key of their entries; others are replaced whole. */
const mergeKeys: Readonly<Record<string, string>> = {
  schedulingGates: "name",
  containers: "name",
  conditions: "type",
  resourceClaimStatuses: "name",
  reservedFor: "uid",
  ownerReferences: "uid",
};

/** Kubernetes' strategic merge patch, as far as it is needed: merged lists and `$patch: delete` in their entries. */
export function strategicMergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Json = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    const mergeKey = mergeKeys[key];
    if (value === null) delete merged[key];
    else if (Array.isArray(value) && mergeKey !== undefined)
      setList(merged, key, mergeLists(merged[key], value, mergeKey));
    else merged[key] = strategicMergePatch(merged[key], value);
  }
  return merged;
}

/** Go leaves empty lists out of what it writes. */
function setList(target: Json, key: string, list: unknown[]): void {
  if (list.length > 0) target[key] = list;
  else delete target[key];
}

function mergeLists(target: unknown, patch: readonly unknown[], mergeKey: string): unknown[] {
  const merged = Array.isArray(target) ? [...target] : [];
  for (const entry of patch.filter(isObject)) {
    const at = merged.findIndex((each) => isObject(each) && each[mergeKey] === entry[mergeKey]);
    if (entry["$patch"] === "delete") {
      if (at >= 0) merged.splice(at, 1);
    } else if (at >= 0) merged[at] = strategicMergePatch(merged[at], entry);
    else merged.push(entry);
  }
  return merged;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
