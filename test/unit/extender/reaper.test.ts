import { expect, test } from "vitest";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import { createPlannerMetrics } from "../../../src/extender/metrics.ts";
import { runReaper } from "../../../src/extender/reaper.ts";
import type { Outcome } from "../../../src/gang/lifecycle/state.ts";
import type { EventInput } from "../../../src/kube/events.ts";
import { driver, podRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf } from "../../support/cluster.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

const stranded = (name: string, device: string) => ({
  ...allocatedClaim(name, "n1", [device], []),
  allocatedByPlanner: true as const,
});

function setUp({ graceMs = 60_000, outcome = { ok: true } as Outcome } = {}) {
  const model = clusterOf([{ name: "n1", gpus: 8 }]);
  const timing = createVirtualTiming();
  const metrics = createPlannerMetrics();
  const writes: WriteEffect[] = [];
  const events: EventInput[] = [];
  const ending = new AbortController();
  const running = runReaper({
    model,
    managedDrivers: new Set([driver]),
    async write(effect) {
      writes.push(effect);
      return outcome;
    },
    recorder: { record: (event) => events.push(event) },
    metrics,
    log: { warn: () => undefined },
    timing,
    graceMs,
    signal: ending.signal,
  });
  const reaped = () => writes.flatMap((effect) => (effect.type === "clearClaim" ? [effect.claim.name] : ["?"]));
  return { model, timing, metrics, writes, events, reaped, ending, running };
}

test("devices are given back at the second look, allocation and consumers in one write on the version that was seen", async () => {
  const { model, timing, writes, events, metrics } = setUp();
  model.upsertClaim(stranded("c", "gpu-3"));
  await timing.advance(119_000);
  expect(writes).toEqual([]);
  await timing.advance(1_001);
  expect(writes).toEqual([
    {
      type: "clearClaim",
      id: "claim/c",
      claim: expect.objectContaining({ name: "c", uid: "claim-uid-c", resourceVersion: "1", allocated: true }),
    },
  ]);
  expect(events).toEqual([
    {
      regarding: {
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        namespace: "team",
        name: "c",
        uid: "claim-uid-c",
      },
      type: "Warning",
      reason: "AllocationReclaimed",
      note: "kllama gave back n1/gpu-3: for 60 s nobody stood in reservedFor, and no pod named the claim",
    },
  ]);
  expect((await metrics.reaped.get()).values).toMatchObject([{ labels: { outcome: "ok" }, value: 1 }]);
});

test("a claim that changed between two looks, or was used in one of them, begins anew", async () => {
  const { model, timing, reaped } = setUp();
  model.upsertClaim(stranded("changed", "gpu-0"));
  model.upsertClaim(stranded("used", "gpu-1"));
  model.upsertClaim(stranded("left", "gpu-2"));
  await timing.advance(90_000);
  model.upsertClaim({ ...stranded("changed", "gpu-0"), resourceVersion: "2" });
  model.upsertPod(podRecord("p", { uid: "p", claims: [{ name: "gpu", claimName: "used" }] }));
  await timing.advance(60_000);
  expect(reaped()).toEqual(["left"]);
  model.removeClaim("claim-uid-left");
  model.removePod("p");
  await timing.advance(60_000);
  expect(reaped()).toEqual(["left", "changed"]);
  model.removeClaim("claim-uid-changed");
  await timing.advance(60_000);
  expect(reaped()).toEqual(["left", "changed", "used"]);
});

test("what the API server refuses is counted, told nobody, and tried again at the next look", async () => {
  const { model, timing, reaped, events, metrics } = setUp({
    outcome: { ok: false, reason: "Conflict", message: "late" },
  });
  model.upsertClaim(stranded("c", "gpu-0"));
  await timing.advance(180_001);
  expect(reaped()).toEqual(["c", "c"]);
  expect(events).toEqual([]);
  expect((await metrics.reaped.get()).values).toMatchObject([{ labels: { outcome: "failed" }, value: 2 }]);
});

test("0 switches it off; the end of the planner ends it", async () => {
  const off = setUp({ graceMs: 0 });
  await off.running;
  const { timing, ending, running, model, writes } = setUp();
  model.upsertClaim(stranded("c", "gpu-0"));
  await timing.advance(60_001);
  ending.abort("ending");
  await running;
  expect(writes).toEqual([]);
});
