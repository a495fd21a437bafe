import { describe, expect, test } from "vitest";
import { createFence } from "../../../src/extender/term.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

interface World {
  term?: { holder: string; epoch: number };
  /** Whose writes the policy lets through; undefined: it lets everybody write. */
  enforced?: string;
  /** Of which term; undefined: of any. */
  enforcedEpoch?: number;
  kindInstalled: boolean;
  /** Requests that are refused because there are too many. */
  refusing?: boolean;
  refused?: number;
}

/** An API server that knows PlannerTerms and their policy, and follows a new term after `lagMs`. */
function apiServer(world: World, timing: { nowMs(): number }, lagMs = 0): KubeClient {
  let follows: { holder: string; epoch: number; atMs: number } | undefined;
  const refuse = (status: number, reason: string, message: string): never => {
    throw new KubeError(message, { status, reason });
  };
  const enforced = (): string | undefined => {
    if (follows !== undefined && timing.nowMs() >= follows.atMs) {
      world.enforced = follows.holder;
      world.enforcedEpoch = follows.epoch;
    }
    return world.enforced;
  };
  return {
    async request(
      method: string,
      path: string,
      options: { body?: { spec: World["term"]; status?: { probe: string } }; query?: { fieldManager?: string } },
    ) {
      if (world.refusing) {
        world.refused = (world.refused ?? 0) + 1;
        return refuse(429, "TooManyRequests", "too many requests");
      }
      if (!world.kindInstalled) return refuse(404, "", "404 page not found");
      if (path.endsWith("/status")) {
        const holder = enforced();
        const { enforcedEpoch: epoch } = world;
        const isOfTerm = epoch === undefined || options.query?.fieldManager === `kllama-planner/${epoch}`;
        if (holder === undefined || (options.body?.status?.probe === holder && isOfTerm)) return {};
        return refuse(403, "Forbidden", "ValidatingAdmissionPolicy 'term.scheduling.kllama.ai' denied request");
      }
      if (method === "GET") {
        return world.term === undefined
          ? refuse(404, "NotFound", "not found")
          : { metadata: { name: "kllama-planner", resourceVersion: "1" }, spec: world.term };
      }
      if (method === "POST" && world.term !== undefined) return refuse(409, "AlreadyExists", "already exists");
      world.term = { ...(options.body?.spec ?? { holder: "", epoch: 0 }) };
      follows = { ...world.term, atMs: timing.nowMs() + lagMs };
      return {};
    },
  } as unknown as KubeClient;
}

function raise(
  world: World,
  lagMs?: number,
  policyFault?: () => Promise<string | undefined>,
  first = false,
  timing = createVirtualTiming(),
) {
  const client = apiServer(world, timing, lagMs);
  const warnings: string[] = [];
  const log = { info: () => undefined, warn: ({ trouble }: { trouble: string }) => warnings.push(trouble) };
  const fence = createFence({ client, holder: "me", log: log as never, timing, ...(policyFault && { policyFault }) });
  const startMs = timing.nowMs();
  const raised: { afterMs?: number } = {};
  const closing = new AbortController();
  const lease = { ours: true };
  void fence
    .raise(closing.signal, () => lease.ours, first)
    .then(() => {
      raised.afterMs = timing.nowMs() - startMs;
    });
  return { timing, fence, raised, warnings, closing, lease };
}

/** What the promise brings, as soon as it does. */
function heard(promise: Promise<string>): string[] {
  const all: string[] = [];
  void promise.then((text) => all.push(text));
  return all;
}

