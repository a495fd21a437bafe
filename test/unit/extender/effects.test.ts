import { expect, test } from "vitest";
import { applyWrite, type WriteEffect } from "../../../src/extender/effects.ts";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { driver } from "../../builders.ts";

/** Applies a reservation. @returns method and status of each request */
async function reserve(allocated: boolean): Promise<[string, unknown][]> {
  const requests: [string, unknown][] = [];
  const client: KubeClient = {
    request: <T>(method: string, _path: string, options: { body?: unknown } = {}) => {
      requests.push([method, (options.body as { status?: unknown }).status]);
      return Promise.resolve({ metadata: { name: "c" } } as T);
    },
    lines: () => {
      throw new Error("a reservation watches nothing");
    },
    close: () => Promise.resolve(),
  };
  const finalizers = ["resource.kubernetes.io/delete-protection"];
  const effect: WriteEffect = {
    type: "reserveClaim",
    id: "claim/c",
    claim: { namespace: "d", name: "c", uid: "u", resourceVersion: "1", finalizers, allocated },
    placed: { claim: "c", reference: "gpus", devices: [{ request: "gpus", driver, pool: "n", device: "gpu-0" }] },
    node: "n",
    reservedFor: [{ resource: "pods", name: "p", uid: "p" }],
  };
  await applyWrite(client, effect, () => "allocation");
  return requests;
}

const consumers = { reservedFor: [{ resource: "pods", name: "p", uid: "p" }] };

test("a reservation writes allocation and consumers at once", async () => {
  expect(await reserve(false)).toEqual([["PUT", { allocation: "allocation", ...consumers }]]);
});

test("a claim that holds its devices already only gets its consumers: its allocation cannot change, not even its time", async () => {
  expect(await reserve(true)).toEqual([["PATCH", consumers]]);
});

test("an eviction names the pod's UID: its successor stays", async () => {
  const sent: unknown[] = [];
  const client = {
    request: (...call: unknown[]) => {
      sent.push(call);
      return Promise.resolve({});
    },
  } as unknown as KubeClient;
  const effect: WriteEffect = { type: "evictPod", id: "e", pod: { namespace: "d", name: "p", uid: "u" } };
  expect(await applyWrite(client, effect, () => undefined)).toEqual({ outcome: { ok: true } });
  const deleteOptions = { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid: "u" } };
  const body = { apiVersion: "policy/v1", kind: "Eviction", metadata: { namespace: "d", name: "p" }, deleteOptions };
  expect(sent).toEqual([["POST", "/api/v1/namespaces/d/pods/p/eviction", { body }]]);
});

test("a refusal tells how long the API server asks to wait", async () => {
  const client = {
    request: () => Promise.reject(new KubeError("too many", { status: 429, reason: "", retryAfterMs: 7_000 })),
  } as unknown as KubeClient;
  const effect: WriteEffect = { type: "bind", id: "b", pod: { namespace: "d", name: "p", uid: "u" }, node: "n" };
  expect(await applyWrite(client, effect, () => undefined)).toEqual({
    outcome: { ok: false, reason: "", message: "too many", retryAfterMs: 7_000 },
  });
});
