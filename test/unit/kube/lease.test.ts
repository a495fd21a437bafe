import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type KubeClient, KubeError, type RequestOptions } from "../../../src/kube/client.ts";
import { createElector, type Elector, type ElectorOptions } from "../../../src/kube/lease.ts";
import type { Timing } from "../../../src/kube/timing.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

interface StoredLease {
  metadata: { name: string; resourceVersion: string };
  spec: { holderIdentity: string; leaseDurationSeconds: number; leaseTransitions: number; renewTime: string };
}

const leasePath = "/apis/coordination.k8s.io/v1/namespaces/kllama/leases/planner";

/** One Lease with the API server's rules: create once, update only with the current resourceVersion. */
function createLeaseServer() {
  let lease: StoredLease | undefined;
  let version = 0;
  const writes: string[] = [];
  /** Methods of all requests but creates. */
  const calls: string[] = [];

  function store(body: unknown): StoredLease {
    version += 1;
    lease = structuredClone(body) as StoredLease;
    lease.metadata.resourceVersion = `${version}`;
    writes.push(lease.spec.holderIdentity);
    return structuredClone(lease);
  }

  function answer(method: string, path: string, { body }: RequestOptions): StoredLease {
    if (method === "POST") {
      expect(path).toBe(leasePath.slice(0, leasePath.lastIndexOf("/")));
      if (lease !== undefined) throw new KubeError("exists", { status: 409, reason: "AlreadyExists" });
      return store(body);
    }
    expect(path).toBe(leasePath);
    calls.push(method);
    if (lease === undefined) throw new KubeError("not found", { status: 404, reason: "NotFound" });
    if (method === "GET") return structuredClone(lease);
    const sent = (body as StoredLease).metadata.resourceVersion;
    if (sent !== lease.metadata.resourceVersion) throw new KubeError("conflict", { status: 409, reason: "Conflict" });
    return store(body);
  }

  /** A client with faults of its own: cut off, answering late, or losing answers after the write took effect. */
  function client(timing: Timing) {
    const faults = { cutOff: false, hang: false, loseAnswers: false, delayMs: 0 };
    const request = async (method: string, path: string, options: RequestOptions = {}): Promise<unknown> => {
      const never = new AbortController();
      if (faults.cutOff) throw new KubeError("no route", { status: 0, reason: "Unreachable" });
      if (faults.hang) await timing.sleep(Infinity, options.signal ?? never.signal);
      if (faults.delayMs > 0) await timing.sleep(faults.delayMs, options.signal ?? never.signal);
      if (options.signal?.aborted) throw options.signal.reason;
      const result = answer(method, path, options);
      if (faults.loseAnswers && method !== "GET") throw new KubeError("reset", { status: 0, reason: "Unreachable" });
      return result;
    };
    return { faults, client: { request } as unknown as KubeClient };
  }

  return {
    client,
    writes,
    calls,
    lease: () => lease,
    remove: () => {
      lease = undefined;
    },
    /** As another client writes it. */
    put: (spec: Partial<StoredLease["spec"]>) => {
      const before = lease?.spec ?? {};
      store({ metadata: { name: "planner" }, spec: { holderIdentity: "x", leaseTransitions: 4, ...before, ...spec } });
    },
    /** Somebody edits the object without touching the spec. */
    touch: () => {
      version += 1;
      if (lease !== undefined) lease.metadata.resourceVersion = `${version}`;
    },
  };
}

type Server = ReturnType<typeof createLeaseServer>;

function candidate(server: Server, timing: Timing, identity: string, options: Partial<ElectorOptions> = {}) {
  const { client, faults } = server.client(timing);
  const log: string[] = [];
  const elector = createElector({
    client,
    namespace: "kllama",
    name: "planner",
    identity,
    onStartedLeading: (epoch) => log.push(`started ${epoch}`),
    onStoppedLeading: (reason) => log.push(reason),
    timing,
    ...options,
  });
  return { elector, faults, log };
}

function leaders(...electors: { elector: Elector }[]): number {
  return electors.filter(({ elector }) => elector.isLeader()).length;
}

