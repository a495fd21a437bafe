/** Objects that the API server must take or refuse, and what it must say. */

export interface ObjectCase {
  name: string;
  plural: "gangs" | "placementgroups" | "clustertopologies" | "llmclusters";
  spec: object;
  objectName?: string;
  /** Part of the refusal; absent: the object is accepted. */
  refusal?: string;
}

const podSets = [{ name: "workers", count: 4 }];

const gangs: Omit<ObjectCase, "plural">[] = [
  { name: "a pod set", spec: { podSets } },
  { name: "all fields", spec: fullGang() },
  {
    name: "repeated pod set names",
    spec: { podSets: [...podSets, ...podSets] },
    refusal: 'spec.podSets[1]: Duplicate value: {"name":"workers"}',
  },
  { name: "minCount of count", spec: { podSets: [{ name: "a", count: 2, minCount: 2 }] } },
  {
    name: "minCount above count",
    spec: { podSets: [{ name: "a", count: 2, minCount: 3 }] },
    refusal: "spec.podSets[0].minCount: Invalid value: minCount (3) must not exceed count (2); lower minCount",
  },
  {
    name: "no pod needed",
    spec: { podSets: [{ name: "a", count: 2, minCount: 0 }] },
    refusal: "spec.podSets: Invalid value: at least one pod set needs a minCount of 1 or more",
  },
  { name: "an optional pod set", spec: { podSets: [...podSets, { name: "a", count: 2, minCount: 0 }] } },
  { name: "slices 4, 2 of 8", spec: { podSets: [sliced(8, 4, 2)] } },
  {
    name: "slices that do not divide count",
    spec: { podSets: [sliced(8, 3)] },
    refusal: "spec.podSets[0].slices: Invalid value: every slice size must divide count (8), which [3] do not",
  },
  {
    name: "slices from narrow to broad",
    spec: { podSets: [sliced(8, 2, 4)] },
    refusal: "spec.podSets[0].slices: Invalid value: slices go from broad to narrow: every size must divide",
  },
  {
    name: "the last of eight slices does not divide",
    spec: { podSets: [sliced(36, 36, 36, 36, 36, 36, 36, 6, 4)] },
    refusal: "slices go from broad to narrow",
  },
  {
    name: "nine slices",
    spec: { podSets: [sliced(8, 8, 8, 8, 8, 8, 8, 8, 8, 8)] },
    refusal: "spec.podSets[0].slices: Too many: 9: must have at most 8 items",
  },
  {
    name: "a constraint over an unknown pod set",
    spec: { podSets, constraints: [{ level: "rack", podSets: ["worker"] }] },
    refusal:
      'spec.constraints: Invalid value: constraints[].podSets must name pod sets of this gang, which are ["workers"]',
  },
  {
    name: "a constraint that names a pod set twice",
    spec: { podSets, constraints: [{ level: "rack", podSets: ["workers", "workers"] }] },
    refusal: 'spec.constraints[0].podSets[1]: Duplicate value: "workers"',
  },
  {
    name: "maxSkew without spread",
    spec: { podSets, constraints: [{ level: "rack", maxSkew: 2 }] },
    refusal: "spec.constraints[0].maxSkew: Invalid value: maxSkew belongs to type: spread",
  },
  { name: "2,000 pods", spec: { podSets: [sized("a", 1000), sized("b", 1000)] } },
  {
    name: "2,001 pods",
    spec: { podSets: [sized("a", 1000), sized("b", 1001)] },
    refusal: "spec.podSets: Invalid value: a gang has at most 2000 pods, these pod sets have 2001; split it",
  },
  {
    name: "no pod sets",
    spec: { podSets: [] },
    refusal: "spec.podSets: Invalid value: 0: spec.podSets in body should",
  },
  {
    name: "an unknown kind of constraint",
    spec: { podSets, constraints: [{ type: "pack", level: "rack" }] },
    refusal: 'spec.constraints[0].type: Unsupported value: "pack": supported values: "colocate", "spread"',
  },
  {
    name: "a name too long for a label",
    objectName: "g".repeat(64),
    spec: { podSets },
    refusal: "pods name their gang in a label, so its name has at most 63 characters",
  },
];

const members = [{ role: "prefill" }, { role: "decode" }];

