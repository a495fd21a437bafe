import { expect, test } from "vitest";
import type { WriteEffect, Written } from "../../src/extender/effects.ts";
import { createWriteQueue } from "../../src/extender/writes.ts";

function bind(name: string): WriteEffect {
  return { type: "bind", id: `bind/${name}`, pod: { namespace: "d", name, uid: name }, node: "n" };
}

function dropGuard(name: string): WriteEffect {
  const claim = { namespace: "d", name, uid: name, resourceVersion: "1", finalizers: [] };
  return { type: "dropGuard", id: `claim/${name}`, claim, reservedFor: [] };
}

/** A queue whose writes end when the test says so. */
function setUp(limits: { total: number; background: number }) {
  const started: string[] = [];
  const ends: (() => void)[] = [];
  const done: Written = { outcome: { ok: true } };
  const queue = createWriteQueue(
    limits,
    (effect) => {
      started.push(effect.id);
      return new Promise((resolve) => ends.push(() => resolve(done)));
    },
    () => undefined,
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

test("guards give way to everything else, but never wait for ever", () => {
  const { queue, started } = setUp({ total: 4, background: 1 });
  for (const name of ["a", "b", "c", "d", "e"]) queue.push(dropGuard(name), "gang");
  expect(started).toHaveLength(4);
  const busy = setUp({ total: 4, background: 1 });
  for (const name of ["a", "b", "c", "d", "e"]) busy.queue.push(bind(name), "gang");
  busy.queue.push(dropGuard("g"), "gang");
  expect(busy.started.filter((id) => id.startsWith("bind"))).toHaveLength(4);
});

test("idle resolves once the last write has ended", async () => {
  const { queue, endAll } = setUp({ total: 4, background: 1 });
  queue.push(bind("a"), "gang");
  const idle = queue.idle();
  endAll();
  await expect(idle).resolves.toBeUndefined();
});
