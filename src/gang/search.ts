import type { DeviceLevel, NodeLevel } from "../topology/fabric.ts";
import { attributeValue } from "../topology/inventory.ts";
import type { ShapeTable } from "./fit.ts";
import { clusterFits, createDomainLoads } from "./loads.ts";
import { createOverlay, type Together } from "./overlay.ts";
import { type Bundle, type Group, type Place, type Problem, pinnedValues, type Spread } from "./problem.ts";
import { compactNodes, compareDomains, compareNodes, type LazyOrder, lazyOrder, thenLazily } from "./score.ts";
import { createSpreadCount, type SpreadCount } from "./spread.ts";

/** `places` is parallel to the problem's slots. `impossible` is proved; `budget` says nothing about feasibility. */
export type SearchResult =
  | { readonly kind: "found"; readonly places: readonly Place[]; readonly explored: number }
  | { readonly kind: "impossible" | "budget"; readonly explored: number };

/** The domain that a group has been given. */
type GroupDomain =
  | { readonly kind: "node"; readonly level: NodeLevel; readonly domain: number }
  | { readonly kind: "device"; readonly level: DeviceLevel; readonly node: number; readonly value: string | undefined };

type Step =
  | { readonly kind: "group"; readonly group: number; readonly sibling: number | undefined }
  | { readonly kind: "slot"; readonly bundle: number; readonly slot: number; readonly sibling: number | undefined };

interface Frame {
  position: number;
  readonly domains?: LazyOrder<GroupDomain>;
  readonly nodes?: LazyOrder<number>;
  /** Earlier steps without which another value could have been possible. */
  readonly conflicts: Set<number>;
}

/**
 * Depth-first search with conflict-directed backjumping: first a domain for every group, broad levels and large groups
 * first, then a node with devices for every slot. When a step has no value left, the search returns to the latest step
 * that had a part in it, whatever lies between. Groups that look alike, and slots of one bundle, are tried in one order
 * only. Complete: without a found placement and within the budget, there is none (devices that the allocator chooses
 * for one pod are not reconsidered for another).
 */