const placementGroups: Omit<ObjectCase, "plural">[] = [
  {
    name: "prefill and decode",
    spec: {
      members: [{ role: "prefill", selector: { matchLabels: { role: "prefill" } }, minInstances: 2 }, members[1]],
      constraints: [{ level: "nvlink", roles: ["prefill", "decode"] }],
      pairing: [
        {
          from: "prefill",
          to: "decode",
          minRatio: "0.25",
          maxRatio: "0.25",
          bytesPerRequest: 1_000_000_000,
          maxTransferMilliseconds: 50,
        },
      ],
    },
  },
  {
    name: "repeated roles",
    spec: { members: [members[0], members[0]] },
    refusal: 'spec.members[1]: Duplicate value: {"role":"prefill"}',
  },
  {
    name: "a constraint over an unknown role",
    spec: { members, constraints: [{ level: "rack", roles: ["decoder"] }] },
    refusal: 'constraints[].roles must name roles of this group, which are ["prefill", "decode"]',
  },
  {
    name: "pairing of an unknown role",
    spec: { members, pairing: [{ from: "prefill", to: "decoder" }] },
    refusal: "pairing[].from and pairing[].to must name roles of this group, which are",
  },
  {
    name: "pairing with itself",
    spec: { members, pairing: [{ from: "prefill", to: "prefill" }] },
    refusal: "spec.pairing[0].to: Invalid value: from and to must be different roles",
  },
  {
    name: "ratio bounds in the wrong order, as numbers",
    spec: { members, pairing: [{ from: "prefill", to: "decode", minRatio: "10", maxRatio: "9" }] },
    refusal:
      "spec.pairing[0].minRatio: Invalid value: minRatio (10) must not exceed maxRatio (9); both count instances",
  },
  {
    name: "a ratio that nothing keeps",
    spec: { members, pairing: [{ from: "prefill", to: "decode", maxRatio: "0.0" }] },
    refusal: "spec.pairing[0].maxRatio: Invalid value: maxRatio must be above 0; leave it out for no bound",
  },
  {
    name: "a ratio that is no number",
    spec: { members, pairing: [{ from: "prefill", to: "decode", minRatio: "1:2" }] },
    refusal: "spec.pairing[0].minRatio: Invalid value:",
  },
  {
    name: "a bounded transfer of unknown size",
    spec: { members, pairing: [{ from: "prefill", to: "decode", maxTransferMilliseconds: 5 }] },
    refusal: "maxTransferMilliseconds bounds the transfer of bytesPerRequest; give both",
  },
];

const rack = { name: "rack", nodeLabels: ["example.com/rack"], gigabytesPerSecond: 50, microseconds: 5 };
const numa = { name: "numa", deviceAttribute: "resource.kubernetes.io/numaNode" };

const clusterTopologies: Omit<ObjectCase, "plural">[] = [
  { name: "a rack and NUMA nodes", spec: { levels: [rack, numa], beyond: { gigabytesPerSecond: 12.5 } } },
  {
    name: "repeated level names",
    spec: { levels: [rack, rack] },
    refusal: 'spec.levels[1]: Duplicate value: {"name":"rack"}',
  },
  {
    name: "a level told by nothing",
    spec: { levels: [{ name: "rack" }] },
    refusal:
      "spec.levels[0]: Invalid value: level rack is told by nodeLabels, by deviceAttribute, or by both; give at least",
  },
  {
    name: "a level told by labels, and by devices where there are none",
    spec: { levels: [{ ...numa, ...rack }, { ...rack, name: "host" }, numa] },
  },
  {
    name: "a node level inside a host",
    spec: { levels: [numa, rack] },
    refusal:
      "spec.levels: Invalid value: levels with deviceAttribute alone lie inside a host: list them after all levels",
  },
  {
    name: "an attribute without domain",
    spec: { levels: [{ name: "numa", deviceAttribute: "numaNode" }] },
    refusal: "spec.levels[0].deviceAttribute: Invalid value:",
  },
  {
    name: "a link without bandwidth",
    spec: { levels: [{ ...rack, gigabytesPerSecond: 0 }] },
    refusal: "spec.levels[0].gigabytesPerSecond: Invalid value: 0",
  },
];

const tp8 = { image: "server:1", tensorParallelSize: 8, replicas: 2, gpusPerPod: 4 };

