import { stripVTControlCharacters } from "node:util";
import { describe, expect, test } from "vitest";
import { drawPlacements, type PictureOptions } from "../../../src/cli/picture.ts";
import { simulatedNode } from "../../../src/simulator/names.ts";
import { gpus, nodeRecord, sliceRecord } from "../../builders.ts";
import { fleetState, gpuNames, placement, planOutput } from "./builders.ts";

const plain: PictureOptions = { width: 110, color: false, simulatedLabel: simulatedNode };

/** What the examples come to, more or less, and one gang that did not fit. */
function everyKind() {
  const inRack = (pods: Parameters<typeof placement>[1], gang: string, role: string) =>
    placement(gang, pods, {
      namespace: "llama-pd",
      placementGroup: "llama-pd",
      role,
      domains: { rack: "r/b/nvl72-0", "nvlink-domain": "r/b/nvl72-0/4cafd000-0000-5000-8000-000000000000.0" },
    });
  const decode = [1, 2].map((n) => {
    const node = `nvl72-0-0${3 + n}`;
    return inRack(
      [
        { node, devices: gpuNames(0, 2) },
        { node, devices: gpuNames(2, 4) },
      ],
      `decode-${n}`,
      "decode",
    );
  });
  const prefill = ["a", "b"].map((letter, n) =>
    inRack(
      [0, 1].map((pod) => ({ node: `nvl72-0-0${2 * n + pod}`, devices: gpuNames(0, 4) })),
      `prefill-${letter}`,
      "prefill",
    ),
  );
  const dgx = placement("llama", [
    { node: "h100-0-00", devices: gpuNames(0, 4) },
    { node: "h100-0-00", devices: gpuNames(4, 8) },
  ]);
  const mig = placement("small", [{ node: "a100-0-00", devices: ["gpu-0-mig-1g10gb-19-2"] }]);
  const mig2 = placement("medium", [{ node: "a100-0-00", devices: ["gpu-0-mig-3g40gb-9-4"] }]);
  const wholeMig = placement("whole", [{ node: "a100-0-00", devices: ["gpu-7"] }]);
  const bridges = placement(
    "workers",
    [
      { node: "pcie-0-00", devices: gpuNames(0, 2) },
      { node: "pcie-0-01", devices: ["gpu-3"] },
      { node: "pcie-0-02", devices: [] },
    ],
    { domains: { block: "b", rack: "b/pcie-0" } },
  );
  return planOutput([...decode, ...prefill, dgx, mig, mig2, wholeMig, bridges], {
    rejections: [
      {
        gang: "huge",
        namespace: "ns",
        reason: "NoDomainFits",
        message:
          "Pending: 80 GPUs are needed in one nvlink-domain and the largest has 72, of which 40 are free; ask for fewer",
        blocking: [],
        counterfactuals: [],
      },
    ],
  });
}

describe("the default fleet", () => {
  test("with something of every kind placed", async () => {
    const text = drawPlacements(fleetState(), everyKind(), plain);
    await expect(text).toMatchFileSnapshot("picture-every-kind.golden.txt");
  });

  test("empty", async () => {
    const text = drawPlacements(fleetState(), planOutput([]), plain);
    await expect(text).toMatchFileSnapshot("picture-empty.golden.txt");
  });

  test("on a narrow terminal keeps to the width as far as one node allows", () => {
    const lines = drawPlacements(fleetState(), everyKind(), { ...plain, width: 72 }).split("\n");
    const nodeLines = lines.filter((line) => /^ {2}\S+ \[/.test(line));
    expect(nodeLines.length).toBeGreaterThanOrEqual(6);
    for (const line of nodeLines) expect(line.length).toBeLessThanOrEqual(72);
  });

  test("fits a screen: 60 lines of 110 columns", () => {
    const lines = drawPlacements(fleetState(), everyKind(), plain).split("\n");
    expect(lines.length).toBeLessThanOrEqual(60);
    for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(110);
  });

  test("does not depend on the order of its input", () => {
    const { nodes, slices } = fleetState();
    const output = everyKind();
    expect(drawPlacements({ nodes: nodes.toReversed(), slices: slices.toReversed() }, output, plain)).toBe(
      drawPlacements({ nodes, slices }, output, plain),
    );
  });
});

test("colour adds nothing but colour, and each gang has its own", () => {
  const state = fleetState();
  const colored = drawPlacements(state, everyKind(), { ...plain, color: true });
  expect(stripVTControlCharacters(colored)).toBe(drawPlacements(state, everyKind(), plain));
  const painted = colored.split("\u001b[").flatMap((part) => {
    const [, code, letter] = /^(1;38;5;\d+)m([A-Z])$/.exec(part) ?? [];
    return code === undefined || letter === undefined ? [] : [[letter, code] as const];
  });
  const codes = new Map(painted);
  expect(codes.size).toBe(new Set(painted.map((pair) => pair.join())).size);
  expect([...codes.keys()].sort().join("")).toBe("ABCDEFGHI");
  expect(new Set(codes.values()).size).toBe(9);
});

test("a node that is not ready and a GPU that is lost are marked", () => {
  const [first, second, ...rest] = gpus(4, () => ({ nvlinkDomain: "n0" }));
  const lost = { ...second!, taints: [{ key: "gpu.kllama.ai/gpu-lost", effect: "NoExecute" as const }] };
  const state = { nodes: [nodeRecord("n0", { ready: false })], slices: [sliceRecord("n0", [first!, lost, ...rest])] };
  const text = drawPlacements(state, planOutput([placement("a", [{ node: "n0", devices: ["gpu-0"] }])]), plain);
  expect(text).toContain("n0 [A x · ·] not ready");
  expect(text).toContain("x lost");
});

test("nothing claims to be simulated on real nodes", () => {
  const state = { nodes: [nodeRecord("n0")], slices: [sliceRecord("n0", gpus(2))] };
  const text = drawPlacements(state, planOutput([placement("a", [{ node: "n0", devices: ["gpu-1"] }])]), plain);
  expect(text).not.toMatch(/simulated/i);
  expect(text).toContain("no rack");
  expect(text).toContain("n0 [· A]");
});

test("GPUs are in natural order, gangs beyond the alphabet share a sign", () => {
  const state = { nodes: [nodeRecord("n0")], slices: [sliceRecord("n0", gpus(60))] };
  const gangs = gpuNames(0, 54).map((device) => placement(`g-${device}`, [{ node: "n0", devices: [device] }]));
  const text = drawPlacements(state, planOutput(gangs), { ...plain, width: 200 });
  expect(text).toContain("[A B C D E F G H I J K L");
  expect(text).toContain("y z # # · · · · · ·]");
});

test("a cluster without nodes is a title", () => {
  expect(drawPlacements({ nodes: [], slices: [] }, planOutput([]), plain)).toMatch(/^0 nodes, 0 GPUs, 0 in use\n/);
});
