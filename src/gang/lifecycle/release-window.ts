import { namespaceOf } from "../keys.ts";

/**
 * How many pods are released and not yet bound at a time. Each costs kube-scheduler a cycle per attempt, so a thousand
 * of them would be a thousand cycles between two ordinary pods.
 *
 * Gangs that find no room wait in line, and the first in line blocks those behind it: a large gang is not overtaken for
 * ever by small ones. Namespaces take turns: one with any number of gangs that kube-scheduler binds never does not keep the
 * others out for as many times 30 s. A gang that stays unbound for `patienceMs` stops counting, so one that cannot be bound (a member
 * with somebody else's gate) holds up nobody for longer. A gang larger than the window enters it when it is empty.
 *
 * Who gives its places up and comes back with members that were let go before counts no more: kube-scheduler tries these all
 * the time, reserved or not, and a few such gangs would keep everybody else out for ever.
 */
export interface ReleaseWindow {
  /**
   * Whether the gang may be released now; else it waits in line until `admit` names it.
   * @param pods all that it will have released then
   * @param companions gangs that commit together with it: when one of them is inside, it may follow at once
   */
  request(key: string, pods: number, companions: readonly string[], nowMs: number): boolean;
  /** What the gang has released and not yet bound; 0: it leaves. `again`: for an earlier reservation, which it gave up. */
  occupy(key: string, pods: number, nowMs: number, again?: boolean): void;
  /** The gang no longer waits in line. */
  withdraw(key: string): void;
  /**
   * Lets in the first in line for as long as they fit: in the order given, else of the namespace whose last turn is longest
   * ago, else in the order of asking. @returns their keys
   */
  admit(order: (a: string, b: string) => number, nowMs: number): string[];
  /** When somebody inside stops counting; never, while nobody waits for that. */
  nextMs(nowMs: number): number;
  /** Pods that count now, and gangs in line. */
  stats(nowMs: number): { pods: number; waiting: number };
}

/** @param limit pods; @param patienceMs how long a gang counts */
export function createReleaseWindow(limit: number, patienceMs: number): ReleaseWindow {
  /** `let`: so many it was let in with. */
  const inside = new Map<string, { pods: number; let: number; sinceMs: number }>();
  const waiting = new Map<string, number>();
  /** Namespace → number of the turn in which one of its gangs was let in last. */
  const turns = new Map<string, number>();
  let turn = 0;

  function counted(nowMs: number, but?: string): number {
    let pods = 0;
    for (const [key, entry] of inside) if (key !== but && nowMs < entry.sinceMs + patienceMs) pods += entry.pods;
    return pods;
  }

  function fits(key: string, pods: number, nowMs: number): boolean {
    const others = counted(nowMs, key);
    return others === 0 || others + pods <= limit;
  }

  function enter(key: string, pods: number, nowMs: number): void {
    waiting.delete(key);
    inside.set(key, { pods, let: pods, sinceMs: nowMs });
    turn += 1;
    turns.set(namespaceOf(key), turn);
  }

  function firstInLine(order: (a: string, b: string) => number): string | undefined {
    const lastTurn = (key: string): number => turns.get(namespaceOf(key)) ?? 0;
    let first: string | undefined;
    for (const key of waiting.keys()) {
      if (first === undefined || (order(key, first) || lastTurn(key) - lastTurn(first)) < 0) first = key;
    }
    return first;
  }

  function othersWait(key: string): boolean {
    return waiting.size > (waiting.has(key) ? 1 : 0);
  }

  return {
    request(key, pods, companions, nowMs) {
      // Members of a running gang return one after another: who is in with one is not in with all.
      if (pods <= (inside.get(key)?.let ?? 0)) return true;
      const follows = companions.some((companion) => inside.has(companion));
      if (!follows && (othersWait(key) || !fits(key, pods, nowMs))) {
        waiting.set(key, pods);
        return false;
      }
      enter(key, pods, nowMs);
      return true;
    },
    occupy(key, pods, nowMs, again = false) {
      if (pods === 0) inside.delete(key);
      else if (inside.has(key)) inside.get(key)!.pods = pods;
      else if (!again) inside.set(key, { pods, let: pods, sinceMs: nowMs });
    },
    withdraw: (key) => waiting.delete(key),
    admit(order, nowMs) {
      const admitted: string[] = [];
      for (let key = firstInLine(order); key !== undefined; key = firstInLine(order)) {
        const pods = waiting.get(key) ?? 0;
        if (!fits(key, pods, nowMs)) break;
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
