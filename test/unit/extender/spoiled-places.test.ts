import { describe, expect, test } from "vitest";
import type { DeviceTaint, DeviceToleration } from "../../../src/api/kubernetes.ts";
import type { PlacedPod } from "../../../src/api/placement.ts";
import { isSpoiled } from "../../../src/extender/spoiled-places.ts";
import type { SliceRecord } from "../../../src/topology/records.ts";
import { driver, exactly, gpu, podRecord, sliceRecord } from "../../builders.ts";
import { claimRecord, clusterOf } from "../../support/cluster.ts";

const taint: DeviceTaint = { key: "drain", value: "yes", effect: "NoExecute" };
const pod = podRecord("p", { claims: [{ name: "gpus", claimName: "c" }] });

function place(request = "gpus", more: { driver?: string; device?: string; node?: string } = {}): PlacedPod {
  const devices = [{ request, driver, pool: "n", device: "gpu-1", ...more }];
  return { pod: "p", podSet: "w", index: 0, node: "n", claims: [{ claim: "c", reference: "gpus", devices }], ...more };
}

/** Of the node's two GPUs the second is tainted, by its slice or by a rule. */
function cluster(by: "slice" | "rule", effect: DeviceTaint["effect"] = "NoExecute") {
  const model = clusterOf([{ name: "n", gpus: 2 }]);
  const one = { ...taint, effect };
  if (by === "slice") model.upsertSlice(sliceRecord("n", [gpu(0), gpu(1, {}, { taints: [one] })]));
  else model.upsertTaintRule({ name: "r", selector: { pool: "n", device: "gpu-1" }, taint: one });
  return model;
}

const tolerant = (tolerations: DeviceToleration[]) => exactly("gpus", 1, { tolerations });

test.each(["slice", "rule"] as const)(
  "a device with a taint by a %s that the claim does not tolerate spoils the place",
  (by) => {
    for (const [effect, expected] of [
      ["NoExecute", true],
      ["NoSchedule", true],
      ["None", false],
    ] as const) {
      const model = cluster(by, effect);
      model.upsertClaim(claimRecord("c", [exactly("gpus", 1)]));
      expect(isSpoiled(model, place(), pod), effect).toBe(expected);
      expect(isSpoiled(model, place("gpus", { device: "gpu-0" }), pod)).toBe(false);
    }
  },
);

test("what the request that it was given for tolerates is tolerated, also that of an alternative", () => {
  const model = cluster("rule");
  model.upsertClaim(claimRecord("c", [tolerant([{ key: "drain", value: "yes", effect: "NoExecute" }])]));
  expect(isSpoiled(model, place(), pod)).toBe(false);
  model.upsertClaim(claimRecord("c", [tolerant([{ key: "drain", value: "no" }])]));
  expect(isSpoiled(model, place(), pod)).toBe(true);
  const alternative = (name: string, tolerations: DeviceToleration[]) => ({
    name,
    deviceClassName: "gpu",
    tolerations,
  });
  const firstAvailable = [alternative("strict", []), alternative("lax", [{ operator: "Exists" }])];
  model.upsertClaim(claimRecord("c", [{ name: "gpus", firstAvailable }]));
  expect(isSpoiled(model, place("gpus/lax"), pod)).toBe(false);
  expect(isSpoiled(model, place("gpus/strict"), pod)).toBe(true);
});

test("of what is not known, or others' to judge, nothing is said: no claim yet, no such node, another driver", () => {
  const model = cluster("rule");
  expect(isSpoiled(model, place(), pod)).toBe(false);
  model.upsertClaim(claimRecord("c", [exactly("gpus", 1)]));
  expect(isSpoiled(model, place("gpus", { driver: "net.example.com" }), pod)).toBe(false);
  expect(isSpoiled(model, place("gpus", { node: "gone" }), pod)).toBe(false);
});

describe("a device that is not published", () => {
  const spoils = (...slices: SliceRecord[]): boolean => {
    const model = clusterOf([{ name: "n" }]);
    for (const slice of slices) model.upsertSlice(slice);
    return isSpoiled(model, place(), pod);
  };

  test("is gone, and spoils the place, where its pool tells what there is", () => {
    expect(spoils(sliceRecord("n", [gpu(0), gpu(1)]))).toBe(false);
    expect(spoils(sliceRecord("n", [gpu(0)]))).toBe(true);
    expect(spoils(sliceRecord("n", []))).toBe(true);
    const elsewhere = sliceRecord("n", [gpu(0), gpu(1)], { name: "m-slice", nodeName: "m", resourceSliceCount: 2 });
    expect(spoils(elsewhere, sliceRecord("n", [gpu(2)], { resourceSliceCount: 2 }))).toBe(true);
  });

  test("may come back where the pool does not tell: with no slice, half of them, or such as contradict each other", () => {
    expect(spoils()).toBe(false);
    expect(spoils(sliceRecord("n", [gpu(0)], { resourceSliceCount: 2 }))).toBe(false);
    expect(spoils(sliceRecord("n", [gpu(0), gpu(0)]))).toBe(false);
    expect(spoils(sliceRecord("n", [gpu(0)], { pool: "other" }))).toBe(false);
  });
});
