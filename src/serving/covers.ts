/**
 * Whether the live object carries everything the desired one says, field by field; what only the live one has (defaults,
 * status, other managers' fields) does not matter. Lists must be of equal length; their elements are matched by `name`
 * where they have one, as the API server merges them, else by position.
 */
export function covers(live: unknown, desired: unknown): boolean {
  // The API server leaves empty maps and lists out.
  if (live === undefined && typeof desired === "object" && desired !== null) return Object.keys(desired).length === 0;
  if (Array.isArray(desired)) return Array.isArray(live) && coversList(live, desired);
  if (typeof desired !== "object" || desired === null) return Object.is(live, desired);
  if (typeof live !== "object" || live === null) return false;
  return Object.entries(desired).every(([key, value]) => covers((live as Record<string, unknown>)[key], value));
}

function coversList(live: readonly unknown[], desired: readonly unknown[]): boolean {
  if (live.length !== desired.length) return false;
  return desired.every((element, index) => {
    const name = nameOf(element);
    return covers(name === undefined ? live[index] : live.find((other) => nameOf(other) === name), element);
  });
}

function nameOf(element: unknown): string | undefined {
  if (typeof element !== "object" || element === null) return undefined;
  const { name } = element as { name?: unknown };
  return typeof name === "string" ? name : undefined;
}
