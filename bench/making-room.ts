import { preemptibleIn } from "../src/extender/preemptible.ts";
import type { Steps } from "../src/gang/in-slices.ts";
import type { PlanUnit } from "../src/gang/plan.ts";
import { choosePreemption } from "../src/gang/preemption.ts";
import { soonestRoom } from "../src/gang/soonest-room.ts";
import type { ClusterModel } from "../src/topology/model.ts";
import { threadCpuMs } from "./cpu.ts";
import { forgetGang } from "./scene.ts";

/** What a gang that found no room makes the planner do: choose whom it preempts, or which room is drained for it. */
export const choices = ["victims", "room"] as const;
type Choice = (typeof choices)[number];

/** Milliseconds that the thread had a core: for whole choices, and for single steps, after each of which others may have a turn. */
export interface ChoiceTiming {
  p50Ms: number;
  mostMs: number;
  stepMostMs: number;
  steps: number;
  /** Pods that would be evicted, or nodes that would be drained; undefined: there is no such choice. */
  found: number | undefined;
}

const priority = 10;

/**
 * @param unitOf a new unit of the kind that does not fit
 * @param seconds after which no further choice begins, if one was measured
 */
export function measureChoice(
  model: ClusterModel,
  choice: Choice,
  unitOf: () => PlanUnit,
  samples: number,
  seconds: number,
): ChoiceTiming {
  const end = performance.now() + seconds * 1000;
  const wholes: number[] = [];
  let [stepMostMs, steps, found]: [number, number, number | undefined] = [0, 0, undefined];
  // The first ones meet what was never looked at.
  for (let sample = -2; sample < samples && (sample <= 0 || performance.now() < end); sample++) {
    const unit = urgent(unitOf());
    changeSomething(model);
    const run = choice === "victims" ? victimsFor(model, unit) : roomFor(model, unit);
    const taken = timesOf(run);
    for (const gang of unit.gangs) forgetGang(model, gang);
    if (sample < 0) continue;
    wholes.push(taken.stepsMs.reduce((sum, ms) => sum + ms, 0));
    stepMostMs = Math.max(stepMostMs, ...taken.stepsMs);
    steps = Math.max(steps, taken.stepsMs.length);
    found = taken.result;
  }
  wholes.sort((a, b) => a - b);
  return { p50Ms: wholes[wholes.length >> 1]!, mostMs: wholes.at(-1)!, stepMostMs, steps, found };
}

function* victimsFor(model: ClusterModel, unit: PlanUnit): Steps<number | undefined> {
  const keys = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
  const { candidates } = yield* preemptibleIn(model, [], () => undefined, { keys, below: priority });
  const made = yield* choosePreemption(model, unit, candidates, {});
  return made?.victims.reduce((sum, { pods }) => sum + pods.length, 0);
}

function* roomFor(model: ClusterModel, unit: PlanUnit): Steps<number | undefined> {
  const room = yield* soonestRoom(model, unit);
  return room && new Set(room.plans.flatMap(({ placement }) => placement.pods.map(({ node }) => node))).size;
}

/** So that every choice meets a cluster that has changed. */
function changeSomething(model: ClusterModel): void {
  const [node] = model.view.nodes;
  const placed = { pod: "somebody-0", podSet: "pods", index: 0, node: node!.record.name, claims: [] };
  model.hold("bench/somebody", "bench", [{ placed, requests: { cpu: 1 } }]);
  model.release("bench/somebody");
}

function urgent({ gangs, ...group }: PlanUnit): PlanUnit {
  return {
    ...group,
    gangs: gangs.map((gang) => ({ ...gang, priority, pods: gang.pods.map((pod) => ({ ...pod, priority })) })),
  };
}

function timesOf<T>(run: Steps<T>): { stepsMs: number[]; result: T } {
  const stepsMs: number[] = [];
  for (;;) {
    const begun = threadCpuMs();
    const next = run.next();
    stepsMs.push(threadCpuMs() - begun);
    if (next.done === true) return { stepsMs, result: next.value };
  }
}
