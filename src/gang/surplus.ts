import type { Wish } from "../api/placement.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Decided, Slot } from "./problem.ts";
import { type Attempt, type Solver, wishBudget } from "./solver.ts";

/**
 * The most leading entries of the surplus that fit beside the base; found by halving, since fewer pods fit if more do.
 * @returns `proven`: no search ended with its budget
 */
export function mostSurplus(solver: Solver, unit: PreparedUnit): { readonly fits: number; readonly proven: boolean } {
  let fits = 0;
  let fails = unit.surplus.length;
  let proven = true;
  while (fails - fits > 1) {
    const middle = Math.floor((fits + fails) / 2);
    const kind = solver.feasible([...unit.base, ...unit.surplus.slice(0, middle).flat()]);
    if (kind === "budget") proven = false;
    if (kind === "found") fits = middle;
    else fails = middle;
  }
  return { fits, proven };
}

/** How many numbers of surplus pods are tried before the search says that it does not know. */
const numbersTried = 256;

/**
 * The pods that are needed cannot be placed by themselves. With a spread more pods may do what fewer cannot: then all
 * numbers of pods between what is needed and what is there are tried, few before many.
 */
export function withMoreThanNeeded(
  solver: Solver,
  unit: PreparedUnit,
  budget: number,
): { attempt: Attempt; taken: readonly (readonly Slot[])[] } {
  const nothing = { attempt: { kind: "impossible" }, taken: [] } as const;
  const uneven = unit.rules.some(({ kind, required }) => kind === "spread" && required);
  if (!uneven || !solver.feasibleUneven(unit.base)) return nothing;
  const podSets = [...Map.groupBy(unit.surplus, ([first]) => `${first!.gang}/${first!.podSet}`).values()];
  const seen = new Set<string>();
  let numbers = [podSets.map(() => 0)];
  for (let tried = 0; numbers.length > 0; ) {
    const next: number[][] = [];
    for (const smaller of numbers) {
      for (const [i, podSet] of podSets.entries()) {
        const number = smaller.with(i, smaller[i]! + 1);
        if (number[i]! > podSet.length || seen.has(number.join())) continue;
        seen.add(number.join());
        if (++tried > numbersTried) return { ...nothing, attempt: { kind: "budget" } };
        const taken = podSets.flatMap((entries, each) => entries.slice(0, number[each]));
        const slots = [...unit.base, ...taken.flat()];
        if (!solver.feasibleUneven(slots)) continue;
        const attempt = solver.best(slots, [], budget);
        if (attempt.kind !== "impossible") return { attempt, taken };
        next.push(number);
      }
    }
    numbers = next;
  }
  return nothing;
}

/** Adds what still fits, one entry after the other; a pod set that fails once is left alone. */
export function addSurplus(
  solver: Solver,
  surplus: readonly (readonly Slot[])[],
  base: readonly Decided[],
): { readonly decided: readonly Decided[]; readonly open: readonly Wish[] } {
  let decided = base;
  const open: Wish[] = [];
  const failed = new Set<string>();
  for (const slots of surplus) {
    const podSet = `${slots[0]!.gang}/${slots[0]!.podSet}`;
    if (failed.has(podSet)) continue;
    const more = solver.best(slots, decided, wishBudget);
    if (more.kind === "found") {
      decided = [...decided, ...more.decided];
      open.push(...more.open);
      continue;
    }
    failed.add(podSet);
    if (more.kind === "budget") open.push("Surplus");
  }
  return { decided, open };
}
