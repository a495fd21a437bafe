/**
 * Work in steps of which each is short: put down after any of them, it can be taken up in a later turn of the event loop.
 * What it reads may have changed by then, so whoever uses the result has to look at what it rests on once more.
 */
export type Steps<T> = Generator<void, T, void>;

/** All of it at once. */
export function atOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const next = steps.next();
    if (next.done === true) return next.value;
  }
}

/** One step, and more while there is time. @returns undefined: it is not done yet */
export function goOn<T>(steps: Steps<T>, inTime: () => boolean): { readonly result: T } | undefined {
  do {
    const next = steps.next();
    if (next.done === true) return { result: next.value };
  } while (inTime());
  return undefined;
}
