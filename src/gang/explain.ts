import { type Blocking, lack, type Rejection, type RejectionReason, rejectionOf } from "../api/placement.ts";
import { isAllocationFailure } from "../dra/allocator/allocate.ts";
import { emptyUsage } from "../topology/inventory.ts";
import type { ClusterModel, ModelView } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { PodRecord } from "../topology/records.ts";
import { bestDomain } from "./best-domain.ts";
import { problemOf, smallestConflict } from "./conflict.ts";
import { countSlots } from "./counting.ts";
import { conflictOf, conflictVerdict, type Verdict } from "./explain-conflict.ts";
import type { ShapeTable } from "./fit.ts";
import type { GangRequest, PlanUnit } from "./plan.ts";
import type { Obstacle, PreparedUnit } from "./prepare.ts";
import { type Group, type Pin, type Problem, pinnedDomains, type Rule, type Slot } from "./problem.ts";
import { chooseDevices, roomFor, type Shape, shapeRefusal } from "./shape.ts";
import { amounts, amountText, classesOf, describeShape, plural, wantText } from "./shape-text.ts";
import { shortOf } from "./shortage.ts";
import { taintedText } from "./tainted-text.ts";
import { unlabelledText } from "./unlabelled.ts";

/** What stands in the way of pods of one kind. */
interface Cause {
  /** As many of them as are too many. */
  readonly slots: readonly Slot[];
  /** That they have to keep; undefined: there are too many under any. */
  readonly rule: Rule | undefined;
  readonly verdict: Verdict | VerdictOf;
}

/** @param short resources of which any amount more would do, as `shortOf` finds them; empty: nobody knows */
type VerdictOf = (short: readonly string[]) => Verdict;

/** Rejections of a unit of which some gangs cannot even be searched a place for. */
export function explainObstacles(unit: PlanUnit, obstacles: readonly Obstacle[]): Rejection[] {
  const verdicts = new Map(
    obstacles.map(({ gang, ...verdict }) => [gang, { ...verdict, blocking: [...verdict.blocking] }]),
  );
  return rejectionsOf(unit, verdicts, (gang) => verdicts.has(gang) || gang.pods.length > gang.placed.length);
}

/**
 * Rejections of a unit for which the search found nothing. Looks for the smallest cause: nodes that admit the pods at
 * all, then what an empty node has, then what is free, then domains, then everything together. Of other tenants only
 * totals are told.
 */
export function explainSearch(
  model: ClusterModel,
  unit: PlanUnit,
  prepared: PreparedUnit,
  outcome: "impossible" | "budget",
): Rejection[] {
  const { view } = model;
  const required = prepared.rules.filter((rule) => rule.required);
  const problem = problemOf(view, prepared, prepared.base, required);
  const verdicts = new Map<GangRequest, Verdict>();
  for (const [i, { request }] of prepared.gangs.entries()) {
    const cause = smallestCause(problem, i);
    if (cause) verdicts.set(request, gangVerdict(view, prepared, i, cause));
  }
  const pending = (gang: GangRequest) => prepared.base.some((slot) => prepared.gangs[slot.gang]!.request === gang);
  if (verdicts.size === 0) {
    const conflict = outcome === "budget" ? undefined : smallestConflict(view, prepared, prepared.base);
    const verdict = conflict ? conflictVerdict(view, prepared, conflict) : budgetVerdict();
    const slots = conflict?.slots ?? prepared.base;
    for (const gang of new Set(slots.map((slot) => slot.gang))) verdicts.set(prepared.gangs[gang]!.request, verdict);
  }
  return rejectionsOf(unit, verdicts, pending);
}

/** Gangs of a unit that have no fault of their own wait for those that have. */
function rejectionsOf(
  unit: PlanUnit,
  verdicts: ReadonlyMap<GangRequest, Verdict>,
  pending: (gang: GangRequest) => boolean,
): Rejection[] {
  const blocked = unit.gangs.filter((gang) => verdicts.has(gang)).map(({ name }) => name);
  const waiting: Verdict = {
    reason: "WaitingForPlacementGroup",
    message: `is placed together with ${blocked.toSorted(comparePlain).join(", ")}, which cannot be placed now`,
    blocking: [lack("gangs", unit.gangs.length, unit.gangs.length - blocked.length)],
  };
  return unit.gangs.filter(pending).map((gang) => {
    const { conflict, ...verdict } = verdicts.get(gang) ?? waiting;
    return { ...rejectionOf(gang, verdict), ...(conflict && { conflict }) };
  });
}

