import { describe, expect, test } from "vitest";
import type { Gang } from "../../src/api/gang.ts";
import { uniformFleet } from "../../src/simulator/fleet.ts";
import { isBound, useScene } from "../support/scene.ts";
import { claimTemplate, gang, member, withForeignGate } from "../support/workloads.ts";

/**
 * kill -9 of the planner right after a write of every kind that it makes, again and again on one running control plane.
 * Each life of the planner finds what the one before it left behind, gets a new gang to place, and dies at its boundary.
 */
const scene = useScene({ fleet: uniformFleet({ nodes: 8, nodesPerRack: 4 }) });
const { freshNamespace, apply, drop, pods, claims, gangs, until, membersOf, createGang } = scene;

/** Three pods with four GPUs each: of 64 GPUs, five gangs take 60. */
const size = 3;
const finishMs = 5_000;
const readyMs = 3_000;
/** A life waits for kube-scheduler's next call for 10 s at most, and for what it does not do at once. */
const lifeMs = 45_000;

/** `EFFECT:N`, killed after the Nth successful write of that kind: from the plan to the end. */
const onTheWay = [
  "writeStatus/Reserved:1",
  "reserveClaim:1",
  "reserveClaim:2",
  "reserveClaim:3",
  "releasePod:1",
  "releasePod:2",
  "releasePod:3",
  "writeStatus/Binding:1",
  "bind:1",
  "bind:2",
  "bind:3",
  "writeStatus/Scheduled:1",
  "dropGuard:1",
];
/** When a reservation is given up. */
const onTheWayBack = ["writeStatus/Revoked:1", "clearClaim:1", "clearClaim:2", "writeStatus/Pending:1"];
const rounds = 3;
const boundaries = Array.from({ length: rounds }, () => [...onTheWay, ...onTheWayBack]).flat();

/** Ends with the planner's death at the latest; its failure is told by who waits for that. */
function unlessKilled<T>(work: Promise<T>): Promise<T | undefined> {
  return Promise.race([work, scene.stack.planner.exited().then(() => undefined)]);
}

const phaseOf = (found: Gang): string => found.status?.phase ?? "Pending";
const isWhole = (name: string): boolean => membersOf(name).length === size && membersOf(name).every(isBound);

/** Scheduled, and kllama holds nothing of it any more. */
function isDone(found: Gang): boolean {
  return (
    phaseOf(found) === "Scheduled" &&
    !claims().some((claim) => claim.status?.reservedFor?.some((c) => c.uid === found.metadata.uid))
  );
}

/** A gang that is reserved and never whole at the barrier, so that it is given up. */
async function createHopelessGang(name: string): Promise<void> {
  await apply(gang(name, { podSets: [{ name: "ranks", count: 2 }], scheduleTimeoutSeconds: 1 }));
  await apply(member(name, "ranks", 0, "four"), withForeignGate(member(name, "ranks", 1, "four")));
}

async function dropWhole(found: Gang): Promise<void> {
  const { name } = found.metadata;
  await drop(gang(name, {}));
  await Promise.all(membersOf(name).map((pod) => drop({ ...member(name, "ranks", 0), metadata: pod.metadata })));
}

/** Starts the planner; gangs that it finds committed have to be whole soon, if it lives that long. @returns milliseconds until it was ready. */
async function live(failpoint: string): Promise<number | undefined> {
  const startedAt = performance.now();
  const starting = scene.stack.planner.start({ KLLAMA_FAILPOINT: failpoint }).then(
    () => performance.now() - startedAt,
    () => undefined,
  );
  const tookMs = await unlessKilled(starting);
  if (tookMs === undefined) return undefined;
  const committed = gangs().filter((found) => phaseOf(found) === "Binding");
  const finished = until(
    `committed gangs are whole ${finishMs} ms after the planner is up (${failpoint})`,
    () => committed.every((found) => isWhole(found.metadata.name)),
    finishMs,
  );
  await unlessKilled(finished);
  return tookMs;
}

/** Waits for the planner's death; meanwhile gangs that are done make room. */
async function untilDead(failpoint: string): Promise<void> {
  for (;;) {
    const leaving = await unlessKilled(until(`the planner dies at ${failpoint}`, () => gangs().find(isDone), lifeMs));
    if (leaving === undefined) return;
    await dropWhole(leaving);
  }
}

describe("the planner killed with SIGKILL", () => {
  test("51 times, after each kind of write: committed gangs are finished within five seconds, and nothing leaks", {
    timeout: 600_000,
  }, async () => {
    expect(boundaries).toHaveLength(51);
    await freshNamespace();
    await apply(claimTemplate("four", 4));
    await scene.stack.planner.kill("SIGKILL");
    const startsMs: number[] = [];
    for (const [index, failpoint] of boundaries.entries()) {
      const name = `gang-${index}`;
      const hopeless = onTheWayBack.includes(failpoint);
      if (hopeless) await createHopelessGang(name);
      else await createGang(name, size);
      const tookMs = await live(failpoint);
      if (tookMs !== undefined) startsMs.push(tookMs);
      await untilDead(failpoint);
      if (hopeless) for (const found of gangs()) if (found.metadata.name === name) await dropWhole(found);
    }
    await scene.stack.planner.start();
    await until("every gang is done", () => gangs().every(isDone));
    await until("what is allocated is used", () => {
      const held = claims().filter((claim) => claim.status?.allocation !== undefined);
      return held.length === pods().length && pods().every(isBound);
    });
    await Promise.all(gangs().map(dropWhole));
    await until("nothing is left", () => pods().length + claims().length === 0);
    // A start that others on the machine keep from its core says nothing: half of them have to keep the bar.
    expect(startsMs.sort((a, b) => a - b)[Math.floor(startsMs.length / 2)]).toBeLessThan(readyMs);
  });
});
