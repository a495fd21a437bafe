/** A binary heap, smallest first. */
export interface Heap<T> {
  push(item: T): void;
  pop(): T | undefined;
}

export function createHeap<T>(compare: (a: T, b: T) => number): Heap<T> {
  const items: T[] = [];
  const swap = (i: number, j: number): void => {
    [items[i], items[j]] = [items[j]!, items[i]!];
  };
  return {
    push(item) {
      items.push(item);
      for (let i = items.length - 1; i > 0; ) {
        const parent = (i - 1) >> 1;
        if (compare(items[i]!, items[parent]!) >= 0) break;
        swap(i, parent);
        i = parent;
      }
    },
    pop() {
      const [first] = items;
      const last = items.pop();
      if (last === undefined || items.length === 0) return first;
      items[0] = last;
      for (let i = 0; ; ) {
        const [left, right] = [2 * i + 1, 2 * i + 2];
        let least = i;
        if (left < items.length && compare(items[left]!, items[least]!) < 0) least = left;
        if (right < items.length && compare(items[right]!, items[least]!) < 0) least = right;
        if (least === i) return first;
        swap(i, least);
        i = least;
      }
    },
  };
}
