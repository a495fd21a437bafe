import { describe, expect, test } from "vitest";
import type { KubernetesObject } from "../../../src/api/kubernetes.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { ApplyError, createApplier } from "../../../src/serving/apply.ts";
import { desired } from "../../../src/serving/desired.ts";
import type { OwnedObject } from "../../../src/serving/owned.ts";
import { llmCluster } from "./builders.ts";

interface Call {
  method: string;
  path: string;
  contentType?: string | undefined;
  body?: unknown;
}

/** A client that answers each request as `answer` says and remembers them all. */
function fakeClient(answer: (call: Call) => KubernetesObject) {
  const calls: Call[] = [];
  const client: KubeClient = {
    request: (async (method: string, path: string, options: Partial<Call> = {}) => {
      const call = { method, path, contentType: options.contentType, body: options.body };
      calls.push(call);
      return answer(call);
    }) as KubeClient["request"],
    lines: () => {
      throw new Error("no streams here");
    },
    close: async () => {},
  };
  return { client, calls, told: () => calls.map(({ method, path }) => `${method} ${path}`) };
}

const wanted = (kind: string, spec: Record<string, unknown> = {}) =>
  desired(llmCluster(spec)).find((object) => object.kind === kind && !object.metadata.name.endsWith("-ranks"))!;

/** What the API server holds after `object` was written. */
const stored = (object: OwnedObject, metadata: Partial<KubernetesObject["metadata"]> = {}, spec: object = {}) => ({
  ...object,
  metadata: { ...object.metadata, uid: "live", resourceVersion: "1", generation: 1, ...metadata },
  spec: { ...object.spec, ...spec },
});

const refuse = (status: number, reason: string, message = "no") => new KubeError(message, { status, reason });

const set = wanted("StatefulSet");
const setPath = "/apis/apps/v1/namespaces/serving/statefulsets/llama-3-70b-a";

