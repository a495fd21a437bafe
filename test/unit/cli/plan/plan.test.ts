import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gang, gangOf, json, node, places, plan, planFiles, pod, rack, runningGang, template } from "./support.ts";

const placementGroup = (spec: object) =>
  json({ apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "PlacementGroup", metadata: { name: "pd" }, spec });

describe("where things go", () => {
  test("a gang's pods get nodes and devices; a claim that does not exist goes by its name in the pod", async () => {
    const output = await plan(`${node("a")}${template("two", 2)}${gangOf("g", 2, "two")}`);
    expect(output.code).toBe(0);
    expect(output.rejections).toEqual([]);
    expect(output.placements).toHaveLength(1);
    const [placement] = output.placements;
    expect(placement).toMatchObject({ gang: "g", namespace: "default" });
    const device = (name: string) => ({ request: "gpus", driver: "gpu.kllama.ai", pool: "a", device: name });
    expect(placement!.pods).toEqual([
      { pod: "g-0", podSet: "ranks", index: 0, node: "a", claims: [claim(device("gpu-0"), device("gpu-1"))] },
      { pod: "g-1", podSet: "ranks", index: 1, node: "a", claims: [claim(device("gpu-2"), device("gpu-3"))] },
    ]);
    expect(output.stats).toMatchObject({ nodes: 1, devices: 4, gangs: 1, budgetExceeded: false });
  });

  const claim = (...devices: object[]) => ({ claim: "gpus", reference: "gpus", devices });

  test.for([
    ["3, 3, 5", ["a 3", "b 3", "c 5"]],
    ["3, 5, 3", ["a 3", "b 5", "c 3"]],
    ["5, 3, 3", ["a 5", "b 3", "c 3"]],
  ] as const)("racks of 6 and 5 nodes hold gangs of %s, each in one rack, in whatever order", async ([, gangs]) => {
    const work = gangs.map((each) => {
      const [name, count] = each.split(" ");
      return gangOf(name!, Number(count), "four", { constraints: [{ level: "rack" }] });
    });
    const output = await plan(`${rack("six", 6)}${rack("five", 5)}${template("four", 4)}${work.join("")}`);
    expect(output.rejections).toEqual([]);
    expect(output.code).toBe(0);
    for (const { pods } of output.placements) {
      expect(new Set(pods.map((each) => each.node.replace(/-\d+$/, ""))).size).toBe(1);
    }
  });

  test("what bound pods and allocated claims use is used", async () => {
    const held = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name: "held" },
      spec: { devices: { requests: [{ name: "r", exactly: { deviceClassName: "gpu.kllama.ai" } }] } },
      status: {
        allocation: { devices: { results: [{ request: "r", driver: "gpu.kllama.ai", pool: "a", device: "gpu-0" }] } },
      },
    });
    const running = pod("running", {
      spec: { nodeName: "b", containers: [{ name: "m", resources: { requests: { cpu: 64 } } }] },
    });
    const work = [1, 2].map((i) => pod(`p${i}`, { template: "three" })).join("");
    const output = await plan(`${node("a")}${node("b")}${held}${running}${template("three", 3)}${work}`);
    expect(places(output)).toEqual({ p1: "a", p2: "InsufficientDevices" });
    expect(output.placements[0]!.pods[0]!.claims[0]!.devices.map(({ device }) => device)).toEqual([
      "gpu-1",
      "gpu-2",
      "gpu-3",
    ]);
    expect(output.code).toBe(3);
  });

  /** A claim that holds these devices of the node's pool. */
  const holding = (name: string, on: string, devices: readonly string[], selectors: object[] = []) =>
    json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name },
      spec: {
        devices: {
          requests: [{ name: "r", exactly: { deviceClassName: "gpu.kllama.ai", count: devices.length, selectors } }],
        },
      },
      status: {
        allocation: {
          devices: {
            results: devices.map((device) => ({ request: "r", driver: "gpu.kllama.ai", pool: on, device })),
          },
        },
      },
    });

  test("a claim that holds devices holds them, also where what it asked for is not understood", async () => {
    const held = holding("held", "a", ["gpu-0", "gpu-1"], [{ cel: { expression: "device.nonsense(" } }]);
    const output = await plan(`${node("a")}${held}${template("three", 3)}${pod("p", { template: "three" })}`);
    expect(places(output)).toEqual({ p: "InsufficientDevices" });
    expect(output.stderr).toMatch(
      /ResourceClaim default\/held: spec\.devices\..*does not compile: .*; the claim keeps the devices that it holds/,
    );
    expect(output.code).toBe(3);
  });

  test("a pod leaves nodes to what most pods of the cluster ask for, as in the planner", async () => {
    const gpus = ["gpu-0", "gpu-1", "gpu-2", "gpu-3"];
    const others = [0, 1, 2].map((i) => {
      const spec = { nodeName: `full-${i}`, resourceClaims: [{ name: "gpus", resourceClaimName: `four-${i}` }] };
      return `${node(`full-${i}`)}${holding(`four-${i}`, `full-${i}`, gpus)}${pod(`four-${i}`, { spec })}`;
    });
    const part = `${node("part", { gpus: 8 })}${holding("one", "part", ["gpu-0"])}`;
    const output = await plan(
      `${node("whole")}${part}${others.join("")}${template("two", 2)}${pod("p", { template: "two" })}`,
    );
    expect(places(output)).toEqual({ p: "part" });
  });

  describe("devices that a DeviceTaintRule taints", () => {
    const rule = (spec: object, version = "v1") =>
      json({ apiVersion: `resource.k8s.io/${version}`, kind: "DeviceTaintRule", metadata: { name: "r" }, spec });
    const drain = (effect: string) => ({ key: "drain", value: "yes", effect });
    const two = (tolerations: object[] = []) => {
      const exactly = { deviceClassName: "gpu.kllama.ai", count: 2, tolerations };
      const spec = { spec: { devices: { requests: [{ name: "gpus", exactly }] } } };
      return json({ apiVersion: "resource.k8s.io/v1", kind: "ResourceClaimTemplate", metadata: { name: "two" }, spec });
    };

    test.for([
      ["NoSchedule", "v1", "b"],
      ["NoExecute", "v1beta2", "b"],
      ["NoSchedule", "v1alpha3", "b"],
      ["None", "v1", "a"],
    ] as const)("are given to nobody where its effect is %s (%s)", async ([effect, version, node_]) => {
      const tainted = rule({ deviceSelector: { pool: "a" }, taint: drain(effect) }, version);
      const input = `${node("a")}${node("b", { gpus: 8 })}${tainted}${two()}${gangOf("g", 2, "two")}`;
      const output = await plan(input);
      expect([output.code, places(output)]).toEqual([0, { g: `${node_} ${node_}` }]);
    });

    test("are given to who tolerates the taint; who does not is told of it", async () => {
      const tainted = rule({
        deviceSelector: { driver: "gpu.kllama.ai", pool: "a" },
        taint: drain("NoSchedule"),
      });
      const refused = await plan(`${node("a", { gpus: 2 })}${tainted}${two()}${gangOf("g", 1, "two")}`);
      expect([refused.code, places(refused)]).toEqual([3, { g: "NoMatchingDevice" }]);
      expect(refused.rejections[0]!.message).toContain("gpu-0 has the taint drain:NoSchedule, which is not tolerated");
      const tolerant = two([{ key: "drain", operator: "Exists" }]);
      const placed = await plan(`${node("a", { gpus: 2 })}${tainted}${tolerant}${gangOf("g", 1, "two")}`);
      expect([placed.code, places(placed)]).toEqual([0, { g: "a" }]);
    });

    const lacks = "1 device has a taint that is not tolerated (drain:NoSchedule)";
    const four = template("four", 4);
    const inRack = { constraints: [{ level: "rack" }] };
    const unequal = [
      gang("g", { podSets: ["whole", "half"].map((name) => ({ name, count: 1 })), ...inRack }),
      pod("g-0", { gang: "g", template: "four", labels: { "scheduling.kllama.ai/pod-set": "whole" } }),
      pod("g-1", { gang: "g", template: "two", labels: { "scheduling.kllama.ai/pod-set": "half" } }),
    ].join("");
    const split = rack("x", 1, 6) + rack("y", 1, 5);
    test.for([
      [
        "of a pod",
        "NoMatchingDevice",
        node("a") + four + gangOf("g", 1, "four"),
        "a",
        "4 devices of DeviceClass gpu.kllama.ai are needed, 3 are free; ",
      ],
      [
        "of several",
        "InsufficientDevices",
        node("a") + node("b") + four + gangOf("g", 2, "four"),
        "a",
        "the cluster has 1 now; ",
      ],
      [
        "of several in one rack",
        "NoDomainFits",
        rack("x", 2) + rack("y", 1) + four + gangOf("g", 2, "four", inRack),
        "x-1",
        "the best, x, has 1; ",
      ],
      [
        "of unequal ones",
        "NoDomainFits",
        split + four + two() + unequal,
        "x-0",
        "no place together with the gang in one rack for want of gpu.kllama.ai, though any fewer pods have one; rack y comes closest: all fit but 1 pod of 2 gpu.kllama.ai devices; ",
      ],
    ] as const)("are told where only some of a node are, and the others are too few %s", async (args) => {
      const [, reason, input, on, said] = args;
      const tainted = rule({ deviceSelector: { pool: on, device: "gpu-1" }, taint: drain("NoSchedule") });
      const { rejections } = await plan(input + tainted);
      expect(rejections.map((each) => each.reason)).toEqual([reason]);
      expect(rejections[0]!.message).toContain(said + lacks);
      // Without that taint all of them have a place.
      const other = rule({ deviceSelector: { pool: on, device: "gpu-1" }, taint: drain("None") });
      expect((await plan(input + other)).rejections).toEqual([]);
    });

    test("are not free, and are drawn as lost", async () => {
      const files = {
        "i.yaml": `${node("a")}${rule({ deviceSelector: { device: "gpu-3" }, taint: drain("NoExecute") })}`,
      };
      const { stdout } = await planFiles(files, "-f FOLDER -o json", "capacity");
      expect(JSON.parse(stdout).free[0]).toMatchObject({ total: 4, free: 3 });
      const work = { "work.yaml": `${two()}${gangOf("g", 1, "two")}` };
      expect((await planFiles({ ...files, ...work }, "-f FOLDER -o picture")).stdout).toMatch(/a \[A A · x\]/);
    });

    test.for([
      ["NoExecute", "b"],
      ["None", "a"],
    ] as const)("are left by members of a running gang that are recreated (%s)", async ([effect, expected]) => {
      const [object] = runningGang("g", "a").split("---\n").slice(1);
      const back = pod("g-0", { gang: "g", template: "four" });
      const tainted = rule({ deviceSelector: { pool: "a", device: "gpu-3" }, taint: drain(effect) });
      const input = `${node("a")}${node("b")}${template("four", 4)}${tainted}---\n${object}${back}`;
      expect(places(await plan(input))).toEqual({ g: expected });
    });

    test("are none where the rule has no selector, which is told", async () => {
      const idle = rule({ taint: drain("NoSchedule") });
      const output = await plan(`${node("a", { gpus: 2 })}${idle}${two()}${gangOf("g", 1, "two")}`);
      expect(places(output)).toEqual({ g: "a" });
      expect(output.stderr).toMatch(
        /yaml:\d+: DeviceTaintRule r: spec\.deviceSelector is missing, so that the rule taints no device; write \{\} for all/,
      );
      expect(output.code).toBe(0);
    });
  });

  test.for([
    [4, "a"],
    [3, "b"],
  ] as const)(
    "a member that is recreated returns to its 4 devices if these are published: of %i, to %s",
    async (args) => {
      const [gpus, expected] = args;
      const [object] = runningGang("g", "a").split("---\n").slice(1);
      const input = `${node("a", { gpus })}${node("b")}${template("four", 4)}---\n${object}`;
      expect(places(await plan(`${input}${pod("g-0", { gang: "g", template: "four" })}`))).toEqual({ g: expected });
    },
  );

  test("a pool may be spread over nodes: each gives what is its own", async () => {
    const half = (on: string) =>
      json({
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceSlice",
        metadata: { name: `half-${on}` },
        spec: {
          driver: "gpu.kllama.ai",
          nodeName: on,
          pool: { name: "both", generation: 1, resourceSliceCount: 2 },
          devices: [0, 1].map((i) => ({
            name: `${on}-${i}`,
            attributes: { "gpu.kllama.ai/type": { string: "gpu" } },
          })),
        },
      });
    const nodes = ["a", "b"].map((name) => `${node(name, { gpus: 0 })}${half(name)}`).join("");
    const output = await plan(`${nodes}${template("two", 2)}${gangOf("g", 2, "two")}`);
    expect([output.code, places(output)]).toEqual([0, { g: "a b" }]);
  });

  test("nodes count as kube-scheduler counts them", async () => {
    const notReady = { conditions: [{ type: "Ready", status: "False" }] };
    const taints = [{ key: "dedicated", effect: "NoSchedule" }];
    const nodes = [
      node("cordoned", { spec: { unschedulable: true } }),
      node("down", { status: notReady }),
      node("tainted", { spec: { taints } }),
      node("small", { status: { allocatable: { cpu: "500m", pods: 10 } } }),
      node("silent"),
    ];
    const tolerant = pod("tolerant", {
      template: "four",
      spec: { tolerations: [{ key: "dedicated", operator: "Exists" }] },
    });
    const output = await plan(
      `${nodes.join("")}${template("four", 4)}${gangOf("g", 1, "four")}${tolerant}${pod("late", { template: "four" })}`,
    );
    expect(places(output)).toEqual({ g: "silent", tolerant: "tainted", late: expect.stringMatching(/Insufficient/) });
  });

  test("an LLMCluster is what the operator makes of it; a StatefulSet and a Deployment are their pods", async () => {
    const cluster = json({
      apiVersion: "serving.ai/v1alpha1",
      kind: "LLMCluster",
      metadata: { name: "llama", namespace: "serving" },
      spec: { image: "server", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 },
    });
    const workload = (kind: string, name: string, replicas: number) =>
      json({
        apiVersion: "apps/v1",
        kind,
        metadata: { name },
        spec: {
          replicas,
          selector: { matchLabels: { app: name } },
          template: {
            metadata: { labels: { app: name } },
            spec: {
              containers: [{ name: "m" }],
              resourceClaims: [{ name: "gpus", resourceClaimTemplateName: "one" }],
            },
          },
        },
      });
    const there = pod("set-1", { labels: { app: "set" }, spec: { nodeName: "a" } });
    const output = await plan(
      `${node("a")}${node("b")}${node("c")}${cluster}${template("one", 1)}${workload("StatefulSet", "set", 3)}${there}${workload("Deployment", "web", 2)}`,
    );
    expect(output.code).toBe(0);
    expect(Object.keys(places(output)).sort()).toEqual(["llama", "set-0", "set-2", "web-new-0", "web-new-1"]);
    expect(output.placements.find(({ gang: name }) => name === "llama")).toMatchObject({
      namespace: "serving",
      pods: [{ pod: "llama-0" }, { pod: "llama-1" }],
    });
  });

  test("a PlacementGroup's base set is placed together, wherever its gangs stand in the queue", async () => {
    const group = (min: number) =>
      placementGroup({
        members: [
          { role: "prefill", minInstances: 1 },
          { role: "decode", minInstances: min },
        ],
        constraints: [{ level: "rack" }],
      });
    const member = (name: string, role: string) => gangOf(name, 1, "four", { placementGroup: "pd", role });
    const work = `${template("four", 4)}${member("d1", "decode")}${member("p1", "prefill")}${pod("first", { template: "four" })}`;
    const output = await plan(`${rack("x", 1)}${rack("y", 2)}${work}${group(1)}`);
    expect(places(output)).toEqual({ d1: "y-0", p1: "y-1", first: "x-0" });
    expect(output.placements[0]).toMatchObject({ placementGroup: "pd", role: expect.any(String) });

    const lacking = await plan(`${rack("x", 3)}${work}${group(2)}`);
    expect(places(lacking)).toEqual({ d1: "WaitingForPlacementGroup", p1: "WaitingForPlacementGroup", first: "x-0" });
    expect(lacking.rejections[0]!.message).toBe("PlacementGroup pd: 1 of 2 gangs of role decode are complete");
  });

  const inRack = { constraints: [{ level: "rack" }] };
  const trio = (age: string) => {
    const spec = {
      members: [
        { role: "prefill", minInstances: 1 },
        { role: "decode", minInstances: 1 },
      ],
      ...inRack,
    };
    const group = placementGroup(spec);
    const member = (name: string, role: string, pods: number) =>
      gangOf(name, pods, "four", { placementGroup: "pd", role }, age);
    return `${group}${member("p", "prefill", 1)}${member("d", "decode", 2)}`;
  };
  const older = (minutes: number) => `2026-01-01T00:0${minutes}:00Z`;

  test.for([
    ["first", trio(older(0)), gangOf("a", 3, "four", inRack, older(1)), gangOf("b", 5, "four", inRack, older(2))],
    ["second", gangOf("a", 3, "four", inRack, older(0)), trio(older(1)), gangOf("b", 5, "four", inRack, older(2))],
    ["last", gangOf("a", 3, "four", inRack, older(0)), gangOf("b", 5, "four", inRack, older(1)), trio(older(2))],
  ] as const)(
    "racks of 6 and 5 nodes hold gangs of 3 and 5 and a PlacementGroup of 3, which comes %s",
    async (args) => {
      const [, ...work] = args;
      const output = await plan(`${rack("six", 6)}${rack("five", 5)}${template("four", 4)}${work.join("")}`);
      expect(output.rejections).toEqual([]);
      const racksOf = (...names: string[]) => {
        const pods = output.placements.flatMap(({ gang: name, pods }) => (names.includes(name) ? pods : []));
        return [...new Set(pods.map((each) => each.node.replace(/-\d+$/, "")))];
      };
      expect([racksOf("a"), racksOf("p", "d"), racksOf("b")]).toEqual([["six"], ["six"], ["five"]]);
      const groups = output.placements.map(({ gang: name, placementGroup, role }) => [name, placementGroup, role]);
      expect(groups.sort()).toEqual([
        ["a", undefined, undefined],
        ["b", undefined, undefined],
        ["d", "pd", "decode"],
        ["p", "pd", "prefill"],
      ]);
    },
  );

  test("a PlacementGroup that a later gang has joined stays where both are; others move to let that gang in", async () => {
    const joining = gangOf("e", 1, "four", { placementGroup: "pd", role: "decode" }, older(2));
    const [two, five] = [gangOf("x", 2, "four", inRack, older(0)), gangOf("y", 5, "four", inRack, older(3))];
    const nodes = `${rack("six", 6)}${rack("five", 5)}${template("four", 4)}`;
    const racks = places(await plan(`${nodes}${two}${trio(older(1))}${joining}${five}`));
    expect([racks["p"], racks["d"], racks["e"]].join(" ").replace(/-\d/g, "")).toBe("five five five five");
    expect(racks["x"]).toMatch(/^six-\d six-\d$/);
    expect(racks["y"]).toBe("NoDomainFits");
  });

  test("a younger gang stands in for one of its role that does not fit; if none fits, the oldest is told who was tried", async () => {
    const spec = { members: [{ role: "prefill" }, { role: "decode" }] };
    const group = placementGroup(spec);
    const member = (name: string, role: string, pods: number) =>
      gangOf(name, pods, "four", { placementGroup: "pd", role });
    const work = `${template("four", 4)}${member("p0", "prefill", 1)}${member("d0", "decode", 2)}${member("d1", "decode", 1)}${group}`;
    expect(places(await plan(`${rack("x", 3)}${work}`))).toMatchObject({ d0: "x-0 x-1", p0: "x-2" });
    expect(places(await plan(`${rack("x", 2)}${work}`))).toEqual({ d0: "InsufficientDevices", d1: "x-0", p0: "x-1" });
    const refused = await plan(`${rack("x", 1)}${work}`);
    expect(refused.placements).toEqual([]);
    const messageOf = (name: string) => refused.rejections.find(({ gang }) => gang === name)?.message;
    expect(messageOf("d0")).toContain("; nor is there a place with d1 in their stead");
    expect(messageOf("d1")).toBe("PlacementGroup pd: its base set is placed first");
  });

  test.for([
    [undefined, "is not set"],
    ["router", "is router, which the group does not have"],
  ])("a gang that names a group and no role of it is told the roles: %s", async ([role, what]) => {
    const member = (name: string, its?: string) =>
      gangOf(name, 1, "four", { placementGroup: "pd", ...(its && { role: its }) });
    const work = `${template("four", 4)}${member("p", "prefill")}${member("d", "decode")}${member("stray", role)}`;
    const output = await plan(`${rack("x", 3)}${work}${paired({})}`);
    expect(places(output)).toMatchObject({ d: "x-0", p: "x-1", stray: "InvalidGang" });
    expect(output.rejections[0]!.message).toBe(
      `PlacementGroup pd: the gang's spec.role ${what}; set it to one of prefill, decode`,
    );
  });

  const paired = (ratios: object, members = [1, 1]) =>
    placementGroup({
      members: ["prefill", "decode"].map((role, i) => ({ role, minInstances: members[i] })),
      pairing: [{ from: "prefill", to: "decode", ...ratios }],
    });
  const gangsOf = (role: string, count: number) =>
    Array.from({ length: count }, (_, i) => gangOf(`${role[0]}${i}`, 1, "one", { placementGroup: "pd", role })).join(
      "",
    );

  test.for([
    ["two per decode at most", { maxRatio: "2" }, [4, 1], ["d0", "p0", "p1"]],
    ["two per decode at least", { minRatio: "2" }, [3, 2], ["d0", "p0", "p1", "p2"]],
    [
      "two per decode, no more and no less",
      { minRatio: "2", maxRatio: "2" },
      [4, 2],
      ["d0", "d1", "p0", "p1", "p2", "p3"],
    ],
    ["an odd one waits", { minRatio: "2", maxRatio: "2" }, [5, 2], ["d0", "d1", "p0", "p1", "p2", "p3"]],
    ["a third of a prefill per decode", { minRatio: "0.333333" }, [1, 4], ["d0", "d1", "d2", "p0"]],
    ["no bound", {}, [4, 1], ["d0", "p0", "p1", "p2", "p3"]],
  ] as const)(
    "gangs of a pair of roles are placed as far as its ratio goes: %s",
    async ([, ratios, [prefill, decode], placed]) => {
      const work = `${template("one", 1)}${gangsOf("prefill", prefill)}${gangsOf("decode", decode)}`;
      const output = await plan(`${node("a")}${node("b")}${work}${paired(ratios)}`);
      expect(output.placements.map(({ gang: name }) => name).sort()).toEqual(placed);
      expect(new Set(output.rejections.map(({ reason }) => reason))).toEqual(
        new Set(placed.length === prefill + decode ? [] : ["WaitingForPlacementGroup"]),
      );
    },
  );

  test("who waits for the other role of a pair is told how many of it and why", async () => {
    const work = `${template("one", 1)}${gangsOf("prefill", 3)}${gangsOf("decode", 1)}`;
    const output = await plan(`${node("a")}${work}${paired({ maxRatio: "2" })}`);
    expect(output.rejections.map(({ gang: name, message }) => [name, message])).toEqual([
      [
        "p2",
        "PlacementGroup pd: 1 of 2 gangs of role decode are complete (at most 2 prefill per decode: pairing's maxRatio)",
      ],
    ]);
    const base = await plan(`${node("a")}${work}${paired({ maxRatio: "2" }, [3, 1])}`);
    expect(base.placements).toEqual([]);
    expect(base.rejections[0]!.message).toBe(
      "PlacementGroup pd: 1 of 2 gangs of role decode are complete (at most 2 prefill per decode: pairing's maxRatio)",
    );
  });

  test("surplus beyond minCount is placed when it fits, and no reason to refuse when it does not", async () => {
    const spec = { podSets: [{ name: "ranks", count: 3, minCount: 1 }] };
    const some = await plan(`${node("a")}${node("b")}${template("four", 4)}${gangOf("g", 3, "four", spec)}`);
    expect([some.code, places(some)]).toEqual([0, { g: "a b" }]);
    const running = pod("g-0", {
      gang: "g",
      labels: { "scheduling.kllama.ai/pod-index": "0" },
      spec: { nodeName: "a", containers: [{ name: "m", resources: { requests: { cpu: 64 } } }] },
    });
    const waiting = pod("g-1", { gang: "g", template: "four", labels: { "scheduling.kllama.ai/pod-index": "1" } });
    const none = await plan(`${node("a")}${template("four", 4)}${gang("g", spec)}${running}${waiting}`);
    expect([none.code, none.rejections]).toEqual([0, []]);
    expect(none.placements[0]!.pods.map(({ pod: name }) => name)).toEqual(["g-0"]);
  });
});

