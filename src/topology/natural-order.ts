/**
 * Sorts `node-2` before `node-10`. The key is padded once, so that sorting thousands of names compares plain strings;
 * names whose keys are equal (`a01` and `a1`) are told apart by the caller's comparison of the names themselves.
 */
export function naturalKey(name: string): string {
  return name.replace(/\d+/g, (digits) => digits.padStart(16, "0"));
}

/** Natural order of names; total, and the same on every machine. */
export function compareNatural(a: string, b: string): number {
  return comparePlain(naturalKey(a), naturalKey(b)) || comparePlain(a, b);
}

/** Order by UTF-16 code units: independent of locale. */
export function comparePlain(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
