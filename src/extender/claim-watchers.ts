/** Who looks at which claims (`namespace/name`): gangs by their keys, pods by their UIDs. */
export interface ClaimWatchers {
  /** @returns false: it did already */
  add(claim: string, watcher: string): boolean;
  of(claim: string): readonly string[];
  remove(claim: string, watcher: string): void;
  /** It looks at none any more. */
  forget(watcher: string): void;
}

/** An index in both directions: a claim may outlive any number of those who named it, and the other way round. */
export function createClaimWatchers(): ClaimWatchers {
  const watchers = new Map<string, Set<string>>();
  const claims = new Map<string, Set<string>>();
  const put = (index: Map<string, Set<string>>, key: string, value: string): void => {
    index.set(key, (index.get(key) ?? new Set()).add(value));
  };
  const take = (index: Map<string, Set<string>>, key: string, value: string): void => {
    const values = index.get(key);
    if (values?.delete(value) === true && values.size === 0) index.delete(key);
  };
  return {
    add(claim, watcher) {
      if (watchers.get(claim)?.has(watcher) === true) return false;
      put(watchers, claim, watcher);
      put(claims, watcher, claim);
      return true;
    },
    of: (claim) => [...(watchers.get(claim) ?? [])],
    remove(claim, watcher) {
      take(watchers, claim, watcher);
      take(claims, watcher, claim);
    },
    forget(watcher) {
      for (const claim of claims.get(watcher) ?? []) take(watchers, claim, watcher);
      claims.delete(watcher);
    },
  };
}
