import { expect, test } from "vitest";
import { gangGate } from "../../../../src/api/names.ts";
import {
  type Effect,
  type GangState,
  type LifecycleEvent,
  newGangState,
} from "../../../../src/gang/lifecycle/state.ts";
import { step } from "../../../../src/gang/lifecycle/step.ts";
import type { PodRecord } from "../../../../src/topology/records.ts";
import { gangRecord, lifecycleContext, podRecord } from "../../../builders.ts";

/** A pod `p` of a Gang that exists, whose claim `p-gpus-1` was deleted at 100 s. */
const lostMs = 100_000;

const made = [{ name: "gpus", claimName: "p-gpus-1", templateName: "gpus" }];
const waiting = (more: Partial<PodRecord> = {}): PodRecord =>
  podRecord("p", { gang: "g", gates: [gangGate], claims: made, ...more });

function lost(pod: PodRecord): GangState {
  return step({ ...newGangState("team/g"), gang: gangRecord() }, [{ type: "pod", pod }], lifecycleContext(lostMs))
    .state;
}

const tick: LifecycleEvent = { type: "tick" };
const news = (effects: readonly Effect[]) => effects.filter((effect) => effect.type === "tellPod");

test.for([
  ["5 s after", 5, {}, ["True ClaimMissing"]],
  ["not sooner", 4, {}, []],
  ["also once kllama has lifted its gate", 5, { gates: [] }, ["True ClaimMissing"]],
  ["not on a node: its claim is in use", 5, { gates: [], nodeName: "n" }, []],
  ["not while its claim was never made", 5, { claims: [{ name: "gpus", templateName: "gpus" }] }, []],
  ["not of a claim that people make", 5, { claims: [{ name: "gpus", claimName: "theirs" }] }, []],
] as const)("a pod whose claim was deleted is told: %s", ([, seconds, more, expected]) => {
  const { effects } = step(
    lost(waiting(more as Partial<PodRecord>)),
    [tick],
    lifecycleContext(lostMs + seconds * 1000),
  );
  expect(news(effects).map(({ status, reason }) => `${status} ${reason}`)).toEqual(expected);
});

const seconds = (count: number) => lifecycleContext(lostMs + count * 1000);

test("the pod is told once, again when that fails, and anew when another claim of it is deleted", () => {
  const told = step(lost(waiting()), [tick], seconds(5));
  const [effect] = news(told.effects);
  expect(effect).toMatchObject({
    message:
      "ResourceClaim p-gpus-1 of pod p was deleted; delete the pod, so that it is created anew with another claim",
  });
  const outcome = { ok: false, reason: "Unreachable", message: "no" } as const;
  const failed = step(told.state, [{ type: "done", effect: effect!, outcome }], seconds(6));
  const again = step(failed.state, [tick], seconds(7));
  expect(news(again.effects)).toHaveLength(1);
  const done = step(again.state, [{ type: "done", effect: effect!, outcome: { ok: true } }, tick], seconds(8));
  expect(news(done.effects)).toEqual([]);
  const another: LifecycleEvent = { type: "pod", pod: waiting({ claims: [{ ...made[0]!, claimName: "p-gpus-2" }] }) };
  const later = step(done.state, [another], seconds(70));
  expect(news(later.effects)).toEqual([]);
  expect(news(step(later.state, [tick], seconds(75)).effects)).toHaveLength(1);
});

test("the pod is told once more when kube-controller-manager has forgotten the claim, after an hour", () => {
  const told = step(lost(waiting()), [tick], seconds(5));
  const done = step(
    told.state,
    [{ type: "done", effect: news(told.effects)[0]!, outcome: { ok: true } }, tick],
    seconds(6),
  );
  expect(news(step(done.state, [tick], seconds(3_659)).effects)).toEqual([]);
  expect(news(step(done.state, [tick], seconds(3_660)).effects)).toHaveLength(1);
});
