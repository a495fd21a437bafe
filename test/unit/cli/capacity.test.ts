import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { CapacityAnswer, CapacityOutput } from "../../../src/api/capacity.ts";
import { gang, gangOf, json, node, planFiles, pod, rack, template } from "./plan/support.ts";

interface Asked extends CapacityOutput {
  code: number;
  stderr: string;
}

/** Runs `kllama capacity` on one file, and reads the JSON. */
async function ask(files: Record<string, string> | string, args = "-f FOLDER -o json"): Promise<Asked> {
  const all = typeof files === "string" ? { "input.yaml": files } : files;
  const { code, stdout, stderr } = await planFiles(all, args, "capacity");
  return { ...(JSON.parse(stdout) as CapacityOutput), code, stderr };
}

async function table(input: string, args = "-f FOLDER"): Promise<string> {
  return (await planFiles({ "input.yaml": input }, args, "capacity")).stdout;
}

/** `kind name` → how often, why no more, and where each copy's pods are. */
function told({ answers }: CapacityOutput): Record<string, string> {
  const where = ({ placements }: CapacityAnswer) =>
    placements.map((gangs) => gangs.flatMap(({ pods }) => pods.map(({ node: name }) => name)).join(" ")).join(" | ");
  return Object.fromEntries(
    answers.map((answer) => [
      `${answer.kind} ${answer.name}`,
      `${answer.copies} ${answer.stoppedBy}${answer.copies === 0 ? `: ${answer.rejections[0]?.reason}` : `: ${where(answer)}`}`,
    ]),
  );
}

const inRack = { constraints: [{ level: "rack" }] };
const twoRacks = `${rack("six", 6)}${rack("five", 5)}${template("four", 4)}`;

describe("how often", () => {
  test("whole placements are counted, not free devices: 44 devices hold two gangs of 20 in one rack each", async () => {
    const output = await ask(`${twoRacks}${gangOf("g", 5, "four", inRack)}`);
    expect(told(output)).toEqual({
      "Gang g": "2 room: five-0 five-1 five-2 five-3 five-4 | six-0 six-1 six-2 six-3 six-4",
    });
    expect(output.answers[0]!.rejections[0]!.message).toMatch(/^needs 5 nodes .* the cluster has 1 now$/);
    expect(output.code).toBe(0);
  });

  test("each object is asked about by itself, as if the others were not there", async () => {
    const output = await ask(`${rack("a", 3)}${template("four", 4)}${gangOf("x", 2, "four")}${gangOf("y", 3, "four")}`);
    expect(told(output)).toEqual({ "Gang x": "1 room: a-0 a-1", "Gang y": "1 room: a-0 a-1 a-2" });
  });

  test("as many as the limit says, then it says that there may be more", async () => {
    const input = `${rack("a", 4)}${template("one", 1)}${gangOf("g", 1, "one")}`;
    const output = await ask(input, "-f FOLDER -o json --limit 3");
    expect(output.answers[0]).toMatchObject({ copies: 3, stoppedBy: "limit", rejections: [] });
    expect(await table(input, "-f FOLDER --limit 3")).toMatch(/Gang default\/g {2}at least 3 times\n/);
  });

  test("an elastic gang counts where its minCount fits, and takes as many more as do, as the planner would have it", async () => {
    const elastic = gangOf("g", 4, "four", { podSets: [{ name: "ranks", count: 4, minCount: 2 }], ...inRack });
    const output = await ask(`${rack("a", 4)}${rack("b", 3)}${rack("c", 1)}${template("four", 4)}${elastic}`);
    expect(told(output)).toEqual({ "Gang g": "2 room: a-0 a-1 a-2 a-3 | b-0 b-1 b-2" });
  });

  test("of a PlacementGroup it is the base set, all of it in each copy", async () => {
    const group = json({
      apiVersion: "scheduling.kllama.ai/v1alpha1",
      kind: "PlacementGroup",
      metadata: { name: "pd" },
      spec: {
        members: [
          { role: "prefill", minInstances: 1 },
          { role: "decode", minInstances: 2 },
        ],
        ...inRack,
      },
    });
    const member = (name: string, role: string) => gangOf(name, 1, "four", { placementGroup: "pd", role });
    const work = `${group}${member("p1", "prefill")}${member("d1", "decode")}${member("d2", "decode")}`;
    const output = await ask(`${rack("x", 7)}${rack("y", 2)}${template("four", 4)}${work}`);
    expect(told(output)).toEqual({ "PlacementGroup pd": "2 room: x-0 x-1 x-2 | x-3 x-4 x-5" });
    expect(output.answers[0]!.placements[1]!.map(({ gang: name, role }) => [name, role])).toEqual([
      ["d1", "decode"],
      ["d2", "decode"],
      ["p1", "prefill"],
    ]);
    const lacking = await ask(`${rack("x", 7)}${template("four", 4)}${group}${member("p1", "prefill")}`);
    expect(told(lacking)).toEqual({ "PlacementGroup pd": "0 room: WaitingForPlacementGroup" });
  });

  test("an LLMCluster is what its operator makes of it, a StatefulSet all of its pods", async () => {
    const cluster = json({
      apiVersion: "serving.ai/v1alpha1",
      kind: "LLMCluster",
      metadata: { name: "llama" },
      spec: { image: "server", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 },
    });
    const set = json({
      apiVersion: "apps/v1",
      kind: "StatefulSet",
      metadata: { name: "web" },
      spec: {
        replicas: 3,
        template: {
          spec: { containers: [{ name: "m" }], resourceClaims: [{ name: "g", resourceClaimTemplateName: "two" }] },
        },
      },
    });
    const output = await ask(`${rack("a", 4)}${template("two", 2)}${cluster}${set}`);
    expect(output.answers.map(({ kind, name, copies }) => [kind, name, copies])).toEqual([
      ["LLMCluster", "llama", 2],
      ["StatefulSet", "web", 2],
    ]);
  });

  test("pods that share a claim share it within a copy, not between copies", async () => {
    const claim = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name: "shared" },
      spec: { devices: { requests: [{ name: "r", exactly: { deviceClassName: "gpu.kllama.ai", count: 2 } }] } },
    });
    const member = (name: string) =>
      pod(name, { gang: "g", spec: { resourceClaims: [{ name: "r", resourceClaimName: "shared" }] } });
    const work = `${gang("g", { podSets: [{ name: "ranks", count: 2 }] })}${member("g-0")}${member("g-1")}`;
    const output = await ask(`${node("a")}${node("b", { gpus: 3 })}${claim}${work}`);
    expect(told(output)).toEqual({ "Gang g": "3 room: b b | a a | a a" });
    const devices = output.answers[0]!.placements.map(([placement]) =>
      placement!.pods.map(({ claims }) => claims[0]!.devices.map(({ device }) => device).join()),
    );
    for (const [one, two] of devices) expect(one).toBe(two);
    expect(new Set(devices.slice(1).flat()).size).toBe(2);
  });
});

