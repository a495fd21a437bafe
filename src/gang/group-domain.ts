import type { DeviceLevel, NodeLevel } from "../topology/fabric.ts";
import { createDeviceLoads } from "./device-loads.ts";
import { createDomainLoads } from "./loads.ts";
import { deviceLevelOn, type Group, type Problem, pinnedValues, valuesInside } from "./problem.ts";

/** The domain that a group has been given. */
export type GroupDomain =
  | { readonly kind: "node"; readonly level: NodeLevel; readonly domain: number }
  | { readonly kind: "device"; readonly level: DeviceLevel; readonly node: number; readonly value: string | undefined };

/** The domains that groups have been given in the course of a search. */
export interface GroupDomains {
  of(group: number): GroupDomain | undefined;
  /** Group → groups with common slots, itself among them. */
  readonly related: readonly (readonly number[])[];
  /** False, and nothing changed: related groups are elsewhere, or the domain is too full. */
  assign(group: number, domain: GroupDomain): boolean;
  unassign(group: number): void;
  /** Gives groups with pinned pods the domains of those, unless `isOpen`; false: that cannot be. */
  assignPinned(): boolean;
  /** Tells the nodes that lie in the domains of all groups in the list; groups without a domain do not matter. */
  inside(list: readonly number[]): (node: number) => boolean;
}

export function createGroupDomains(problem: Problem): GroupDomains {
  const { groups } = problem;
  const loads = createDomainLoads(problem);
  const insideLoads = createDeviceLoads(problem);
  const domainOf: (GroupDomain | undefined)[] = groups.map(() => undefined);
  const groupsOfSlot = problem.slots.map((): number[] => []);
  for (const [g, group] of groups.entries()) for (const slot of group.slots) groupsOfSlot[slot]!.push(g);
  const related = groups.map((group) => [...new Set(group.slots.flatMap((slot) => groupsOfSlot[slot]!))]);

  const compatible = (group: number, candidate: GroupDomain): boolean =>
    related[group]!.every((other) => {
      const chosen = domainOf[other];
      return other === group || !chosen || meet(groups[group]!, candidate, groups[other]!, chosen);
    });
  const assign = (group: number, candidate: GroupDomain): boolean => {
    if (!compatible(group, candidate)) return false;
    if (candidate.kind === "node") {
      if (!loads.assign(group, candidate.level, candidate.domain)) return false;
    } else if (candidate.value !== undefined) {
      const { node, level, value } = candidate;
      if (!insideLoads.assign(group, { node, attribute: level.attribute, value })) return false;
    }
    domainOf[group] = candidate;
    return true;
  };
  return {
    of: (group) => domainOf[group],
    related,
    assign,
    unassign(group) {
      loads.unassign(group);
      insideLoads.unassign(group);
      domainOf[group] = undefined;
    },
    assignPinned: () =>
      groups.every((group, g) => {
        if (group.pins.length === 0) return true;
        const domain = pinnedDomain(problem, group);
        return domain !== undefined && (isOpen(problem, group) || assign(g, domain));
      }),
    inside: (list) => (node) =>
      list.every((group) => {
        const domain = domainOf[group];
        return !domain || contains(domain, node);
      }),
  };
}

/** Can slots be in both domains? */
function meet(a: Group, first: GroupDomain, b: Group, second: GroupDomain): boolean {
  if (first.kind === "device") return contains(second, first.node);
  if (second.kind === "device") return contains(first, second.node);
  return overlaps(a, first, b, second);
}

/** Does the domain hold the node? */
export function contains(domain: GroupDomain, node: number): boolean {
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

/**
 * Has the search to choose a domain for the group? Not where pinned pods are in one already; those without devices are
 * on a host, but leave open which of the domains inside it the devices of the others come from.
 */
export function isOpen(problem: Problem, group: Group): boolean {
  if (group.pins.length === 0) return true;
  const domain = pinnedDomain(problem, group);
  const undecided = domain?.kind === "device" && domain.value === undefined;
  return undecided && group.slots.some((slot) => problem.tables[slot]!.shape.devices > 0);
}

/** The one domain that pinned pods are in; undefined: they are in several, or in none. */
function pinnedDomain(problem: Problem, { rule, pins }: Group): GroupDomain | undefined {
  const { ref } = rule;
  const { node } = pins[0]!;
  const level = deviceLevelOn(ref, node);
  if (level) {
    const values = new Set(pins.flatMap((pin) => pinnedValues(problem.view, pin, level.attribute)));
    if (pins.some((pin) => pin.node !== node) || values.size > 1 || values.has("")) return undefined;
    // Of a level that labels tell elsewhere, a host without such devices is in no domain.
    if (ref.kind === "node" && valuesInside(problem.view, node, level.attribute).length === 0) return undefined;
    const [value] = values;
    return { kind: "device", level, node, value };
  }
  if (ref.kind === "device") return undefined;
  const domains = new Set(pins.map((pin) => ref.level.domainOf[pin.node] ?? -1));
  const [domain] = domains;
  return domains.size === 1 && domain! >= 0 ? { kind: "node", level: ref.level, domain: domain! } : undefined;
}
