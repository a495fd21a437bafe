/** First in, first out within a group; groups take turns, so that one that floods it delays and displaces its own items alone. */
export interface FairQueue<T> {
  /** @returns what had to go for it: the newest of the group that has most, which may be the item itself */
  push(group: string, item: T): T | undefined;
  shift(): T | undefined;
}

/** @param limit items of all groups together */
export function createFairQueue<T>(limit: number): FairQueue<T> {
  /** In the order of their turns; none is empty. */
  const groups = new Map<string, T[]>();
  let size = 0;

  function displace(): T | undefined {
    const [group, items] = [...groups].reduce((most, each) => (each[1].length > most[1].length ? each : most));
    size -= 1;
    const item = items.pop();
    if (items.length === 0) groups.delete(group);
    return item;
  }

  return {
    push(group, item) {
      const items = groups.get(group);
      if (items === undefined) groups.set(group, [item]);
      else items.push(item);
      size += 1;
      return size > limit ? displace() : undefined;
    },
    shift() {
      for (const [group, items] of groups) {
        const item = items.shift();
        size -= 1;
        // Behind all others.
        groups.delete(group);
        if (items.length > 0) groups.set(group, items);
        return item;
      }
      return undefined;
    },
  };
}
