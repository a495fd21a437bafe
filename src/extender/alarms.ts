export interface Alarms {
  set(key: string, atMs: number | undefined): void;
  /** Keys whose time has come; they are forgotten. */
  due(nowMs: number): string[];
  /** No alarm is due before this time; it may be early, never late. */
  next(): number;
}

/** One alarm per gang. Most are moved long before they ring, so only the earliest is kept in order. */
export function createAlarms(): Alarms {
  const times = new Map<string, number>();
  let earliestMs = Number.POSITIVE_INFINITY;
  return {
    set(key, atMs) {
      if (atMs === undefined) {
        times.delete(key);
        return;
      }
      times.set(key, atMs);
      earliestMs = Math.min(earliestMs, atMs);
    },
    due(nowMs) {
      if (nowMs < earliestMs) return [];
      const due: string[] = [];
      earliestMs = Number.POSITIVE_INFINITY;
      for (const [key, atMs] of times) {
        if (atMs <= nowMs) due.push(key);
        else earliestMs = Math.min(earliestMs, atMs);
      }
      for (const key of due) times.delete(key);
      return due;
    },
    next: () => earliestMs,
  };
}
