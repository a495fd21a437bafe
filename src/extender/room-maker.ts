import type { PreemptedUnit } from "../api/gang.ts";
import type { GangState } from "../gang/lifecycle/state.ts";
import type { GangPlan, PlanOptions, PlanUnit } from "../gang/plan.ts";
import { choosePreemption, preemptorPriority } from "../gang/preemption.ts";
import type { Victim } from "../gang/victims.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { BudgetRecord } from "../topology/records.ts";
import type { GangGroups } from "./gang-groups.ts";
import { preemptibleIn } from "./preemptible.ts";

/**
 * Whom a unit of gangs that found no room preempts, and the places that it gets then; undefined: nobody, and none.
 * @param keys gangs of the unit that are to be placed
 * @param decided who has to leave by decisions of this moment, which no Gang's status shows yet
 */
export type RoomMaker = (
  unit: PlanUnit,
  keys: readonly string[],
  decided: readonly PreemptedUnit[],
  options: PlanOptions,
) => { plans: readonly GangPlan[]; preempting: readonly PreemptedUnit[] } | undefined;

/** The choice may not hold the event loop for longer: the best that is known by then is taken, or the gang waits. */
const longestMs = 250;
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
  function isDoomed(decided: readonly PreemptedUnit[]): (uid: string, attempts?: number) => boolean {
    const units = states().flatMap(({ gang, preempting = [] }) => {
      return gang?.status.phase === "Preempting" ? [...preempting, ...(gang.status.preempting ?? [])] : preempting;
    });
    const doomed = new Set([...units, ...decided].map(({ uid, attempts = 0 }) => `${uid}/${attempts}`));
    return (uid, attempts = 0) => doomed.has(`${uid}/${attempts}`);
  }

  return (unit, keys, decided, options) => {
    const below = preemptorPriority(unit);
    // What runs already and lacks members preempts nobody for them.
    const isNew = keys.every((key) => (stateOf(key)?.gang?.status.phase ?? "Pending") === "Pending");
    if (below === undefined || !isNew) return undefined;
    const own = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
    const untilMs = nowMs() + longestMs;
    const inTime = (): boolean => nowMs() <= untilMs;
    const { candidates, leaving } = preemptibleIn(model, states(), groups.of, own, below, isDoomed(decided));
    if (candidates.length + leaving.length === 0) return undefined;
    const found = choosePreemption(model, unit, candidates, { leaving, budgets: budgets() }, { ...options, inTime });
    if (found === undefined) return undefined;
    const nodes = new Set(found.plans.flatMap(({ placement }) => placement.pods.map(({ node }) => node)));
    const waitedFor = leaving.filter(({ leavers }) =>
      leavers.some(({ pods }) => pods.some(({ nodeName }) => nodes.has(nodeName ?? ""))),
    );
    const preempting = [...found.victims, ...waitedFor].flatMap(unitsOf);
    return preempting.length > maxUnits ? undefined : { plans: found.plans, preempting };
  };
}