describe("elector", () => {
  it("creates the Lease, leads with epoch 0, and renews every 2 s", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(0);
    expect(a.log).toEqual(["started 0"]);
    expect(server.lease()?.spec).toMatchObject({ holderIdentity: "a", leaseDurationSeconds: 15, leaseTransitions: 0 });
    expect(server.lease()?.spec.renewTime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    await timing.advance(60_000);
    expect(server.writes).toHaveLength(31);
    expect(a.elector.isLeader()).toBe(true);
  });

  it("lets only one lead, and the next only after the Lease stood still for its duration", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    const b = candidate(server, timing, "b");
    a.elector.start();
    await timing.advance(0);
    b.elector.start();
    await timing.advance(30_000);
    expect([leaders(a), leaders(b), b.elector.leader()]).toEqual([1, 0, "a"]);
    a.faults.cutOff = true;
    for (let second = 0; second < 40; second += 1) {
      await timing.advance(1_000);
      expect(leaders(a, b)).toBeLessThanOrEqual(1);
      if (second === 10) expect([a.log, leaders(a, b)]).toEqual([["started 0", "lost"], 0]);
      if (second === 12) expect(leaders(b)).toBe(0);
    }
    expect(b.log).toEqual(["started 1"]);
  });

  it.each([3_600_000, -3_600_000])("is not moved by a wall clock that steps %d ms", async (stepMs) => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    const b = candidate(server, timing, "b");
    a.elector.start();
    await timing.advance(0);
    b.elector.start();
    for (let round = 0; round < 20; round += 1) {
      timing.stepWallClock(round % 3 === 0 ? stepMs : -stepMs);
      await timing.advance(1_700);
    }
    expect([a.log, b.log]).toEqual([["started 0"], []]);
  });

  it("stops leading at its deadline when renewals hang, before anybody else can lead", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(20_000);
    a.faults.hang = true;
    await timing.advance(9_900);
    expect(a.elector.isLeader()).toBe(true);
    await timing.advance(100);
    expect([a.elector.isLeader(), a.log]).toEqual([false, ["started 0", "lost"]]);
  });

  it("counts the time of a renewal from when it was sent", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(1_000);
    a.faults.delayMs = 6_000;
    await timing.advance(7_000); // sent at 2,000, answered at 8,000
    a.faults.cutOff = true;
    await timing.advance(3_900);
    expect(a.elector.isLeader()).toBe(true);
    await timing.advance(200);
    expect(a.elector.isLeader()).toBe(false);
  });

  it("survives lost answers and foreign edits: it reads again and goes on", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(1_000);
    a.faults.loseAnswers = true;
    await timing.advance(4_000);
    a.faults.loseAnswers = false;
    await timing.advance(20_000);
    server.touch();
    await timing.advance(20_000);
    expect([a.log, a.elector.isLeader()]).toEqual([["started 0"], true]);
  });

  it("releases at once: the next leads within a retry period, with a higher epoch", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    const b = candidate(server, timing, "b");
    a.elector.start();
    await timing.advance(0);
    b.elector.start();
    await timing.advance(5_000);
    const released = a.elector.release();
    await timing.settle();
    await released;
    expect([a.log, server.lease()?.spec.holderIdentity]).toEqual([["started 0", "released"], ""]);
    await timing.advance(2_000);
    expect([b.log, leaders(a, b)]).toEqual([["started 1"], 1]);
    await timing.advance(60_000);
    expect(server.writes.filter((holder) => holder === "a")).toHaveLength(3);
  });

  it("releases a Lease that it acquired while being stopped", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.faults.delayMs = 100;
    a.elector.start();
    await timing.advance(150); // the create is under way
    const released = a.elector.release();
    await timing.advance(1_000);
    await released;
    expect([a.log, server.lease()?.spec.holderIdentity]).toEqual([[], ""]);
  });

  it("does not overwrite a successor when it releases late", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const errors: unknown[] = [];
    const a = candidate(server, timing, "a", { onError: (error) => errors.push(error) });
    const b = candidate(server, timing, "b");
    a.elector.start();
    await timing.advance(0);
    b.elector.start();
    a.faults.cutOff = true;
    await timing.advance(60_000);
    a.faults.cutOff = false;
    await a.elector.release();
    expect([a.log, b.elector.isLeader(), server.lease()?.spec.holderIdentity]).toEqual([
      ["started 0", "lost"],
      true,
      "b",
    ]);
    expect(errors.at(-1)).toMatchObject({ status: 409 });
  });

  it("loses when the Lease is deleted and taken by another", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(3_000);
    server.remove();
    await timing.advance(2_000);
    expect([a.log, a.elector.isLeader()]).toEqual([["started 0", "lost"], false]);
  });

  it("is moved by no step of any wall clock: the leader stays, and after its death the next waits as long as ever", async () => {
    const hourMs = 3_600_000;
    const move = fc.record({
      afterMs: fc.integer({ min: 0, max: 5_000 }),
      who: fc.nat(1),
      byMs: fc.constantFrom(-hourMs, hourMs),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(move, { minLength: 1, maxLength: 20 }), async (moves) => {
        const timing = createVirtualTiming();
        const server = createLeaseServer();
        const offsetsMs = [0, 0];
        const [a, b] = [0, 1].map((who) => {
          const wallClock = (): Date => new Date(timing.wallClock().getTime() + offsetsMs[who]!);
          return candidate(server, { ...timing, wallClock }, "ab"[who]!);
        }) as [ReturnType<typeof candidate>, ReturnType<typeof candidate>];
        a.elector.start();
        await timing.advance(0);
        b.elector.start();
        for (const { afterMs, who, byMs } of moves) {
          await timing.advance(afterMs);
          offsetsMs[who]! += byMs;
          expect([leaders(a), leaders(b)]).toEqual([1, 0]);
        }
        await timing.advance(3_000);
        expect([a.log, b.log, server.lease()?.spec.leaseTransitions]).toEqual([["started 0"], [], 0]);
        a.faults.cutOff = true;
        offsetsMs[1]! += hourMs;
        await timing.advance(12_000);
        expect(b.log).toEqual([]);
        await timing.advance(8_000);
        expect([a.log, b.log]).toEqual([["started 0", "lost"], ["started 1"]]);
        await Promise.all([a.elector.release(), b.elector.release()]);
      }),
      { numRuns: 30 },
    );
  });

  it("tells of every new holder once", async () => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const seen: string[] = [];
    const a = candidate(server, timing, "a");
    const b = candidate(server, timing, "b", { onLeaderChanged: (identity) => seen.push(identity) });
    a.elector.start();
    await timing.advance(0);
    b.elector.start();
    await timing.advance(10_000);
    const released = a.elector.release();
    await timing.settle();
    await released;
    await timing.advance(10_000);
    expect(seen.filter((identity) => identity !== "")).toEqual(["a", "b"]);
  });

  it.each([
    { leaseDurationMs: 10_000, renewDeadlineMs: 10_000 },
    { renewDeadlineMs: 2_000 },
    { renewDeadlineMs: 2_400 },
    { leaseDurationMs: 15_500 },
    { retryPeriodMs: 0 },
  ])("refuses times that cannot work: %o", (times) => {
    const timing = createVirtualTiming();
    expect(() => candidate(createLeaseServer(), timing, "a", times)).toThrow(/elector planner: .*(need|must)/);
  });
});

