import { describe, expect, it } from "vitest";
import { KubeError } from "../../../src/kube/client.ts";
import {
  type Change,
  createReflector,
  type InvalidObject,
  promptPauseMs,
  type ReflectorOptions,
} from "../../../src/kube/reflector.ts";
import { createFakeCollection, type FakeObject } from "../../support/fake-collection.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

function setup(options: Partial<ReflectorOptions<FakeObject, string>> & { watchList?: boolean } = {}) {
  const { watchList = true, ...rest } = options;
  const timing = createVirtualTiming();
  const collection = createFakeCollection(timing, { watchList });
  const changes: Change<string>[] = [];
  const errors: string[] = [];
  const invalid: InvalidObject[] = [];
  const reflector = createReflector<FakeObject, string>({
    client: collection.client,
    path: "/api/v1/things",
    name: "things",
    project: (raw) => {
      if (raw.data === "unreadable") throw new Error(`cannot read ${raw.metadata.name}`);
      return raw.data;
    },
    onChange: (change) => changes.push(change),
    onInvalid: (object) => invalid.push(object),
    onError: (error, fatal) => errors.push(fatal ? `fatal: ${error.message}` : error.message),
    timing,
    ...rest,
  });
  /** What changed since the last call, as words. */
  function news(): string[] {
    return changes
      .splice(0)
      .map((change) => (change.type === "replaced" ? "replaced" : `${change.type} ${change.key} ${change.uid}`));
  }
  return { timing, collection, reflector, changes, errors, invalid, news };
}

