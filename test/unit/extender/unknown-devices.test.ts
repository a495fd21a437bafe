import { describe, expect, test } from "vitest";
import { createUnknownDevices } from "../../../src/extender/unknown-devices.ts";
import { plan } from "../../../src/gang/plan.ts";
import type { ClaimRecord, PodRecord } from "../../../src/topology/records.ts";
import { deviceClass, driver, exactly, podRecord } from "../../builders.ts";
import { allocatedClaim, claimRecord, clusterOf, gangIn } from "../../support/cluster.ts";

/** One node of four GPUs on which pod `p` runs with `gpu-0` and `gpu-1`. */
function setUp(pod: Partial<PodRecord> = {}, remembers = false) {
  const model = clusterOf([{ name: "a", gpus: 4 }]);
  const unknown = createUnknownDevices(model);
  const running = podRecord("p", { nodeName: "a", started: true, claims: [{ name: "gpu", claimName: "c" }], ...pod });
  const held = allocatedClaim("c", "a", ["gpu-0", "gpu-1"], [running.uid]);
  const { allocation: _, ...empty } = { ...held, reservedFor: [] };
  const see = (claim: ClaimRecord) => {
    model.upsertClaim(claim);
    unknown.reviewUsers({ ...claim, ownerPodUid: running.uid });
  };
  if (remembers) see(held);
  model.upsertPod(running);
  unknown.review(running);
  const isFree = () => "plans" in plan(model, { gangs: [gangIn(model, "g", { w: { count: 1, gpus: 1 } })] });
  return { model, unknown, running, held, empty, see, isFree };
}

describe("a pod that runs while its claim holds no devices", () => {
  test("keeps all that is free on its node from others, and its owner is told once", () => {
    const { empty, see, isFree, unknown, running } = setUp();
    see(empty);
    expect(isFree()).toBe(false);
    expect(unknown.news()).toMatchObject([{ pod: { name: "p" }, note: expect.stringContaining("node a") }]);
    see({ ...empty, resourceVersion: "2" });
    expect(unknown.news()).toEqual([]);
    unknown.review({ ...running, terminal: true });
    expect(isFree()).toBe(true);
  });

  test("no longer once it holds devices again", () => {
    const { model, unknown, running, see, held, empty, isFree } = setUp();
    see(empty);
    expect(isFree()).toBe(false);
    see(held);
    expect(isFree()).toBe(true);
    model.removeClaim(held.uid);
    unknown.review(running);
    expect(isFree()).toBe(true);
    expect(model.holdersOf(driver, "a", "gpu-0")).toEqual(["pod:pod-uid-p"]); // What it held is remembered.
  });

  test("keeps nothing when its claim is gone: users may delete such as held nothing of ours, on any node", () => {
    const { unknown, isFree } = setUp();
    expect(isFree()).toBe(true);
    expect(unknown.news()).toEqual([]);
  });

  test("keeps nothing when a user made a claim of ours under the name of one that is gone", () => {
    const boundAtMs = Date.parse("2026-11-20T10:00:00Z");
    const { empty, see, isFree, unknown, running } = setUp({ boundAtMs });
    see({ ...empty, createdAtMs: boundAtMs + 1_000 });
    expect(isFree()).toBe(true);
    expect(unknown.news()).toEqual([]);
    see({ ...empty, createdAtMs: boundAtMs, resourceVersion: "2" });
    expect(isFree()).toBe(true);
    // Made from its template and bound within a second: it is the pod's.
    see({ ...empty, createdAtMs: boundAtMs, ownerPodUid: running.uid, resourceVersion: "3" });
    expect(isFree()).toBe(false);
  });

  test("keeps only its own devices where they are remembered", () => {
    const { empty, see, isFree, unknown, model } = setUp({}, true);
    see(empty);
    expect(isFree()).toBe(true);
    expect(unknown.news()).toEqual([]);
    expect(model.holdersOf(driver, "a", "gpu-0")).toEqual(["pod:pod-uid-p"]);
  });

  test("of a gang keeps what its place says; when the place is given up, what is free on the node", () => {
    const { empty, see, isFree, unknown, model } = setUp({ gang: "w" });
    see(empty);
    expect(isFree()).toBe(false);
    const devices = [{ request: "gpu", driver, pool: "a", device: "gpu-0" }];
    const claims = [{ claim: "c", reference: "gpu", devices }];
    model.hold("team/w", "team", [{ placed: { pod: "p", podSet: "w", index: 0, node: "a", claims }, requests: {} }]);
    unknown.reviewGang("team/w");
    expect(isFree()).toBe(true);
    model.release("team/w");
    unknown.reviewGang("team/w");
    expect(isFree()).toBe(false);
  });

  test.each<[string, Partial<PodRecord>, Partial<ClaimRecord>]>([
    ["has not started", { started: undefined as never }, {}],
    ["is over", { terminal: true }, {}],
    [
      "uses another driver's devices",
      {},
      { spec: claimRecord("c", [exactly("gpu", 1, { deviceClassName: "theirs" })]).spec },
    ],
    ["needs no claim", { claims: [{ name: "gpu", templateName: "t" }] }, {}],
  ])("keeps nothing when it %s", (_title, pod, claim) => {
    const { model, empty, see, isFree } = setUp(pod);
    model.upsertDeviceClass(deviceClass("theirs", 'device.driver == "other"'));
    see({ ...empty, ...claim });
    expect(isFree()).toBe(true);
  });
});
