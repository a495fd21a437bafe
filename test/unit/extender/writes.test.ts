import { expect, test } from "vitest";
import type { WriteEffect, Written } from "../../../src/extender/effects.ts";
import { createWriteQueue } from "../../../src/extender/writes.ts";

function bind(name: string): WriteEffect {
  return { type: "bind", id: `bind/${name}`, pod: { namespace: "d", name, uid: name }, node: "n" };
}

function dropGuard(name: string): WriteEffect {
  const claim = { namespace: "d", name, uid: name, resourceVersion: "1", finalizers: [], allocated: false };
  return { type: "dropGuard", id: `claim/${name}`, claim, reservedFor: [] };
}

/** A queue whose writes end when the test says so. */
function setUp(limits: { total: number; background: number }, clock = { nowMs: 0 }) {
  const started: string[] = [];
  const ends: (() => void)[] = [];
  const done: Written = { outcome: { ok: true } };
  const queue = createWriteQueue(
    { ...limits, patienceMs: 1_000 },
    (effect) => {
      started.push(effect.id);
      return new Promise((resolve) => ends.push(() => resolve(done)));
    },
    () => undefined,
    () => clock.nowMs,
  );
  return {
    queue,
    started,
    endAll: () => {
      for (const end of ends.splice(0)) end();
    },
  };
}

test("no more writes are under way than the limit allows, and the rest follows in order", async () => {
  const { queue, started, endAll } = setUp({ total: 2, background: 1 });
  for (const name of ["a", "b", "c", "d"]) queue.push(bind(name), "gang");
  expect(started).toHaveLength(2);
  while (queue.depth > 0) {
    expect(queue.depth).toBeGreaterThan(0);
    endAll();
    await Promise.resolve();
    await Promise.resolve();
  }
  expect(started).toEqual(["bind/a", "bind/b", "bind/c", "bind/d"]);
});

test("guards wait while anything else is under way, but not for ever", () => {
  const clock = { nowMs: 0 };
  const { queue, started } = setUp({ total: 4, background: 1 }, clock);
  queue.push(bind("a"), "gang");
  for (const name of ["g", "h"]) queue.push(dropGuard(name), "gang");
  expect(started).toEqual(["bind/a"]);
  clock.nowMs = 1_001;
  queue.push(bind("b"), "gang");
  expect(started).toContain("claim/g");
  expect(started).toContain("bind/b");
});

test("guards have all places when nothing else is there", () => {
  const { queue, started } = setUp({ total: 4, background: 1 });
  for (const name of ["a", "b", "c", "d", "e"]) queue.push(dropGuard(name), "gang");
  expect(started).toHaveLength(4);
});

test("once closed, it ends what is under way and begins nothing more", async () => {
  const { queue, started, endAll } = setUp({ total: 2, background: 1 });
  for (const name of ["a", "b", "c", "d"]) queue.push(bind(name), "gang");
  queue.push(dropGuard("g"), "gang");
  queue.close();
  queue.push(bind("e"), "gang");
  const idle = queue.idle();
  endAll();
  await expect(idle).resolves.toBeUndefined();
  expect([started, queue.depth]).toEqual([["bind/a", "bind/b"], 0]);
});

test("idle resolves once the last write has ended", async () => {
  const { queue, endAll } = setUp({ total: 4, background: 1 });
  queue.push(bind("a"), "gang");
  const idle = queue.idle();
  endAll();
  await expect(idle).resolves.toBeUndefined();
});
