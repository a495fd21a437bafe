import { expect, test } from "vitest";
import { gangGate } from "../../../src/api/names.ts";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import type { CoordinatorPorts } from "../../../src/extender/ports.ts";
import { createSingles } from "../../../src/extender/singles.ts";
import { createBatch } from "../../../src/gang/batch.ts";
import type { ClaimRecord, PodRecord } from "../../../src/topology/records.ts";
import { podRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf } from "../../support/cluster.ts";

/** Singles over an empty cluster, whose writes succeed at once and change nothing. */
function setUp() {
  const started: WriteEffect[] = [];
  const asked: [WriteEffect, string][] = [];
  const ports: CoordinatorPorts = {
    write: (effect, owner) => {
      started.push(effect);
      asked.push([effect, owner]);
    },
    event: () => undefined,
    answer: () => undefined,
    nowMs: () => 0,
    nowIso: () => "",
    schedule: () => undefined,
    mayPlan: () => true,
    planRefused: () => undefined,
    planned: () => {
      plans += 1;
    },
    bypassed: () => undefined,
    preempted: () => undefined,
  };
  const model = clusterOf([]);
  const singles = createSingles(model, ports, () => undefined);
  let plans = 0;
  const batch = createBatch(model, {
    take: (gang, placement) => void singles.take(gang, placement),
    giveBack: (gang) => void singles.giveBack(gang),
  });
  const flush = (): void => {
    singles.flush();
    for (const { uid } of singles.waiting()) singles.planOne(uid, batch);
  };
  return {
    started,
    plans: () => plans,
    claim(name: string, uid: string) {
      const claim: ClaimRecord = { ...allocatedClaim(name, "n0", ["gpu-0"], []), uid };
      delete claim.allocation;
      model.upsertClaim(claim);
      singles.observeClaim(claim);
      flush();
    },
    claimGone(name: string, uid: string) {
      model.removeClaim(uid);
      singles.observeClaimGone({ namespace: "team", name });
      flush();
    },
    observe(pod: PodRecord) {
      singles.observePod(pod);
      for (let turn = 0; turn < 5; turn++) {
        flush();
        for (const [effect, owner] of asked.splice(0)) singles.written(effect, owner, { ok: true });
      }
    },
  };
}

test("the gate stays until the pod's claims exist: before, nobody knows whose they are", () => {
  const { started, observe } = setUp();
  observe(podRecord("p", { claims: [{ name: "gpu", templateName: "gpu" }], gates: [gangGate] }));
  expect(started).toEqual([]);
});

test("a gate of somebody else causes no writes", () => {
  const { started, observe } = setUp();
  observe(podRecord("p", { claims: [], gates: ["kueue.x-k8s.io/topology"] }));
  observe(podRecord("q", { claims: [{ name: "gpu", claimName: "gpu" }], gates: ["kueue.x-k8s.io/topology"] }));
  expect(started).toEqual([]);
});

test("a pod without claims is let go", () => {
  const { started, observe } = setUp();
  const gated = podRecord("p", { claims: [], gates: [gangGate] });
  observe(gated);
  expect(started[0]).toMatchObject({ type: "releasePod", pod: { name: "p" } });
});

test("a claim that is deleted and created again under its name is planned anew", () => {
  const { plans, observe, claim, claimGone } = setUp();
  observe(podRecord("p", { claims: [{ name: "gpu", claimName: "mine" }], gates: [gangGate] }));
  claim("mine", "first");
  expect(plans()).toBe(1);
  claimGone("mine", "first");
  claim("mine", "second");
  expect(plans()).toBe(2);
});
