import { describe, expect, test } from "vitest";
import { gang, gangOf, json, node, places, plan, planFiles, pod, template } from "./support.ts";

/** What every case stands beside: it must be planned whatever else is wrong. */
const good = `${node("good")}${template("four", 4)}${gangOf("fine", 1, "four")}`;

const slice = (name: string, spec: object) =>
  json({
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name },
    spec: { driver: "gpu.kllama.ai", nodeName: "good", devices: [], ...spec },
  });
const rule = (spec: object | undefined, apiVersion = "resource.k8s.io/v1") =>
  json({ apiVersion, kind: "DeviceTaintRule", metadata: { name: "r" }, spec });
const taint = { key: "k", effect: "NoSchedule" };
const pool = { name: "p", generation: 1, resourceSliceCount: 2 };
const claim = (expression: string) => {
  const exactly = { deviceClassName: "gpu.kllama.ai", selectors: [{ cel: { expression } }] };
  const spec = { spec: { devices: { requests: [{ name: "r", exactly }] } } };
  return json({ apiVersion: "resource.k8s.io/v1", kind: "ResourceClaimTemplate", metadata: { name: "t" }, spec });
};

describe("what cannot be used is named with file, line, object, field and reason; the rest is planned", () => {
  test.for([
    ["no YAML", "---\na: [1\n", /^input\.yaml:\d+: Flow sequence/m],
    ["no object", "---\n- 1\n", "input.yaml:2: expected a Kubernetes object, not a list"],
    ["no kind", "---\napiVersion: v1\n", "input.yaml:2: kind is missing; every object needs it"],
    ["no name", "---\napiVersion: v1\nkind: Pod\nmetadata: {}\n", "input.yaml:4: Pod: metadata.name is missing"],
    [
      "a node twice",
      node("good"),
      /^input\.yaml:\d+: Node good: is there twice, first in input\.yaml:2; the first counts, remove one/m,
    ],
    [
      "a quantity that is none",
      "---\napiVersion: v1\nkind: Node\nmetadata: { name: n }\nstatus:\n  allocatable:\n    memory: lots\n",
      'input.yaml:8: Node n: status.allocatable.memory: "lots" is no quantity; write for example "4", 500m or 64Gi',
    ],
    [
      "a wrong type",
      "---\napiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec:\n  priority: high\n  containers: [{ name: c }]\n",
      "input.yaml:7: Pod default/p: spec.priority: Invalid input: expected number, received string",
    ],
    [
      "CEL that does not compile",
      claim("device.driver =="),
      /Template default\/t: spec\.spec\.devices\.requests\[0\]\.exactly\.selectors\[0\]\.cel\.expression: the CEL expression does not compile: /,
    ],
    [
      "slices that disagree about their number",
      `${slice("s1", { pool })}${slice("s2", { pool: { ...pool, resourceSliceCount: 3 } })}`,
      "ResourceSlice s1: pool gpu.kllama.ai/p: the slices of generation 1 disagree about their number",
    ],
    [
      "a device twice in a pool",
      `${slice("s1", { pool, devices: [{ name: "d" }] })}${slice("s2", { pool, devices: [{ name: "d" }] })}`,
      /ResourceSlice s1: pool gpu\.kllama\.ai\/p: .*\bd\b/,
    ],
    [
      "slices for all nodes that disagree",
      [1, 2]
        .map((i) => slice(`s${i}`, { nodeName: undefined, allNodes: true, pool: { ...pool, resourceSliceCount: i } }))
        .join(""),
      /ResourceSlice s1: pool gpu\.kllama\.ai\/p: the slices of generation 1 disagree about their number/,
    ],
    [
      "a slice that reaches nobody",
      slice("s", { pool, nodeName: undefined }),
      "ResourceSlice s: spec: needs exactly one of nodeName, nodeSelector, allNodes and perDeviceNodeSelection",
    ],
    [
      "a slice that says twice whom it reaches",
      slice("s", { pool, allNodes: true }),
      "ResourceSlice s: spec: needs exactly one of nodeName, nodeSelector, allNodes and perDeviceNodeSelection",
    ],
    [
      "a device's capacity that is none",
      slice("s", { pool, devices: [{ name: "d", capacity: { memory: { value: "lots" } } }] }),
      'ResourceSlice s: spec.devices[0].capacity.memory.value: "lots" is no quantity',
    ],
    [
      "an old version of DRA",
      slice("s", { pool }).replace("resource.k8s.io/v1", "resource.k8s.io/v1beta1"),
      "apiVersion is resource.k8s.io/v1beta1, which is not read; write it as resource.k8s.io/v1",
    ],
    [
      "a rule with an unknown effect",
      rule({ deviceSelector: {}, taint: { ...taint, effect: "PreferNoSchedule" } }),
      'DeviceTaintRule r: spec.taint.effect: Invalid option: expected one of "None"|"NoSchedule"|"NoExecute"',
    ],
    ["a rule without a taint", rule({ deviceSelector: {} }), "DeviceTaintRule r: spec.taint: Invalid input"],
    [
      "a rule whose taint has no key",
      rule({ deviceSelector: {}, taint: { effect: "NoExecute" } }),
      "DeviceTaintRule r: spec.taint.key: Invalid input: expected string",
    ],
    [
      "a rule from a time that is none",
      rule({ deviceSelector: {}, taint: { ...taint, timeAdded: "yesterday" } }),
      "DeviceTaintRule r: spec.taint.timeAdded: is no time; write for example 2026-01-02T03:04:05Z",
    ],
    ["a rule that says nothing", rule(undefined), "DeviceTaintRule r: spec: Invalid input"],
    [
      "a rule that would select all for a misspelt field",
      rule({ deviceSelector: { pools: "good" }, taint }),
      'DeviceTaintRule r: spec.deviceSelector: Unrecognized key: "pools"',
    ],
    [
      "a rule for a pool without a name",
      rule({ deviceSelector: { pool: "" }, taint }),
      "DeviceTaintRule r: spec.deviceSelector.pool: Too small",
    ],
    [
      "a rule of a version that never had it",
      rule({ deviceSelector: {}, taint }, "resource.k8s.io/v1beta1"),
      "DeviceTaintRule r: apiVersion is resource.k8s.io/v1beta1, which is not read; write it as resource.k8s.io/v1",
    ],
    [
      "more replicas than anybody has",
      json({
        apiVersion: "apps/v1",
        kind: "Deployment",
        metadata: { name: "d" },
        spec: { replicas: 1_000_000_000, template: { spec: { containers: [{ name: "c" }] } } },
      }),
      "Deployment default/d: spec.replicas: Too big: at most 100000 are planned",
    ],
    [
      "a version of ours that there is none of",
      json({ apiVersion: "scheduling.kllama.ai/v9", kind: "PlacementGroup", metadata: { name: "g" }, spec: {} }),
      "PlacementGroup default/g: apiVersion is scheduling.kllama.ai/v9, which is not read; write it as scheduling.kllama.ai/v1alpha1",
    ],
    [
      "a namespace that is no text",
      json({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "p", namespace: 5 },
        spec: { containers: [{ name: "c" }] },
      }),
      "Pod 5/p: metadata.namespace: Invalid input: expected string",
    ],
    [
      "two requests of one name",
      json({
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        metadata: { name: "c" },
        spec: {
          devices: { requests: [1, 2].map(() => ({ name: "r", exactly: { deviceClassName: "gpu.kllama.ai" } })) },
        },
      }),
      "ResourceClaim default/c: spec.devices.requests[1]: r is there twice; keep one entry",
    ],
    [
      "two claims of a pod by one name",
      pod("p", { spec: { resourceClaims: [1, 2].map(() => ({ name: "g", resourceClaimTemplateName: "four" })) } }),
      "Pod default/p: spec.resourceClaims[1]: g is there twice; keep one entry",
    ],
    [
      "an attribute without its domain",
      json({
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        metadata: { name: "c" },
        spec: { devices: { constraints: [{ matchAttribute: "numaNode" }] } },
      }),
      "spec.devices.constraints[0].matchAttribute: expected a name with its domain, such as gpu.kllama.ai/nvlinkDomain",
    ],
    [
      "a topology that contradicts itself",
      json({
        apiVersion: "scheduling.kllama.ai/v1alpha1",
        kind: "ClusterTopology",
        metadata: { name: "t" },
        spec: {
          levels: [
            { name: "numa", deviceAttribute: "a.b/numa" },
            { name: "rack", nodeLabels: ["rack"] },
          ],
        },
      }),
      "ClusterTopology t: spec.levels: levels with deviceAttribute alone lie inside a host",
    ],
  ] as const)("%s", async ([, bad, message]) => {
    const output = await plan(`${good}${bad}`);
    if (typeof message === "string") expect(lineless(output.stderr)).toContain(lineless(message));
    else expect(output.stderr).toMatch(message);
    expect(places(output)).toEqual({ fine: "good" });
    expect(output.code).toBe(2);
  });

  /** Lines depend on what comes before; they have a test of their own. */
  const lineless = (text: string) => text.replaceAll(/yaml:\d+/g, "yaml:N");

  test("lines are those of the field, in any file and in Lists", async () => {
    const pods = { apiVersion: "v1", kind: "PodList", items: [{ metadata: { name: "x" }, spec: { containers: [] } }] };
    const { stderr } = await planFiles({
      "rule.yaml": `apiVersion: resource.k8s.io/v1
kind: DeviceTaintRule
metadata: { name: r }
spec:
  deviceSelector: {}
  taint:
    key: k
    effect: Drain
`,
      "a.yaml": "# a comment\napiVersion: v1\nkind: Node\nmetadata:\n  name: n\nspec:\n  taints:\n    - key: k\n",
      "b.json": JSON.stringify(pods, undefined, 1),
    });
    expect(stderr).toContain("a.yaml:8: Node n: spec.taints[0].effect: ");
    expect(stderr).toContain("rule.yaml:8: DeviceTaintRule r: spec.taint.effect: ");
    expect(stderr).toMatch(/^b\.json:10: Pod default\/x: spec\.containers: Too small/m);
  });

  test("a file that is not there", async () => {
    const { code, stderr, stdout } = await planFiles({ "input.yaml": good }, "-f FOLDER -f FOLDER/none.yaml -o json");
    expect(stderr).toMatch(/^none\.yaml: ENOENT/m);
    expect([code, places(JSON.parse(stdout))]).toEqual([2, { fine: "good" }]);
  });
});

