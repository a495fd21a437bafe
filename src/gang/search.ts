import { candidateDomains, candidateNodes, hasRoom, regionOf } from "./candidates.ts";
import { createGroupDomains, type GroupDomain, type GroupDomains } from "./group-domain.ts";
import { clusterFits } from "./loads.ts";
import { createOverlay } from "./overlay.ts";
import type { Bundle, Group, Place, Problem, Spread } from "./problem.ts";
import { type LazyOrder, lazyOrder } from "./score.ts";
import type { Together } from "./shape.ts";
import { createSpreadCount, type SpreadCount } from "./spread.ts";
import { stepsOf } from "./steps.ts";
import { wideSuffices } from "./wide-demand.ts";

/**
 * `places` is parallel to the problem's slots. `impossible` is proved; `budget` says nothing about feasibility.
 * `explored` counts values tried, `spent` those beyond the two per step that even a straight way may take.
 */
export type SearchResult =
  | { readonly kind: "found"; readonly places: readonly Place[]; readonly explored: number; readonly spent: number }
  | { readonly kind: "impossible" | "budget"; readonly explored: number; readonly spent: number };

type Outcome = "taken" | "refused" | "exhausted";

interface Frame {
  position: number;
  readonly domains?: LazyOrder<GroupDomain>;
  readonly nodes?: LazyOrder<number>;
  /** Where the nodes were looked for. */
  readonly region?: readonly number[] | undefined;
  /** Earlier steps without which another value could have been possible. */
  readonly conflicts: Set<number>;
}

/**
 * Depth-first search with conflict-directed backjumping: first a domain for every group, broad levels and large groups
 * first, then a node with devices for every slot. When a step has no value left, the search returns to the latest step
 * that had a part in it, whatever lies between. Groups that look alike, and slots of one bundle, are tried in one order
 * only. Complete: without a found placement and within the budget, there is none. Devices are chosen anew for all pods
 * of a node together, and of all nodes that reach the same ones.
 * @param budget bound of `spent`
 */
export function search(problem: Problem, budget: number): SearchResult {
  const run = createRun(problem);
  if (!run.start()) return { kind: "impossible", explored: 0, spent: 0 };
  const { steps } = run;
  const allowance = 2 * steps.length;
  const frames: Frame[] = [];
  let values = 0;
  let depth = 0;
  const spent = () => Math.max(0, values - allowance) + Math.ceil(run.trials() / trialsPerValue);
  const effort = () => ({ explored: values, spent: spent() });
  if (steps.length > 0) frames[0] = run.enter(0, frames);
  while (depth < steps.length) {
    const frame = frames[depth]!;
    let found = false;
    while (!found) {
      if (spent() >= budget && values >= allowance) return { kind: "budget", ...effort() };
      values++;
      const outcome = run.tryNext(depth, frame);
      if (outcome === "exhausted") break;
      found = outcome === "taken";
    }
    if (found) {
      depth++;
      if (depth < steps.length) frames[depth] = run.enter(depth, frames);
      continue;
    }
    const target = Math.max(-1, ...frame.conflicts);
    if (target < 0) return { kind: run.isUnsure() ? "budget" : "impossible", ...effort() };
    for (let step = depth - 1; step >= target; step--) run.undo(step);
    for (const conflict of frame.conflicts) if (conflict !== target) frames[target]!.conflicts.add(conflict);
    depth = target;
  }
  return { kind: "found", places: run.places(), ...effort() };
}

/** Devices tried for several pods together cost as much as one value of a step. */
const trialsPerValue = 20;