describe("apply", () => {
  test("sends nothing when the live object carries all that is wanted", async () => {
    const { client, calls } = fakeClient(() => set);
    const live = stored(set, {}, { revisionHistoryLimit: 10 });
    expect(await createApplier(client).apply(set, live)).toBe(true);
    expect(calls).toEqual([]);
  });

  test("creates what does not exist, after having looked that nobody else has the name", async () => {
    const { client, told, calls } = fakeClient(({ method }) => {
      if (method === "GET") throw refuse(404, "NotFound");
      return stored(set);
    });
    expect(await createApplier(client).apply(set, undefined)).toBe(false);
    expect(told()).toEqual([`GET ${setPath}`, `PATCH ${setPath}`]);
    expect(calls[1]).toMatchObject({ contentType: "application/apply-patch+yaml", body: set });
  });

  test("names the object by UID when it heals an edit, so that a successor of the same name is left alone", async () => {
    const { client, calls } = fakeClient(() => stored(set, { generation: 3 }));
    expect(await createApplier(client).apply(set, stored(set, { generation: 2 }, { replicas: 3 }))).toBe(false);
    expect(calls).toHaveLength(1);
    expect(calls[0]?.body).toMatchObject({ metadata: { uid: "live" }, spec: { replicas: 2 } });
  });

  test("a field that is no longer wanted counts as a difference, though the live object has all the rest", async () => {
    const before = wanted("StatefulSet", { nodeSelector: { disk: "ssd" } });
    const { client, calls } = fakeClient(() => stored(set));
    expect(await createApplier(client).apply(set, stored(before))).toBe(false);
    expect(calls).toHaveLength(1);
  });

  test("does not send again what the API server writes in another form, until somebody edits it", async () => {
    const odd = wanted("StatefulSet", { tolerations: [{ key: "k", operator: "Exists" }] });
    const different = (metadata: object) => stored(odd, metadata, { template: "in another form" });
    const { client, calls } = fakeClient(() => different({ resourceVersion: "5", generation: 2 }));
    const applier = createApplier(client);
    expect(await applier.apply(odd, different({ resourceVersion: "4", generation: 1 }))).toBe(false);
    expect(calls).toHaveLength(1);
    // The watch is late and shows what was there before.
    expect(await applier.apply(odd, different({ resourceVersion: "4", generation: 1 }))).toBe(false);
    // It has caught up; then the status changes.
    expect(await applier.apply(odd, different({ resourceVersion: "5", generation: 2 }))).toBe(true);
    expect(await applier.apply(odd, different({ resourceVersion: "6", generation: 2 }))).toBe(true);
    expect(calls).toHaveLength(1);
    expect(await applier.apply(odd, different({ resourceVersion: "7", generation: 3 }))).toBe(false);
    expect(calls).toHaveLength(2);
  });

  test("what was sent for an earlier object of the name says nothing about its successor", async () => {
    const different = (metadata: object) => stored(set, metadata, { template: "in another form" });
    const { client, calls } = fakeClient(() => different({ resourceVersion: "5", generation: 1 }));
    const applier = createApplier(client);
    await applier.apply(set, different({ resourceVersion: "4" }));
    await applier.apply(set, different({ uid: "successor", resourceVersion: "9", generation: 1 }));
    expect(calls).toHaveLength(2);
  });

  test.each([
    { what: "nobody", ownerReferences: [] },
    {
      what: "another LLMCluster of the name",
      ownerReferences: [
        {
          apiVersion: "serving.ai/v1alpha1",
          kind: "LLMCluster",
          name: "llama-3-70b-a",
          uid: "before",
          controller: true,
        },
      ],
    },
    {
      what: "an owner that does not control it, though it is ours",
      ownerReferences: [{ ...set.metadata.ownerReferences![0]!, controller: false }],
    },
  ])("leaves an object alone that belongs to $what", async ({ ownerReferences }) => {
    const { client, told } = fakeClient(() => stored(set, { ownerReferences }));
    const failure = await createApplier(client)
      .apply(set, undefined)
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ApplyError);
    expect((failure as ApplyError).problem).toEqual({
      reason: "NameConflict",
      message:
        "StatefulSet serving/llama-3-70b-a exists and does not belong to LLMCluster llama-3-70b-a; delete it or create the LLMCluster under another name",
    });
    expect(told()).toEqual([`GET ${setPath}`]);
  });

  test("leaves an object alone that is being deleted", async () => {
    const { client, calls } = fakeClient(() => set);
    const live = stored(set, { deletionTimestamp: "2026-01-01T00:00:00Z" }, { replicas: 1 });
    expect(await createApplier(client).apply(set, live)).toBe(false);
    expect(calls).toEqual([]);
  });

  test.each([
    {
      status: 422,
      reason: "Invalid",
      is: "InvalidSpec",
      says: /^StatefulSet llama-3-70b-a: no; change spec of the LLMCluster$/,
    },
    { status: 400, reason: "BadRequest", is: "InvalidSpec", says: /change spec of the LLMCluster$/ },
    { status: 403, reason: "Forbidden", is: "ApplyFailed", says: /^StatefulSet llama-3-70b-a: no$/ },
    { status: 404, reason: "NotFound", is: "ApplyFailed", says: /^StatefulSet llama-3-70b-a: no$/ },
  ])("$status is told as $is", async ({ status, reason, is, says }) => {
    const { client } = fakeClient(() => {
      throw refuse(status, reason, `PATCH ${setPath}: no`);
    });
    const failure = await createApplier(client)
      .apply(set, stored(set, {}, { replicas: 3 }))
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({ problem: { reason: is, message: expect.stringMatching(says) } });
  });

  test.each([0, 409, 429, 500])("%d is worth another try and passes as it is", async (status) => {
    const error = refuse(status, "any");
    const { client } = fakeClient(() => {
      throw error;
    });
    await expect(createApplier(client).apply(set, stored(set, {}, { replicas: 3 }))).rejects.toBe(error);
  });

  test("a Service whose port somebody has renumbered gets its list of ports replaced", async () => {
    const service = wanted("Service");
    const { client, calls } = fakeClient(({ contentType }) => {
      if (contentType !== undefined) throw refuse(422, "Invalid", "spec.ports[1].name: Duplicate value");
      return stored(service);
    });
    const live = stored(service, {}, { ports: [{ name: "http", port: 81, targetPort: 8000, protocol: "TCP" }] });
    expect(await createApplier(client).apply(service, live)).toBe(false);
    expect(calls.map(({ contentType }) => contentType)).toEqual(["application/apply-patch+yaml", undefined]);
    expect(calls[1]?.body).toMatchObject({ spec: { ports: [{ port: 80 }] } });
  });
});
