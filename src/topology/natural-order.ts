/**
 * Sorts `node-2` before `node-10`. The key is padded once, so that sorting thousands of names compares plain strings;
 * names whose keys are equal (`a01` and `a1`) are told apart by the caller's comparison of the names themselves.
 */
export function naturalKey(name: string): string {
  return name.replace(/\d+/g, (digits) => digits.padStart(16, "0"));
}

/** Natural order of names; total, and the same on every machine. */
export function compareNatural(a: string, b: string): number {
  return differInPlainOrder(a, b)
    ? comparePlain(a, b)
    : comparePlain(naturalKey(a), naturalKey(b)) || comparePlain(a, b);
}

/**
 * Whether it needs no keys to tell: the names differ outside of numbers, or in numbers of as many digits. Most do, and a
 * gang's pods are sorted at every decision.
 */
function differInPlainOrder(a: string, b: string): boolean {
  let at = 0;
  while (at < a.length && a.charCodeAt(at) === b.charCodeAt(at)) at += 1;
  return digitsFrom(a, at) === digitsFrom(b, at);
}

function digitsFrom(name: string, start: number): number {
  let end = start;
  while (name.charCodeAt(end) >= 0x30 && name.charCodeAt(end) <= 0x39) end += 1;
  return end - start;
}

/** Order by UTF-16 code units: independent of locale. */
export function comparePlain(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