describe("reflector", () => {
  it.each([true, false])("lists, then follows; streamed lists: %s", async (watchList) => {
    const { timing, collection, reflector, news } = setup({ watchList });
    for (const name of ["a", "b", "c", "d"]) collection.store(name, "1");
    reflector.start();
    const synced = reflector.waitForSync();
    expect([reflector.synced, reflector.staleMs()]).toEqual([false, Infinity]);
    await timing.advance(100);
    await synced;
    expect(news()).toEqual([
      "added ns/a uid-1",
      "added ns/b uid-2",
      "added ns/c uid-3",
      "added ns/d uid-4",
      "replaced",
    ]);
    collection.store("a", "2");
    collection.remove("b");
    await timing.settle();
    expect(news()).toEqual(["updated ns/a uid-1", "deleted ns/b uid-2"]);
    expect([reflector.items.get("ns/a"), reflector.resourceVersion]).toEqual(["2", "16"]);
    expect(collection.requests).toEqual(
      watchList ? { list: 0, page: 0, streamedList: 1, watch: 0 } : { list: 1, page: 1, streamedList: 0, watch: 1 },
    );
  });

  it("resumes after a lost connection without a list, and sees what happened meanwhile", async () => {
    const { timing, collection, reflector, news, errors } = setup();
    collection.store("a", "1");
    reflector.start();
    await timing.advance(10_000);
    news();
    collection.dropStreams();
    collection.remove("a");
    collection.store("a", "1");
    await timing.advance(1_000);
    expect(news()).toEqual(["deleted ns/a uid-1", "added ns/a uid-2"]);
    expect(collection.requests).toMatchObject({ streamedList: 1, watch: 1 });
    expect(errors).toEqual(["connection reset"]);
  });

  it.each(["status", "stream"])("lists again on 410 as %s and tells differences only, deletions first", async (how) => {
    const { timing, collection, reflector, news } = setup();
    for (const name of ["same", "changed", "gone", "again"]) collection.store(name, "1");
    reflector.start();
    await timing.advance(10_000);
    news();
    if (how === "status") collection.dropStreams();
    else collection.hangStreams(); // changes below are missed
    collection.store("changed", "2");
    collection.remove("gone");
    collection.remove("again");
    collection.store("new", "1");
    collection.store("again", "1");
    collection.compact();
    await timing.advance(how === "status" ? 2_000 : 152_000);
    expect(news()).toEqual([
      "deleted ns/gone uid-3",
      "deleted ns/again uid-4",
      "updated ns/changed uid-2",
      "added ns/new uid-5",
      "added ns/again uid-6",
      "replaced",
    ]);
    expect(reflector.stats()).toMatchObject({ gone: 1, lists: 2 });
  });

  it("reads a list in pages whose stream the server ends because its cache is behind, and streams the next one again", async () => {
    const { timing, collection, reflector, news, errors } = setup();
    collection.store("a", "1");
    collection.holdNextStreamedList();
    reflector.start();
    await timing.advance(3_000);
    const message = "Timeout: Too large resource version: 11, current: 10";
    const causes = [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }];
    const object = { kind: "Status", code: 504, reason: "Timeout", message, details: { causes } };
    collection.send(JSON.stringify({ type: "ERROR", object }));
    await timing.advance(1_000);
    expect(news()).toEqual(["added ns/a uid-1", "replaced"]);
    expect(errors).toEqual([message]);
    expect(collection.requests).toEqual({ list: 1, page: 0, streamedList: 1, watch: 1 });
    collection.sendGone();
    await timing.advance(5_000);
    expect(collection.requests).toEqual({ list: 1, page: 0, streamedList: 2, watch: 1 });
  });

  it("lists anew when asked, however dead its watch is, and tells the differences", async () => {
    const { timing, collection, reflector, news } = setup();
    collection.store("a", "1");
    reflector.start();
    await timing.advance(10_000);
    news();
    collection.hangStreams(); // what follows is missed
    collection.store("a", "2");
    collection.store("b", "1");
    await timing.advance(1_000);
    expect(news()).toEqual([]);
    const fresh = reflector.refresh();
    await timing.advance(100);
    await fresh;
    expect(news()).toEqual(["updated ns/a uid-1", "added ns/b uid-2", "replaced"]);
    collection.store("b", "2");
    await timing.settle();
    expect(news()).toEqual(["updated ns/b uid-2"]);
  });

  it("lists anew at once while it pauses after failures", async () => {
    const { timing, collection, reflector } = setup();
    for (let failure = 0; failure < 6; failure++) {
      collection.refuseNext(new KubeError("refused", { status: 500, reason: "Refused" }));
    }
    reflector.start();
    await timing.advance(30_000);
    collection.heal();
    const fresh = reflector.refresh();
    await timing.advance(100);
    await fresh;
    expect(reflector.synced).toBe(true);
  });

  it("gives up a list that was asked for when it is stopped", async () => {
    const { timing, reflector } = setup();
    reflector.start();
    const fresh = reflector.refresh();
    const outcome = fresh.catch((error: Error) => error.message);
    await reflector.stop();
    await timing.settle();
    expect(await outcome).toBe("reflector things was stopped");
    await expect(reflector.refresh()).rejects.toThrow("reflector things was stopped");
  });

  it("notices a half-open connection by its silence, and staleness tells", async () => {
    const { timing, collection, reflector } = setup();
    reflector.start();
    await timing.advance(60_000);
    collection.bookmark();
    await timing.advance(30_000);
    expect(reflector.staleMs()).toBe(30_000);
    collection.hangStreams();
    collection.store("a", "1");
    await timing.advance(119_000);
    expect([reflector.items.size, reflector.staleMs()]).toEqual([0, 149_000]);
    await timing.advance(3_000);
    expect([reflector.items.size, reflector.staleMs() < 3_000]).toEqual([1, true]);
  });

  it("backs off with jitter up to 30 s, keeps to Retry-After, and begins anew after success", async () => {
    const { timing, collection, reflector, errors } = setup();
    reflector.start();
    await timing.advance(10_000);
    const waits: number[] = [];
    for (let refusal = 0; refusal < 8; refusal += 1)
      collection.refuseNext(new KubeError("no", { status: 503, reason: "" }));
    collection.dropStreams();
    let sinceMs = 0;
    for (; waits.length < 8; sinceMs += 10) {
      const before = errors.length;
      await timing.advance(10);
      if (errors.length > before) waits.push(sinceMs);
    }
    const steps = waits.map((at, index) => at - (waits[index - 1] ?? 0));
    for (const [index, least] of [400, 800, 1_600, 3_200, 6_400, 12_800, 15_000].entries()) {
      expect(steps[index + 1]).toBeGreaterThanOrEqual(least);
      expect(steps[index + 1]).toBeLessThanOrEqual(2 * least + 20);
    }
    await timing.advance(60_000);
    collection.bookmark();
    await timing.advance(6_000);
    collection.refuseNext(new KubeError("slow down", { status: 429, reason: "", retryAfterMs: 20_000 }));
    collection.closeStreams();
    await timing.advance(19_900);
    expect(collection.openStreams()).toBe(0);
    await timing.advance(1_000);
    expect(collection.openStreams()).toBe(1);
  });

  it.each([503, 429])(
    "is back within five seconds after an outage of any length (%i), and lists nothing",
    async (status) => {
      const { timing, collection, reflector, errors, news } = setup({ longestPauseMs: promptPauseMs });
      reflector.start();
      await timing.advance(1_000);
      for (let outage = 1; outage <= 20; outage += 1) {
        const lists = collection.requests.streamedList;
        const before = errors.length;
        const refusal = new KubeError("no", { status, reason: "", ...(status === 429 ? { retryAfterMs: 1_000 } : {}) });
        for (let refusals = 0; refusals < 1_000; refusals += 1) collection.refuseNext(refusal);
        collection.dropStreams();
        await timing.advance(outage * 3_000);
        // At most one try a second while it is told to wait as long.
        expect(errors.length - before).toBeLessThanOrEqual(outage * 3 + 2);
        collection.heal();
        collection.store("a", `${outage}`);
        await timing.advance(4_000);
        expect(reflector.items.get("ns/a")).toBe(`${outage}`);
        expect(collection.requests.streamedList).toBe(lists);
        await timing.advance(10_000 * (outage % 2));
      }
      expect(news().filter((change) => change === "replaced")).toHaveLength(1);
    },
  );

  it("reconnects soon after an orderly close, but not in a hot loop", async () => {
    const { timing, collection, reflector } = setup();
    reflector.start();
    await timing.advance(100_000);
    collection.bookmark();
    collection.closeStreams();
    await timing.advance(100);
    expect(collection.openStreams()).toBe(1);
    for (let ms = 0; ms < 10_000; ms += 10) {
      collection.bookmark();
      collection.closeStreams(); // a server that ends every watch at once
      await timing.advance(10);
    }
    expect(collection.requests.watch).toBeLessThan(25);
  });

  it("skips and reports once what it cannot read, keeping the last readable record of the same object", async () => {
    const { timing, collection, reflector, news, invalid } = setup();
    collection.store("a", "1");
    collection.store("b", "unreadable");
    reflector.start();
    await timing.advance(10);
    collection.store("b", "unreadable");
    collection.store("a", "unreadable");
    await timing.settle();
    expect([...reflector.items]).toEqual([["ns/a", "1"]]);
    expect(invalid.map(({ key, uid, error }) => [key, uid, (error as Error).message])).toEqual([
      ["ns/b", "uid-2", "cannot read b"],
      ["ns/a", "uid-1", "cannot read a"],
    ]);
    expect(reflector.stats().invalid).toBe(2);
    news();
    collection.store("a", "3");
    collection.remove("b");
    await timing.settle();
    expect([news(), reflector.stats().invalid]).toEqual([["updated ns/a uid-1"], 0]);
  });

  it("forgets an unreadable object that is deleted while the list is still open", async () => {
    const { timing, collection, reflector } = setup();
    collection.holdNextStreamedList();
    reflector.start();
    collection.store("a", "unreadable");
    collection.remove("a");
    await timing.settle();
    collection.bookmark();
    await timing.settle();
    expect([reflector.synced, reflector.stats().invalid]).toEqual([true, 0]);
  });

  it("stops for good when a handler throws, and says so", async () => {
    const { timing, collection, reflector, errors } = setup({
      onChange: (change) => {
        if (change.type === "updated") throw new Error("defect");
      },
    });
    collection.store("a", "1");
    reflector.start();
    await timing.advance(10);
    expect(reflector.synced).toBe(true);
    collection.store("a", "2");
    await timing.advance(100_000);
    expect(errors).toEqual(["fatal: reflector things: a callback threw: defect"]);
    expect([reflector.synced, collection.openStreams()]).toEqual([false, 0]);
    await reflector.stop();
  });

  it("rejects those who wait for it when it fails or stops, and those whose signal aborts", async () => {
    const failing = setup({
      onChange: () => {
        throw new Error("defect");
      },
    });
    failing.reflector.start();
    await expect(failing.reflector.waitForSync()).rejects.toThrow("defect");
    const { reflector, collection } = setup();
    collection.holdNextStreamedList();
    reflector.start();
    await expect(reflector.waitForSync(AbortSignal.timeout(5))).rejects.toThrow(/time/);
    const waiting = expect(reflector.waitForSync()).rejects.toThrow("reflector things was stopped");
    await reflector.stop();
    await waiting;
    expect(() => reflector.start()).toThrow("already started");
  });

  it("asks for watches of 5 to 10 minutes, with its selectors", async () => {
    const { timing, collection } = setup();
    const queries: unknown[] = [];
    const { client } = collection;
    const spy = {
      ...client,
      lines: (path: string, options: Parameters<typeof client.lines>[1]) => {
        queries.push(options.query);
        return client.lines(path, options);
      },
    };
    const reflector = createReflector<FakeObject, string>({
      client: spy,
      path: "/p",
      query: { labelSelector: "a=b", fieldSelector: "spec.nodeName=n" },
      name: "pods",
      project: ({ data }) => data,
      onChange: () => {},
      onError: () => {},
      timing,
    });
    reflector.start();
    await timing.advance(10_000);
    collection.closeStreams();
    await timing.advance(1_000);
    const common = { labelSelector: "a=b", fieldSelector: "spec.nodeName=n", watch: true, allowWatchBookmarks: true };
    expect(queries).toEqual([
      { ...common, timeoutSeconds: expect.any(Number), sendInitialEvents: true, resourceVersionMatch: "NotOlderThan" },
      { ...common, timeoutSeconds: expect.any(Number), resourceVersion: "10" },
    ]);
    const seconds = (queries as { timeoutSeconds: number }[]).map((query) => query.timeoutSeconds);
    for (const timeout of seconds) expect(timeout >= 300 && timeout <= 600).toBe(true);
    expect(seconds[0]).not.toBe(seconds[1]);
  });
});
