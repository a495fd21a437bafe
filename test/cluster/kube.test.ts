import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createClient, type KubeClient, KubeError } from "../../src/kube/client.ts";
import { type Connection, loadConnection } from "../../src/kube/connection.ts";
import { createEventRecorder } from "../../src/kube/events.ts";
import { createElector } from "../../src/kube/lease.ts";
import { podPath, resourcePath } from "../../src/kube/paths.ts";
import { type Change, createReflector, type Reflector } from "../../src/kube/reflector.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { compactEtcd } from "../support/etcd.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

interface Pod {
  metadata: { name: string; namespace: string; uid: string; labels?: Record<string, string> };
  status?: { message?: string };
}
interface Kept {
  uid: string;
  message: string | undefined;
}

let plane: ControlPlane;
let connection: Connection;
let direct: KubeClient;

beforeAll(async () => {
  plane = await startControlPlane({ components: [] });
  connection = await loadConnection({ kubeconfigPath: plane.admin.path });
  direct = createClient(connection);
});
afterAll(async () => {
  await direct?.close();
  await plane?.stop();
});

const core = { group: "", version: "v1" };

/** A namespace in which pods may be created although no controller runs. */
async function createNamespace(name: string): Promise<void> {
  await direct.request("POST", resourcePath({ ...core, resource: "namespaces" }), { body: { metadata: { name } } });
  const accounts = resourcePath({ ...core, resource: "serviceaccounts", namespace: name });
  await direct.request("POST", accounts, { body: { metadata: { name: "default" } } });
}

async function createPods(namespace: string, names: string[]): Promise<void> {
  const body = (name: string): object => ({
    metadata: { name },
    spec: { containers: [{ name: "main", image: "none" }] },
  });
  await Promise.all(names.map((name) => direct.request("POST", podPath({ namespace }), { body: body(name) })));
}

const setMessage = (namespace: string, name: string, message: string): Promise<unknown> =>
  direct.request("PATCH", podPath({ namespace, name }, "status"), { body: { status: { message } } });
const removePod = (namespace: string, name: string): Promise<unknown> =>
  direct.request("DELETE", podPath({ namespace, name }), { body: { gracePeriodSeconds: 0 } });

/** A reflector of one namespace's pods, and a way to wait until it shows what is expected. */
function follow(client: KubeClient, namespace: string) {
  const changes: Change<Kept>[] = [];
  const errors: Error[] = [];
  let notify = (): void => {};
  const reflector = createReflector<Pod, Kept>({
    client,
    path: podPath({ namespace }),
    name: "pods",
    project: ({ metadata, status }) => ({ uid: metadata.uid, message: status?.message }),
    onChange: (change) => {
      changes.push(change);
      notify();
    },
    onError: (error) => errors.push(error),
  });
  reflector.start();
  const until = async (condition: (reflector: Reflector<Kept>) => boolean): Promise<void> => {
    while (!condition(reflector)) {
      await new Promise<void>((resolve) => {
        notify = resolve;
      });
    }
  };
  return { reflector, changes, errors, until };
}

async function throughProxy(): Promise<{ proxy: TcpProxy; client: KubeClient }> {
  const proxy = await startTcpProxy(plane.ports.apiServer);
  const server = `https://127.0.0.1:${proxy.port}`;
  return { proxy, client: createClient({ ...connection, server }) };
}

