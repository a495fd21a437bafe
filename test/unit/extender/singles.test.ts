import { expect, test } from "vitest";
import { gangGate } from "../../../src/api/names.ts";
import type { CoordinatorPorts } from "../../../src/extender/coordinator.ts";
import type { WriteEffect } from "../../../src/extender/effects.ts";
import { createSingles } from "../../../src/extender/singles.ts";
import type { PodRecord } from "../../../src/topology/records.ts";
import { driver, podRecord } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

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
    planned: () => undefined,
  };
  const singles = createSingles(clusterOf([]), new Set([driver]), ports, () => undefined);
  return {
    started,
    observe(pod: PodRecord) {
      singles.observePod(pod);
      for (let turn = 0; turn < 5; turn++) {
        singles.flush();
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
