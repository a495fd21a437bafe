import { type Wish, wishes } from "../api/placement.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Decided } from "./problem.ts";
import { createSolver, wishBudget } from "./solver.ts";
import { withSurplus } from "./surplus.ts";

/** Places for slots of a unit; `decided` holds every newly placed one, `open` says for which wishes the budget ended. */
export interface Solution {
  readonly kind: "found";
  readonly decided: readonly Decided[];
  readonly open: readonly Wish[];
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
  if (everything.length === 0) return { kind: "found", decided: [], open: [], explored: 0 };
  const whole = solver.best(everything, unit.surplus.length === 0 ? budget : Math.min(wishBudget, budget));
  if (whole.kind === "found" || unit.surplus.length === 0) return { ...whole, explored: solver.explored() };
  const { attempt, proven } = withSurplus(solver, unit, budget);
  if (attempt.kind !== "found") return { kind: attempt.kind, explored: solver.explored() };
  const { decided } = attempt;
  const open = new Set<Wish>(attempt.open);
  if ((!proven || whole.kind === "budget") && decided.length < everything.length) open.add("Surplus");
  return { kind: "found", decided, open: wishes.filter((wish) => open.has(wish)), explored: solver.explored() };
}
