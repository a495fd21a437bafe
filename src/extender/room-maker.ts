import type { PreemptedUnit } from "../api/gang.ts";
import { atOnce, goOn, type Steps } from "../gang/in-slices.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import type { GangPlan, PlanOptions, PlanUnit } from "../gang/plan.ts";
import { choosePreemption, preemptorPriority } from "../gang/preemption.ts";
import type { Victim } from "../gang/victims.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord } from "../topology/records.ts";
import type { GangGroups } from "./gang-groups.ts";
import { preemptibleIn } from "./preemptible.ts";

/** Who has to leave for a unit, and the places that it gets then. */
interface MadeRoom {
  plans: readonly GangPlan[];
  preempting: readonly PreemptedUnit[];
}

/**
 * Whom a unit of gangs that found no room preempts. `later`: the choice takes more than is left of this turn; asked again
 * for the same unit, it goes on.
 * @param keys gangs of the unit that are to be placed
 * @param decided who has to leave by decisions of this moment, which no Gang's status shows yet
 * @returns undefined: nobody leaves for it
 */
export type RoomMaker = (
  unit: PlanUnit,
  keys: readonly string[],
  decided: readonly PreemptedUnit[],
  options: PlanOptions & { inTime(): boolean },
) => MadeRoom | "later" | undefined;

/** A choice that took no end in one turn. */
interface Choice {
  readonly unit: string;
  readonly steps: Steps<MadeRoom | undefined>;
  /** When it was last gone on with. */
  atMs: number;
}

/** A choice that nobody asked for in so long is begun anew. */
const keptMs = 1_000;
/** Of those who were chosen in earlier turns, whether all still have to leave is tried so often, in one turn. */
const triesOnceMore = 4;
/** As many as a Gang's status names. */
const maxUnits = 1024;

export function createRoomMaker(parts: {
  model: ClusterModel;
  groups: GangGroups;
  states(): readonly GangState[];
  stateOf(key: string): GangState | undefined;
  budgets(): readonly BudgetRecord[];
  nowMs(): number;
}): RoomMaker {
  const { model, groups, states, stateOf, budgets, nowMs } = parts;
  /** Calls so far, and what was decided before the latest one. */
  let turn = 0;
  let decided: readonly PreemptedUnit[] = [];
  let choice: Choice | undefined;

  function unitsOf(victim: Victim): PreemptedUnit[] {
    return victim.leavers.flatMap(({ key, pods }): PreemptedUnit[] => {
      if (key === undefined) return pods.map(({ uid }) => ({ kind: "Pod", uid }));
      const gang = stateOf(key)?.gang;
      if (gang === undefined) return [];
      const { phase, attempts = 0 } = gang.status;
      return [{ kind: "Gang", uid: gang.uid, attempts: phase === "Preempted" ? attempts - 1 : attempts }];
    });
  }

  /** Whom earlier decisions send away: they cost nothing more. */
  function isDoomed(): (uid: string, attempts?: number) => boolean {
    const units = states().flatMap(({ gang, preempting = [] }) => {
      return gang?.status.phase === "Preempting" ? [...preempting, ...(gang.status.preempting ?? [])] : preempting;
    });
    const doomed = new Set([...units, ...decided].map(({ uid, attempts = 0 }) => `${uid}/${attempts}`));
    return (uid, attempts = 0) => doomed.has(`${uid}/${attempts}`);
  }

  function* choose(unit: PlanUnit, below: number, options: PlanOptions): Steps<MadeRoom | undefined> {
    const begun = turn;
    const keys = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
    const question = { keys, below, isDoomed: isDoomed() };
    let { candidates, leaving } = yield* preemptibleIn(model, states(), groups.of, question);
    if (candidates.length + leaving.length === 0) return undefined;
    let found = yield* choosePreemption(model, unit, candidates, { leaving, budgets: budgets() }, options);
    if (found !== undefined && turn !== begun) {
      // Since it began some may have gone, or must not go any more; then others do not have to.
      const chosen = new Set(found.victims.map(({ id }) => id));
      const now = { ...question, isDoomed: isDoomed(), mayLeave: (id: string) => chosen.has(id) };
      ({ candidates, leaving } = atOnce(preemptibleIn(model, states(), groups.of, now)));
      const few = { ...options, tries: triesOnceMore };
      found = atOnce(choosePreemption(model, unit, candidates, { leaving, budgets: budgets() }, few));
    }
    if (found === undefined) return undefined;
    const nodes = new Set(found.plans.flatMap(({ placement }) => placement.pods.map(({ node }) => node)));
    const waitedFor = leaving.filter(({ leavers }) =>
      leavers.some(({ pods }) => pods.some(({ nodeName }) => nodes.has(nodeName ?? ""))),
    );
    const preempting = [...found.victims, ...waitedFor].flatMap(unitsOf);
    return preempting.length > maxUnits ? undefined : { plans: found.plans, preempting };
  }

  return (unit, keys, decidedNow, { inTime, ...options }) => {
    const below = preemptorPriority(unit);
    // What runs already and lacks members preempts nobody for them.
    const isNew = keys.every((key) => (stateOf(key)?.gang?.status.phase ?? "Pending") === "Pending");
    if (below === undefined || !isNew) return undefined;
    turn++;
    decided = decidedNow;
    const name = nameOf(unit);
    if (choice?.unit !== name || nowMs() - choice.atMs > keptMs) {
      choice = { unit: name, steps: choose(unit, below, options), atMs: nowMs() };
    }
    const done = goOn(choice.steps, inTime);
    choice.atMs = nowMs();
    if (done === undefined) return "later";
    choice = undefined;
    return done.result;
  };
}

/** Differs when anything about the unit does. */
function nameOf({ gangs, placementGroup }: PlanUnit): string {
  const members = gangs.map(({ pods, placed, ...rest }) => [rest, pods.map(({ uid }) => uid), placed]);
  return JSON.stringify([members, placementGroup ?? null]);
}
