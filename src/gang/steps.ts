import { isOpen } from "./group-domain.ts";
import { type Bundle, breadthOf, type Group, type Problem } from "./problem.ts";

/** One decision of the search. `sibling`: the latest earlier step for something alike, whose order of values it goes on with. */
export type Step =
  | { readonly kind: "group"; readonly group: number; readonly sibling: number | undefined }
  | { readonly kind: "slot"; readonly bundle: number; readonly slot: number; readonly sibling: number | undefined };

/** Groups whose domain is open, broad levels and large groups first; then bundles, those with the largest pods first. */
export function stepsOf(problem: Problem): Step[] {
  const { groups, bundles, slots, tables } = problem;
  const breadth = ({ rule }: Group) => breadthOf(rule);
  const weight = (list: readonly number[]) =>
    list.reduce((sum, slot) => sum + 1 + 1000 * tables[slot]!.shape.devices, 0);
  const groupOrder = [...groups.keys()]
    .filter((g) => isOpen(problem, groups[g]!))
    .sort(
      (a, b) =>
        breadth(groups[a]!) - breadth(groups[b]!) || weight(groups[b]!.slots) - weight(groups[a]!.slots) || a - b,
    );
  const steps: Step[] = [];
  const latest = new Map<string, number>();
  for (const group of groupOrder) {
    const { signature } = groups[group]!;
    steps.push({ kind: "group", group, sibling: signature === undefined ? undefined : latest.get(signature) });
    if (signature !== undefined) latest.set(signature, steps.length - 1);
  }
  const size = ({ table: { shape } }: Bundle) => shape.devices;
  const bundleOrder = [...bundles.keys()].sort(
    (a, b) =>
      Number(bundles[b]!.own !== undefined) - Number(bundles[a]!.own !== undefined) ||
      size(bundles[b]!) - size(bundles[a]!) ||
      bundles[b]!.slots.length - bundles[a]!.slots.length ||
      a - b,
  );
  for (const bundle of bundleOrder) {
    for (const [i, slot] of bundles[bundle]!.slots.entries()) {
      steps.push({ kind: "slot", bundle, slot, sibling: i === 0 ? undefined : steps.length - 1 });
    }
  }
  return slots.length === 0 ? [] : steps;
}
