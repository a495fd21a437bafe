/** Parts of the key `namespace/name` under which a gang is known, and under which the model holds what it holds. */

export function namespaceOf(key: string): string {
  return key.slice(0, key.indexOf("/"));
}

export function nameOf(key: string): string {
  return key.slice(key.indexOf("/") + 1);
}

/** What a waiting gang has reserved to itself is held under this key, which is no gang's: namespaces have no colon. */
export function drainKey(gang: string): string {
  return `drain:${gang}`;
}

/** Is that a holder, as the model names them, who only waits for the device? */
export function onlyWaits(holder: string): boolean {
  return holder.startsWith("hold:drain:");
}

/**
 * Is that the key of a gang? The model also holds places under keys of others: pods without a gang, reservations in doubt,
 * rooms, copies of what is asked about.
 */
export function isGangKey(key: string, namespace: string): boolean {
  return key.startsWith(`${namespace}/`) && !key.includes(" ");
}
