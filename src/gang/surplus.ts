import type { PreparedUnit } from "./prepare.ts";
import type { Slot } from "./problem.ts";
import type { Attempt, Solver } from "./solver.ts";

/**
 * Places for what is needed and for as much of the surplus as fits; all of it is known not to.
 * @returns `proven`: it is known of all surplus that is left out that it does not fit
 */
export function withSurplus(
  solver: Solver,
  unit: PreparedUnit,
  budget: number,
): { readonly attempt: Attempt; readonly proven: boolean } {
  const placed = (taken: Surplus) => solver.best([...unit.base, ...taken.flat()], budget);
  const most = mostSurplus(solver, unit, []);
  const attempt = placed(most.taken);
  if (attempt.kind !== "impossible") return { attempt, proven: most.proven };
  const needed = withMoreThanNeeded(solver, unit, budget);
  if (needed.attempt.kind !== "found") return { attempt: needed.attempt, proven: true };
  const more = mostSurplus(solver, unit, needed.taken);
  if (more.taken.length === needed.taken.length) return { attempt: needed.attempt, proven: more.proven };
  const all = placed(more.taken);
  return all.kind === "found" ? { attempt: all, proven: more.proven } : { attempt: needed.attempt, proven: false };
}

/** Entries of a unit's surplus. */
type Surplus = readonly (readonly Slot[])[];

/**
 * Surplus that fits beside the base: `first`, then the most leading entries of all pod sets, then of each. Found by
 * halving, since fewer pods fit if more do; under a spread they need not, so there pod sets are asked again once others have more.
 * @returns `proven`: no search ended with its budget
 */
function mostSurplus(solver: Solver, unit: PreparedUnit, first: Surplus): { taken: Surplus; proven: boolean } {
  const taken = new Set(first);
  /** Pod sets of which no more fits. */
  const full = new Set<string>();
  let proven = true;
  const fits = (more: Surplus): boolean => {
    const kind = solver.feasible([...unit.base, ...[...taken, ...more].flat()]);
    if (kind === "budget") proven = false;
    return kind === "found";
  };
  /** Takes leading entries, fewer than `fails`. */
  const add = (entries: Surplus, fails: number): boolean => {
    let fitting = 0;
    for (let least = fails; least - fitting > 1; ) {
      const middle = Math.floor((fitting + least) / 2);
      if (fits(entries.slice(0, middle))) fitting = middle;
      else least = middle;
    }
    for (const entry of entries.slice(0, fitting)) taken.add(entry);
    const next = entries[fitting];
    if (next !== undefined) full.add(podSetOf(next));
    return fitting > 0;
  };
  const rest = () => unit.surplus.filter((entry) => !taken.has(entry));
  const open = () => podSets(rest()).filter(([entry]) => !full.has(podSetOf(entry!)));
  const all = rest();
  if (!add(all, all.length) && open().length > 0 && !fits([])) return { taken: first, proven };
  for (let [entries] = open(); entries !== undefined; [entries] = open()) {
    if (!add(entries, entries.length + 1) || !isUneven(unit)) continue;
    full.clear();
    if (entries.some((entry) => !taken.has(entry))) full.add(podSetOf(entries[0]!));
  }
  return { taken: [...taken], proven };
}

function podSetOf([slot]: readonly Slot[]): string {
  return `${slot!.gang}/${slot!.podSet}`;
}

function podSets(surplus: Surplus): Surplus[] {
  return [...Map.groupBy(surplus, podSetOf).values()];
}

/** With a required spread more pods may do what fewer cannot. */
function isUneven({ rules }: PreparedUnit): boolean {
  return rules.some(({ kind, required }) => kind === "spread" && required);
}

/** How many numbers of surplus pods are tried before the search says that it does not know. */
const numbersTried = 256;

/**
 * The pods that are needed cannot be placed by themselves. With a spread more pods may do what fewer cannot: then all
 * numbers of pods between what is needed and what is there are tried, few before many.
 */
function withMoreThanNeeded(solver: Solver, unit: PreparedUnit, budget: number): { attempt: Attempt; taken: Surplus } {
  const nothing = { attempt: { kind: "impossible" }, taken: [] } as const;
  if (!isUneven(unit) || !solver.feasibleUneven(unit.base)) return nothing;
  const sets = podSets(unit.surplus);
  const seen = new Set<string>();
  let numbers = [sets.map(() => 0)];
  for (let tried = 0; numbers.length > 0; ) {
    const next: number[][] = [];
    for (const smaller of numbers) {
      for (const [i, podSet] of sets.entries()) {
        const number = smaller.with(i, smaller[i]! + 1);
        if (number[i]! > podSet.length || seen.has(number.join())) continue;
        seen.add(number.join());
        if (++tried > numbersTried) return { ...nothing, attempt: { kind: "budget" } };
        const taken = sets.flatMap((entries, each) => entries.slice(0, number[each]));
        const slots = [...unit.base, ...taken.flat()];
        if (!solver.feasibleUneven(slots)) continue;
        const attempt = solver.best(slots, budget);
        if (attempt.kind !== "impossible") return { attempt, taken };
        next.push(number);
      }
    }
    numbers = next;
  }
  return nothing;
}
