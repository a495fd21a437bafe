import { afterEach, describe, expect, test, vi } from "vitest";
import type { Gang } from "../../src/api/gang.ts";
import type { KubeClient, RequestOptions } from "../../src/kube/client.ts";
import type * as Model from "../../src/topology/model.ts";
import { invariants } from "../simulation/invariants.ts";
import { type RunOptions, runSeed } from "../simulation/world.ts";

/**
 * Does the net hold? One part of the mechanism is taken out at a time, in the tests alone: by a client that changes what
 * the planner sends, or by a model that forgets. Some world among few must notice.
 */
const patience = 100;

type Method = Parameters<KubeClient["request"]>[0];

const mutation = vi.hoisted(() => ({ withoutHolds: false }));
vi.mock("../../src/topology/model.ts", async (original) => {
  const model = await original<typeof Model>();
  const createClusterModel: typeof model.createClusterModel = (options) => {
    const created = model.createClusterModel(options);
    // Its other properties are getters: a copy would keep their first values.
    if (mutation.withoutHolds) created.hold = () => undefined;
    return created;
  };
  return { ...model, createClusterModel };
});

afterEach(() => {
  mutation.withoutHolds = false;
});

/** @returns the first seed whose world says that this is broken. */
async function seedThatBreaks(invariant: string, more: Omit<RunOptions, "seed"> = {}): Promise<number | undefined> {
  for (let seed = 1; seed <= patience; seed++) {
    const { violation } = await runSeed({ seed, ...more });
    if (violation?.invariant === invariant) return seed;
  }
  return undefined;
}

const isGangStatus = (path: string): boolean => /\/gangs\/[^/]+\/status$/.test(path);
const isClaimStatus = (path: string): boolean => /\/resourceclaims\/[^/]+\/status$/.test(path);

describe("the simulation notices", () => {
  test("a commit that is no compare-and-swap", async () => {
    const lastWriteWins = (client: KubeClient): KubeClient => ({
      ...client,
      request: <T>(method: Method, path: string, options: RequestOptions = {}) => {
        if (method !== "PUT" || !isGangStatus(path)) return client.request<T>(method, path, options);
        const { status } = options.body as { status: unknown };
        return client.request<T>("PATCH", path, { ...options, body: { status } });
      },
    });
    const isCommit = ({ body }: { body?: unknown }) => (body as Partial<Gang>)?.status?.phase === "Binding";
    expect(await seedThatBreaks(invariants.current, { tamper: lastWriteWins, overtakes: isCommit })).toBeDefined();
  });

  test("devices that are not held between plan and reservation", async () => {
    mutation.withoutHolds = true;
    expect(await seedThatBreaks(invariants.oneHolder)).toBeDefined();
  });

  test("a guard that is removed without the allocation it guards", async () => {
    const guardAlone = (client: KubeClient): KubeClient => ({
      ...client,
      request: <T>(method: Method, path: string, options: RequestOptions = {}) => {
        const { status, ...body } = (options.body ?? {}) as { status?: { allocation?: unknown } };
        if (!isClaimStatus(path) || status?.allocation !== null) return client.request<T>(method, path, options);
        const { allocation: _, ...rest } = status;
        return client.request<T>(method, path, { ...options, body: { ...body, status: rest } });
      },
    });
    expect(await seedThatBreaks(invariants.leak, { tamper: guardAlone })).toBeDefined();
  });
});