/** A candidate `b` that meets a Lease of somebody else's; how long until it leads, when `happens` is called every second. */
async function takenAfterMs(spec: object, happens: (server: Server, second: number) => void = () => undefined) {
  const timing = createVirtualTiming();
  const server = createLeaseServer();
  server.put({ leaseDurationSeconds: 15, ...spec });
  const b = candidate(server, timing, "b");
  b.elector.start();
  const startMs = timing.nowMs();
  for (let second = 1; second <= 60 && b.log.length === 0; second += 1) {
    await timing.advance(1_000);
    happens(server, second);
  }
  return timing.nowMs() - startMs;
}

/** Seconds that a candidate may wait: for that long, and then for its next try. */
const around = (seconds: number) => [seconds * 1000, (seconds + 3) * 1000] as const;

describe("client-go's rules: somebody else's Lease is taken", () => {
  const renews = (server: Server): void => server.put({ renewTime: String(server.writes.length) });
  const rows: [string, object, readonly [number, number], ((server: Server, second: number) => void)?][] = [
    ["when it stood still for its duration since it was first seen", {}, around(15)],
    ["as late although its time says that it ended long ago", { renewTime: "1970-01-01T00:00:00.000000Z" }, around(15)],
    [
      "as soon although its time says that it is renewed next year",
      { renewTime: "2099-01-01T00:00:00.000000Z" },
      around(15),
    ],
    ["after the duration that its holder wrote, not one's own", { leaseDurationSeconds: 4 }, around(4)],
    ["at once when its holder gave it up", { holderIdentity: "" }, around(0)],
    ["at once when it names no duration", { leaseDurationSeconds: undefined }, around(0)],
    ["at once by who comes back under the name that holds it", { holderIdentity: "b" }, around(0)],
    ["later for every renewal that is seen", {}, around(25), (server, second) => second === 10 && renews(server)],
    ["no later for edits that leave its spec as it was (a label)", {}, around(15), (server) => server.touch()],
    ["never while it is renewed", {}, [60_000, 60_000], (server, second) => second % 5 === 0 && renews(server)],
  ];
  it.each(rows)("%s", async (_, spec, [fromMs, toMs], happens) => {
    const tookMs = await takenAfterMs(spec, happens);
    expect(tookMs).toBeGreaterThanOrEqual(Math.min(fromMs, 60_000));
    expect(tookMs).toBeLessThanOrEqual(toMs);
  });

  it.each([
    ["x", 5],
    ["", 5],
    ["b", 4],
  ])("from %j: leaseTransitions is then %d", async (holderIdentity, leaseTransitions) => {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    server.put({ holderIdentity, leaseDurationSeconds: 1 });
    const b = candidate(server, timing, "b");
    b.elector.start();
    await timing.advance(10_000);
    expect([b.log, server.lease()?.spec.leaseTransitions]).toEqual([[`started ${leaseTransitions}`], leaseTransitions]);
  });
});