test.for([
  ["none.yaml", "FOLDER/none.yaml", /^none\.yaml: ENOENT/m],
  ["input.yaml", "FOLDER/input.yaml", /^input\.yaml: (?!.*input\.yaml)./m],
] as const)("a fleet that cannot be read is one file of the input: %s", async ([, file, message]) => {
  const { code, stderr, stdout } = await planFiles(
    { "input.yaml": good },
    `-f FOLDER/input.yaml --fleet ${file} -o json`,
  );
  expect(stderr).toMatch(message);
  expect([code, places(JSON.parse(stdout))]).toEqual([2, { fine: "good" }]);
});

describe("a Gang that asks for something impossible is refused with its field", () => {
  const ranks = { name: "ranks", count: 1 };
  test.for([
    ["count 0", { podSets: [{ name: "ranks", count: 0 }] }, "spec.podSets[0].count: Too small"],
    ["a negative minCount", { podSets: [{ ...ranks, minCount: -1 }] }, "spec.podSets[0].minCount: Too small"],
    ["10,000 members", { podSets: [{ ...ranks, count: 10_000 }] }, "spec.podSets[0].count: Too big"],
    [
      "too many members together",
      { podSets: [1, 2].map((i) => ({ name: `s${i}`, count: 1500 })) },
      "spec.podSets: a gang has at most 2000 pods, these pod sets have 3000; split it into several gangs",
    ],
    [
      "minCount above count",
      { podSets: [{ ...ranks, minCount: 2 }] },
      "spec.podSets[0].minCount: minCount (2) must not exceed count (1); lower minCount or raise count",
    ],
    [
      "slices that do not divide",
      { podSets: [{ ...ranks, count: 4, slices: [{ size: 3, level: "rack" }] }] },
      "spec.podSets[0].slices: every slice size must divide count (4), which [3] do not",
    ],
    ["a pod set twice", { podSets: [ranks, ranks] }, "spec.podSets[1]: ranks is there twice; keep one entry"],
    [
      "an unknown pod set",
      { podSets: [ranks], constraints: [{ level: "rack", podSets: ["workers"] }] },
      "spec.constraints: constraints[].podSets must name pod sets of this gang, which are [ranks]",
    ],
    [
      "maxSkew without spread",
      { podSets: [ranks], constraints: [{ level: "rack", maxSkew: 2 }] },
      "spec.constraints[0].maxSkew: maxSkew belongs to type: spread",
    ],
    ["a name for no field", { podSet: [ranks] }, "spec.podSets: Invalid input"],
  ] as const)("%s", async ([, spec, message]) => {
    const member = pod("bad-0", { gang: "bad", template: "four" });
    const output = await plan(`${good}${gang("bad", spec)}${member}`);
    expect(places(output)).toEqual({ fine: "good", bad: "InvalidGang" });
    expect(output.rejections[0]!.message).toContain(message);
    expect(output.stderr).toContain(`Gang default/bad: ${message}`);
    expect(output.code).toBe(2);
  });

  test("a version that there is none of", async () => {
    const output = await plan(`${good}${gangOf("bad", 1, "four").replace("/v1alpha1", "/v1")}`);
    expect(places(output)).toEqual({ fine: "good", bad: "InvalidGang" });
    expect(output.rejections[0]!.message).toBe(
      "apiVersion is scheduling.kllama.ai/v1, which is not read; write it as scheduling.kllama.ai/v1alpha1",
    );
    expect(output.code).toBe(2);
  });

  test.for([
    ["a time that is none", { metadata: { creationTimestamp: "yesterday" } }, "metadata.creationTimestamp: is no time"],
    ["a label that is no text", { metadata: { labels: { a: 1 } } }, "metadata.labels.a: Invalid input"],
    ["a phase that is none", { status: { phase: "Odd" } }, 'status.phase: Invalid option: expected one of "Pending"'],
  ] as const)("%s", async ([, more, message]) => {
    const whole = { metadata: {}, ...more };
    const object = {
      apiVersion: "scheduling.kllama.ai/v1alpha1",
      kind: "Gang",
      spec: { podSets: [ranks] },
      ...whole,
      metadata: { name: "bad", ...whole.metadata },
    };
    const output = await plan(`${good}${json(object)}${pod("bad-0", { gang: "bad", template: "four" })}`);
    expect(places(output)).toEqual({ fine: "good", bad: "InvalidGang" });
    expect(output.stderr).toContain(`Gang default/bad: ${message}`);
    expect(output.code).toBe(2);
  });

  test.for([
    ["text", { gang: { minCount: "two" } }, "spec.schedulingPolicy.gang.minCount: Invalid input: expected number"],
    ["nothing", { gang: { minCount: 0 } }, "spec.schedulingPolicy.gang.minCount: Too small"],
    ["more than a gang may have", { gang: { minCount: 3000 } }, "spec.podSets[0].count: Too big"],
    ["no policy", "gang", "spec.schedulingPolicy: Invalid input: expected object"],
  ] as const)("a PodGroup of another scheduler, too, and its pods wait: %s", async ([, schedulingPolicy, message]) => {
    const group = { apiVersion: "scheduling.k8s.io/v1alpha2", kind: "PodGroup", metadata: { name: "bad" } };
    const member = pod("bad-0", { spec: { schedulingGroup: { podGroupName: "bad" } } });
    const output = await plan(`${good}${json({ ...group, spec: { schedulingPolicy } })}${member}`);
    expect(places(output)).toEqual({ fine: "good", bad: "InvalidGang" });
    expect(output.stderr).toMatch(/^input\.yaml:\d+: PodGroup default\/bad: /m);
    expect(output.stderr).toContain(message);
    expect(output.code).toBe(2);
  });

  test("what only the cluster can tell is a refusal, not bad input", async () => {
    const bad = [
      gangOf("level", 1, "four", { constraints: [{ level: "aisle" }] }),
      gangOf("topology", 1, "four", { topology: "other" }),
      gangOf("absent", 1, "none"),
      gang("empty", { podSets: [{ name: "r", count: 1 }] }),
      pod("orphan", { gang: "nobody", template: "four" }),
    ];
    const output = await plan(`${good}${bad.join("")}`);
    expect(places(output)).toEqual({
      fine: "good",
      level: "UnknownLevel",
      topology: "UnknownTopology",
      absent: "WaitingForMembers",
      empty: "WaitingForMembers",
      nobody: "WaitingForMembers",
    });
    expect(output.stderr).toContain(
      "Pod default/absent-0 waits for its claim: there is no ResourceClaimTemplate default/none",
    );
    expect(output.code).toBe(3);
  });

  /** Of a DeviceClass, or with one field more. */
  const asking = (deviceClassName: string, more: object = {}) => {
    const requests = [{ name: "r", exactly: { deviceClassName, ...more } }];
    const spec = { spec: { devices: { requests } } };
    return json({ apiVersion: "resource.k8s.io/v1", kind: "ResourceClaimTemplate", metadata: { name: "t" }, spec });
  };
  const two = { podSets: [{ name: "r", count: 2 }] };
  const ofGroup = { ...two, placementGroup: "pd", role: "server" };
  const groupOf = (role: string, spec: object = {}) =>
    json({
      apiVersion: "scheduling.kllama.ai/v1alpha1",
      kind: "PlacementGroup",
      metadata: { name: "pd" },
      spec: { members: [{ role, minInstances: 3 }], ...spec },
    });
  const member = (template?: string) => pod("bad-0", { gang: "bad", template });
  const both = `${member()}${pod("bad-1", { gang: "bad" })}`;
  const lack = (resource: string, needed = 1, available = 0) => ({ level: "cluster", resource, needed, available });

  test.for([
    ["a DeviceClass", "NoMatchingDevice", `${asking("none", { count: 3 })}${gangOf("bad", 1, "t")}`, lack("none", 3)],
    ["a topology", "UnknownTopology", gangOf("bad", 1, "four", { topology: "new" }), lack("ClusterTopology new")],
    ["a Gang", "WaitingForMembers", member("four"), lack("Gang bad")],
    ["pods", "WaitingForMembers", `${gang("bad", two)}${member("four")}`, lack("pods", 2, 1)],
    ["claims", "WaitingForMembers", gangOf("bad", 2, "none"), lack("claims", 2)],
    ["a group", "WaitingForPlacementGroup", `${gang("bad", ofGroup)}${both}`, lack("PlacementGroup pd")],
    ["gangs", "WaitingForPlacementGroup", `${gang("bad", ofGroup)}${both}${groupOf("server")}`, lack("gangs", 3, 1)],
  ] as const)("what is not there blocks, and is counted: %s", async ([, reason, work, blocking]) => {
    const { rejections } = await plan(`${good}${work}`);
    expect(rejections).toMatchObject([{ gang: "bad", reason, blocking: [blocking] }]);
    expect(rejections[0]).not.toHaveProperty("needsCorrection");
    const { stdout } = await planFiles({ "input.yaml": `${good}${work}` }, "-f FOLDER --explain");
    const { resource, needed, available } = blocking;
    expect(stdout).toContain(`    cluster: ${resource}: ${needed} needed, ${available} there\n`);
  });

  test("pods of a Gang that is being deleted wait for another one of its name", async () => {
    const going = gang("bad", two, { deletionTimestamp: "2026-01-01T00:00:00Z" });
    const more = ["bad-1", "bad-2"].map((name) => pod(name, { gang: "bad", template: "four" })).join("");
    const running = pod("runs", { gang: "ends", spec: { nodeName: "good" } });
    const ending = gang("ends", two, { deletionTimestamp: "2026-01-01T00:00:00Z" });
    const output = await plan(`${good}${going}${member("four")}${more}${ending}${running}`);
    expect(places(output)).toEqual({ fine: "good", bad: "WaitingForMembers" });
    expect(output.rejections).toMatchObject([{ gang: "bad", namespace: "default", blocking: [lack("Gang bad")] }]);
    expect(output.rejections[0]!.message).toBe(
      "pod bad-0 is labelled with Gang bad, which is being deleted; create it again when it is gone or remove the label",
    );
    expect(output.code).toBe(3);
  });

  test.for([
    ["a level", "UnknownLevel", gangOf("bad", 1, "four", { constraints: [{ level: "aisle" }] })],
    ["a field of a claim", "UnsupportedClaim", `${asking("gpu.kllama.ai", { odd: 1 })}${gangOf("bad", 1, "t")}`],
    ["a role", "InvalidGang", `${gang("bad", ofGroup)}${both}${groupOf("client")}`],
    [
      "a level of a group",
      "UnknownLevel",
      `${gang("bad", ofGroup)}${both}${groupOf("server", { members: [{ role: "server" }], constraints: [{ level: "aisle" }] })}`,
    ],
    ["a pod set", "InvalidGang", `${gang("bad", { podSets: [] })}${member()}`],
  ] as const)("what is written wrong is said to be, and nothing to be short: %s", async ([, reason, work]) => {
    const { rejections } = await plan(`${good}${work}`);
    expect(rejections).toMatchObject([{ gang: "bad", reason, blocking: [], needsCorrection: true }]);
    const { stdout } = await planFiles({ "input.yaml": `${good}${work}` }, "-f FOLDER --explain");
    expect(stdout).toContain("    nothing is short: what is written has to be corrected\n");
  });

  test("an LLMCluster as well, under its own name", async () => {
    const cluster = json({
      apiVersion: "serving.ai/v1alpha1",
      kind: "LLMCluster",
      metadata: { name: "llama" },
      spec: { image: "server", tensorParallelSize: 8, replicas: 3, gpusPerPod: 4 },
    });
    const output = await plan(`${good}${cluster}`);
    expect(places(output)).toEqual({ fine: "good", llama: "InvalidGang" });
    expect(output.rejections[0]!.message).toContain("8 is not 3 × 4 = 12; change one of the three");
  });
});