describe("queue order", () => {
  const priorityClass = (name: string, value: number, globalDefault = false) =>
    json({ apiVersion: "scheduling.k8s.io/v1", kind: "PriorityClass", metadata: { name }, value, globalDefault });
  const one = (name: string, spec: object, creationTimestamp?: string) =>
    pod(name, { template: "four", spec, metadata: creationTimestamp === undefined ? {} : { name, creationTimestamp } });

  test("is priority, from the pod or its class, then age, then name", async () => {
    const work = [
      one("old", {}, "2026-01-01T00:00:00Z"),
      one("new", {}),
      one("newer-b", {}, "2026-02-01T00:00:00Z"),
      one("newer-a", {}, "2026-02-01T00:00:00Z"),
      one("classy", { priorityClassName: "high" }),
      one("urgent", { priority: 2000 }),
    ];
    const text = `${rack("r", 4)}${template("four", 4)}${priorityClass("high", 1000)}${work.join("")}`;
    const output = await plan(text);
    expect(output.placements.map(({ gang: name }) => name)).toEqual(["urgent", "classy", "old", "newer-a"]);
    expect(output.rejections.map(({ gang: name }) => name)).toEqual(["newer-b", "new"]);
  });

  test("a gang has the lowest priority of its pods; gangs and pods wait in one queue", async () => {
    const low = gang("low", { podSets: [{ name: "r", count: 2 }] });
    const members = [
      pod("low-0", { gang: "low", template: "four", spec: { priority: 9 } }),
      pod("low-1", { gang: "low", template: "four", spec: { priority: 1 } }),
    ];
    const output = await plan(
      `${rack("r", 2)}${template("four", 4)}${low}${members.join("")}${one("mid", { priority: 5 })}`,
    );
    expect(places(output)).toEqual({ mid: "r-0", low: "InsufficientDevices" });
  });
});

