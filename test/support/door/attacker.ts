import process from "node:process";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { beSlow, createAttacker, slowKinds, type Target } from "./attacks.ts";

/**
 * The clients of `attacks.ts`, in a process of their own, so that what they cost is not the planner's: reads an Order from
 * stdin and writes a Report to stdout.
 */
export interface Order {
  target: Target;
  /** Malformed requests in sum, every kind in turn, and how many a second. */
  malformed: number;
  perSecond: number;
  /** Slow connections in sum, every kind in turn. */
  slow: number;
}

export interface Report {
  malformed: number;
  kinds: number;
  /** `title: outcome` → count, of answers that an attack must not get. */
  unexpected: Record<string, number>;
  outcomes: Record<string, number>;
  slow: number;
  slowKinds: number;
  /** Slow connections that the door never closed, by kind. */
  neverClosed: Record<string, number>;
  longestMs: number;
}

const clients = 8;
const slowPatienceMs = 60_000;
/** Time between two new slow connections: TLS handshakes are not what these are about. */
const slowPaceMs = 25;

const count = (counts: Record<string, number>, key: string): void => {
  counts[key] = (counts[key] ?? 0) + 1;
};

async function sendMalformed(order: Order, report: Report): Promise<void> {
  const startMs = performance.now();
  let next = 0;
  async function client(): Promise<void> {
    const { attacks, close } = createAttacker(order.target);
    report.kinds = attacks.length;
    while (next < order.malformed) {
      const index = next++;
      const dueMs = startMs + (index / order.perSecond) * 1000 - performance.now();
      if (dueMs > 0) await sleep(dueMs);
      const attack = attacks[index % attacks.length]!;
      const outcome = await attack.send();
      report.malformed += 1;
      count(report.outcomes, outcome);
      if (!attack.expected.test(outcome)) count(report.unexpected, `${attack.title}: ${outcome}`);
    }
    close();
  }
  await Promise.all(Array.from({ length: clients }, client));
}

async function beSlowOften(order: Order, report: Report): Promise<void> {
  report.slowKinds = slowKinds.length;
  await Promise.all(
    Array.from({ length: order.slow }, async (_, index) => {
      await sleep(index * slowPaceMs);
      const kind = slowKinds[index % slowKinds.length]!;
      const tookMs = await beSlow(order.target, kind, slowPatienceMs);
      report.slow += 1;
      if (tookMs === undefined) count(report.neverClosed, kind.title);
      else report.longestMs = Math.max(report.longestMs, tookMs);
    }),
  );
}

const order = JSON.parse(await text(process.stdin)) as Order;
const report: Report = {
  malformed: 0,
  kinds: 0,
  unexpected: {},
  outcomes: {},
  slow: 0,
  slowKinds: 0,
  neverClosed: {},
  longestMs: 0,
};
await Promise.all([sendMalformed(order, report), beSlowOften(order, report)]);
process.stdout.write(JSON.stringify(report));
process.exit(0);