test("the README's command prints what the README says", async () => {
  const readme = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
  const [, args = "", says] = /^bin\/kllama capacity (.*?) +# (\d+ times): two in each NVL72 rack$/m.exec(readme) ?? [];
  const { code, stdout } = await planFiles({}, args, "capacity");
  expect(code).toBe(0);
  expect(stdout).toMatch(new RegExp(`^Fits\\n {2}PlacementGroup llama-pd/llama-pd {2}${says}\\n`));
  const racks = [...stdout.matchAll(/decode-1: .* on (nvl72-\d)/g)].map(([, name]) => name);
  expect(racks).toEqual(["nvl72-0", "nvl72-0", "nvl72-1", "nvl72-1"]);
});

describe("what counts as taken", () => {
  test("what runs holds its place and is not asked about; pods that wait hold nothing", async () => {
    const running = [0, 1].map((i) =>
      pod(`g-${i}`, {
        gang: "g",
        spec: { nodeName: "a-0", containers: [{ name: "m", resources: { requests: { cpu: 30 } } }] },
      }),
    );
    const gangs = `${gang("g", { podSets: [{ name: "ranks", count: 2 }] })}${running.join("")}`;
    const big = pod("big", { spec: { containers: [{ name: "m", resources: { requests: { cpu: 40 } } }] } });
    const output = await ask(`${rack("a", 2)}${gangs}${big}${gangOf("waits", 2, "four")}${template("four", 4)}`);
    expect(told(output)).toEqual({ "Pod big": "1 room: a-1", "Gang waits": "1 room: a-0 a-1" });
    expect(output.stderr).toContain("Gang default/g is not asked about: Gang default/g has a place already");
  });

  test("a snapshot's own work stays where it is, and one of its objects can be asked about once more", async () => {
    const list = (text: string) => {
      const items = text.split("---\n").flatMap((each) => (each === "" ? [] : [JSON.parse(each)]));
      return JSON.stringify({ apiVersion: "v1", kind: "List", items });
    };
    const held = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name: "g-0-gpus", uid: "c" },
      spec: { devices: { requests: [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count: 4 } }] } },
      status: {
        allocation: {
          devices: {
            results: [0, 1, 2, 3].map((i) => ({
              request: "gpus",
              driver: "gpu.kllama.ai",
              pool: "a-0",
              device: `gpu-${i}`,
            })),
          },
        },
      },
    });
    const deviceClass = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "DeviceClass",
      metadata: { name: "gpu.kllama.ai" },
      spec: { selectors: [{ cel: { expression: 'device.driver == "gpu.kllama.ai"' } }] },
    });
    const there = `${rack("a", 3)}${deviceClass}${held}${gang("g", { podSets: [{ name: "ranks", count: 1 }] })}${pod(
      "g-0",
      {
        gang: "g",
        spec: { nodeName: "a-0" },
      },
    )}`;
    const files = { "now.json": list(there), "work.yaml": `${template("four", 4)}${gangOf("g", 1, "four")}` };
    const output = await ask(files, "--snapshot FOLDER/now.json -f FOLDER/work.yaml -o json");
    expect([output.stderr, output.code]).toEqual(["", 0]);
    expect(told(output)).toEqual({ "Gang g": "2 room: a-1 | a-2" });
    expect(output.free[0]).toMatchObject({ total: 12, free: 8, nodesByFree: { 4: 2 } });
  });
});

