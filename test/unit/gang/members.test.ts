import { describe, expect, test } from "vitest";
import { type GangSpec, gangSpec } from "../../../src/api/gang.ts";
import type { PlacedPod } from "../../../src/api/placement.ts";
import { assignSlots, validateGang } from "../../../src/gang/members.ts";
import { builtInTopology } from "../../../src/topology/levels.ts";
import type { PodRecord } from "../../../src/topology/records.ts";
import { podRecord } from "../../builders.ts";

function spec(podSets: GangSpec["podSets"]): GangSpec {
  return { podSets, topology: "default", scheduleTimeoutSeconds: 600, disruption: "All" };
}

function slotsOf(gang: GangSpec, pods: PodRecord[], placed: PlacedPod[] = []) {
  const { slots, ...rest } = assignSlots(gang, pods, placed);
  return { slots: Object.fromEntries([...slots].sort().map(([slot, { name }]) => [slot, name])), ...rest };
}

const workers = spec([{ name: "w", count: 3 }]);
const placedAt = (pod: string, index: number): PlacedPod => ({ pod, podSet: "w", index, node: "n", claims: [] });

describe("slots", () => {
  test("the index label decides", () => {
    const pods = [podRecord("b", { podSet: "w", index: 0 }), podRecord("a", { podSet: "w", index: 2 })];
    expect(slotsOf(workers, pods).slots).toEqual({ "w/0": "b", "w/2": "a" });
  });

  test("pods without an index fill free slots in natural order of names", () => {
    const pods = ["p-10", "p-9", "p-2"].map((name) => podRecord(name, { podSet: "w" }));
    expect(slotsOf(workers, pods).slots).toEqual({ "w/0": "p-2", "w/1": "p-9", "w/2": "p-10" });
  });

  test("the only pod set needs no label, of several one has to be named", () => {
    expect(slotsOf(workers, [podRecord("p")]).slots).toEqual({ "w/0": "p" });
    const two = spec([
      { name: "a", count: 1 },
      { name: "b", count: 1 },
    ]);
    expect(slotsOf(two, [podRecord("p")]).problems).toEqual([
      "pod p has no label scheduling.kllama.ai/pod-set; the gang has several pod sets, set it to one of a, b",
    ]);
  });

  test("a pod keeps the slot it was placed in, and a nameless successor takes the one that is held", () => {
    const pods = [podRecord("z", { podSet: "w" }), podRecord("a", { podSet: "w" })];
    expect(slotsOf(workers, pods, [placedAt("z", 1)]).slots).toEqual({ "w/0": "a", "w/1": "z" });
    expect(slotsOf(workers, [podRecord("new", { podSet: "w" })], [placedAt("gone", 2)]).slots).toEqual({
      "w/2": "new",
    });
  });

  test("what has no slot is named with its remedy", () => {
    const pods = [
      podRecord("a", { podSet: "w", index: 1 }),
      podRecord("b", { podSet: "w", index: 1 }),
      podRecord("c", { podSet: "w", index: 3 }),
      podRecord("d", { podSet: "x", index: 0 }),
    ];
    expect(slotsOf(workers, pods).problems).toEqual([
      "pods a and b of pod set w both have index 1; give each its own scheduling.kllama.ai/pod-index",
      "pod c has index 3, but pod set w has count 3; raise the count or remove the pod",
      "pod d has label scheduling.kllama.ai/pod-set=x, which the gang does not have; set it to one of w",
    ]);
  });

  test("missing pods are counted against minCount", () => {
    const gang = spec([{ name: "w", count: 4, minCount: 2 }]);
    expect(slotsOf(gang, [podRecord("p", { podSet: "w" })]).missing).toEqual([{ podSet: "w", needed: 2, present: 1 }]);
    expect(
      slotsOf(
        gang,
        ["p", "q"].map((name) => podRecord(name, { podSet: "w" })),
      ).missing,
    ).toEqual([]);
  });
});

test("a Gang without faults has none, one with several has all of them", () => {
  expect(validateGang(workers, builtInTopology)).toEqual([]);
  const faulty = spec([
    { name: "w", count: 4, minCount: 5, slices: [{ size: 2, level: "island" }] },
    { name: "w", count: 1 },
  ]);
  expect(validateGang(faulty, builtInTopology)).toEqual([
    "spec.podSets[0].minCount 5 is more than count 4; set it to at most 4",
    "spec.podSets[0].slices[0].level is island, which the topology does not have; use one of region, zone, block, rack, nvlink-domain, host, numa, pcie-root, nvlink",
    "spec.podSets[1].name w is there twice; give every pod set its own name",
  ]);
});

