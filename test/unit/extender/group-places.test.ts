import { describe, expect, test } from "vitest";
import type { GangPhase } from "../../../src/api/gang.ts";
import { gangSpec } from "../../../src/api/gang.ts";
import { createGangGroups } from "../../../src/extender/gang-groups.ts";
import { outlyingPlaces } from "../../../src/extender/group-places.ts";
import { type Effect, type GangState, newGangState } from "../../../src/gang/lifecycle/state.ts";
import type { PlacementGroupRecord } from "../../../src/kube/project.ts";
import { gangRecord, podRecord } from "../../builders.ts";
import { clusterOf } from "../../support/cluster.ts";

/** Gangs of one pod each, in a group that has to be in one rack: `a` and `b` are nodes of one, `c` is in another. */
const nodes = [
  { name: "a", rack: "east" },
  { name: "b", rack: "east" },
  { name: "c", rack: "west" },
];

interface Mate {
  node: string;
  phase?: GangPhase;
  runs?: boolean;
  /** Of the pod, whose binding was asked for. */
  binding?: boolean;
  /** What the status write that is under way would bring. */
  writing?: GangPhase;
  generation?: number;
}

function groupOf(mode: "required" | "preferred"): PlacementGroupRecord {
  const members = ["prefill", "decode"].map((role) => ({ role, minInstances: 1 }));
  const constraints = [{ type: "colocate" as const, level: "rack", mode }];
  return { namespace: "team", name: "pd", spec: { members, constraints, topology: "default" } };
}

/** Named `g0`, `g1`, …; the oldest first. */
function stateOf(mate: Mate, i: number): GangState {
  const { node, phase = "Scheduled", runs = false, binding = false, writing, generation = 1 } = mate;
  const name = `g${i}`;
  const role = i % 2 === 0 ? "prefill" : "decode";
  const placement = { pods: [{ pod: `${name}-0`, podSet: "ranks", index: 0, node, claims: [] }] };
  const spec = gangSpec.parse({ podSets: [{ name: "ranks", count: 1 }], placementGroup: "pd", role });
  const status = { phase, observedGeneration: 1, placement };
  const gang = gangRecord({ name, uid: name, createdAtMs: i, generation, spec, status });
  const pod = podRecord(`${name}-0`, { gang: name, index: 0, ...(runs && { nodeName: node }) });
  const bind: Effect = { type: "bind", id: `bind/${pod.uid}`, pod, node };
  const inFlight = new Map<string, Effect>(binding ? [[bind.id, bind]] : []);
  if (writing !== undefined) {
    inFlight.set("status", {
      type: "writeStatus",
      id: "status",
      gang,
      status: { phase: writing },
      transition: writing,
    });
  }
  const arrivals = new Map([[pod.uid, { node, call: 1 }]]);
  return { ...newGangState(`team/${name}`), gang, pods: new Map([[pod.uid, pod]]), inFlight, arrivals };
}

/** Names of the gangs whose places are outlying. */
function outlying(mates: Mate[], { mode = "required" as "required" | "preferred", cordoned = "" } = {}): string[] {
  const model = clusterOf(nodes.map((node) => ({ ...node, more: { unschedulable: node.name === cordoned } })));
  const states = mates.map(stateOf);
  const isOutlying = outlyingPlaces(model, groupOf(mode), states.toReversed());
  return states.flatMap((state) => {
    return state.gang!.status.placement!.pods.some((place) => isOutlying(state, place)) ? state.gang!.name : [];
  });
}

describe("places of a group in two racks where one is required", () => {
  test.each<[string, Mate[], string[]]>([
    ["are outlying where others run elsewhere", [{ node: "a" }, { node: "c", runs: true }], ["g0"]],
    ["are not where they run in the same rack", [{ node: "a" }, { node: "b", runs: true }], []],
    [
      "are not where somebody runs",
      [
        { node: "a", runs: true },
        { node: "c", runs: true },
      ],
      [],
    ],
    ["nor beside somebody who runs there", [{ node: "a", runs: true }, { node: "c", runs: true }, { node: "b" }], []],
    ["give way to a binding under way", [{ node: "a" }, { node: "c", binding: true }], ["g0"]],
    [
      "give way to a gang that is committed",
      [
        { node: "a", phase: "Reserved" },
        { node: "c", phase: "Binding" },
      ],
      ["g0"],
    ],
    [
      "give way to a commit under way",
      [
        { node: "a", phase: "Reserved" },
        { node: "c", phase: "Reserved", writing: "Binding" },
      ],
      ["g0"],
    ],
    ["give way to a reservation", [{ node: "a" }, { node: "c", phase: "Reserved" }], ["g0"]],
    [
      "give way to an older reservation",
      [
        { node: "a", phase: "Reserved" },
        { node: "c", phase: "Reserved" },
      ],
      ["g1"],
    ],
    ["give way to an older gang's", [{ node: "a" }, { node: "c" }, { node: "c" }], ["g1", "g2"]],
    ["bind nobody on a node that is gone", [{ node: "gone" }, { node: "c" }], []],
  ])("%s", (_, mates, expected) => expect(outlying(mates)).toEqual(expected));

  test("bind nobody on a node that refuses pods, unless somebody runs there", () => {
    const mates = [{ node: "a" }, { node: "c" }];
    expect(outlying(mates, { cordoned: "a" })).toEqual(["g0"]);
    expect(outlying([{ node: "a", runs: true }, { node: "c" }], { cordoned: "a" })).toEqual(["g1"]);
  });

  test("are right where one is only wished", () => {
    expect(outlying([{ node: "a" }, { node: "c", runs: true }], { mode: "preferred" })).toEqual([]);
  });
});

describe("the barrier of a group", () => {
  const east = { node: "a", phase: "Reserved" as const };
  test.each<[string, Mate, boolean]>([
    ["opens once each gang that it needs is whole", { node: "b", phase: "Reserved" }, true],
    ["also for one that is committed", { node: "b", phase: "Binding" }, true],
    ["waits for one that was edited: its commit would fail", { node: "b", phase: "Reserved", generation: 2 }, false],
    ["waits for one that is being revoked", { node: "b", phase: "Reserved", writing: "Revoked" }, false],
    ["waits for one that will be revoked as it is in another rack", { node: "c", phase: "Reserved" }, false],
  ])("%s", (_, other, expected) => {
    const model = clusterOf(nodes);
    const states = [east, other].map(stateOf);
    const groups = createGangGroups(
      () => states,
      () => true,
      (group, members) => outlyingPlaces(model, group, members),
    );
    groups.set("team/pd", groupOf("required"));
    expect(groups.isReady(states[0]!)).toBe(expected);
  });
});