export function search(problem: Problem, budget: number): SearchResult {
  const run = createRun(problem);
  if (!run.start()) return { kind: "impossible", explored: 0 };
  const { steps } = run;
  const frames: Frame[] = [];
  let explored = 0;
  let depth = 0;
  if (steps.length > 0) frames[0] = run.enter(0, frames);
  while (depth < steps.length) {
    const frame = frames[depth]!;
    let found = false;
    while (!found) {
      if (explored >= budget) return { kind: "budget", explored };
      explored++;
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
    if (target < 0) return { kind: "impossible", explored };
    for (let step = depth - 1; step >= target; step--) run.undo(step);
    for (const conflict of frame.conflicts) if (conflict !== target) frames[target]!.conflicts.add(conflict);
    depth = target;
  }
  return { kind: "found", places: run.places(), explored };
}

function createRun(problem: Problem) {
  const { view, groups, bundles } = problem;
  const overlay = createOverlay(view);
  const loads = createDomainLoads(problem);
  const steps = stepsOf(problem);
  const domainOfGroup: (GroupDomain | undefined)[] = groups.map(() => undefined);
  const stepOfGroup = new Map<number, number>();
  const placeOf: (Place | undefined)[] = problem.slots.map(() => undefined);
  /** Counts of spreads, made when the groups around them are known. */
  const spreadCounts: (SpreadCount | undefined)[] = problem.spreads.map(() => undefined);
  const groupsOfSlot = problem.slots.map((): number[] => []);
  for (const [g, group] of groups.entries()) for (const slot of group.slots) groupsOfSlot[slot]!.push(g);
  const related = groups.map((group) => [...new Set(group.slots.flatMap((slot) => groupsOfSlot[slot]!))]);
  for (const [i, step] of steps.entries()) if (step.kind === "group") stepOfGroup.set(step.group, i);

  const stepsOfGroups = (list: readonly number[], before: number): number[] =>
    list.flatMap((group) => stepOfGroup.get(group) ?? []).filter((step) => step < before);

  /** Is the domain compatible with those that groups with common slots have? */
  const compatible = (group: number, candidate: GroupDomain): boolean =>
    related[group]!.every((other) => {
      const chosen = domainOfGroup[other];
      if (other === group || !chosen) return true;
      if (candidate.kind === "device" || chosen.kind === "device") {
        const [device, around] =
          candidate.kind === "device" ? [candidate, chosen] : [chosen as typeof candidate, candidate];
        return device.kind !== "device" || contains(around, device.node);
      }
      return overlaps(problem.groups[group]!, candidate, problem.groups[other]!, chosen);
    });
  const assign = (group: number, candidate: GroupDomain): boolean => {
    if (!compatible(group, candidate)) return false;
    if (candidate.kind === "node" && !loads.assign(group, candidate.level, candidate.domain)) return false;
    domainOfGroup[group] = candidate;
    return true;
  };
  const inside = (list: readonly number[]) => (node: number) =>
    list.every((group) => domainOfGroup[group] === undefined || contains(domainOfGroup[group], node));

  return {
    steps,
    places: () => placeOf as Place[],
    /** Puts in place what is given: decided slots, and the domains that pinned pods force on their groups. */
    start(): boolean {
      for (const [i, { table, place, slot }] of problem.decided.entries()) {
        if (!overlay.put(-1 - i, place.node, table, [], slot.own, place.choice)) return false;
      }
      for (const [g, group] of groups.entries()) {
        if (group.pins.length === 0) continue;
        const domain = pinnedDomain(problem, group);
        if (!domain || !assign(g, domain)) return false;
      }
      return clusterFits(problem);
    },
    enter(step: number, frames: readonly Frame[]): Frame {
      const { sibling, ...what } = steps[step]!;
      if (sibling !== undefined) {
        const { position, domains, nodes } = frames[sibling]!;
        // `position` is one past the value that the sibling has.
        return {
          position: position - 1,
          conflicts: new Set([sibling]),
          ...(domains && { domains }),
          ...(nodes && { nodes }),
        };
      }
      if (what.kind === "group") {
        const conflicts = new Set(stepsOfGroups(related[what.group]!, step));
        return { position: 0, conflicts, domains: candidateDomains(problem, what.group, related, domainOfGroup) };
      }
      const bundle = bundles[what.bundle]!;
      const conflicts = new Set(stepsOfGroups(bundle.groups, step));
      for (const s of bundle.spreads) {
        const spread = problem.spreads[s]!;
        if (!spread.slots.some((slot) => placeOf[slot])) {
          spreadCounts[s] = createSpreadCount(problem, spread, inside(groupsAround(groups, spread)));
        }
        for (let earlier = 0; earlier < step; earlier++) conflicts.add(earlier);
      }
      const within = inside(bundle.groups);
      const region = regionOf(problem, bundle, domainOfGroup, within, overlay.touched);
      const room = (node: number) => overlay.room(node, bundle.table);
      if (!hasRoom(bundle, region, room)) {
        for (const node of region ?? []) for (const each of overlay.stepsOn(node)) if (each >= 0) conflicts.add(each);
        return { position: 0, conflicts, nodes: lazyOrder<number>([], () => 0) };
      }
      const counts = bundle.spreads.map((s) => spreadCounts[s]!);
      return { position: 0, conflicts, nodes: candidateNodes(problem, bundle, region, room, counts) };
    },
    tryNext(step: number, frame: Frame): "taken" | "refused" | "exhausted" {
      const what = steps[step]!;
      if (what.kind === "group") {
        const domain = frame.domains!.at(frame.position++);
        if (!domain) return "exhausted";
        if (assign(what.group, domain)) return "taken";
        // The bound counts what other groups bring to the same domains.
        for (let earlier = 0; earlier < step; earlier++)
          if (steps[earlier]!.kind === "group") frame.conflicts.add(earlier);
        return "refused";
      }
      const node = frame.nodes!.at(frame.position++);
      if (node === undefined) return "exhausted";
      const bundle = bundles[what.bundle]!;
      const counts = bundle.spreads.map((s) => spreadCounts[s]!);
      const refusedBySpread = counts.some((count) => !count.allows(node));
      const choice = refusedBySpread
        ? undefined
        : overlay.put(step, node, bundle.table, togetherOf(bundle, domainOfGroup), bundle.own);
      if (!choice) {
        for (const each of overlay.stepsOn(node)) if (each >= 0) frame.conflicts.add(each);
        return "refused";
      }
      for (const count of counts) count.add(node, 1);
      placeOf[what.slot] = { node, choice };
      return "taken";
    },
    undo(step: number): void {
      const what = steps[step]!;
      if (what.kind === "group") {
        loads.unassign(what.group);
        domainOfGroup[what.group] = undefined;
        return;
      }
      const place = placeOf[what.slot];
      if (!place) return;
      for (const s of bundles[what.bundle]!.spreads) spreadCounts[s]!.add(place.node, -1);
      overlay.take(step);
      placeOf[what.slot] = undefined;
    },
  };
}

/** Groups without pins, broad levels and large groups first; then bundles, those with the largest pods first. */
function stepsOf(problem: Problem): Step[] {
  const { groups, bundles, slots, tables } = problem;
  const breadth = ({ rule: { ref, fabric } }: Group) =>
    ref.kind === "node" ? ref.level.index : fabric.nodeLevels.length + fabric.deviceLevels.indexOf(ref.level);
  const weight = (list: readonly number[]) =>
    list.reduce((sum, slot) => sum + 1 + 1000 * tables[slot]!.shape.devices, 0);
  const order = [...groups.keys()]
    .filter((g) => groups[g]!.pins.length === 0)
    .sort(
      (a, b) =>
        breadth(groups[a]!) - breadth(groups[b]!) || weight(groups[b]!.slots) - weight(groups[a]!.slots) || a - b,
    );
  const steps: Step[] = [];
  const latest = new Map<string, number>();
  for (const group of order) {
    const { signature } = groups[group]!;
    steps.push({ kind: "group", group, sibling: signature === undefined ? undefined : latest.get(signature) });
    if (signature !== undefined) latest.set(signature, steps.length - 1);
  }
  const size = ({ table: { shape } }: Bundle) => shape.devices;
  const order2 = [...bundles.keys()].sort(
    (a, b) =>
      Number(bundles[b]!.own !== undefined) - Number(bundles[a]!.own !== undefined) ||
      size(bundles[b]!) - size(bundles[a]!) ||
      bundles[b]!.slots.length - bundles[a]!.slots.length ||
      a - b,
  );
  for (const bundle of order2) {
    for (const [i, slot] of bundles[bundle]!.slots.entries()) {
      steps.push({ kind: "slot", bundle, slot, sibling: i === 0 ? undefined : steps.length - 1 });
    }
  }
  return slots.length === 0 ? [] : steps;
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

function contains(domain: GroupDomain, node: number): boolean {
  return domain.kind === "device" ? domain.node === node : domain.level.domainOf[node] === domain.domain;
}

function overlaps(
  a: Group,
  first: Extract<GroupDomain, { kind: "node" }>,
  b: Group,
  second: Extract<GroupDomain, { kind: "node" }>,
): boolean {
  if (a.rule.fabric !== b.rule.fabric) {
    return first.level.domains[first.domain]!.nodes.some((node) => contains(second, node));
  }
  const [broad, narrow] = first.level.index <= second.level.index ? [first, second] : [second, first];
  if (broad.level.index === narrow.level.index) return broad.domain === narrow.domain;
  return narrow.level.domains[narrow.domain]!.ancestors[broad.level.index] === broad.domain;
}

/** The one domain that pinned pods are in; undefined: they are in several, or in none. */
function pinnedDomain(problem: Problem, { rule, pins }: Group): GroupDomain | undefined {
  const { ref } = rule;
  if (ref.kind === "node") {
    const domains = new Set(pins.map(({ node }) => ref.level.domainOf[node] ?? -1));
    const [domain] = domains;
    return domains.size === 1 && domain! >= 0 ? { kind: "node", level: ref.level, domain: domain! } : undefined;
  }
  const nodes = new Set(pins.map(({ node }) => node));
  const values = new Set(pins.flatMap((pin) => pinnedValues(problem.view, pin, ref.level.attribute)));
  if (nodes.size !== 1 || values.size > 1 || values.has("")) return undefined;
  const [value] = values;
  return { kind: "device", level: ref.level, node: pins[0]!.node, value };
}

function candidateDomains(
  problem: Problem,
  g: number,
  related: readonly (readonly number[])[],
  domainOfGroup: readonly (GroupDomain | undefined)[],
): LazyOrder<GroupDomain> {
  const group = problem.groups[g]!;
  const { ref, fabric } = group.rule;
  const table = heaviestTable(problem, group);
  const around = related[g]!.flatMap((other) => domainOfGroup[other] ?? []);
  const nodes = smallestNodes(around);
  if (ref.kind === "node") {
    const { level } = ref;
    const ids = nodes
      ? [...new Set(nodes.map((node) => level.domainOf[node] ?? -1))].filter((id) => id >= 0)
      : level.domains.flatMap((domain) => domain?.id ?? []);
    const large = largeEnough(problem, group, level);
    const order = lazyOrder(ids.filter(large), compareDomains(fabric, table, level.index));
    return {
      at(position) {
        const domain = order.at(position);
        return domain === undefined ? undefined : { kind: "node", level, domain };
      },
    };
  }
  const hosts = (nodes ?? [...problem.view.nodes.keys()]).filter(
    (node) =>
      around.every((domain) => contains(domain, node)) && group.slots.every((slot) => canHost(problem, slot, node)),
  );
  const order = lazyOrder(
    hosts,
    compareNodes(fabric, table, (node) => table.slots[node]!),
  );
  return flatten(order, (node) =>
    valuesOn(problem, group, node, ref.level.attribute).map((value) => ({
      kind: "device",
      level: ref.level,
      node,
      value,
    })),
  );
}

/** Tells the domains that have room for each shape of a group by itself, whatever else this unit needs. */
function largeEnough(problem: Problem, group: Group, level: NodeLevel): (domain: number) => boolean {
  const pods = new Map<ShapeTable, number>();
  for (const slot of group.slots) {
    const table = problem.tables[slot]!;
    if (!problem.slots[slot]!.own) pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  const bounds = [...pods].map(([table, count]) => ({
    count,
    slots: table.sums(group.rule.fabric, level.index, "slots"),
  }));
  return (domain) => bounds.every(({ count, slots }) => slots[domain]! >= count);
}

function canHost(problem: Problem, slot: number, node: number): boolean {
  return problem.tables[slot]!.slots[node]! > 0 || problem.slots[slot]!.own?.node === node;
}

function heaviestTable(problem: Problem, group: Group): ShapeTable {
  let best = problem.tables[group.slots[0]!]!;
  for (const slot of group.slots) {
    const table = problem.tables[slot]!;
    if (table.shape.devices > best.shape.devices) best = table;
  }
  return best;
}

/** Values that a group on this node could share; one undefined value when none of its pods has devices. */
function valuesOn(problem: Problem, group: Group, node: number, attribute: string): (string | undefined)[] {
  if (group.slots.every((slot) => problem.tables[slot]!.shape.claims.length === 0)) return [undefined];
  const { devices } = problem.view.inventory(node);
  return [...new Set(devices.flatMap((entry) => attributeValue(entry, attribute) ?? []))].sort();
}

/** Every element of the outer order gives a few inner ones; made when reached. */
function flatten<A, B>(outer: LazyOrder<A>, inner: (a: A) => B[]): LazyOrder<B> {
  const made: B[] = [];
  let next = 0;
  return {
    at(position) {
      while (made.length <= position) {
        const element = outer.at(next++);
        if (element === undefined) return undefined;
        made.push(...inner(element));
      }
      return made[position];
    },
  };
}

/** Nodes of the smallest of the domains; undefined without any. */
function smallestNodes(domains: readonly GroupDomain[]): readonly number[] | undefined {
  let best: readonly number[] | undefined;
  for (const domain of domains) {
    const nodes = domain.kind === "device" ? [domain.node] : domain.level.domains[domain.domain]!.nodes;
    if (!best || nodes.length < best.length) best = nodes;
  }
  return best;
}

/** Nodes that a bundle may use; undefined: all of the cluster, of which nothing is taken yet. */
function regionOf(
  problem: Problem,
  bundle: Bundle,
  domainOfGroup: readonly (GroupDomain | undefined)[],
  within: (node: number) => boolean,
  touched: boolean,
): number[] | undefined {
  const nodes = smallestNodes(bundle.groups.flatMap((group) => domainOfGroup[group] ?? []));
  if (nodes) return nodes.filter(within);
  return touched || bundle.spreads.length > 0 ? [...problem.view.nodes.keys()] : undefined;
}

function hasRoom(bundle: Bundle, region: readonly number[] | undefined, room: (node: number) => number): boolean {
  if (!region || bundle.own) return true;
  let total = 0;
  for (const node of region) {
    total += room(node);
    if (total >= bundle.slots.length) return true;
  }
  return false;
}

function candidateNodes(
  problem: Problem,
  bundle: Bundle,
  region: readonly number[] | undefined,
  room: (node: number) => number,
  counts: readonly SpreadCount[],
): LazyOrder<number> {
  const { fabric } = problem;
  const { table, own } = bundle;
  const compare = compareNodes(fabric, table, room);
  const everywhere = () => (region ?? [...problem.view.nodes.keys()]).filter((node) => room(node) > 0);
  const [spread] = counts;
  if (spread) {
    const order = spread.interleave(everywhere(), compare);
    return thenLazily(own ? [own.node, ...order] : order, () => lazyOrder<number>([], compare));
  }
  const compact = compactNodes({ fabric, table, nodes: region, room }, bundle.slots.length);
  const ownFirst = own && (!region || region.includes(own.node)) ? [own.node] : [];
  const first = [...new Set([...ownFirst, ...compact])];
  return thenLazily(first, () => {
    const chosen = new Set(first);
    return lazyOrder(
      everywhere().filter((node) => !chosen.has(node)),
      compare,
    );
  });
}

/** What earlier choices demand of the devices of a bundle's pods. */
function togetherOf(bundle: Bundle, domainOfGroup: readonly (GroupDomain | undefined)[]): Together[] {
  return bundle.groups.flatMap((group) => {
    const domain = domainOfGroup[group];
    return domain?.kind === "device" && domain.value !== undefined
      ? [{ attribute: domain.level.attribute, value: domain.value }]
      : [];
  });
}
