import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FleetError, parseFleet, uniformFleet } from "../../../src/simulator/fleet.ts";
import { fleetNodes } from "../../../src/simulator/objects.ts";

const defaultText = readFileSync("fleets/default.yaml", "utf8");

function problems(text: string): string {
  try {
    parseFleet(text, "f.yaml");
  } catch (error) {
    expect(error).toBeInstanceOf(FleetError);
    return (error as Error).message;
  }
  throw new Error("the fleet was accepted");
}

describe("the default fleet", () => {
  test("has two NVL72 racks, 16 DGX H100, 8 DGX A100 and 8 PCIe hosts", () => {
    const nodes = fleetNodes(parseFleet(defaultText, "default.yaml"));
    const count = (type: string): [number, number] => {
      const of = nodes.filter((node) => node.type.name === type);
      return [of.length, of.reduce((gpus, node) => gpus + node.type.slots.length, 0)];
    };
    expect(count("gb200-nvl72")).toEqual([36, 144]);
    expect(count("dgx-h100")).toEqual([16, 128]);
    expect(count("dgx-a100-mig")).toEqual([8, 64]);
    expect(count("h100-pcie")).toEqual([8, 32]);
    expect(nodes).toHaveLength(68);
    expect(new Set(nodes.map((node) => node.name)).size).toBe(68);
  });
});

describe("a bad fleet file names file, field and remedy", () => {
  test.each<[string, (text: string) => string, RegExp]>([
    ["not YAML", () => "racks: [", /^f\.yaml: not YAML: .+/],
    ["empty", () => "", /^f\.yaml: the file: .*expected object/],
    [
      "unknown field",
      (t) => t.replace("nvlink: rack", "nvlinks: rack"),
      /nodeTypes\[0\]: unknown field nvlinks; remove it or correct its spelling/,
    ],
    ["missing field", (t) => t.replace("region: sim-west\n", ""), /f\.yaml: region: missing; give a string/],
    [
      "unknown node type",
      (t) => t.replace("nodeType: dgx-h100,", "nodeType: dgx-h10,"),
      /racks\[2\]\.nodeType: no node type is called "dgx-h10"; use one of gb200-nvl72, /,
    ],
    [
      "rack twice",
      (t) => t.replace("name: nvl72-1", "name: nvl72-0"),
      /racks\[1\]\.name: this name stands twice; give/,
    ],
    [
      "address twice",
      (t) => t.replace("0009:01:00.0", "0008:01:00.0"),
      /nodeTypes\[0\]\.slots\[1\]\.pciBusID: this address stands twice/,
    ],
    [
      "address in NVML's form",
      (t) => t.replace("0000:1b:00.0", "00000000:1B:00.0"),
      /pciBusID: write it in lower case/,
    ],
    ["bridge missing", (t) => t.replace(", bridge: 1 }", " }"), /slots\[2\]\.bridge: missing; with nvlink: bridge/],
    ["bridge without bridges", (t) => t.replace("nvlink: bridge", "nvlink: none"), /bridge: nvlink is none; remove it/],
    ["leading zero", (t) => t.replace("570.133.20", "570.86.05"), /driverVersion: write three numbers without leading/],
    ["unknown board", (t) => t.replace("mig: a100-80gb", "mig: a100"), /gpu\.mig: .*a100-80gb/],
    ["no nodes", (t) => t.replace("nodes: 18", "nodes: 0"), /racks\[0\]\.nodes: .*>=1/],
    ["too long a name", (t) => t.replace("name: nvl72-0", `name: ${"x".repeat(41)}`), /racks\[0\]\.name: .*<=40/],
  ])("%s", (_, change, message) => {
    expect(problems(change(defaultText))).toMatch(message);
  });
});

test("a uniform fleet has full racks and one with the rest", () => {
  const fleet = uniformFleet({ nodes: 35 });
  expect(fleet.racks.map((rack) => rack.nodes)).toEqual([16, 16, 3]);
  expect(fleetNodes(fleet)).toHaveLength(35);
  expect(uniformFleet({ nodes: 1, gpusPerNode: 16 }).nodeTypes[0]?.slots).toHaveLength(16);
  expect(() => uniformFleet({ nodes: 0 })).toThrow(/uniform fleet of 0 nodes: racks/);
});
