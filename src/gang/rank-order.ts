import { ownDevices, type Place, type Problem } from "./problem.ts";

/**
 * Lets interchangeable pods trade places until index order follows domain order, and device order on one node, so that
 * neighbouring ranks are close: first the pods of every bundle, then whole slices, inner ones before outer ones.
 */
export function inRankOrder(problem: Problem, found: readonly Place[]): Place[] {
  const places = found.slice();
  for (const { slots } of problem.bundles)
    permute(
      problem,
      places,
      slots.map((slot) => [slot]),
    );
  const classes = new Map<string, number[][]>();
  for (const { signature, slots, rule } of problem.groups) {
    if (signature === undefined) continue;
    const depth = rule.ref.kind === "node" ? rule.ref.level.index : rule.fabric.nodeLevels.length;
    const key = `${String(99 - depth).padStart(2, "0")} ${signature}`;
    classes.set(key, [...(classes.get(key) ?? []), [...slots]]);
  }
  for (const key of [...classes.keys()].sort()) permute(problem, places, classes.get(key)!);
  return places;
}

/** Hands the contents of the sets, sorted by where they start, to the sets in order. */
function permute(problem: Problem, places: Place[], sets: readonly (readonly number[])[]): void {
  const contents = sets.map((slots) => slots.map((slot) => places[slot]!));
  contents.sort((a, b) => {
    for (const [i, place] of a.entries()) {
      const difference = comparePlaces(problem, place, b[i]!);
      if (difference !== 0) return difference;
    }
    return 0;
  });
  for (const [i, slots] of sets.entries()) for (const [j, slot] of slots.entries()) places[slot] = contents[i]![j]!;
}

function comparePlaces({ fabric, view }: Problem, a: Place, b: Place): number {
  return fabric.rankOf(a.node) - fabric.rankOf(b.node) || firstDevice(view, a) - firstDevice(view, b);
}

function firstDevice(view: Problem["view"], place: Place): number {
  const devices = ownDevices(view, place);
  return devices.length === 0 ? -1 : Math.min(...devices);
}
