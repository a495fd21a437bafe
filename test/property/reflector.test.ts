import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KubeError } from "../../src/kube/client.ts";
import { type Change, createReflector } from "../../src/kube/reflector.ts";
import { createFakeCollection, type FakeObject } from "../support/fake-collection.ts";
import { createVirtualTiming } from "../support/virtual-timing.ts";

/** What is kept of an object; a new one for every version, so that identity tells versions apart. */
interface Kept {
  uid: string;
  version: string;
  data: string;
}

function project(raw: FakeObject): Kept {
  if (raw.data === "unreadable") throw new Error("unreadable");
  return { uid: raw.metadata.uid, version: raw.metadata.resourceVersion, data: raw.data };
}

type Command =
  | { do: "store"; name: string; data: string }
  | { do: "remove" | "recreate"; name: string }
  | { do: "advance"; ms: number }
  | { do: "breakList"; after: number }
  | { do: "garbage" | "poison"; line: string }
  | { do: "repeat"; back: number }
  | { do: "refuse"; status: number }
  | { do: "bookmark" | "compact" | "gone" | "drop" | "close" | "hang" | "hold" };

const name = fc.constantFrom("a", "b", "c", "d", "e", "f", "g", "h");
const data = fc.constantFrom("1", "2", "3", "unreadable");
const garbage = fc.constantFrom(
  "{",
  "null",
  '{"type":"ADDED"}',
  '{"type":"ADDED","object":{"metadata":{}}}',
  '{"type":"WHAT"}',
  "[]",
  "\u0000",
);
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("store" as const), name, data }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("remove" as const, "recreate" as const), name }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("advance" as const), ms: fc.constantFrom(0, 5, 50, 2_000, 40_000) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("breakList" as const), after: fc.nat(6) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("repeat" as const), back: fc.nat(6) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("garbage" as const, "poison" as const), line: garbage }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("refuse" as const), status: fc.constantFrom(0, 410, 429, 500) }),
  },
  {
    weight: 6,
    arbitrary: fc
      .constantFrom(
        "bookmark" as const,
        "compact" as const,
        "gone" as const,
        "drop" as const,
        "close" as const,
        "hang" as const,
        "hold" as const,
      )
      .map((action) => ({ do: action })),
  },
);

type Collection = ReturnType<typeof createFakeCollection>;

function carryOut(action: Command, collection: Collection): void {
  if (action.do === "store") collection.store(action.name, action.data);
  else if (action.do === "remove") collection.remove(action.name);
  else if (action.do === "recreate") {
    collection.remove(action.name);
    collection.store(action.name, "1");
  } else if (action.do === "breakList") collection.breakNextStreamedListAfter(action.after);
  else if (action.do === "garbage") collection.send(action.line);
  else if (action.do === "poison") collection.poison(action.line);
  else if (action.do === "repeat") collection.repeat(action.back);
  else if (action.do === "refuse") {
    collection.refuseNext(new KubeError("refused", { status: action.status, reason: "Refused" }));
  } else if (action.do !== "advance") faults[action.do](collection);
}

const faults = {
  bookmark: (collection: Collection) => collection.bookmark(),
  compact: (collection: Collection) => collection.compact(),
  gone: (collection: Collection) => collection.sendGone(),
  drop: (collection: Collection) => collection.dropStreams(),
  close: (collection: Collection) => collection.closeStreams(),
  hang: (collection: Collection) => collection.hangStreams(),
  hold: (collection: Collection) => collection.holdNextStreamedList(),
};

/** Replays changes and objects to any that contradicts the ones before it. */
function createJournal(collection: Collection) {
  const replayed = new Map<string, Kept>();
  const problems: string[] = [];
  function onChange(change: Change<Kept>): void {
    if (change.type === "replaced") return;
    const before = replayed.get(change.key);
    const claim = `${change.type} ${change.key} ${change.uid}`;
    if (change.type === "added" ? before !== undefined : before !== change.previous)
      problems.push(`${claim}: contradicts what came before`);
    if (change.type !== "added" && change.uid !== before?.uid) problems.push(`${claim}: crosses from ${before?.uid}`);
    if (change.type === "deleted") {
      if (collection.objects.get(change.key.slice(3))?.metadata.uid === change.uid)
        problems.push(`${claim}: still there`);
      replayed.delete(change.key);
      return;
    }
    if (change.value.uid !== change.uid) problems.push(`${claim}: value of ${change.value.uid}`);
    if (Number(change.value.version) <= Number(before?.uid === change.uid ? before.version : 0))
      problems.push(`${claim}: back in time`);
    replayed.set(change.key, change.value);
  }
  return { onChange, replayed, problems };
}

/** Unreadable objects keep what was last read of the same object, or are absent; everything else is as the server has it. */
function expectSame(items: ReadonlyMap<string, Kept>, collection: Collection): void {
  for (const [key, kept] of items) expect(collection.objects.get(key.slice(3))?.metadata.uid, key).toBe(kept.uid);
  for (const object of collection.objects.values()) {
    if (object.data === "unreadable") continue;
    expect(items.get(`ns/${object.metadata.name}`)).toEqual(project(object));
  }
}

async function runScript(commands: Command[], watchList: boolean, hold: boolean): Promise<void> {
  const timing = createVirtualTiming();
  const collection = createFakeCollection(timing, { watchList });
  const journal = createJournal(collection);
  const fatal: Error[] = [];
  const reflector = createReflector<FakeObject, Kept>({
    client: collection.client,
    path: "/api/v1/things",
    name: "things",
    project,
    onChange: journal.onChange,
    onError: (error, isFatal) => {
      if (isFatal) fatal.push(error);
    },
    timing,
  });
  for (const initial of ["a", "b", "c", "d", "e"]) collection.store(initial, "0");
  if (hold) collection.holdNextStreamedList();
  reflector.start();
  for (const action of commands) {
    carryOut(action, collection);
    if (action.do === "advance") await timing.advance(action.ms);
  }
  collection.heal();
  await timing.advance(200_000); // longer than the longest silence and back-off
  expect(fatal).toEqual([]);
  expect(journal.problems).toEqual([]);
  expect(reflector.synced).toBe(true);
  expect(collection.openStreams()).toBe(1);
  expectSame(reflector.items, collection);
  expect(new Map(reflector.items)).toEqual(journal.replayed);
  expect(reflector.stats().invalid).toBe(
    [...collection.objects.values()].filter((object) => object.data === "unreadable").length,
  );
  await reflector.stop();
  expect(collection.openStreams()).toBe(0);
}

describe("whatever the server and the network do, the reflector ends equal to the server and never contradicts itself", () => {
  for (const watchList of [true, false]) {
    it(watchList ? "with streamed lists" : "with pages", async () => {
      const script = fc.array(command, { maxLength: 40 });
      await fc.assert(
        fc.asyncProperty(script, fc.boolean(), (commands, hold) => runScript(commands, watchList, hold)),
        { numRuns: 2_000 },
      );
    });
  }
});
