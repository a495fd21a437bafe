import { expect, test } from "vitest";
import { inAnswerOrder, type Queued } from "../../../src/extender/pending-plans.ts";
import { clusterOf } from "../../support/cluster.ts";
import { queueWorld } from "../../support/queue-world.ts";

const entry = (key: string, createdAtMs: number, more: Partial<Queued> = {}): Queued => ({
  key,
  createdAtMs,
  priority: 0,
  ...more,
});
const past = { bypasses: true } as const;
const keysOf = (queue: Queued[]) => inAnswerOrder(queue).map(({ key }) => key);

test("of each priority pods that came past the gate are answered first, then who is older", () => {
  const queue = [
    entry("old", 1),
    entry("young", 3),
    entry("past", 4, past),
    entry("older past", 2, past),
    entry("high", 9, { priority: 5 }),
    entry("high past", 10, { priority: 5, ...past }),
    entry("low past", 0, { priority: -1, ...past }),
  ];
  expect(keysOf(queue)).toEqual(["high past", "high", "older past", "past", "old", "young", "low past"]);
  expect(keysOf(queue.toReversed())).toEqual(keysOf(queue));
});

test("sixteen of them at most in one turn; the others stand in the queue", () => {
  const many = Array.from({ length: 40 }, (_, index) => entry(`past-${index}`, 10 + index, past));
  const order = keysOf([...many, entry("gang", 5)]);
  expect(order.indexOf("gang")).toBe(16);
});

test("a pod that came past the gate has its devices before a gang that waits, and not before one of higher priority", () => {
  const world = queueWorld(clusterOf([{ name: "a", gpus: 8 }]), 0);
  world.submit(
    { name: "gang", pods: 1, gpus: 5 },
    { name: "past", gpus: 5, ungated: true },
    { name: "gated", gpus: 5 },
  );
  expect(world.waiting()).toEqual(["gang", "gated"]);
  world.submit({ name: "urgent", pods: 1, gpus: 3, priority: 1 }, { name: "later", gpus: 3, ungated: true });
  expect(world.waiting()).toEqual(["gang", "gated", "later"]);
});

test("while the fence is broken nothing new is planned; a second after it stands again what waited is", () => {
  const world = queueWorld(clusterOf([{ name: "a", gpus: 8 }]), 0);
  world.submit({ name: "before", pods: 1, gpus: 2 });
  world.fenceBroken = true;
  world.submit({ name: "gang", pods: 1, gpus: 2 }, { name: "pod", gpus: 2 });
  expect(world.waiting()).toEqual(["gang", "pod"]);
  expect(world.places("before")).toHaveLength(1);
  expect(world.queue.nextMs() - world.nowMs).toBe(1_000);
  world.fenceBroken = false;
  world.pass(1);
  expect(world.waiting()).toEqual([]);
  expect(world.queue.nextMs()).toBe(Number.POSITIVE_INFINITY);
});

test("gangs that are refused, and ask again whenever something becomes free, keep no younger one from being planned", () => {
  const model = clusterOf([{ name: "a", gpus: 8 }]);
  const world = queueWorld(model, 0);
  const large = Array.from({ length: 20 }, (_, index) => `large-${index}`);
  world.submit(...large.map((name) => ({ name, pods: 2, gpus: 8 })));
  world.stop();
  world.submit({ name: "young", pods: 1, gpus: 1 });
  // A turn is over after a few refusals.
  world.lookMs = 3;
  world.queue.ask("team/young");
  let turns = 0;
  while (model.view.heldUnder("team/young").length === 0) {
    expect(turns++).toBeLessThan(2 * large.length);
    for (const name of large) world.queue.ask(`team/${name}`);
    expect(world.queue.planAll()).toBe(false);
  }
  expect(turns).toBeGreaterThan(1);
  while (!world.queue.planAll());
  expect(world.queue.size).toBe(0);
});
