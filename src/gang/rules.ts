import type { GangConstraint, GangSpec } from "../api/gang.ts";
import type { PlacementGroupSpec } from "../api/placement-group.ts";
import type { Fabric } from "../topology/fabric.ts";
import { linkMilliseconds, linksOf } from "./links.ts";
import { constraintFaults, type GangFault } from "./members.ts";
import { type LevelRef, levelOf, type Rule, type Slot } from "./problem.ts";

type SlotName = Pick<Slot, "gang" | "podSet" | "index">;

/** Rules of a gang in the order of its spec: slices, then constraints. Levels and pod sets are known to exist. */
export function gangRules(gang: number, spec: GangSpec, fabric: Fabric): Rule[] {
  const rules: Rule[] = [];
  for (const podSet of spec.podSets) {
    const slices = podSet.slices ?? [];
    for (const [i, { size, level }] of slices.entries()) {
      const outer = slices[i - 1]?.size ?? podSet.count;
      const mine = (slot: SlotName) => slot.gang === gang && slot.podSet === podSet.name;
      rules.push({
        kind: "colocate",
        fabric,
        ref: levelOf(fabric, level)!,
        maxSkew: 1,
        required: true,
        setOf: (slot) => (mine(slot) ? `${Math.floor(slot.index / size)}` : undefined),
        surroundings: (slot) => `${gang}/${podSet.name}/${i}/${Math.floor(slot.index / outer)}`,
        title: `each slice of ${size} pods of pod set ${podSet.name}`,
      });
    }
  }
  for (const constraint of spec.constraints ?? []) {
    const names = constraint.podSets;
    const covers = (slot: SlotName) => slot.gang === gang && (names === undefined || names.includes(slot.podSet));
    rules.push(constraintRule(constraint, fabric, covers, titleOf(names, spec)));
  }
  return rules;
}

function titleOf(names: readonly string[] | undefined, spec: GangSpec): string {
  if (names === undefined || names.length === spec.podSets.length) return "the gang";
  return names.length === 1 ? `pod set ${names[0]}` : `pod sets ${names.join(", ")}`;
}

function constraintRule(
  constraint: Pick<GangConstraint, "type" | "level" | "mode" | "maxSkew">,
  fabric: Fabric,
  covers: (slot: SlotName) => boolean,
  title: string,
): Rule {
  return {
    kind: constraint.type,
    fabric,
    ref: levelOf(fabric, constraint.level)!,
    maxSkew: constraint.maxSkew ?? 1,
    required: constraint.mode === "required",
    setOf: (slot) => (covers(slot) ? "all" : undefined),
    title,
  };
}

/**
 * Rules of a PlacementGroup over the gangs of a unit, whose roles are given by position. A bound on the transfer time
 * between two roles becomes the broadest level whose links, and those of all narrower levels, are fast enough.
 * @param bandwidth of the slowest GPUs' own fabric, for topologies that do not tell
 */
export function placementGroupRules(
  spec: PlacementGroupSpec,
  roles: readonly (string | undefined)[],
  fabric: Fabric,
  bandwidth: number,
): Rule[] {
  const rules: Rule[] = [];
  const among = (names: readonly string[] | undefined) => (slot: SlotName) => {
    const role = roles[slot.gang];
    return role !== undefined && (names === undefined || names.includes(role));
  };
  for (const constraint of spec.constraints ?? []) {
    const title = constraint.roles ? `roles ${constraint.roles.join(" and ")}` : "the placement group";
    rules.push(constraintRule(constraint, fabric, among(constraint.roles), title));
  }
  for (const { from, to, bytesPerRequest, maxTransferMilliseconds } of spec.pairing ?? []) {
    if (maxTransferMilliseconds === undefined || bytesPerRequest === undefined) continue;
    const level = broadestWithin(fabric, bandwidth, bytesPerRequest, maxTransferMilliseconds);
    if (level === "any" || level === "none") continue;
    rules.push({
      ...constraintRule({ type: "colocate", level: level.level.name, mode: "required" }, fabric, among([from, to]), ""),
      title: `roles ${from} and ${to} (transfer in ${maxTransferMilliseconds} ms)`,
    });
  }
  return rules;
}

/** Broadest level within which every transfer is fast enough; `any`: even beyond all levels it is; `none`: nowhere. */
function broadestWithin(
  fabric: Fabric,
  bandwidth: number,
  bytes: number,
  maxMilliseconds: number,
): LevelRef | "any" | "none" {
  let allowed: LevelRef | "any" | "none" = "none";
  // From narrow to broad: the first level that is too slow ends the range.
  for (const { ref, link } of linksOf(fabric, () => true, bandwidth).toReversed()) {
    const milliseconds = linkMilliseconds(link, bytes);
    if (milliseconds !== undefined && milliseconds > maxMilliseconds) break;
    allowed = ref ?? "any";
  }
  return allowed;
}

/** Faults of a PlacementGroup that no cluster can cure; empty: none. */
export function placementGroupFaults(spec: PlacementGroupSpec, fabric: Fabric, bandwidth: number): GangFault[] {
  const levels = fabric.spec.levels;
  const roles = spec.members.map(({ role }) => role);
  const faults: GangFault[] = [];
  for (const [i, constraint] of (spec.constraints ?? []).entries()) {
    faults.push(...constraintFaults(constraint, `PlacementGroup spec.constraints[${i}]`, levels));
    for (const role of constraint.roles ?? []) {
      if (roles.includes(role)) continue;
      const message = `PlacementGroup spec.constraints[${i}].roles names ${role}; use one of ${roles.join(", ")}`;
      faults.push({ reason: "InvalidGang", message });
    }
  }
  for (const [i, { bytesPerRequest, maxTransferMilliseconds }] of (spec.pairing ?? []).entries()) {
    if (maxTransferMilliseconds === undefined || bytesPerRequest === undefined) continue;
    if (broadestWithin(fabric, bandwidth, bytesPerRequest, maxTransferMilliseconds) !== "none") continue;
    const message = `PlacementGroup spec.pairing[${i}].maxTransferMilliseconds ${maxTransferMilliseconds} is less than ${bytesPerRequest} bytes take on the fastest link of the topology; raise it`;
    faults.push({ reason: "InvalidGang", message });
  }
  return faults;
}
