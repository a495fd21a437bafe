import { expect, test } from "vitest";
import { gangGate } from "../../../../src/api/names.ts";
import { type Effect, type GangState, newGangState } from "../../../../src/gang/lifecycle/state.ts";
import { step } from "../../../../src/gang/lifecycle/step.ts";
import type { PodRecord } from "../../../../src/topology/records.ts";
import { gangRecord, lifecycleContext, podRecord } from "../../../builders.ts";

/** A pod `p` of a Gang `team/g` that may not exist, seen first at 100 s. */
const firstMs = 100_000;

const orphan = (more: Partial<PodRecord> = {}): PodRecord =>
  podRecord("p", { gang: "g", gates: [gangGate], createdAtMs: firstMs, ...more });

const gang = gangRecord();

/** The state once `pod` was seen at `firstMs`. */
function seen(pod: PodRecord, more: Partial<GangState> = {}): GangState {
  return step({ ...newGangState("team/g"), ...more }, [{ type: "pod", pod }], lifecycleContext(firstMs)).state;
}

const told = (effects: readonly Effect[]) =>
  effects.flatMap((effect) => (effect.type === "tellPod" ? [`${effect.status} ${effect.reason}`] : []));

function tellAfter(seconds: number, pod: PodRecord, more: Partial<GangState> = {}) {
  return told(step(seen(pod, more), [{ type: "tick" }], lifecycleContext(firstMs + seconds * 1000)).effects);
}

test.for([
  ["29 s after its creation: nothing yet", 29, {}, []],
  ["30 s after its creation", 30, {}, ["False GangNotFound"]],
  ["told before: nothing more", 3600, { gangCondition: "False" }, []],
  ["told once that all is well, and the Gang is gone again", 30, { gangCondition: "True" }, ["False GangNotFound"]],
  ["without our gate: kllama does not hold it", 60, { gates: ["example.com/quota"] }, []],
  ["on a node", 60, { gates: [], nodeName: "n0" }, []],
  ["being deleted", 60, { deleting: true }, []],
] as const)("a pod without a Gang, %s", ([, seconds, more, expected]) => {
  expect(tellAfter(seconds, orphan(more))).toEqual(expected);
});

test("an older pod whose Gang is deleted is told 30 s after that", () => {
  const state = seen(orphan({ createdAtMs: 0 }), { gang });
  const gone = step(state, [{ type: "gangGone", uid: "gang-uid" }], lifecycleContext(firstMs + 1_000));
  expect(told(gone.effects)).toEqual([]);
  expect(gone.wakeAtMs).toBe(firstMs + 31_000);
  const later = step(gone.state, [{ type: "tick" }], lifecycleContext(firstMs + 31_000));
  expect(told(later.effects)).toEqual(["False GangNotFound"]);
});

test("the message says what to do, with the pod's names", () => {
  const { effects } = step(seen(orphan()), [{ type: "tick" }], lifecycleContext(firstMs + 30_000));
  expect(effects[0]).toMatchObject({
    pod: { namespace: "team", name: "p" },
    message:
      "the pod waits for Gang team/g, which does not exist: create it, or correct the pod's label " +
      "scheduling.kllama.ai/gang, or let the pod go alone with: kllama release p -n team",
  });
});

test("a Gang that is being deleted is said to be", () => {
  const state = seen(orphan(), { gang: { ...gang, deleting: true } });
  const { effects } = step(state, [{ type: "tick" }], lifecycleContext(firstMs + 30_000));
  expect(effects).toContainEqual(
    expect.objectContaining({
      message: expect.stringContaining(
        "the pod waits for Gang team/g, which is being deleted: create it again when it is gone, or",
      ),
    }),
  );
});

test("when the Gang comes, a pod that was told so is told that it is over; others are not", () => {
  const state = seen(orphan({ gangCondition: "False" }));
  const came = step(state, [{ type: "gang", gang }], lifecycleContext(firstMs + 60_000));
  expect(told(came.effects)).toEqual(["True GangFound"]);
  const quiet = step(seen(orphan()), [{ type: "gang", gang }], lifecycleContext(firstMs + 60_000));
  expect(told(quiet.effects)).toEqual([]);
});
