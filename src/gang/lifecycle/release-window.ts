/**
 * How many pods are released and not yet bound at a time. Each costs kube-scheduler a cycle per attempt, so a thousand
 * of them would be a thousand cycles between two ordinary pods.
 *
 * Gangs that find no room wait in line, and the first in line blocks those behind it: a large gang is not overtaken for
 * ever by small ones. A gang that stays unbound for `patienceMs` stops counting, so one that cannot be bound (a member
 * with somebody else's gate) holds up nobody for longer. A gang larger than the window enters it when it is empty.
 */
export interface ReleaseWindow {
  /**
   * Whether the gang may be released now; else it waits in line until `admit` names it.
   * @param companions gangs that commit together with it: when one of them is inside, it may follow at once
   */
  request(key: string, pods: number, companions: readonly string[], nowMs: number): boolean;
  /** What the gang has released and not yet bound; 0: it leaves. */
  occupy(key: string, pods: number, nowMs: number): void;
  /** The gang no longer waits in line. */
  withdraw(key: string): void;
  /** Lets in the first in line, in the order given, for as long as they fit. @returns their keys */
  admit(order: (a: string, b: string) => number, nowMs: number): string[];
  /** When somebody inside stops counting; never, while nobody waits for that. */
  nextMs(nowMs: number): number;
  /** Pods that count now, and gangs in line. */
  stats(nowMs: number): { pods: number; waiting: number };
}

/** @param limit pods; @param patienceMs how long a gang counts */
export function createReleaseWindow(limit: number, patienceMs: number): ReleaseWindow {
  const inside = new Map<string, { pods: number; sinceMs: number }>();
  const waiting = new Map<string, number>();

  function counted(nowMs: number): number {
    let pods = 0;
    for (const entry of inside.values()) if (nowMs < entry.sinceMs + patienceMs) pods += entry.pods;
    return pods;
  }

  function fits(pods: number, nowMs: number): boolean {
    const others = counted(nowMs);
    return others === 0 || others + pods <= limit;
  }

  function enter(key: string, pods: number, nowMs: number): void {
    waiting.delete(key);
    inside.set(key, { pods, sinceMs: nowMs });
  }

  return {
    request(key, pods, companions, nowMs) {
      if (inside.has(key)) return true;
      const follows = companions.some((companion) => inside.has(companion));
      if (!follows && (waiting.size > 0 || !fits(pods, nowMs))) {
        waiting.set(key, pods);
        return false;
      }
      enter(key, pods, nowMs);
      return true;
    },
    occupy(key, pods, nowMs) {
      if (pods === 0) inside.delete(key);
      else inside.set(key, { pods, sinceMs: inside.get(key)?.sinceMs ?? nowMs });
    },
    withdraw: (key) => waiting.delete(key),
    admit(order, nowMs) {
      const admitted: string[] = [];
      for (const key of [...waiting.keys()].sort(order)) {
        const pods = waiting.get(key) ?? 0;
        if (!fits(pods, nowMs)) break;
        enter(key, pods, nowMs);
        admitted.push(key);
      }
      return admitted;
    },
    nextMs(nowMs) {
      let next = Number.POSITIVE_INFINITY;
      if (waiting.size === 0) return next;
      for (const { sinceMs } of inside.values()) {
        if (sinceMs + patienceMs > nowMs) next = Math.min(next, sinceMs + patienceMs);
      }
      return next;
    },
    stats: (nowMs) => ({ pods: counted(nowMs), waiting: waiting.size }),
  };
}
