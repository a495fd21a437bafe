import { describe, expect, test } from "vitest";
import type { Device, DeviceTaint } from "../../../src/api/kubernetes.ts";
import { projectTaintRule } from "../../../src/kube/project.ts";
import type { ClusterModel } from "../../../src/topology/model.ts";
import type { TaintRuleRecord } from "../../../src/topology/records.ts";
import { driver, gpu, gpus, sliceRecord } from "../../builders.ts";
import { allocatedClaim, clusterOf } from "../../support/cluster.ts";

const drain: DeviceTaint = { key: "drain", value: "yes", effect: "NoSchedule", timeAdded: "2026-01-01T00:00:00Z" };
const rule = (selector: TaintRuleRecord["selector"] | undefined, more: Partial<TaintRuleRecord> = {}) => ({
  name: "rule",
  taint: drain,
  ...(selector === undefined ? {} : { selector }),
  ...more,
});

/** Nodes `a` and `b` with two GPUs each; `nets/gpu-0`, of another driver, is reached by both. */
function twoNodes(): ClusterModel {
  const model = clusterOf([
    { name: "a", gpus: 2 },
    { name: "b", gpus: 2 },
  ]);
  const { nodeName: _, ...slice } = sliceRecord("nets", [gpu(0)], { driver: "net.example.com" });
  model.upsertSlice({ ...slice, allNodes: true });
  return model;
}

const devicesOf = (model: ClusterModel, node: string) => model.view.inventory(model.view.indexOf(node)!).devices;

/** `node pool/device` of all that have a taint of this key. */
function tainted(model: ClusterModel, key = "drain"): string[] {
  return ["a", "b"].flatMap((node) =>
    devicesOf(model, node)
      .filter(({ device }) => device.taints?.some((taint) => taint.key === key))
      .map(({ pool, name }) => `${node} ${pool}/${name}`),
  );
}

describe("a rule taints the devices that it selects", () => {
  const all = ["a a/gpu-0", "a a/gpu-1", "a nets/gpu-0", "b b/gpu-0", "b b/gpu-1", "b nets/gpu-0"];

  test.for<[string, TaintRuleRecord["selector"] | undefined, readonly string[]]>([
    ["none without a selector", undefined, []],
    ["all with an empty one", {}, all],
    ["by driver", { driver }, all.filter((each) => !each.includes("nets"))],
    ["by pool", { pool: "a" }, ["a a/gpu-0", "a a/gpu-1"]],
    ["by a pool that several nodes reach", { pool: "nets" }, ["a nets/gpu-0", "b nets/gpu-0"]],
    ["by device, of every pool", { device: "gpu-0" }, all.filter((each) => each.endsWith("gpu-0"))],
    ["by driver and device", { driver, device: "gpu-0" }, ["a a/gpu-0", "b b/gpu-0"]],
    ["by all three", { driver, pool: "b", device: "gpu-1" }, ["b b/gpu-1"]],
    ["none of another driver's pool", { driver, pool: "nets" }, []],
    ["none of an unknown pool", { pool: "c" }, []],
    ["none of an empty name", { device: "" }, []],
  ])("%s", ([, selector, expected]) => {
    const model = twoNodes();
    model.upsertTaintRule(rule(selector));
    expect(tainted(model)).toEqual(expected);
  });

  test.each(["NoSchedule", "NoExecute", "None", "Future"])("with its taint as it is, also of effect %s", (effect) => {
    const model = twoNodes();
    const taint = { ...drain, effect: effect as DeviceTaint["effect"] };
    model.upsertTaintRule(rule({ pool: "a", device: "gpu-0" }, { taint }));
    expect(devicesOf(model, "a")[0]!.device.taints).toEqual([taint]);
  });

  test("behind the taints of the slice, by names of the rules", () => {
    const own: DeviceTaint = { key: "own", effect: "None" };
    const names = (order: readonly string[]) => {
      const model = clusterOf([{ name: "a" }]);
      for (const name of order) model.upsertTaintRule(rule({}, { name, taint: { ...drain, key: name } }));
      model.upsertSlice(sliceRecord("a", [gpu(0, {}, { taints: [own] })]));
      return devicesOf(model, "a")[0]!.device.taints?.map(({ key }) => key);
    };
    expect(names(["second", "first"])).toEqual(["own", "first", "second"]);
    expect(names(["first", "second"])).toEqual(["own", "first", "second"]);
  });
});