function createRun(problem: Problem) {
  const { groups, bundles } = problem;
  const overlay = createOverlay(problem.view);
  const domains = createGroupDomains(problem);
  const steps = stepsOf(problem);
  const stepOfGroup = new Map(steps.flatMap((step, i) => (step.kind === "group" ? [[step.group, i] as const] : [])));
  const nodeOf: (number | undefined)[] = problem.slots.map(() => undefined);
  /** Counts of spreads, made when the groups around them are known. */
  const spreadCounts: (SpreadCount | undefined)[] = problem.spreads.map(() => undefined);

  const stepsOfGroups = (list: readonly number[], before: number): number[] =>
    list.flatMap((group) => stepOfGroup.get(group) ?? []).filter((step) => step < before);
  const countsOf = (bundle: Bundle) => bundle.spreads.map((s) => spreadCounts[s]!);

  const enterGroup = (step: number, group: number): Frame => ({
    position: 0,
    conflicts: new Set(stepsOfGroups(domains.related[group]!, step)),
    domains: candidateDomains(problem, group, domains),
  });
  const enterBundle = (step: number, bundle: Bundle): Frame => {
    const conflicts = new Set(stepsOfGroups(bundle.groups, step));
    for (const s of bundle.spreads) {
      const spread = problem.spreads[s]!;
      if (!spread.slots.some((slot) => nodeOf[slot] !== undefined)) {
        spreadCounts[s] = createSpreadCount(problem, spread, domains.inside(groupsAround(groups, spread)));
      }
      for (let earlier = 0; earlier < step; earlier++) conflicts.add(earlier);
    }
    const region = regionOf(problem, bundle, domains, overlay.touched);
    const room = (node: number) => overlay.room(node, bundle.table);
    const none = () => ({ position: 0, conflicts, nodes: lazyOrder<number>([], () => 0) });
    if (
      region !== undefined &&
      bundle.groups.length > 0 &&
      !bundle.own &&
      !wideSuffices(problem, [[bundle.table, bundle.slots.length]], () => region)
    ) {
      return none();
    }
    if (hasRoom(bundle, region, room)) {
      return { position: 0, conflicts, region, nodes: candidateNodes(problem, bundle, region, room, countsOf(bundle)) };
    }
    for (const node of region ?? []) addSteps(conflicts, overlay.stepsOn(node));
    return none();
  };
  const tryGroup = (step: number, group: number, frame: Frame): Outcome => {
    const domain = frame.domains!.at(frame.position++);
    if (!domain) return "exhausted";
    if (domains.assign(group, domain)) return "taken";
    // The bound counts what other groups bring to the same domains.
    for (let earlier = 0; earlier < step; earlier++) {
      if (steps[earlier]!.kind === "group") frame.conflicts.add(earlier);
    }
    return "refused";
  };
  const trySlot = (step: number, slot: number, bundle: Bundle, frame: Frame): Outcome => {
    const node = frame.nodes!.at(frame.position++);
    if (node === undefined) {
      // Nodes that were no candidates may have been filled by earlier steps.
      for (const other of frame.region ?? []) addSteps(frame.conflicts, overlay.stepsOn(other));
      return "exhausted";
    }
    const counts = countsOf(bundle);
    const taken =
      counts.every((count) => count.allows(node)) &&
      overlay.put(step, node, bundle.table, togetherOf(bundle, domains), bundle.own);
    if (!taken) {
      addSteps(frame.conflicts, overlay.stepsOn(node));
      return "refused";
    }
    for (const count of counts) count.add(node, 1);
    nodeOf[slot] = node;
    return "taken";
  };

  return {
    steps,
    trials: () => overlay.trials,
    isUnsure: () => overlay.unsure,
    places(): Place[] {
      const places: Place[] = [];
      for (const [step, what] of steps.entries()) {
        if (what.kind === "slot") places[what.slot] = { node: nodeOf[what.slot]!, choice: overlay.choiceOf(step) };
      }
      return places;
    },
    /** Puts in place what is given: decided slots, and the domains that pinned pods force on their groups. */
    start(): boolean {
      for (const [i, { table, place, slot }] of problem.decided.entries()) {
        if (!overlay.put(-1 - i, place.node, table, [], slot.own, place.choice)) return false;
      }
      return domains.assignPinned() && clusterFits(problem);
    },
    enter(step: number, frames: readonly Frame[]): Frame {
      const { sibling, ...what } = steps[step]!;
      if (sibling !== undefined) {
        // What was refused to the sibling is refused here; `position` is one past the value that the sibling has.
        return { ...frames[sibling]!, position: frames[sibling]!.position - 1, conflicts: new Set([sibling]) };
      }
      return what.kind === "group" ? enterGroup(step, what.group) : enterBundle(step, bundles[what.bundle]!);
    },
    tryNext(step: number, frame: Frame): Outcome {
      const what = steps[step]!;
      if (what.kind === "group") return tryGroup(step, what.group, frame);
      return trySlot(step, what.slot, bundles[what.bundle]!, frame);
    },
    undo(step: number): void {
      const what = steps[step]!;
      if (what.kind === "group") {
        domains.unassign(what.group);
        return;
      }
      const node = nodeOf[what.slot];
      if (node === undefined) return;
      for (const count of countsOf(bundles[what.bundle]!)) count.add(node, -1);
      overlay.take(step);
      nodeOf[what.slot] = undefined;
    },
  };
}

/** Steps below zero were decided before the search: nothing can be taken back there. */
function addSteps(conflicts: Set<number>, steps: readonly number[]): void {
  for (const step of steps) if (step >= 0) conflicts.add(step);
}

/**
 * Groups that hold all pods of a spread in one domain of a broader level: the spread is over what lies inside it. Only
 * required ones, so that a wish does not change what another constraint means.
 */
function groupsAround(groups: readonly Group[], { slots, pins, level, rule }: Spread): number[] {
  return [...groups.keys()].filter((g) => {
    const { ref, fabric, required } = groups[g]!.rule;
    const broader = required && ref.kind === "node" && fabric === rule.fabric && ref.level.index < level.index;
    return (
      broader &&
      slots.every((slot) => groups[g]!.slots.includes(slot)) &&
      pins.every((pin) => groups[g]!.pins.includes(pin))
    );
  });
}

/** What earlier choices demand of the devices of a bundle's pods. */
function togetherOf(bundle: Bundle, domains: GroupDomains): Together[] {
  return bundle.groups.flatMap((group) => {
    const domain = domains.of(group);
    return domain?.kind === "device" && domain.value !== undefined
      ? [{ attribute: domain.level.attribute, value: domain.value }]
      : [];
  });
}