describe("client-go's rules: who leads", () => {
  async function leading() {
    const timing = createVirtualTiming();
    const server = createLeaseServer();
    const a = candidate(server, timing, "a");
    a.elector.start();
    await timing.advance(1_000);
    server.calls.length = 0;
    return { timing, server, a };
  }

  it("renews with the version that it saw last, and reads nothing", async () => {
    const { timing, server } = await leading();
    await timing.advance(8_000);
    expect(server.calls).toEqual(["PUT", "PUT", "PUT", "PUT"]);
  });

  it("reads again after a conflict, and renews with what it read", async () => {
    const { timing, server, a } = await leading();
    server.touch();
    await timing.advance(2_000);
    expect([server.calls, a.elector.isLeader()]).toEqual([["PUT", "GET", "PUT"], true]);
  });

  it("has one deadline for all tries of a renewal, ten seconds after the last that succeeded was sent", async () => {
    const { timing, server, a } = await leading();
    await timing.advance(1_500);
    a.faults.cutOff = true;
    for (let tries = 0; tries < 4; tries += 1) {
      await timing.advance(1_900);
      expect(a.elector.isLeader()).toBe(true);
    }
    await timing.advance(2_500);
    expect([a.elector.isLeader(), a.log, server.writes]).toEqual([false, ["started 0", "lost"], ["a", "a"]]);
  });

  it("never comes back once it lost, whatever the Lease says later", async () => {
    const { timing, server, a } = await leading();
    a.faults.cutOff = true;
    await timing.advance(12_000);
    a.faults.cutOff = false;
    server.put({ holderIdentity: "" });
    server.calls.length = 0;
    await timing.advance(60_000);
    expect([a.log, a.elector.isLeader(), server.calls]).toEqual([["started 0", "lost"], false, []]);
  });

  it("loses to another name at once", async () => {
    const { timing, server, a } = await leading();
    server.put({ holderIdentity: "x" });
    await timing.advance(2_000);
    expect(a.log).toEqual(["started 0", "lost"]);
  });

  it("gives up by an empty holder for one second, after it said that it stopped; transitions stay", async () => {
    const { timing, server, a } = await leading();
    const released = a.elector.release();
    await timing.settle();
    await released;
    expect(a.log).toEqual(["started 0", "released"]);
    expect(server.lease()?.spec).toMatchObject({ holderIdentity: "", leaseDurationSeconds: 1, leaseTransitions: 0 });
    expect(server.writes.at(-1)).toBe("");
  });
});
