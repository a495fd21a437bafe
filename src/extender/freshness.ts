/**
 * Two sources tell of one object: the watch, and the answers to our own writes. The newer resourceVersion wins, and
 * what was deleted stays deleted although the answer to an earlier write comes later.
 *
 * resourceVersions are comparable as integers since Kubernetes 1.35 (KEP-5504).
 */
export interface Freshness {
  /**
   * @param name kind, namespace and name: one that had the name before is not believed either, when a watch tells of it late
   * @returns false when the object is known in this version or a newer one, was deleted, or has a successor that is known.
   */
  accept(uid: string, resourceVersion: string, name: string): boolean;
  forget(uid: string): void;
  /** Whatever comes next is believed: what was known of the object turned out to be wrong. */
  reset(uid: string): void;
}

/** @param rememberDeleted deleted UIDs that are kept, oldest dropped first */
export function createFreshness(rememberDeleted = 20_000): Freshness {
  const objects = new Map<string, { readonly resourceVersion: string; readonly name: string }>();
  /** Name → UID of the latest that has it. */
  const owners = new Map<string, string>();
  const deleted = new Set<string>();
  function drop(uid: string): void {
    const name = objects.get(uid)?.name;
    if (name !== undefined && owners.get(name) === uid) owners.delete(name);
    objects.delete(uid);
  }
  return {
    accept(uid, resourceVersion, name) {
      if (deleted.has(uid)) return false;
      const known = objects.get(uid) ?? objects.get(owners.get(name) ?? "");
      if (known !== undefined && !isNewer(resourceVersion, known.resourceVersion)) return false;
      objects.set(uid, { resourceVersion, name });
      owners.set(name, uid);
      return true;
    },
    forget(uid) {
      drop(uid);
      deleted.add(uid);
      if (deleted.size <= rememberDeleted) return;
      for (const oldest of deleted) {
        deleted.delete(oldest);
        break;
      }
    },
    reset(uid) {
      drop(uid);
      deleted.delete(uid);
    },
  };
}

function isNewer(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length;
}