function budgetVerdict(): Verdict {
  const message =
    "the search used up its budget before it knew whether there is a place; it is tried again when something changes";
  return { reason: "BudgetExceeded", message, blocking: [] };
}

/** What blocks a gang by itself: pods of one kind, or fewer of several kinds if the search finds such. */
function gangVerdict(view: ModelView, prepared: PreparedUnit, gang: number, { slots, rule, verdict }: Cause): Verdict {
  const mine = prepared.base.filter((slot) => slot.gang === gang);
  const conflict = smallestConflict(view, prepared, mine, { slots, rule });
  const known = (short: () => readonly string[]) => (typeof verdict === "function" ? verdict(short()) : verdict);
  if (conflict === undefined) return known(() => []);
  if (conflict.slots.length < slots.length) return conflictVerdict(view, prepared, conflict);
  return { ...known(() => shortOf(view, prepared, conflict)), conflict: conflictOf(conflict) };
}

/** Of these slots only `room` have a place, under the rule. */
type Consider = (list: readonly number[], room: number, verdict: Verdict | VerdictOf, rule?: Rule) => void;

/** What fewest pods of one kind lack, whatever the others of the gang and of its unit need; of equal ones the first. */
function smallestCause(problem: Problem, gang: number): Cause | undefined {
  const { view, groups } = problem;
  const kinds = Map.groupBy(
    [...problem.slots.keys()].filter((i) => problem.slots[i]!.gang === gang),
    (i) => problem.tables[i]!,
  );
  const slotsOf = (list: readonly number[], count: number) => list.slice(0, count).map((i) => problem.slots[i]!);
  for (const [table, list] of kinds) {
    const slots = slotsOf(list, 1);
    const verdict = admissionVerdict(view, table, slots[0]!) ?? capacityVerdict(view, table.shape, slots[0]!);
    if (verdict) return { verdict, slots, rule: undefined };
  }
  let least: Cause | undefined;
  const consider: Consider = (list, room, verdict, rule) => {
    if (least !== undefined && room + 1 >= least.slots.length) return;
    least = { verdict, slots: slotsOf(list, room + 1), rule };
  };
  for (const [table, all] of kinds) {
    const list = all.filter((i) => !problem.slots[i]!.own);
    if (table.total < list.length) {
      const untold = () => untoldTexts(problem, list, table);
      consider(list, table.total, (short) => shortageVerdict(view, table, list.length, short, untold));
    }
  }
  for (const group of groups) {
    const mine = group.slots.filter((i) => problem.slots[i]!.gang === gang);
    if (mine.length > 0) considerGroup(problem, group, mine, consider);
  }
  return least;
}

/** No node admits the pods, however much were free. */
function admissionVerdict(view: ModelView, { shape, admits }: ShapeTable, slot: Slot): Verdict | undefined {
  const nodes = view.nodes.flatMap((node) => node ?? []);
  if (nodes.some(({ index }) => admits[index] === 1)) return undefined;
  const refusals = new Map<string, number>();
  for (const { record } of nodes) {
    const refusal = shapeRefusal(shape, record)!;
    refusals.set(refusal, (refusals.get(refusal) ?? 0) + 1);
  }
  const counts = [...refusals]
    .sort((a, b) => b[1] - a[1] || comparePlain(a[0], b[0]))
    .slice(0, 5)
    .map(([refusal, count]) => `${count} ${refusal}`);
  const message =
    nodes.length === 0
      ? "the cluster has no nodes"
      : `none of ${nodes.length} nodes admits ${podsOf(slot)}: ${counts.join(", ")}`;
  return {
    reason: "NoNodeMatches",
    message,
    blocking: [lack("nodes")],
  };
}

/** Of the slot, whose gang is told: a shape may be that of another tenant's pod. */
function podsOf({ pod, podSet }: Slot): string {
  return isAlone(pod) ? `pod ${pod.name}` : `pods of pod set ${podSet}`;
}

function isAlone({ gang, podSet }: PodRecord): boolean {
  return gang === undefined && podSet === undefined;
}