describe("PodGroups of other schedulers", () => {
  const group = (apiVersion: string, spec: object) =>
    json({ apiVersion, kind: "PodGroup", metadata: { name: "pg" }, spec });
  const cluster = `${rack("x", 1)}${rack("y", 2)}${template("four", 4)}`;
  const pods = (more: object) =>
    [0, 1]
      .map((i) =>
        pod(`w-${i}`, {
          template: "four",
          ...more,
          metadata: { name: `w-${i}`, ...(more as { metadata?: object }).metadata },
        }),
      )
      .join("");
  const key = "topology.kubernetes.io/rack";

  test.for([
    [
      "Kubernetes itself",
      group("scheduling.k8s.io/v1alpha2", {
        schedulingPolicy: { gang: { minCount: 2 } },
        schedulingConstraints: { topology: [{ key }] },
      }),
      pods({ spec: { schedulingGroup: { podGroupName: "pg" } } }),
      { pg: "y-0 y-1" },
    ],
    [
      "Kubernetes itself, over a label that no level reads",
      group("scheduling.k8s.io/v1beta1", {
        schedulingPolicy: { gang: { minCount: 2 } },
        schedulingConstraints: { topology: [{ key: "zone" }] },
      }),
      pods({ spec: { schedulingGroup: { podGroupName: "pg" } } }),
      { pg: "NoDomainFits" },
    ],
    [
      "Kubernetes itself, one by one",
      group("scheduling.k8s.io/v1alpha2", { schedulingPolicy: { basic: {} } }),
      pods({ spec: { schedulingGroup: { podGroupName: "pg" } } }),
      { "w-0": "x-0", "w-1": "y-0" },
    ],
    [
      "coscheduling",
      group("scheduling.x-k8s.io/v1alpha1", { minMember: 3 }),
      pods({ labels: { "scheduling.x-k8s.io/pod-group": "pg" } }),
      { pg: "WaitingForMembers" },
    ],
    [
      "Volcano",
      group("scheduling.volcano.sh/v1beta1", { minMember: 2 }),
      pods({ metadata: { annotations: { "scheduling.k8s.io/group-name": "pg" } } }),
      { pg: "y-0 y-1" },
    ],
    [
      "KAI",
      group("scheduling.run.ai/v2alpha2", { minMember: 2, topologyConstraint: { preferredTopologyLevel: key } }),
      pods({ metadata: { annotations: { "pod-group-name": "pg" } } }),
      { pg: "y-0 y-1" },
    ],
  ] as const)("%s", async ([, podGroup, members, expected]) => {
    expect(places(await plan(`${cluster}${podGroup}${members}`))).toEqual(expected);
  });
});

