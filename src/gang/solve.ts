import { type Wish, wishes } from "../api/placement.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { PlanUnit } from "./plan.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Decided } from "./problem.ts";
import { createSolver, wishBudget } from "./solver.ts";
import { addSurplus, mostSurplus, withMoreThanNeeded } from "./surplus.ts";

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
  let surplusProven = true;
  if (unit.surplus.length > 0) {
    const whole = solver.best(everything, [], Math.min(wishBudget, budget));
    if (whole.kind === "found") return { ...whole, explored: solver.explored() };
    surplusProven = whole.kind === "impossible";
  }
  const most = mostSurplus(solver, unit);
  surplusProven &&= most.proven;
  let surplus = unit.surplus.slice(most.fits);
  let first = solver.best([...unit.base, ...unit.surplus.slice(0, most.fits).flat()], [], budget);
  if (first.kind === "impossible" && unit.surplus.length > 0) {
    const more = withMoreThanNeeded(solver, unit, budget);
    first = more.attempt;
    surplus = unit.surplus.filter((entry) => !more.taken.includes(entry));
  }
  if (first.kind !== "found") return { kind: first.kind, explored: solver.explored() };
  const more = addSurplus(solver, surplus, first.decided);
  const { decided } = more;
  const open = new Set<Wish>([...first.open, ...more.open]);
  if (!surplusProven) open.add("Surplus");
  if (decided.length === everything.length) open.delete("Surplus");
  return { kind: "found", decided, open: wishes.filter((wish) => open.has(wish)), explored: solver.explored() };
}
