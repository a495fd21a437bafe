import { describe, expect, it } from "vitest";
import { type KubeClient, KubeError, type RequestOptions } from "../../../src/kube/client.ts";
import { createEventRecorder, type EventInput } from "../../../src/kube/events.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

interface Written {
  method: string;
  path: string;
  body: { metadata: { name: string }; note: string; series?: { count: number; lastObservedTime: string } } & Record<
    string,
    unknown
  >;
}

function setup(answer: (written: Written, signal: AbortSignal | undefined) => Promise<void> | void = () => {}) {
  const timing = createVirtualTiming();
  const writes: Written[] = [];
  const request = async (method: string, path: string, { body, signal }: RequestOptions = {}): Promise<unknown> => {
    const written = { method, path, body } as Written;
    writes.push(written);
    await answer(written, signal);
    return {};
  };
  const client = { request } as unknown as KubeClient;
  const recorder = createEventRecorder({
    client,
    component: "scheduling.kllama.ai/planner",
    instance: "planner-0",
    timing,
  });
  return { timing, writes, recorder };
}

const gang = {
  apiVersion: "scheduling.kllama.ai/v1alpha1",
  kind: "Gang",
  namespace: "team",
  name: "llama-70b",
  uid: "u-1",
};

function planned(note: string, input: Partial<EventInput> = {}): EventInput {
  return { regarding: gang, type: "Normal", reason: "GangPlanned", action: "Plan", note, ...input };
}

function refusal(status: number, fields: { reason?: string; retryAfterMs?: number } = {}): KubeError {
  return new KubeError("refused", { status, reason: "", ...fields });
}