test("of many pods that have no slot the first are named, and the others counted", async () => {
  const pods = Array.from({ length: 30 }, (_, i) =>
    pod(`many-${i}`, { gang: "many", labels: { "scheduling.kllama.ai/pod-index": `${i}` } }),
  );
  const output = await plan(`${good}${gang("many", { podSets: [{ name: "r", count: 2 }] })}${pods.join("")}`);
  expect(places(output)).toEqual({ fine: "good", many: "InvalidGang" });
  const { message } = output.rejections[0]!;
  expect(message).toMatch(
    /^pod many-2 has index 2, but pod set r has count 2; raise the count or remove the pod; pod many-3/,
  );
  expect(message).toMatch(/; and 20 more$/);
  expect(message.split("; pod ")).toHaveLength(8);
});

test("a template that cannot be used is not said to be missing", async () => {
  const output = await plan(`${good}${claim("device.driver ==")}${gangOf("bad", 1, "t")}`);
  expect(output.stderr).toContain(
    "Pod default/bad-0 waits for its claim: ResourceClaimTemplate default/t cannot be used",
  );
  expect(places(output)).toEqual({ fine: "good", bad: "WaitingForMembers" });
});

test("claims that hold one device are named, unless each has a share of it or an administrator's access", async () => {
  const holding = (name: string, device: string, more: object = {}) =>
    json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceClaim",
      metadata: { name },
      spec: {},
      status: { allocation: { devices: { results: [{ request: "r", driver: "d", pool: "p", device, ...more }] } } },
    });
  const share = (name: string) => holding(name, "x", { shareID: name });
  const admin = holding("admin", "y", { adminAccess: true });
  const output = await plan(`${good}${holding("a", "y")}${holding("b", "y")}${share("c")}${share("e")}${admin}`);
  expect(output.stderr.match(/ResourceClaim \S+ holds .*/g)).toEqual([
    "ResourceClaim default/b holds device d/p/y, and so does ResourceClaim default/a; one of them is wrong",
  ]);
  expect(output.code).toBe(0);
});

test("fields of ours that nobody knows are named", async () => {
  const spec = { podSets: [{ name: "r", count: 2, minCout: 1 }] };
  const output = await plan(
    `${good}${gang("typo", spec)}${[0, 1].map((i) => pod(`typo-${i}`, { gang: "typo" })).join("")}`,
  );
  expect(output.stderr).toMatch(/Gang default\/typo: spec\.podSets\[0\]\.minCout is no field, and is left out/);
  expect(output.code).toBe(0);
});

test.for([
  ["plan", "nothing to plan; name files with -f, or a dump with --snapshot"],
  ["plan -f a -o yaml", "--output yaml is not a format; use table, json or picture"],
])("%s is not understood", async ([line, message]) => {
  const { code, stderr } = await planFiles({}, line!.slice("plan".length).trim() || "--no-color");
  expect([code, stderr]).toEqual([2, expect.stringContaining(message!)]);
});
