const mostNamed = 3;

/**
 * Why devices do not count that are there.
 * @param taints one per device, `key:effect`
 */
export function taintText(taints: readonly string[]): string {
  if (taints.length === 0) return "";
  const names = [...new Set(taints)].sort();
  const more = names.length > mostNamed ? ", …" : "";
  const named = `(${names.slice(0, mostNamed).join(", ")}${more})`;
  return taints.length === 1
    ? `; 1 device has a taint that is not tolerated ${named}`
    : `; ${taints.length} devices have taints that are not tolerated ${named}`;
}