describe("what does not fit says why", () => {
  test("a gang that is too large: exit code 3, the planner's own words", async () => {
    const output = await ask(`${rack("a", 2)}${template("four", 4)}${gangOf("g", 3, "four")}`);
    expect(output.code).toBe(3);
    expect(told(output)).toEqual({ "Gang g": "0 room: InsufficientDevices" });
    const text = await table(`${rack("a", 2)}${template("four", 4)}${gangOf("g", 3, "four")}`);
    expect(text).toMatch(/^Does not fit\n {2}Gang default\/g\n {4}InsufficientDevices\n {6}needs 3 nodes/);
  });

  test("a Gang without pods says what is missing, and what to give", async () => {
    const output = await ask(`${rack("a", 2)}${gang("g", { podSets: [{ name: "ranks", count: 2 }] })}`);
    expect(output.answers[0]!.rejections).toMatchObject([
      { reason: "WaitingForMembers", message: expect.stringMatching(/has 0 of 2 pods; give its pods/) },
    ]);
  });

  test("bad input is named with file, line, field and remedy; the rest is answered; exit code 2", async () => {
    const bad =
      "apiVersion: scheduling.kllama.ai/v1alpha1\nkind: Gang\nmetadata: { name: bad }\nspec:\n  podSets:\n  - name: ranks\n    count: 0\n";
    const files = { "bad.yaml": bad, "good.yaml": `${rack("a", 2)}${template("four", 4)}${gangOf("g", 1, "four")}` };
    const output = await ask(files);
    expect(output.code).toBe(2);
    expect(output.stderr).toMatch(/bad\.yaml:7: Gang default\/bad: spec\.podSets\[0\]\.count: /);
    expect(told(output)).toEqual({ "Gang bad": "0 room: InvalidGang", "Gang g": "2 room: a-0 | a-1" });
  });

  test.for([
    ["-o picture", "--output picture is not a format; use table or json"],
    ["--limit 0", "--limit 0 is not a whole number from 1 to 1000"],
    ["--limit many", "--limit many is not a whole number"],
    ["--snapshot a --kubeconfig b", "--snapshot and --kubeconfig both name a cluster; give one of them"],
  ])("%s is refused", async ([args, says]) => {
    const { code, stderr } = await planFiles({}, args, "capacity");
    expect(code).toBe(2);
    expect(stderr).toContain(says);
  });

  test("a live cluster that cannot be found is named", async () => {
    const { code, stderr } = await planFiles({}, "--kubeconfig FOLDER/none", "capacity");
    expect(code).toBe(1);
    expect(stderr).toMatch(/^kllama capacity: .*none/);
  });
});

describe("what is free", () => {
  test("by class, by how many a node has together, and by domain; a node that takes no pods has none free", async () => {
    const cordoned = node("c", { spec: { unschedulable: true }, labels: { "topology.kubernetes.io/rack": "a" } });
    const output = await ask(`${rack("a", 2)}${rack("b", 1, 8)}${cordoned}`);
    expect(output.free).toEqual([
      {
        deviceClass: "gpu.kllama.ai",
        driver: "gpu.kllama.ai",
        product: "",
        total: 20,
        free: 16,
        nodesByFree: { 4: 2, 8: 1 },
        levels: [
          {
            level: "rack",
            domainsByFree: { 8: 2 },
            largest: { domain: "a", free: 8 },
            domains: [
              { domain: "a", free: 8 },
              { domain: "b", free: 8 },
            ],
          },
          {
            level: "host",
            domainsByFree: { 4: 2, 8: 1 },
            largest: { domain: "b/b-0", free: 8 },
            domains: [
              { domain: "b/b-0", free: 8 },
              { domain: "a/a-0", free: 4 },
              { domain: "a/a-1", free: 4 },
            ],
          },
        ],
      },
    ]);
    expect(output.code).toBe(0);
    expect(await table(`${rack("a", 2)}${rack("b", 1)}`)).toBe(
      "Free devices\n  gpu.kllama.ai: 12 of 12 free\n    node  3 with 4\n    rack  1 with 8, 1 with 4; most in a\n",
    );
  });

  test("partitions count as many as can be had together", async () => {
    const output = await ask({}, "--fleet fleets/default.yaml -o json");
    const mig = output.free.filter(({ deviceClass }) => deviceClass === "mig.kllama.ai");
    const perGpu = mig.map(({ product, free }) => [product.split(" ").at(-1), free / 64]);
    expect(Object.fromEntries(perGpu)).toEqual({
      "1g.10gb": 7,
      "1g.10gb+me": 1,
      "1g.20gb": 4,
      "2g.20gb": 3,
      "3g.40gb": 2,
      "4g.40gb": 1,
      "7g.80gb": 1,
    });
  });
});
