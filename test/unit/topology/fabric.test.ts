import { describe, expect, test } from "vitest";
import { createFabric, type Fabric } from "../../../src/topology/fabric.ts";
import { builtInTopology } from "../../../src/topology/levels.ts";
import { nodeRecord } from "../../builders.ts";

function fabricOf(nodes: readonly Record<string, string>[]): Fabric {
  const fabric = createFabric(builtInTopology);
  for (const [i, labels] of nodes.entries()) fabric.setNode(i, nodeRecord(`node-${i}`, { labels }));
  return fabric;
}

function pathOf(fabric: Fabric, level: string, node: number): string | undefined {
  const found = fabric.nodeLevels.find(({ name }) => name === level)!;
  return found.domains[found.domainOf[node] ?? -1]?.path;
}

describe("built-in levels read the labels that are out there", () => {
  test.each([
    ["zone", "topology.kubernetes.io/zone"],
    ["block", "fabric.topograph.run/tier-1"],
    ["block", "cloud.google.com/gce-topology-block"],
    ["block", "topology.k8s.aws/network-node-layer-2"],
    ["rack", "fabric.topograph.run/tier-0"],
    ["rack", "cloud.google.com/gce-topology-subblock"],
    ["rack", "oci.oraclecloud.com/host.rack_id"],
    ["nvlink-domain", "nvidia.com/gpu.clique"],
    ["nvlink-domain", "accelerator.topograph.run/domain"],
    ["nvlink-domain", "ds.coreweave.com/nvlink.domain"],
    ["host", "kubernetes.io/hostname"],
  ])("%s from %s", (level, label) => {
    expect(pathOf(fabricOf([{ [label]: "x" }]), level, 0)).toBe("x");
  });

  test("the first label of a level that a node has counts", () => {
    const labels = { "accelerator.topograph.run/domain": "third-party", "nvidia.com/gpu.clique": "fabric.1" };
    expect(pathOf(fabricOf([labels]), "nvlink-domain", 0)).toBe("fabric.1");
  });

  test("a node without a host name label is a host by its own name", () => {
    expect(pathOf(fabricOf([{}]), "host", 0)).toBe("node-0");
  });
});

describe("domains", () => {
  const zone = "topology.kubernetes.io/zone";
  const rack = "topology.kubernetes.io/rack";

  test("are whole paths: equal racks of two zones differ", () => {
    const fabric = fabricOf([
      { [zone]: "a", [rack]: "r" },
      { [zone]: "b", [rack]: "r" },
    ]);
    expect([pathOf(fabric, "rack", 0), pathOf(fabric, "rack", 1)]).toEqual(["a/r", "b/r"]);
  });

  test("a node that lacks a label is in no domain of the level, and in those below it by the labels it has", () => {
    const fabric = fabricOf([{ [zone]: "a" }]);
    expect(pathOf(fabric, "rack", 0)).toBeUndefined();
    expect(pathOf(fabric, "host", 0)).toBe("a/node-0");
  });

  test("a node that moves leaves its old domain, which disappears with its last node", () => {
    const fabric = fabricOf([{ [rack]: "a" }, { [rack]: "b" }]);
    fabric.setNode(0, nodeRecord("node-0", { labels: { [rack]: "b" } }));
    const level = fabric.nodeLevels.find(({ name }) => name === "rack")!;
    const paths = level.domains.flatMap((domain) => (domain ? [[domain.path, domain.nodes.toSorted()]] : []));
    expect(paths).toEqual([["b", [0, 1]]]);
  });

  test("structureVersion stays when nothing about the domains changes", () => {
    const fabric = fabricOf([{ [rack]: "a" }]);
    const { structureVersion } = fabric;
    fabric.setNode(0, nodeRecord("node-0", { labels: { [rack]: "a", other: "label" } }));
    expect(fabric.structureVersion).toBe(structureVersion);
  });

  test("ranks follow domains in natural order, then names", () => {
    const fabric = createFabric(builtInTopology);
    const names: [string, string][] = [
      ["node-10", "r2"],
      ["node-2", "r10"],
      ["node-9", "r2"],
    ];
    for (const [i, [name, where]] of names.entries()) {
      fabric.setNode(i, nodeRecord(name, { labels: { [rack]: where } }));
    }
    const order = [0, 1, 2].sort((a, b) => fabric.rankOf(a) - fabric.rankOf(b));
    expect(order.map((i) => names[i]![0])).toEqual(["node-9", "node-10", "node-2"]);
  });
});