/** Nodes admit the pods, but even empty none of them is large enough or has such devices. */
function capacityVerdict(view: ModelView, shape: Shape, slot: Slot): Verdict | undefined {
  const admitting = view.nodes.flatMap((node) => (node && !shapeRefusal(shape, node.record) ? [node] : []));
  const large = admitting.filter(({ record }) => roomFor(shape.demands, record.allocatable, {}) > 0);
  if (large.length === 0)
    return tooLargeVerdict(
      shape,
      slot,
      admitting.map(({ record }) => record.allocatable),
    );
  if (shape.claims.length === 0) return undefined;
  let nearest:
    | { message: string; needed: number; available: number; resource: string; reason: RejectionReason }
    | undefined;
  for (const { index, record } of large.toSorted((a, b) => comparePlain(a.record.name, b.record.name))) {
    const inventory = view.inventory(index);
    const choice = chooseDevices(shape, record, inventory, emptyUsage(inventory));
    if (!isAllocationFailure(choice)) return undefined;
    if (!nearest || choice.available > nearest.available) nearest = choice;
  }
  const { message, needed, available, resource } = nearest!;
  return {
    reason: "NoMatchingDevice",
    message: `no node has devices that ${isAlone(slot.pod) ? `pod ${slot.pod.name}` : `pod set ${slot.podSet}`} asks for, even if all were free; the nearest, ${message}`,
    // Where there are enough, fewer of them than are needed go together.
    blocking: [{ level: "host", resource, needed, available: Math.min(available, needed - 1) }],
  };
}

function tooLargeVerdict(shape: Shape, slot: Slot, allocatable: readonly Readonly<Record<string, number>>[]): Verdict {
  const blocking = shape.demands.flatMap(([resource, needed]): Blocking[] => {
    const available = Math.max(0, ...allocatable.map((each) => each[resource] ?? 0));
    return available < needed && resource !== "pods" ? [{ level: "host", resource, needed, available }] : [];
  });
  const parts = blocking.map(
    (each) => `${amountText(each.resource, each.needed)} (at most ${amountText(each.resource, each.available)})`,
  );
  const asked = parts.length > 0 ? parts.join(", ") : describeShape(shape);
  return {
    reason: "InsufficientResources",
    message: `no node is large enough for ${isAlone(slot.pod) ? `pod ${slot.pod.name}` : `a pod of pod set ${slot.podSet}`}, even if it were empty: it asks for ${asked}`,
    blocking,
  };
}

/** The cluster as a whole has too few places now. */
function shortageVerdict(
  view: ModelView,
  table: ShapeTable,
  count: number,
  lacking: readonly string[],
  untold: () => string,
): Verdict {
  const { shape, total } = table;
  let byResources = 0;
  for (const node of view.nodes) {
    if (node && table.admits[node.index] === 1) {
      byResources += roomFor(shape.demands, node.record.allocatable, node.load.used);
    }
  }
  const devices = shape.claims.length > 0 && byResources >= count;
  const short = devices ? shortClaims(view, table, count) : undefined;
  if (short !== undefined) {
    const { claims, room } = short;
    const whose = claims[0]!.left ? " (kube-scheduler gives them)" : "";
    const what = `${classesOf(claims).join(" and ")} devices${whose}`;
    return {
      reason: "InsufficientDevices",
      message: `needs ${needText(table, count)}; the cluster has ${roomText(table, total)} now: there are ${what} for ${plural(room, "pod")} only${taintedText(view, [table])}`,
      blocking: amounts(shape, classesOf(claims), count, room).map((each) => ({ level: "cluster", ...each })),
    };
  }
  return {
    reason: devices ? "InsufficientDevices" : "InsufficientResources",
    message: `needs ${needText(table, count)}; the cluster has ${roomText(table, total)} now${wantText(shape, lacking)}${devices ? untold() + taintedText(view, [table]) : ""}`,
    blocking: amounts(shape, lacking, count, total).map((each) => ({ level: "cluster", ...each })),
  };
}

/** Where each of the pods has to have devices of one domain inside a host: of which nodes' devices nobody knows the domain. */
function untoldTexts({ view, groups }: Problem, list: readonly number[], table: ShapeTable): string {
  const mine = groups.filter(({ slots }) => slots.some((i) => list.includes(i)));
  const inside = mine.filter(({ rule: { ref } }) => ref.kind === "device" || ref.level.inside);
  return [...new Set(inside.map(({ rule: { ref } }) => unlabelledText(view, ref, table)))].join("");
}