describe("as rules come and go", () => {
  test("a rule that changes leaves the devices that it selected before, and one that goes leaves all", () => {
    const model = twoNodes();
    model.upsertTaintRule(rule({ pool: "a" }));
    model.upsertTaintRule(rule({ pool: "b" }));
    expect(tainted(model)).toEqual(["b b/gpu-0", "b b/gpu-1"]);
    model.upsertTaintRule(rule({ pool: "b" }, { taint: { ...drain, key: "other" } }));
    expect([tainted(model), tainted(model, "other")]).toEqual([[], ["b b/gpu-0", "b b/gpu-1"]]);
    model.removeTaintRule("rule");
    expect(tainted(model, "other")).toEqual([]);
    model.removeTaintRule("rule");
  });

  test("a slice that comes later is tainted, also one of a node that comes later", () => {
    const model = twoNodes();
    model.upsertTaintRule(rule({ device: "gpu-7" }));
    expect(tainted(model)).toEqual([]);
    model.upsertSlice(sliceRecord("a", gpus(8)));
    expect(tainted(model)).toEqual(["a a/gpu-7"]);
  });

  test("nodes are looked at anew exactly if a rule selects, or selected, a device of theirs", () => {
    const model = twoNodes();
    const touched = (change: () => void): (string | undefined)[] => {
      const { version } = model;
      change();
      return model.view.changedSince(version)!.map((index) => model.view.nodes[index]!.record.name);
    };
    expect(touched(() => model.upsertTaintRule(rule({ driver, pool: "a" })))).toEqual(["a"]);
    expect(touched(() => model.upsertTaintRule(rule({ driver, pool: "a" })))).toEqual([]);
    expect(touched(() => model.upsertTaintRule(rule({ driver, pool: "b" })))).toEqual(["a", "b"]);
    expect(touched(() => model.upsertTaintRule(rule({ driver, pool: "c" })))).toEqual(["b"]);
    expect(touched(() => model.upsertTaintRule(rule({ pool: "nets" })))).toEqual(["a", "b"]);
    const { capacityVersion } = model;
    expect(touched(() => model.removeTaintRule("rule"))).toEqual(["a", "b"]);
    expect(model.capacityVersion).toBeGreaterThan(capacityVersion);
  });

  test("who holds a device holds it, and it is free when the last has let go", () => {
    const model = twoNodes();
    model.upsertClaim(allocatedClaim("c", "a", ["gpu-0"], []));
    model.upsertTaintRule(rule({ pool: "a" }, { taint: { ...drain, effect: "NoExecute" } }));
    const used = () => [...model.view.usage(model.view.indexOf("a")!).used];
    expect([model.holdersOf(driver, "a", "gpu-0"), used()]).toEqual([["claim:claim-uid-c"], [1, 0, 0]]);
    model.removeClaim("claim-uid-c");
    expect(used()).toEqual([0, 0, 0]);
  });
});

test("without a rule that selects it a device is the object of its slice; one that several nodes reach is made once", () => {
  const model = clusterOf([{ name: "a" }, { name: "b" }]);
  const { nodeName: _, ...slice } = sliceRecord("nets", gpus(2));
  const published: readonly Device[] = slice.devices;
  model.upsertSlice({ ...slice, allNodes: true });
  const objects = (node: string) => devicesOf(model, node).map(({ device }) => device);
  expect(objects("a").every((device, i) => device === published[i])).toBe(true);
  model.upsertTaintRule(rule({ device: "gpu-1" }));
  const [first, second] = objects("a");
  expect(first).toBe(published[0]);
  expect(second).toEqual({ ...published[1], taints: [drain] });
  expect(objects("b")[1]).toBe(second);
  expect(published[1]!.taints).toBeUndefined();
});

test("of a rule nothing is kept that counts evictions", () => {
  const spec = { deviceSelector: { pool: "a" }, taint: drain };
  const condition = { type: "EvictionInProgress", status: "True", message: "3 pods" };
  const raw = { metadata: { name: "rule" }, spec, status: { conditions: [condition] } };
  expect(projectTaintRule(raw)).toEqual(rule({ pool: "a" }));
  expect(projectTaintRule({ metadata: { name: "rule" }, spec: { taint: drain } })).toEqual(rule(undefined));
});