describe("rivals for a place", () => {
  const ranks = gangSpec.parse({ podSets: [{ name: "ranks", count: 2 }] });
  const controller = (kind: string, name: string) => ({ kind, name, uid: `${kind} ${name}` });
  const set = controller("StatefulSet", "a");
  const copy = controller("Deployment", "copy");
  const at = (name: string, index: number | undefined, more: Partial<PodRecord> = {}) =>
    podRecord(name, { podSet: "ranks", ...(index === undefined ? {} : { index }), ...more });
  const both = [at("a-0", 0, { owner: set, createdAtMs: 9 }), at("a-1", 1, { owner: set, createdAtMs: 9 })];
  const copies = (count: number, createdAtMs: number) =>
    Array.from({ length: count }, (_, index) => at(`copy-${index}`, index, { owner: copy, createdAtMs }));
  const namesOf = (pods: PodRecord[], placed: PlacedPod[] = [], spec = ranks) =>
    [...assignSlots(spec, pods, placed).slots.values()].map(({ name }) => name).sort();
  const placedRank = (pod: string, index: number): PlacedPod => ({ ...placedAt(pod, index), podSet: "ranks" });

  test.each<[string, PodRecord[], PlacedPod[], string[]]>([
    ["a copied label on an older pod alone", [at("A", 1), ...both], [], ["a-0", "a-1"]],
    ["a controller that came later, however many pods it has", [...copies(3, 10), ...both], [], ["a-0", "a-1"]],
    [
      "one that came first, as the gang is not known to be another's",
      [...copies(2, 1), ...both],
      [],
      ["copy-0", "copy-1"],
    ],
    ["one that came first and has too few", [...copies(1, 1), ...both], [], ["a-0", "a-1"]],
    [
      "one that came first, when the others have places",
      [...copies(3, 1), ...both],
      [placedRank("a-0", 0)],
      ["a-0", "a-1"],
    ],
    ["one that came first, when the others run", [...copies(3, 1), { ...both[0]!, nodeName: "n" }], [], ["a-0"]],
    [
      "one that came first, while a member is away",
      [...copies(3, 1), both[0]!],
      [placedRank("a-0", 0), placedRank("a-1", 1)],
      ["a-0"],
    ],
  ])("%s", (_title, pods, placed, names) => {
    expect(namesOf(pods, placed)).toEqual(names);
    expect(namesOf(pods.toReversed(), placed)).toEqual(names);
  });

  test("strangers fill no free place, and each is told whose the pod set is", () => {
    const { slots, problems, leftOut } = assignSlots(
      gangSpec.parse({ podSets: [{ name: "ranks", count: 4 }] }),
      [...both, at("copy", undefined, { owner: copy, createdAtMs: 10 }), at("debug", 3, { createdAtMs: 10 })],
      [placedRank("a-0", 0)],
    );
    expect([...slots.keys()].sort()).toEqual(["ranks/0", "ranks/1"]);
    expect(problems).toEqual([]);
    expect(leftOut.map(({ pod, message }) => [pod.name, message])).toEqual([
      [
        "copy",
        "pod copy (Deployment copy) is no member: pod set ranks has the pods of StatefulSet a; remove the label scheduling.kllama.ai/gang, or give it a pod set of its own",
      ],
      [
        "debug",
        "pod debug (no controller) is no member: pod set ranks has the pods of StatefulSet a; remove the label scheduling.kllama.ai/gang, or give it a pod set of its own",
      ],
    ]);
  });

  test.each([
    [
      "revisions of a Deployment",
      [
        ["ReplicaSet", "d-1", { "pod-template-hash": "1" }],
        ["ReplicaSet", "d-2", { "pod-template-hash": "2" }],
      ],
    ],
    [
      "leader and workers of a LeaderWorkerSet",
      [
        ["StatefulSet", "l", { "leaderworkerset.sigs.k8s.io/name": "l" }],
        ["StatefulSet", "l-0", { "leaderworkerset.sigs.k8s.io/name": "l" }],
      ],
    ],
    [
      "Jobs of a JobSet",
      [
        ["Job", "j-0", { "jobset.sigs.k8s.io/jobset-name": "j" }],
        ["Job", "j-1", { "jobset.sigs.k8s.io/jobset-name": "j" }],
      ],
    ],
  ] as const)("%s are members together", (_title, owners) => {
    const pods = owners.map(([kind, name, labels], index) =>
      at(`p-${index}`, index, { owner: controller(kind, name), labels }),
    );
    expect(namesOf(pods)).toEqual(["p-0", "p-1"]);
  });

  test("of one controller's pods, or those without one, the older wins", () => {
    const pods = [at("b", 0, { createdAtMs: 1 }), at("a", 0, { createdAtMs: 2 })];
    expect(namesOf(pods)).toEqual(["b"]);
  });

  test("a pod that comes back to its place wins against one that is older", () => {
    const pods = [at("a", 0, { createdAtMs: 1 }), at("b", 0, { createdAtMs: 2 })];
    expect(namesOf(pods, [placedRank("b", 0)])).toEqual(["b"]);
  });

  test("a pod that runs wins against one that is older and waits", () => {
    const pods = [at("a", 0, { createdAtMs: 1 }), at("b", 0, { createdAtMs: 2, nodeName: "n" })];
    expect(namesOf(pods)).toEqual(["b"]);
  });
});