const llmClusters: Omit<ObjectCase, "plural">[] = [
  { name: "TP 8 as 2 × 4", spec: tp8 },
  {
    name: "TP 8 as 2 × 2",
    spec: { ...tp8, gpusPerPod: 2 },
    refusal:
      "spec.tensorParallelSize: Invalid value: tensorParallelSize must equal replicas × gpusPerPod, but 8 is not 2 × 2 = 4; change one of the three",
  },
  {
    name: "a MIG slice",
    spec: { ...tp8, tensorParallelSize: 1, replicas: 1, gpusPerPod: 1, devices: { deviceClassName: "mig.kllama.ai" } },
  },
  {
    name: "TP over MIG slices",
    spec: { ...tp8, devices: { deviceClassName: "mig.kllama.ai" } },
    refusal: "MIG slices reach no other GPU, so they serve tensorParallelSize 1 only",
  },
  {
    name: "a budget of more pods than there are",
    spec: { ...tp8, podDisruptionBudget: { minAvailable: 3 } },
    refusal: "podDisruptionBudget.minAvailable (3) must not exceed replicas (2), the number of pods",
  },
  {
    name: "a repeated variable",
    spec: {
      ...tp8,
      env: [
        { name: "A", value: "1" },
        { name: "A", value: "2" },
      ],
    },
    refusal: 'spec.env[1]: Duplicate value: {"name":"A"}',
  },
  {
    name: "a quantity that is none",
    spec: { ...tp8, resources: { requests: { cpu: "four" } } },
    refusal: "spec.resources.requests.cpu: Invalid value:",
  },
  { name: "no image", spec: { ...tp8, image: undefined }, refusal: "spec.image: Required value" },
  {
    name: "a name too long for its pods",
    objectName: "l".repeat(53),
    spec: tp8,
    refusal: "its name has at most 52 characters, lower-case letters, digits and dashes, and starts with a letter",
  },
  { name: "a name that no Service may have", objectName: "7b", spec: tp8, refusal: "and starts with a letter" },
];

export const objectCases: ObjectCase[] = [
  ...gangs.map((entry) => ({ ...entry, plural: "gangs" as const })),
  ...placementGroups.map((entry) => ({ ...entry, plural: "placementgroups" as const })),
  ...clusterTopologies.map((entry) => ({ ...entry, plural: "clustertopologies" as const })),
  ...llmClusters.map((entry) => ({ ...entry, plural: "llmclusters" as const })),
];

/** Changes of an accepted LLMCluster `tp8`. */
export const llmClusterChanges: { name: string; spec: object; refusal?: string }[] = [
  { name: "image and port", spec: { image: "server:2", port: 9000 } },
  { name: "devices", spec: { devices: { matchAttribute: "resource.kubernetes.io/numaNode" } } },
  {
    name: "replicas and gpusPerPod",
    spec: { replicas: 4, gpusPerPod: 2 },
    refusal: "spec.replicas: Forbidden: replicas cannot change after creation; create another LLMCluster",
  },
  {
    name: "gpusPerPod and tensorParallelSize",
    spec: { gpusPerPod: 8, tensorParallelSize: 16 },
    refusal: "spec.gpusPerPod: Forbidden: gpusPerPod cannot change after creation",
  },
  {
    name: "tensorParallelSize",
    spec: { tensorParallelSize: 16 },
    refusal: "spec.tensorParallelSize: Forbidden: tensorParallelSize cannot change after creation",
  },
  {
    name: "a first constraint",
    spec: { placement: { constraints: [{ level: "rack" }] } },
    refusal: "spec.placement: Forbidden: placement cannot change after creation",
  },
];

export function llmClusterSpec(): object {
  return tp8;
}

function sized(name: string, count: number) {
  return { name, count };
}

function sliced(count: number, ...sizes: number[]) {
  return { name: "a", count, slices: sizes.map((size, index) => ({ size, level: `level-${index}` })) };
}

function fullGang() {
  return {
    podSets: [
      { name: "leader", count: 1 },
      { ...sliced(8, 4, 2), minCount: 4 },
    ],
    constraints: [
      { level: "nvlink", podSets: ["a"] },
      { type: "spread", level: "rack", mode: "preferred", maxSkew: 2, podSets: ["leader", "a"] },
    ],
    topology: "default",
    placementGroup: "group",
    role: "prefill",
    scheduleTimeoutSeconds: 60,
    disruption: "All",
  };
}