describe("reflector over pods of a real API server", () => {
  it("follows through a cut, and through compaction and a restart of the API server, UIDs kept apart", async () => {
    const namespace = "compaction";
    await createNamespace(namespace);
    await createPods(namespace, ["keep", "change", "remove", "again"]);
    const { proxy, client } = await throughProxy();
    const { reflector, changes, until } = follow(client, namespace);
    await reflector.waitForSync();
    expect([...reflector.items.keys()].sort()).toEqual(
      ["again", "change", "keep", "remove"].map((name) => `${namespace}/${name}`),
    );
    const firstUid = reflector.items.get(`${namespace}/again`)?.uid;

    proxy.cut();
    await setMessage(namespace, "change", "during the cut");
    proxy.restore();
    await until(({ items }) => items.get(`${namespace}/change`)?.message === "during the cut");
    expect(reflector.stats()).toMatchObject({ lists: 1, gone: 0 });

    proxy.cut();
    await setMessage(namespace, "change", "before compaction");
    await removePod(namespace, "remove");
    await removePod(namespace, "again");
    await createPods(namespace, ["again", "new"]);
    await compactEtcd(plane);
    // A restarted API server has no events in memory from before.
    await plane.component("kube-apiserver").restart();
    changes.length = 0;
    proxy.restore();
    await until(() => changes.some(({ type }) => type === "replaced"));

    const told = changes.map((change) =>
      change.type === "replaced" ? "replaced" : `${change.type} ${change.key.split("/")[1]}`,
    );
    expect(told.slice(0, 2).sort()).toEqual(["deleted again", "deleted remove"]);
    expect(told.slice(2, 5).sort()).toEqual(["added again", "added new", "updated change"]);
    expect(told[5]).toBe("replaced");
    expect(reflector.stats()).toMatchObject({ lists: 2, gone: 1, malformedLines: 0 });
    expect(reflector.items.get(`${namespace}/again`)?.uid).not.toBe(firstUid);
    await setMessage(namespace, "keep", "still following");
    await until(({ items }) => items.get(`${namespace}/keep`)?.message === "still following");
    await reflector.stop();
    await proxy.drained(); // the watch's connection ended with it
    await client.close();
    await proxy.close();
  });

  it("falls back to pages where the server cannot stream lists", async () => {
    const namespace = "pages";
    await createNamespace(namespace);
    const names = Array.from({ length: 1_201 }, (_, index) => `p${index}`);
    // As many at a time as the client has connections: who stands in line for one has a deadline, too.
    for (let from = 0; from < names.length; from += 32) await createPods(namespace, names.slice(from, from + 32));
    const lists: unknown[] = [];
    const client: KubeClient = {
      ...direct,
      request: (method, path, options) => {
        lists.push(options?.query?.["limit"]);
        return direct.request(method, path, options);
      },
      lines: (path, options) => {
        if (options.query?.["sendInitialEvents"] !== true) return direct.lines(path, options);
        throw new KubeError("forbidden unless the WatchList feature gate is enabled", {
          status: 422,
          reason: "Invalid",
        });
      },
    };
    const { reflector, until } = follow(client, namespace);
    await reflector.waitForSync();
    expect([reflector.items.size, lists]).toEqual([1_201, [500, 500, 500]]);
    await removePod(namespace, "p7");
    await until(({ items }) => !items.has(`${namespace}/p7`));
    await reflector.stop();
  });

  it("tells refusals apart", async () => {
    const missing = await direct
      .request("GET", podPath({ namespace: "default", name: "missing" }))
      .catch((error: unknown) => error);
    expect(missing).toMatchObject({ status: 404, reason: "NotFound" });
    const user = await loadConnection({ kubeconfigPath: (await plane.kubeconfigFor("nobody")).path });
    const nobody = createClient(user);
    expect(
      await nobody.request("GET", podPath({ namespace: "default" })).catch((error: unknown) => error),
    ).toMatchObject({
      status: 403,
      reason: "Forbidden",
    });
    await nobody.close();
  });
});

it("elects one leader at a time on a real Lease, and hands over with a higher epoch", async () => {
  const options = {
    client: direct,
    namespace: "default",
    name: "kllama-planner",
    // Each gives the Lease up: nobody waits for its end, and on a busy machine nobody loses it.
    leaseDurationMs: 60_000,
    renewDeadlineMs: 50_000,
    retryPeriodMs: 300,
  };
  const led = Array.from({ length: 3 }, () => Promise.withResolvers<number>());
  const lost: string[] = [];
  const electors = led.map(({ resolve }, index) =>
    createElector({
      ...options,
      identity: `candidate-${index}`,
      onStartedLeading: resolve,
      onStoppedLeading: (reason) => lost.push(`${index} ${reason}`),
    }),
  );
  for (const elector of electors) elector.start();
  const epochs: number[] = [];
  const waiting = new Set(led.keys());
  while (waiting.size > 0) {
    const [index, epoch] = await Promise.race(
      [...waiting].map(async (candidate) => [candidate, await led[candidate]?.promise] as const),
    );
    expect(electors.filter((elector) => elector.isLeader())).toEqual([electors[index]]);
    epochs.push(epoch ?? -1);
    waiting.delete(index);
    await electors[index]?.release();
  }
  expect(epochs).toEqual([0, 1, 2]);
  expect(lost.map((entry) => entry.split(" ")[1])).toEqual(["released", "released", "released"]);
});

it("writes events and series that the API server accepts", async () => {
  const recorder = createEventRecorder({
    client: direct,
    component: "scheduling.kllama.ai/planner",
    instance: "planner-0",
  });
  const regarding = {
    apiVersion: "v1",
    kind: "Pod",
    namespace: "default",
    name: "p",
    uid: "4d1c2a3e-0000-4000-8000-000000000000",
  };
  for (let repeat = 0; repeat < 5; repeat += 1) {
    recorder.record({ regarding, type: "Warning", reason: "GangWaiting", action: "Plan", note: "é".repeat(2_000) });
    await recorder.flush();
  }
  const { namespace: _namespace, ...nodeReference } = { ...regarding, kind: "Node", name: "n1" };
  recorder.record({ regarding: nodeReference, type: "Normal", reason: "NodeSeen", note: "cluster-scoped" });
  await recorder.close();
  expect(recorder.stats()).toEqual({ written: 5, dropped: 0, failed: 0 }); // counts 1, 2, 4 and 5, and the node's
  const path = resourcePath({ group: "events.k8s.io", version: "v1", resource: "events", namespace: "default" });
  const { items } = await direct.request<{ items: { reason: string; series?: { count: number } }[] }>("GET", path);
  const written = items.filter(({ reason }) => reason === "GangWaiting" || reason === "NodeSeen");
  expect(written.map(({ reason, series }) => [reason, series?.count]).sort()).toEqual([
    ["GangWaiting", 5],
    ["NodeSeen", undefined],
  ]);
});