describe("event recorder", () => {
  it("writes an event with everything the API server requires", async () => {
    const { recorder, writes } = setup();
    recorder.record(planned("placed in rack r1"));
    await recorder.flush();
    expect(writes).toHaveLength(1);
    expect(writes[0]).toMatchObject({ method: "POST", path: "/apis/events.k8s.io/v1/namespaces/team/events" });
    expect(writes[0]?.body).toEqual({
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { name: expect.stringMatching(/^llama-70b\.[0-9a-f]{16}$/), namespace: "team" },
      eventTime: expect.stringMatching(/^2026-.*\.\d{6}Z$/),
      reportingController: "scheduling.kllama.ai/planner",
      reportingInstance: "planner-0",
      type: "Normal",
      reason: "GangPlanned",
      action: "Plan",
      note: "placed in rack r1",
      regarding: gang,
    });
  });

  it("puts events of cluster-scoped objects into default, and takes the reason as action", async () => {
    const { recorder, writes } = setup();
    const { action: _action, ...event } = planned("lost");
    recorder.record({ ...event, regarding: { apiVersion: "v1", kind: "Node", name: "n1", uid: "n" } });
    await recorder.flush();
    expect(writes[0]).toMatchObject({
      path: "/apis/events.k8s.io/v1/namespaces/default/events",
      body: { action: "GangPlanned" },
    });
  });

  it("makes repetitions one series, written when its count doubles", async () => {
    const { recorder, writes, timing } = setup();
    for (let repeat = 0; repeat < 1_000; repeat += 1) {
      recorder.record(planned("again"));
      await timing.advance(1);
    }
    expect(writes.filter(({ method }) => method === "POST")).toHaveLength(1);
    expect(writes.slice(1).map(({ body }) => body.series?.count)).toEqual([2, 4, 8, 16, 32, 64, 128, 256, 512]);
    expect(writes[1]?.path).toBe(`/apis/events.k8s.io/v1/namespaces/team/events/${writes[0]?.body.metadata.name}`);
    await recorder.close();
    expect(writes.at(-1)?.body.series?.count).toBe(1_000);
  });

  it("writes a slow series every minute, and begins a new event after 10 minutes of peace", async () => {
    const { recorder, writes, timing } = setup();
    for (let minute = 0; minute < 10; minute += 1) {
      recorder.record(planned("slow"));
      await timing.advance(61_000);
    }
    expect(writes.map(({ method }) => method)).toEqual(["POST", ...Array(9).fill("PATCH")]);
    await timing.advance(600_000);
    recorder.record(planned("slow"));
    await recorder.flush();
    expect(writes.at(-1)?.method).toBe("POST");
  });

  it("keeps apart what differs in object, reason, type or note", async () => {
    const { recorder, writes } = setup();
    recorder.record(planned("x"));
    recorder.record(planned("y"));
    recorder.record(planned("x", { reason: "GangWaiting" }));
    recorder.record(planned("x", { type: "Warning" }));
    recorder.record(planned("x", { regarding: { ...gang, uid: "u-2" } }));
    await recorder.flush();
    expect(writes.map(({ method }) => method)).toEqual(Array(5).fill("POST"));
  });

  it("begins a new event when the API server forgot the old one", async () => {
    const { recorder, writes } = setup(({ method }) => {
      if (method === "PATCH") throw refusal(404, { reason: "NotFound" });
    });
    recorder.record(planned("x"));
    await recorder.flush();
    recorder.record(planned("x"));
    await recorder.flush();
    expect(writes.map(({ method }) => method)).toEqual(["POST", "PATCH", "POST"]);
    expect(writes[2]?.body.series?.count).toBe(2);
    expect(recorder.stats()).toEqual({ written: 2, dropped: 0, failed: 0 });
  });

  it.each([
    ["a".repeat(1_024), "a".repeat(1_024)],
    ["a".repeat(1_025), `${"a".repeat(1_021)}…`],
    ["€".repeat(400), `${"€".repeat(340)}…`],
    [`a${"😀".repeat(300)}`, `a${"😀".repeat(255)}…`],
  ])("cuts notes at 1,024 bytes and between characters (%#)", async (note, expected) => {
    const { recorder, writes } = setup();
    recorder.record(planned(note));
    await recorder.flush();
    expect(writes[0]?.body.note).toBe(expected);
    expect(Buffer.byteLength(expected)).toBeLessThanOrEqual(1_024);
  });

  it("gives names of at most 253 characters that the API server accepts", async () => {
    const { recorder, writes } = setup();
    recorder.record(planned("x", { regarding: { ...gang, name: `${"n".repeat(235)}.${"n".repeat(17)}` } }));
    await recorder.flush();
    expect(writes[0]?.body.metadata.name).toMatch(/^n{235}\.[0-9a-f]{16}$/);
  });

  it("gives refused events up, and pauses as long as 429 asks", async () => {
    let refusals = [refusal(403), refusal(429, { retryAfterMs: 5_000 }), refusal(0)];
    const { recorder, writes, timing } = setup(() => {
      const error = refusals.shift();
      if (error !== undefined) throw error;
    });
    for (const note of ["1", "2", "3", "4"]) recorder.record(planned(note));
    await timing.advance(4_900);
    expect(writes.map(({ body }) => body.note)).toEqual(["1", "2"]);
    await timing.advance(200);
    expect(writes.map(({ body }) => body.note)).toEqual(["1", "2", "3", "4"]);
    expect(recorder.stats()).toEqual({ written: 1, dropped: 0, failed: 3 });
    refusals = [];
  });

  it("drops and delays nobody's events for those of a namespace that floods it", async () => {
    const { recorder, writes } = setup();
    const of = (namespace: string, note: string): EventInput => planned(note, { regarding: { ...gang, namespace } });
    for (let index = 0; index < 3_000; index += 1) recorder.record(of("noisy", `stray ${index}`));
    for (const note of ["waits", "placed"]) recorder.record(of("quiet", note));
    await recorder.flush();
    const quiet = writes.flatMap(({ path, body }, at) => (path.includes("/quiet/") ? [{ at, note: body.note }] : []));
    // One is under way when the first of these comes; then the namespaces take turns.
    expect(quiet).toEqual([
      { at: 2, note: "waits" },
      { at: 4, note: "placed" },
    ]);
    expect(recorder.stats()).toEqual({ written: 1_001, dropped: 2_001, failed: 0 });
  });

  it("drops what does not fit its queue, without waiting", async () => {
    const gate = Promise.withResolvers<void>();
    const { recorder, writes } = setup(() => gate.promise);
    for (let event = 0; event < 1_500; event += 1) recorder.record(planned(`${event}`));
    expect(recorder.stats().dropped).toBe(499); // one is under way, 1,000 wait
    gate.resolve();
    await recorder.flush();
    expect([writes.length, recorder.stats().written]).toEqual([1_001, 1_001]);
  });

  it("ends in time when the API server does not answer", async () => {
    const { recorder, timing } = setup(
      (_written, signal) =>
        new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason))),
    );
    recorder.record(planned("x"));
    let closed = false;
    void recorder.close(500).then(() => {
      closed = true;
    });
    await timing.advance(499);
    expect(closed).toBe(false);
    await timing.advance(2);
    expect(closed).toBe(true);
    recorder.record(planned("late"));
    expect(recorder.stats().dropped).toBe(1);
  });
});
