/** Parts of the key `namespace/name` under which a gang is known, and under which the model holds what it holds. */

export function namespaceOf(key: string): string {
  return key.slice(0, key.indexOf("/"));
}

export function nameOf(key: string): string {
  return key.slice(key.indexOf("/") + 1);
}
