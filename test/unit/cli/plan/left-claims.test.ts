import { expect, test } from "vitest";
import type { CapacityOutput } from "../../../../src/api/capacity.ts";
import { gang, json, places, plan, planFiles, pod, rack, template } from "./support.ts";

/** A rack of two nodes with 4 GPUs each, of which the first has three network cards of another driver and the second one. */
const driver = "nic.example.com";
const deviceClass = json({
  apiVersion: "resource.k8s.io/v1",
  kind: "DeviceClass",
  metadata: { name: driver },
  spec: { selectors: [{ cel: { expression: `device.driver == "${driver}"` } }] },
});
const cards = (nodeName: string, count: number): string =>
  json({
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: `${nodeName}-cards` },
    spec: {
      driver,
      nodeName,
      pool: { name: nodeName, generation: 1, resourceSliceCount: 1 },
      devices: Array.from({ length: count }, (_, index) => ({ name: `card-${index}` })),
    },
  });
const card = json({
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaimTemplate",
  metadata: { name: "card" },
  spec: { spec: { devices: { requests: [{ name: "card", exactly: { deviceClassName: driver } }] } } },
});
const cluster = [rack("r", 2), deviceClass, cards("r-0", 3), cards("r-1", 1), template("two", 2), card].join("");

/** A gang of pods with two GPUs and a card each, in claims of their own. */
function gangOf(name: string, pods: number): string {
  const resourceClaims = ["two", "card"].map((each) => ({ name: each, resourceClaimTemplateName: each }));
  const members = Array.from({ length: pods }, (_, i) => pod(`${name}-${i}`, { gang: name, spec: { resourceClaims } }));
  return [gang(name, { podSets: [{ name: "ranks", count: pods }] }), ...members].join("");
}

test("plan places pods where the cards of another driver are too, and says what is short", async () => {
  const output = await plan(`${cluster}${gangOf("a", 3)}${gangOf("b", 2)}`);
  expect(places(output)).toEqual({ a: "r-0 r-0 r-1", b: "InsufficientDevices" });
  expect(output.rejections[0]!.message).toContain(
    "there are nic.example.com devices (kube-scheduler gives them) for 1 pod",
  );
  const given = output.placements[0]!.pods.flatMap(({ claims }) => claims.flatMap(({ devices }) => devices));
  expect(given.filter((each) => each.driver === driver).map(({ device }) => device)).toEqual([
    "card-0",
    "card-1",
    "card-0",
  ]);
});

test("capacity counts as many as have both where they go, and lists no devices that kllama does not give", async () => {
  const { stdout } = await planFiles({ "input.yaml": `${cluster}${gangOf("a", 1)}` }, "-f FOLDER -o json", "capacity");
  const { answers, free } = JSON.parse(stdout) as CapacityOutput;
  expect(answers[0]).toMatchObject({ copies: 3, stoppedBy: "room" });
  expect(free.map(({ deviceClass: name }) => name)).toEqual(["gpu.kllama.ai"]);
});