/** Of pods that want devices from kllama and from kube-scheduler: the claims that too few nodes could serve by themselves. */
function shortClaims(
  view: ModelView,
  { shape, admits }: ShapeTable,
  count: number,
): { claims: Shape["claims"]; room: number } | undefined {
  const kinds = [true, false].map((left) => shape.claims.filter((claim) => claim.left === left));
  if (kinds.some(({ length }) => length === 0)) return undefined;
  for (const claims of kinds) {
    let room = 0;
    for (const node of view.nodes) {
      if (node === undefined || admits[node.index] !== 1) continue;
      const { record, load, index } = node;
      const most = roomFor(shape.demands, record.allocatable, load.used);
      room += countSlots({ ...shape, claims }, record, most, view.inventory(index), () => view.usage(index));
    }
    if (room < count) return { claims, room };
  }
  return undefined;
}

/** `2 nodes with 4 free gpu.kllama.ai devices each`, or room for pods where a node takes several. */
function needText(table: ShapeTable, count: number): string {
  const { shape } = table;
  if (count > 1 && shape.claims.length > 0 && onePerNode(table))
    return `${count} nodes with ${describeShape(shape)} free each`;
  return `room for ${plural(count, "pod")} of ${describeShape(shape)}`;
}

function roomText(table: ShapeTable, room: number): string {
  return onePerNode(table) && table.shape.claims.length > 0 ? `${room}` : `room for ${room}`;
}

function onePerNode({ slots }: ShapeTable): boolean {
  return slots.every((each) => each <= 1);
}

/** No domain of a level holds the gang's share of a group, or the one that running pods are in does not. */
function considerGroup(problem: Problem, group: Group, mine: readonly number[], consider: Consider): void {
  const { ref, title } = group.rule;
  const level = ref.level.name;
  if (group.pins.length > 0 && pinnedDomains(problem.view, group).length !== 1) {
    consider(mine, 0, apartVerdict(problem.view, group), group.rule);
    return;
  }
  const open = mine.filter((i) => !problem.slots[i]!.own);
  for (const [table, list] of Map.groupBy(open, (i) => problem.tables[i]!)) {
    const best = bestDomain(problem, group, table);
    if (best.room >= list.length) continue;
    const verdict: VerdictOf = (short) => {
      const pinned =
        group.pins.length > 0 ? `the ${level} of its running pods, ${best.path},` : `the best, ${best.path},`;
      const has = `has ${roomText(table, best.room)}${wantText(table.shape, short)}`;
      const where = best.path === undefined ? "no node is in one" : `${pinned} ${has}`;
      return {
        reason: "NoDomainFits",
        message: `${title} needs ${needText(table, list.length)} in one ${level}; ${where}${unlabelledText(problem.view, ref, table)}${taintedText(problem.view, [table])}`,
        blocking: amounts(table.shape, short, list.length, best.room).map((each) => {
          return { level, ...(best.path !== undefined && { domain: best.path }), ...each };
        }),
      };
    };
    consider(list, best.room, verdict, group.rule);
  }
}

/** Running pods of a group are not in one domain: told is the one that most of them are in. */
function apartVerdict(view: ModelView, group: Group): Verdict {
  const { ref, title } = group.rule;
  const level = ref.level.name;
  const paths = pinnedDomains(view, group);
  const where = paths.length === 0 ? `none of level ${level}` : `${paths.slice(0, 3).join(", ")}`;
  const [best] = paths
    .map((path) => ({ path, pods: group.pins.filter((pin) => isIn(view, group, pin, path)).length }))
    .sort((a, b) => b.pods - a.pods || comparePlain(a.path, b.path));
  return {
    reason: "NoDomainFits",
    message: `${title} has to share one ${level}, but pods that run already are in ${where}; delete them so that the gang is placed anew`,
    blocking: [
      {
        level,
        ...(best && { domain: best.path }),
        resource: "pods",
        needed: group.pins.length,
        available: best?.pods ?? 0,
      },
    ],
  };
}

function isIn(view: ModelView, group: Group, pin: Pin, path: string): boolean {
  const mine = pinnedDomains(view, { ...group, pins: [pin] });
  // A pod without devices is somewhere on its host, wherever others on it are.
  return mine.length > 0 && mine.every((each) => each === path || path.startsWith(`${each}/`));
}
