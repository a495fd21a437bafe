import { describe, expect, test } from "vitest";
import type { Timing } from "../../../src/kube/timing.ts";
import { createWorkQueue } from "../../../src/serving/queue.ts";

/** A clock that stands still until told to move. */
function virtualTiming() {
  let nowMs = 0;
  const sleepers = new Set<{ dueMs: number; wake: () => void }>();
  const timing: Timing = {
    nowMs: () => nowMs,
    wallClock: () => new Date(nowMs),
    random: () => 0.5,
    sleep: (delayMs, signal) =>
      new Promise((resolve) => {
        const sleeper = { dueMs: nowMs + delayMs, wake: resolve };
        sleepers.add(sleeper);
        signal.addEventListener("abort", () => {
          sleepers.delete(sleeper);
          resolve();
        });
      }),
  };
  const advance = async (delayMs: number): Promise<void> => {
    nowMs += delayMs;
    for (const sleeper of [...sleepers].filter(({ dueMs }) => dueMs <= nowMs)) {
      sleepers.delete(sleeper);
      sleeper.wake();
    }
    await settled();
  };
  return { timing, advance, sleeping: () => sleepers.size };
}

/** Lets everything that can go on without the clock go on. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A queue whose work ends when the test says so. */
function heldQueue(concurrency: number, delayMs?: number) {
  const { timing, advance, sleeping } = virtualTiming();
  const begun: string[] = [];
  const held = new Map<string, () => void>();
  const queue = createWorkQueue({
    timing,
    concurrency,
    process: (key) => {
      begun.push(key);
      return new Promise((resolve) => held.set(key, () => resolve(delayMs)));
    },
  });
  const finish = async (key: string): Promise<void> => {
    held.get(key)?.();
    held.delete(key);
    await settled();
  };
  return { queue, begun, finish, advance, sleeping };
}

describe("work queue", () => {
  test("a key added many times while it waits is worked on once", async () => {
    const { queue, begun, finish } = heldQueue(1);
    for (const key of ["a", "b", "b", "b"]) queue.add(key);
    await finish("a");
    await finish("b");
    expect(begun).toEqual(["a", "b"]);
  });

  test("a key added while it is worked on is worked on once more, and never twice at once", async () => {
    const { queue, begun, finish } = heldQueue(4);
    queue.add("a");
    queue.add("a");
    queue.add("a");
    expect(begun).toEqual(["a"]);
    await finish("a");
    expect(begun).toEqual(["a", "a"]);
    await finish("a");
    expect(begun).toEqual(["a", "a"]);
  });

  test("no more keys at once than allowed; the next begins when one ends", async () => {
    const { queue, begun, finish } = heldQueue(2);
    for (const key of ["a", "b", "c"]) queue.add(key);
    expect(begun).toEqual(["a", "b"]);
    await finish("b");
    expect(begun).toEqual(["a", "b", "c"]);
  });

  test("a key that is still busy does not keep others from starting", async () => {
    const { queue, begun, finish } = heldQueue(2);
    for (const key of ["a", "b", "a", "c"]) queue.add(key);
    await finish("b");
    expect(begun).toEqual(["a", "b", "c"]);
  });

  test("work that asks for a later look gets it then, and an addition before replaces it", async () => {
    const { queue, begun, finish, advance, sleeping } = heldQueue(1, 5_000);
    queue.add("a");
    await finish("a");
    await advance(4_999);
    expect(begun).toEqual(["a"]);
    await advance(1);
    expect(begun).toEqual(["a", "a"]);
    await finish("a");
    queue.add("a");
    await finish("a");
    expect(begun).toHaveLength(3);
    expect(sleeping()).toBe(1);
  });

  test("stop waits for the work in hand, then nothing begins any more", async () => {
    const { queue, begun, finish, advance, sleeping } = heldQueue(1, 1_000);
    queue.add("a");
    queue.add("b");
    let stopped = false;
    const stopping = queue.stop().then(() => {
      stopped = true;
    });
    await settled();
    expect(stopped).toBe(false);
    await finish("a");
    await stopping;
    queue.add("c");
    await advance(10_000);
    expect(begun).toEqual(["a"]);
    expect(sleeping()).toBe(0);
  });
});
