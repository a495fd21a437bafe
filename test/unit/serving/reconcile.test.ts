import { describe, expect, test } from "vitest";
import type { KubernetesObject } from "../../../src/api/kubernetes.ts";
import type { LLMClusterStatus } from "../../../src/api/llm-cluster.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { systemTiming } from "../../../src/kube/timing.ts";
import { ownedKinds } from "../../../src/serving/owned.ts";
import { createReconciler } from "../../../src/serving/reconcile.ts";
import { happenings } from "../../../src/serving/status.ts";
import { isOlder } from "../../../src/serving/versions.ts";
import type { Watched } from "../../../src/serving/watch.ts";
import { llmCluster } from "./builders.ts";

const key = "serving/llama-3-70b-a";

/** An API server that takes everything and a watch that shows what `show` puts into it, and nothing else. */
function world(refusal?: () => Error | undefined) {
  const collection = <T>(items = new Map<string, T>()) => ({ items });
  const clusters = collection<KubernetesObject>();
  const watched = {
    clusters,
    pods: collection(),
    owned: Object.fromEntries(Object.keys(ownedKinds).map((kind) => [kind, collection()])),
    all: [],
  } as unknown as Watched;
  let version = 100;
  const statuses: LLMClusterStatus[] = [];
  const request = async (method: string, path: string, options?: { body?: unknown }) => {
    const refused = refusal?.();
    if (refused !== undefined) throw refused;
    if (method === "GET") throw new KubeError("not found", { status: 404, reason: "NotFound" });
    const body = options?.body as KubernetesObject & { status?: LLMClusterStatus };
    if (path.endsWith("/status") && body.status !== undefined) statuses.push(body.status);
    version += 1;
    return { ...body, metadata: { ...body.metadata, uid: "u", resourceVersion: String(version) } };
  };
  const events: string[] = [];
  const logged: string[] = [];
  const log = (level: string) => (_: object, message: string) => logged.push(`${level}: ${message}`);
  const reconcile = createReconciler({
    client: { request } as unknown as KubeClient,
    watched,
    timing: { ...systemTiming, random: () => 0.5, wallClock: () => new Date("2026-01-01T00:00:00Z") },
    log: { info: log("info"), warn: log("warn"), error: log("error") },
    report: (_, before, after) => events.push(...happenings(before, after).map(({ reason }) => reason)),
  });
  const show = (object: KubernetesObject) => clusters.items.set(key, object);
  const hide = () => clusters.items.delete(key);
  return { reconcile, show, hide, statuses, events, logged };
}

describe("reconcile", () => {
  test("looks again after 5 s while the instance is on its way", async () => {
    const { reconcile, show, statuses } = world();
    show(llmCluster({}, { resourceVersion: "1" }));
    expect(await reconcile(key)).toBe(5_000);
    expect(statuses).toHaveLength(1);
  });

  test("looks again after 30 s at what cannot be read, and writes nothing for it but its status", async () => {
    const { reconcile, show, statuses } = world();
    show(llmCluster({}, { name: "x".repeat(60), resourceVersion: "1" }));
    expect(await reconcile(key)).toBe(30_000);
    expect(statuses.map((status) => status.conditions?.[2]?.reason)).toEqual(["InvalidSpec"]);
  });

  test("writes and tells a state once, though the watch does not show the write yet", async () => {
    const { reconcile, show, statuses, events } = world();
    show(llmCluster({}, { resourceVersion: "99" }));
    await reconcile(key);
    await reconcile(key);
    expect(statuses).toHaveLength(1);
    expect(events).toEqual(["CreatingPods"]);
  });

  test("a deleted LLMCluster is left to the garbage collector, one that is gone is forgotten", async () => {
    const { reconcile, show, hide, statuses } = world();
    show(llmCluster({}, { deletionTimestamp: "2026-01-01T00:00:00Z" }));
    expect(await reconcile(key)).toBeUndefined();
    hide();
    expect(await reconcile(key)).toBeUndefined();
    expect(statuses).toEqual([]);
  });

  test("waits longer after each failure, up to 30 s, and says nothing in the status of what may pass", async () => {
    let refused: Error | undefined = new KubeError("away", { status: 0, reason: "ECONNREFUSED" });
    const { reconcile, show, statuses, logged } = world(() => refused);
    show(llmCluster({}, { resourceVersion: "1" }));
    const delays = [];
    for (let attempt = 0; attempt < 5; attempt += 1) delays.push(await reconcile(key));
    expect(delays).toEqual([5_000, 10_000, 20_000, 30_000, 30_000]);
    expect(statuses).toEqual([]);
    expect(logged.every((line) => line.startsWith("warn: "))).toBe(true);
    refused = undefined;
    expect(await reconcile(key)).toBe(5_000);
    refused = new Error("a defect");
    expect(await reconcile(key)).toBe(5_000);
    expect(logged.at(-1)).toMatch(/^error: defect/);
  });

  test("a refusal that lasts is told in the status", async () => {
    let calls = 0;
    const { reconcile, show, statuses } = world(() => {
      calls += 1;
      return calls === 2 ? new KubeError("quota exceeded", { status: 403, reason: "Forbidden" }) : undefined;
    });
    show(llmCluster({}, { resourceVersion: "1" }));
    expect(await reconcile(key)).toBe(5_000);
    expect(statuses[0]?.conditions?.[2]).toMatchObject({
      status: "True",
      reason: "ApplyFailed",
      message: "Service llama-3-70b-a-ranks: quota exceeded",
    });
  });
});

test.each([
  ["9", "10", true],
  ["10", "9", false],
  ["10", "10", false],
  ["99999999999999999998", "99999999999999999999", true],
  [undefined, "1", false],
  ["1", undefined, false],
])("version %s is older than %s: %s", (a, b, is) => {
  expect(isOlder(a, b)).toBe(is);
});