describe("output", () => {
  const cluster = `${rack("r", 2)}${template("four", 4)}`;

  test("stdout holds JSON alone; what was assumed or left out goes to stderr", async () => {
    const other = json({ apiVersion: "v1", kind: "Secret", metadata: { name: "s" }, data: { key: "c2VjcmV0" } });
    const { stdout, stderr } = await planFiles({ "a.yaml": `${cluster}${other}` });
    expect(JSON.parse(stdout)).toMatchObject({ placements: [], rejections: [] });
    expect(stderr).toBe(
      "kllama plan: not used: 1 Secret\nkllama plan: DeviceClasses of kllama itself that the input does not have: gpu.kllama.ai, mig.kllama.ai\n",
    );
  });

  test("a table with reasons; --explain says what they rest on", async () => {
    const files = { "a.yaml": `${cluster}${gangOf("fits", 1, "four")}${gangOf("wide", 2, "four")}` };
    const { code, stdout } = await planFiles(files, "-f FOLDER");
    expect(code).toBe(3);
    expect(stdout.replace(/[\d.]+ ms, \d+ steps?/, "T ms, S steps")).toMatchInlineSnapshot(`
      "Placed
        default/fits  1 pod, in host r-0
          fits-0  r-0  gpus: gpu-0 gpu-1 gpu-2 gpu-3

      Not placed
        default/wide  InsufficientDevices
          needs 2 nodes with 4 gpu.kllama.ai devices free each; the cluster has 1 now

      1 placed, 1 not; 2 nodes, 8 devices; T ms, S steps of search
      "
    `);
    const explained = await planFiles(files, "-f FOLDER --explain");
    expect(explained.stdout).toContain(
      "    cluster: gpu.kllama.ai: 8 needed, 4 there\n    it would fit if gang fits leaves\n",
    );
  });

  test("--explain says of what nobody can predict the cost, and why", async () => {
    const levels = [{ name: "host", nodeLabels: ["kubernetes.io/hostname"], microseconds: 5 }];
    const kind = { apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "ClusterTopology" };
    const topology = json({ ...kind, metadata: { name: "default" }, spec: { levels } });
    const { stdout } = await planFiles(
      { "a.yaml": `${cluster}${topology}${gangOf("g", 1, "four")}` },
      "-f FOLDER --explain",
    );
    expect(stdout).toContain(
      "      not priced: ranks: nobody tells the bandwidth; give level host or a broader one gigabytesPerSecond\n",
    );
  });

  test.for([
    [10, "PreemptLowerPriority", "by preemption of gang low"],
    [10, "Never", undefined],
    [5, "PreemptLowerPriority", undefined],
  ] as const)(
    "--explain says whom a gang of priority %s (%s) would have leave for it",
    async ([priority, preemptionPolicy, expected]) => {
      const low = runningGang("low", "a", { gpus: 3, priority: 5 });
      const high = gang("high", { podSets: [{ name: "ranks", count: 1 }] });
      const resourceClaims = [{ name: "gpus", resourceClaimTemplateName: "four" }];
      const waits = pod("high-0", { gang: "high", spec: { priority, preemptionPolicy, resourceClaims } });
      const { rejections } = await plan(`${node("a")}${template("four", 4)}${low}${high}${waits}`);
      const [rejection] = rejections;
      expect(rejection).toMatchObject({ gang: "high", reason: "InsufficientDevices" });
      expect(rejection!.counterfactuals.filter((text) => text.startsWith("by preemption"))).toEqual(
        expected === undefined ? [] : [expected],
      );
      // Whoever may do it himself is told as before.
      expect(rejection!.counterfactuals).toContain("if gang low leaves");
    },
  );

  test("--explain has a single pod of lower priority leave, too", async () => {
    const results = [0, 1, 2, 3].map((i) => ({ request: "r", driver: "gpu.kllama.ai", pool: "a", device: `gpu-${i}` }));
    const claim = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name: "its" },
      spec: {},
      status: {
        allocation: { devices: { results } },
        reservedFor: [{ resource: "pods", name: "low", uid: "u" }],
      },
    });
    const resourceClaims = [{ name: "gpus", resourceClaimName: "its" }];
    const low = pod("low", { metadata: { uid: "u" }, spec: { nodeName: "a", priority: 1, resourceClaims } });
    const high = gangOf("high", 1, "four").replaceAll('"containers"', '"priority":10,"containers"');
    const { rejections } = await plan(`${node("a")}${template("four", 4)}${claim}${low}${high}`);
    expect(rejections[0]!.counterfactuals).toEqual(["by preemption of pod low", "if 1 node becomes free"]);
  });

  test("--explain names gangs that run, whether or not their status says so, and tells amounts with their units", async () => {
    const running = runningGang("low", "a");
    const [object, member] = running
      .split("---\n")
      .slice(1)
      .map((text) => JSON.parse(text));
    const cores = { containers: [{ name: "main", resources: { requests: { cpu: 60, memory: "1Gi" } } }] };
    const files = [
      node("a"),
      template("four", 4),
      json({ ...object, status: undefined }),
      json({ ...member, spec: { ...member.spec, ...cores } }),
      gang("high", { podSets: [{ name: "ranks", count: 1 }] }),
      pod("high-0", { gang: "high", spec: cores }),
    ];
    const { stdout } = await planFiles({ "input.yaml": files.join("") }, "-f FOLDER --explain");
    expect(stdout).toContain("the cluster has room for 0 now for want of cpu\n    cluster: cpu: 60 needed, 0 there\n");
    expect(stdout).toContain("it would fit if gang low leaves");
  });

  test.for<[string, object, object | undefined, string]>([
    ["allows one", { minAvailable: 0 }, undefined, "by preemption of gang low"],
    ["wants them all", { minAvailable: "100%" }, undefined, "if gang low leaves"],
    ["may lose none", { maxUnavailable: 0 }, undefined, "if gang low leaves"],
    ["may lose one", { maxUnavailable: "1%" }, undefined, "by preemption of gang low"],
    ["allows none, says its status", { minAvailable: 0 }, { disruptionsAllowed: 0 }, "if gang low leaves"],
    ["allows one, says its status", { minAvailable: 1 }, { disruptionsAllowed: 1 }, "by preemption of gang low"],
    [
      "is of others",
      { minAvailable: 1, selector: { matchLabels: { app: "other" } } },
      undefined,
      "by preemption of gang low",
    ],
  ])("--explain has nobody leave whom a PodDisruptionBudget keeps: one that %s", async ([, spec, status, first]) => {
    const selector = { matchLabels: { "scheduling.kllama.ai/gang": "low" } };
    const budget = json({
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata: { name: "keeps" },
      spec: { selector, ...spec },
      ...(status && { status }),
    });
    const high = gangOf("high", 1, "four").replaceAll('"containers"', '"priority":10,"containers"');
    const output = await plan(
      `${node("a")}${template("four", 4)}${runningGang("low", "a", { gpus: 3, priority: 5 })}${budget}${high}`,
    );
    expect(output.stderr).not.toContain("not used");
    expect(output.rejections[0]!.counterfactuals[0]).toBe(first);
  });

  test("a picture shows what claims hold whose pods are not there as held", async () => {
    const results = [{ request: "r", driver: "gpu.kllama.ai", pool: "r-0", device: "gpu-1" }];
    const claim = json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name: "lonely" },
      spec: {},
      status: { allocation: { devices: { results } } },
    });
    const { stdout } = await planFiles({ "a.yaml": `${cluster}${claim}` }, "-f FOLDER -o picture");
    expect(stdout).toContain("1 in use");
    expect(stdout).toContain("r-0 [· * · ·]");
    expect(stdout).toContain("Cells: · free, * held by others.");
  });

  test("a picture", async () => {
    const { stdout } = await planFiles({ "a.yaml": `${cluster}${gangOf("g", 2, "four")}` }, "-f FOLDER -o picture");
    expect(stdout).toContain("r-0 [A A A A]  r-1 [A A A A]");
  });

  test("the demo's examples all fit the demo's fleet", async () => {
    const output = await plan({}, "--fleet fleets/default.yaml -f examples -o json");
    expect(output.code).toBe(0);
    expect(output.placements).toHaveLength(9);
  });

  test("the example of a refusal says what the README says", async () => {
    const { code, stdout } = await planFiles({}, "-f examples/plan/ -f examples/refused/ --explain");
    expect(code).toBe(3);
    const refusal = stdout.slice(stdout.indexOf("Not placed"), stdout.lastIndexOf("\n\n"));
    expect(refusal.split("\n")).toHaveLength(6);
    expect(readFileSync("README.md", "utf8")).toContain(`\n${refusal}\n`);
  });

  test("the worked example is placed whole", async () => {
    const output = await plan({}, "-f examples/plan/ -o json");
    expect(output.code).toBe(0);
    expect(places(output)).toEqual({
      a: "rack-a-0 rack-a-1 rack-a-2",
      b: "rack-a-3 rack-a-4 rack-a-5",
      c: "rack-b-0 rack-b-1 rack-b-2 rack-b-3 rack-b-4",
    });
  });
});
