import { describe, expect, test } from "vitest";
import type { Device, ResourceSlice } from "../../../../src/api/kubernetes.ts";
import { differingFields, sliceChanges } from "../../../../src/dra/driver/slice-changes.ts";

/** `["a b", "c"]`: two slices, the first with devices a and b. */
function pool(slices: readonly string[], uid = "node-1") {
  return (generation: number): ResourceSlice[] =>
    slices.map((names, index) => ({
      metadata: {
        name: `slice-${index}`,
        ownerReferences: [{ apiVersion: "v1", kind: "Node", name: "n", uid, controller: true }],
      },
      spec: {
        driver: "d",
        nodeName: "n",
        pool: { name: "n", generation, resourceSliceCount: slices.length },
        devices: names.split(" ").map((name): Device => ({ name })),
      },
    }));
}

function published(slices: readonly string[], generation: number): ResourceSlice[] {
  return pool(slices)(generation).map((slice, index) => ({
    ...slice,
    metadata: { ...slice.metadata, resourceVersion: String(index + 100) },
  }));
}

describe("generation and writes", () => {
  test.each<[string, string[], string[], { remove: number; update: number; create: number }, number]>([
    ["first publication", [], ["a", "b"], { remove: 0, update: 0, create: 2 }, 1],
    ["nothing changed", ["a", "b"], ["a", "b"], { remove: 0, update: 0, create: 0 }, 4],
    ["one slice changed", ["a", "b"], ["a", "x"], { remove: 0, update: 1, create: 0 }, 4],
    ["two slices changed", ["a", "b"], ["x", "y"], { remove: 0, update: 2, create: 0 }, 5],
    ["a slice more", ["a"], ["a", "b"], { remove: 0, update: 1, create: 1 }, 5],
    ["a slice less", ["a", "b"], ["a"], { remove: 1, update: 1, create: 0 }, 5],
  ])("%s", (_, before, after, counts, generation) => {
    const changes = sliceChanges(published(before, 4), pool(after));
    expect({ remove: changes.remove.length, update: changes.update.length, create: changes.create.length }).toEqual(
      counts,
    );
    for (const slice of [...changes.update, ...changes.create]) {
      expect(slice.spec.pool).toMatchObject({ generation, resourceSliceCount: after.length });
    }
    for (const slice of changes.update) expect(slice.metadata.resourceVersion).toMatch(/^10\d$/);
  });

  test("a field that must go is a change, and so is another owner", () => {
    const tainted = published(["a"], 1);
    tainted[0]!.spec.devices![0]!.taints = [{ key: "k", effect: "NoExecute" }];
    expect(sliceChanges(tainted, pool(["a"])).update).toHaveLength(1);
    expect(sliceChanges(published(["a"], 1), pool(["a"], "node-2")).update).toHaveLength(1);
  });
});

test("what the API server did not keep is named", () => {
  const sent = { devices: [{ name: "a", taints: [{ key: "k" }], consumesCounters: [] }], pool: { name: "p" } };
  expect(differingFields(sent, structuredClone(sent))).toEqual([]);
  expect(differingFields(sent, { ...sent, devices: [{ name: "a" }] })).toEqual(["spec.devices.0.taints"]);
  expect(differingFields(sent, { ...sent, devices: [] })).toEqual(["spec.devices"]);
  expect(differingFields(sent, { ...sent, pool: { name: "q" } })).toEqual(["spec.pool.name"]);
  expect(differingFields(sent, { ...sent, more: 1 })).toEqual([]);
});