describe("the fence of a new leader", () => {
  test("stands two seconds after the API server follows the new term", async () => {
    const world: World = { term: { holder: "predecessor", epoch: 4 }, enforced: "predecessor", kindInstalled: true };
    const { timing, raised, fence } = raise(world, 450);
    await timing.advance(400);
    expect(fence.trouble()).toContain("does not know this term yet");
    await timing.advance(10_000);
    expect(world.term).toEqual({ holder: "me", epoch: 5 });
    expect(raised.afterMs).toBe(2_500);
    expect(fence.trouble()).toBeUndefined();
  });

  test("stands at once when it was ours before, in a term of its own", async () => {
    const world: World = { term: { holder: "me", epoch: 4 }, enforced: "me", kindInstalled: true };
    const { timing, raised } = raise(world);
    await timing.advance(0);
    expect(world.term).toEqual({ holder: "me", epoch: 5 });
    expect(raised.afterMs).toBe(0);
  });

  test.each([
    ["two seconds where somebody led before: the term may have been deleted", false, 2_000],
    ["not at all where nobody did", true, 0],
  ] as const)("without a term before waits %s", async (_who, first, afterMs) => {
    const { timing, raised } = raise({ kindInstalled: true }, 0, undefined, first);
    await timing.advance(10_000);
    expect(raised.afterMs).toBe(afterMs);
  });

  test("that was ours before stands once the API server refuses writes of the term before", async () => {
    const world: World = { term: { holder: "me", epoch: 4 }, enforced: "me", enforcedEpoch: 4, kindInstalled: true };
    const { timing, raised, fence } = raise(world, 450);
    await timing.advance(400);
    expect([fence.epoch(), fence.trouble()]).toEqual([5, expect.stringContaining("does not know this term yet")]);
    await timing.advance(200);
    expect([raised.afterMs, fence.trouble()]).toEqual([500, undefined]);
  });

  test("is not raised by who lost the Lease meanwhile: a term above the successor's would shut that one out", async () => {
    const successor = { holder: "successor", epoch: 5 };
    const world: World = { term: successor, enforced: "successor", kindInstalled: true };
    const { timing, fence, lease } = raise(world);
    lease.ours = false;
    await timing.advance(10_000);
    expect([world.term, fence.epoch()]).toEqual([successor, undefined]);
  });

  test("stands although somebody deletes the term before the API server follows it", async () => {
    const world: World = { term: { holder: "predecessor", epoch: 4 }, enforced: "predecessor", kindInstalled: true };
    const { timing, raised } = raise(world, 450);
    await timing.advance(200);
    delete world.term;
    await timing.advance(10_000);
    expect(world.term).toEqual({ holder: "me", epoch: 5 });
    expect(raised.afterMs).toBeLessThan(5_000);
  });

  test("waits for the kind and for the policy to be installed, and says which is missing", async () => {
    const world: World = { kindInstalled: false };
    const { timing, raised, fence, warnings } = raise(world, Number.POSITIVE_INFINITY);
    await timing.advance(3_000);
    expect(fence.trouble()).toContain("kind PlannerTerm is not installed: run kubectl apply");
    world.kindInstalled = true;
    await timing.advance(3_000);
    expect(fence.trouble()).toContain("lets everybody write: apply deploy/policies.yaml");
    expect(raised.afterMs).toBeUndefined();
    world.enforced = "me";
    await timing.advance(3_000);
    expect(fence.trouble()).toBeUndefined();
    expect(raised.afterMs).toBeDefined();
    expect(warnings.length).toBeLessThan(8);
  });

  test("asks once a second while the API server refuses to answer, and stands soon after", async () => {
    const world: World = { term: { holder: "me", epoch: 4 }, enforced: "another", kindInstalled: true };
    const { timing, raised } = raise(world, 500);
    await timing.advance(200);
    world.refusing = true;
    await timing.advance(20_000);
    expect(world.refused).toBeLessThanOrEqual(21);
    world.refusing = false;
    await timing.advance(1_500);
    expect(raised.afterMs).toBeDefined();
  });

  test("is probed every thirty seconds: a policy that goes is noticed, and its return within a second", async () => {
    const world: World = { term: { holder: "me", epoch: 1 }, enforced: "me", kindInstalled: true };
    const { timing, fence, warnings, closing } = raise(world, Number.POSITIVE_INFINITY);
    await timing.advance(10_000);
    delete world.enforced;
    expect(fence.trouble()).toBeUndefined();
    await timing.advance(30_000);
    expect(fence.trouble()).toContain("lets everybody write");
    expect(warnings).toHaveLength(1);
    world.enforced = "me";
    await timing.advance(1_000);
    expect(fence.trouble()).toBeUndefined();
    closing.abort();
  });

  test("does not stand while a policy is missing that no write of ours can try out", async () => {
    const world: World = { term: { holder: "me", epoch: 1 }, enforced: "me", kindInstalled: true };
    let fault: string | undefined = "policy account is gone";
    const { timing, fence, raised, closing } = raise(world, 0, async () => fault);
    await timing.advance(5_000);
    expect([raised.afterMs, fence.trouble()]).toEqual([undefined, fault]);
    fault = undefined;
    await timing.advance(3_000);
    expect([raised.afterMs !== undefined, fence.trouble()]).toEqual([true, undefined]);
    fault = "its binding is gone";
    await timing.advance(30_000);
    expect(fence.trouble()).toBe(fault);
    closing.abort();
  });

  test("is begun anew when somebody deletes the term, within half a minute, and by its leader alone", async () => {
    const world: World = { term: { holder: "me", epoch: 7 }, enforced: "me", kindInstalled: true };
    const { timing, fence, closing, lease } = raise(world);
    await timing.advance(10_000);
    delete world.term;
    delete world.enforced;
    lease.ours = false;
    await timing.advance(40_000);
    expect(fence.trouble()).toBe("there is no PlannerTerm kllama-planner");
    expect(world.term).toBeUndefined();
    lease.ours = true;
    await timing.advance(3_000);
    expect(world.term).toEqual({ holder: "me", epoch: 8 });
    expect(fence.trouble()).toBeUndefined();
    closing.abort();
  });

  test("is not begun anew over somebody else's term: it is taken, for good", async () => {
    const world: World = { term: { holder: "me", epoch: 7 }, enforced: "me", kindInstalled: true };
    const { timing, fence, closing } = raise(world);
    const taken = heard(fence.taken);
    await timing.advance(10_000);
    expect(taken).toEqual([]);
    world.term = { holder: "successor", epoch: 8 };
    await timing.advance(30_000);
    expect(taken).toEqual(["term 8 is held by successor"]);
    expect(fence.trouble()).toBe("term 8 is held by successor");
    expect(world.term).toEqual({ holder: "successor", epoch: 8 });
    closing.abort();
  });

  test("is taken, too, where another process of our own pod begins a term, or somebody does before ours is followed", async () => {
    const world: World = { term: { holder: "me", epoch: 7 }, enforced: "me", kindInstalled: true };
    const restarted = raise(world);
    const taken = heard(restarted.fence.taken);
    await restarted.timing.advance(10_000);
    world.term = { holder: "me", epoch: 9 };
    await restarted.timing.advance(30_000);
    expect(taken).toEqual(["term 9 of me is another process's"]);
    restarted.closing.abort();

    const begun: World = { term: { holder: "other", epoch: 4 }, enforced: "other", kindInstalled: true };
    const { timing, fence, closing } = raise(begun, Number.POSITIVE_INFINITY);
    const takenSoon = heard(fence.taken);
    await timing.advance(200);
    expect(begun.term).toEqual({ holder: "me", epoch: 5 });
    begun.term = { holder: "other", epoch: 6 };
    await timing.advance(200);
    expect(takenSoon).toEqual(["term 6 is held by other"]);
    closing.abort();
  });

  test("has a number of its own where somebody deleted the term: what our last process sent is of none that comes", async () => {
    const world: World = { kindInstalled: true };
    const timing = createVirtualTiming();
    const life = async (): Promise<number | undefined> => {
      const { fence, closing } = raise(world, 0, undefined, false, timing);
      await timing.advance(1);
      closing.abort();
      return fence.epoch();
    };
    const [first, second] = [await life(), await life()];
    expect(second).toBe((first ?? 0) + 1);
    delete world.term;
    await timing.advance(1_000);
    expect(await life()).toBeGreaterThan(second ?? 0);
  });
});
