import type { ClusterModel } from "../topology/model.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Decided } from "./problem.ts";
import { createSolver, wishBudget } from "./solver.ts";
import { addSurplus, mostSurplus, withMoreThanNeeded } from "./surplus.ts";

/** Places for slots of a unit; `decided` holds every newly placed one. */
export interface Solution {
  readonly kind: "found";
  readonly decided: readonly Decided[];
  readonly explored: number;
}

/** `impossible` is proved; `budget`: the search was stopped before it knew. */
export interface NoSolution {
  readonly kind: "impossible" | "budget";
  readonly explored: number;
}

/**
 * Finds places for all base slots under all required rules, then makes the most of it: preferred rules in their order,
 * surplus, traffic that costs least, and domains no broader than they have to be.
 */
export function solveUnit(
  model: ClusterModel,
  unit: PreparedUnit,
  group: PlanUnit["placementGroup"],
  budget: number,
): Solution | NoSolution {
  const solver = createSolver(model.view, unit, group, budget);
  const everything = [...unit.base, ...unit.surplus.flat()];
  if (everything.length === 0) return { kind: "found", decided: [], explored: 0 };
  if (unit.surplus.length > 0) {
    const whole = solver.best(everything, [], Math.min(wishBudget, budget));
    if (whole.kind === "found") return { ...whole, explored: solver.explored() };
  }
  const most = mostSurplus(solver, unit);
  let surplus = unit.surplus.slice(most);
  let first = solver.best([...unit.base, ...unit.surplus.slice(0, most).flat()], [], budget);
  if (first.kind === "impossible" && unit.surplus.length > 0) {
    const more = withMoreThanNeeded(solver, unit, budget);
    first = more.attempt;
    surplus = unit.surplus.filter((entry) => !more.taken.includes(entry));
  }
  if (first.kind !== "found") return { kind: first.kind, explored: solver.explored() };
  const decided = addSurplus(solver, surplus, first.decided);
  return { kind: "found", decided, explored: solver.explored() };
}
