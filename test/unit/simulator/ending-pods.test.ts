import { expect, test } from "vitest";
import type { KubeClient } from "../../../src/kube/client.ts";
import { KubeError } from "../../../src/kube/client.ts";
import { createEndingPods } from "../../../src/simulator/ending-pods.ts";
import { endingPod } from "../../../src/simulator/observed.ts";

const refused = (status: number) => new KubeError("refused", { status, reason: "" });

/** Time passes at once; requests are answered by the errors in turn, then well. */
function setUp(...errors: KubeError[]) {
  const sent: unknown[] = [];
  const failed: string[] = [];
  let passing = () => {};
  const time = new Promise<void>((resolve) => {
    passing = resolve;
  });
  const client = {
    request: async (method: string, path: string, { body }: { body: unknown }) => {
      sent.push([method, path, body]);
      const error = errors.shift();
      if (error !== undefined) throw error;
    },
  } as unknown as KubeClient;
  const timing = {
    nowMs: () => 0,
    wallClock: () => new Date(0),
    random: () => 0,
    sleep: (_delayMs: number, signal: AbortSignal) =>
      Promise.race([time, new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()))]),
  };
  const ending = createEndingPods({ client, timing, onError: ({ name }) => void failed.push(name) });
  return { ending, sent, failed, passing };
}

const pod = { namespace: "team", name: "p", uid: "uid-p" };
const removal = [
  "DELETE",
  "/api/v1/namespaces/team/pods/p",
  { gracePeriodSeconds: 0, preconditions: { uid: "uid-p" } },
];
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("a pod that the API server left behind is removed once, by its UID", async () => {
  const { ending, sent, passing } = setUp();
  ending.push(pod);
  ending.push(pod);
  await settled();
  expect(sent).toEqual([]);
  passing();
  await settled();
  expect(sent).toEqual([removal]);
});

test("a pod that goes by itself is left alone", async () => {
  const { ending, sent, passing } = setUp();
  ending.push(pod);
  ending.forget(pod.uid);
  passing();
  await ending.stop();
  expect(sent).toEqual([]);
});

test.for([
  ["an API server that is busy is asked again", [429, 503], 3, 2],
  ["one that has another pod of the name is not", [409], 1, 0],
  ["one that has none is not", [404], 1, 0],
  ["one that forbids it is not, and that is told", [403], 1, 1],
] as const)("%s", async ([, statuses, requests, errors]) => {
  const { ending, sent, failed, passing } = setUp(...statuses.map(refused));
  passing();
  ending.push(pod);
  await settled();
  expect(sent).toHaveLength(requests);
  expect(failed).toHaveLength(errors);
});

test("only pods whose deletion leaves them no time are about to go", () => {
  const metadata = { name: "p", namespace: "team", uid: "uid-p" };
  const raw = (more: object) => ({ metadata: { ...metadata, ...more }, spec: {} }) as never;
  const deletionTimestamp = "2026-11-22T10:00:00Z";
  expect(endingPod(raw({}))).toBeUndefined();
  expect(endingPod(raw({ deletionTimestamp, deletionGracePeriodSeconds: 30 }))).toBeUndefined();
  expect(endingPod(raw({ deletionTimestamp, deletionGracePeriodSeconds: 0 }))).toEqual(pod);
});
