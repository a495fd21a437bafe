import type { Blocking, Rejection, RejectionReason } from "../api/placement.ts";
import { isAllocationFailure } from "../dra/allocator/allocate.ts";
import { emptyUsage } from "../topology/inventory.ts";
import type { ClusterModel, ModelView } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import { bestDomain } from "./best-domain.ts";
import { type Conflict, problemOf, smallestConflict } from "./conflict.ts";
import { countSlots } from "./counting.ts";
import type { ShapeTable } from "./fit.ts";
import type { GangRequest, PlanUnit } from "./plan.ts";
import type { Obstacle, PreparedUnit } from "./prepare.ts";
import { breadthOf, type Group, type Problem, pinnedDomains, type Rule, valuesInside } from "./problem.ts";
import { chooseDevices, leastDevices, roomFor, type Shape, shapeRefusal } from "./shape.ts";

/** What stands in the way of a gang, before it is said of whom. */
interface Verdict {
  readonly reason: RejectionReason;
  readonly message: string;
  readonly blocking: Blocking[];
}

/** Rejections of a unit of which some gangs cannot even be searched a place for. */
export function explainObstacles(unit: PlanUnit, obstacles: readonly Obstacle[]): Rejection[] {
  const verdicts = new Map(obstacles.map(({ gang, reason, message }) => [gang, { reason, message, blocking: [] }]));
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
    const verdict = gangVerdict(problem, i);
    if (verdict) verdicts.set(request, verdict);
  }
  const pending = (gang: GangRequest) => prepared.base.some((slot) => prepared.gangs[slot.gang]!.request === gang);
  if (verdicts.size === 0) {
    const conflict = outcome === "budget" ? undefined : smallestConflict(view, prepared);
    const verdict = conflict ? togetherVerdict(view, prepared, conflict) : budgetVerdict();
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
    blocking: [],
  };
  return unit.gangs.filter(pending).map((gang) => {
    const { reason, message, blocking } = verdicts.get(gang) ?? waiting;
    return { gang: gang.name, namespace: gang.namespace, reason, message, blocking, counterfactuals: [] };
  });
}

function budgetVerdict(): Verdict {
  const message =
    "the search used up its budget before it knew whether there is a place; it is tried again when something changes";
  return { reason: "BudgetExceeded", message, blocking: [] };
}

/** The first thing that blocks a gang by itself, whatever the others of its unit need. */
function gangVerdict(problem: Problem, gang: number): Verdict | undefined {
  const pods = new Map<ShapeTable, number>();
  for (const [i, slot] of problem.slots.entries()) {
    const table = problem.tables[i]!;
    if (slot.gang === gang) pods.set(table, (pods.get(table) ?? 0) + (slot.own ? 0 : 1));
  }
  for (const table of pods.keys()) {
    const verdict = admissionVerdict(problem.view, table) ?? capacityVerdict(problem.view, table.shape);
    if (verdict) return verdict;
  }
  for (const [table, count] of pods) if (table.total < count) return shortageVerdict(problem.view, table, count);
  for (const group of problem.groups) {
    const mine = group.slots.filter((slot) => problem.slots[slot]!.gang === gang);
    if (mine.length === 0) continue;
    const verdict = groupVerdict(problem, group, mine);
    if (verdict) return verdict;
  }
  return undefined;
}

/** No node admits the pods, however much were free. */
function admissionVerdict(view: ModelView, { shape, admits }: ShapeTable): Verdict | undefined {
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
      : `none of ${nodes.length} nodes admits pods of pod set ${podSetOf(shape)}: ${counts.join(", ")}`;
  return {
    reason: "NoNodeMatches",
    message,
    blocking: [{ level: "cluster", resource: "nodes", needed: 1, available: 0 }],
  };
}

function podSetOf({ pod }: Shape): string {
  return pod.podSet ?? pod.name;
}

/** Nodes admit the pods, but even empty none of them is large enough or has such devices. */
function capacityVerdict(view: ModelView, shape: Shape): Verdict | undefined {
  const admitting = view.nodes.flatMap((node) => (node && !shapeRefusal(shape, node.record) ? [node] : []));
  const large = admitting.filter(({ record }) => roomFor(shape.demands, record.allocatable, {}) > 0);
  if (large.length === 0)
    return tooLargeVerdict(
      shape,
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
    message: `no node has devices that pod set ${podSetOf(shape)} asks for, even if all were free; the nearest, ${message}`,
    blocking: [{ level: "host", resource, needed, available }],
  };
}

function tooLargeVerdict(shape: Shape, allocatable: readonly Readonly<Record<string, number>>[]): Verdict {
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
    message: `no node is large enough for a pod of pod set ${podSetOf(shape)}, even if it were empty: it asks for ${asked}`,
    blocking,
  };
}

/** The cluster as a whole has too few places now. */
function shortageVerdict(view: ModelView, table: ShapeTable, count: number): Verdict {
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
      message: `needs ${needText(table, count)}; the cluster has ${roomText(table, total)} now: there are ${what} for ${plural(room, "pod")} only`,
      blocking: [{ level: "cluster", ...amounts({ ...shape, claims }, count, room) }],
    };
  }
  return {
    reason: devices ? "InsufficientDevices" : "InsufficientResources",
    message: `needs ${needText(table, count)}; the cluster has ${roomText(table, total)} now${devices || shape.claims.length === 0 ? "" : " (CPU, memory or pods are short, not devices)"}`,
    blocking: [{ level: "cluster", ...amounts(shape, count, total) }],
  };
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

function classesOf(claims: Shape["claims"]): string[] {
  const alternatives = claims.flatMap(({ requests }) => requests.map((request) => request.alternatives[0]!));
  return [...new Set(alternatives.map(({ className }) => className))];
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

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** `4 gpu.kllama.ai devices`; of a pod without claims, its resources. */
function describeShape({ claims, demands }: Shape): string {
  const byClass = new Map<string, number>();
  for (const { alternatives } of claims.flatMap((claim) => claim.requests)) {
    const { className, count, mode } = alternatives[0]!;
    byClass.set(className, (byClass.get(className) ?? 0) + (mode === "All" ? 1 : count));
  }
  if (byClass.size > 0) return [...byClass].map(([name, count]) => plural(count, `${name} device`)).join(" and ");
  const resources = demands.filter(([name]) => name !== "pods").map(([name, amount]) => amountText(name, amount));
  return resources.length > 0 ? resources.join(", ") : "no requests";
}

/** `cpu` is counted in millicores, memory in bytes. */
function amountText(resource: string, amount: number): string {
  if (resource === "cpu") return `cpu ${amount % 1000 === 0 ? amount / 1000 : `${amount}m`}`;
  if (amount >= 1024 ** 2 && amount % 1024 ** 2 === 0) {
    return amount % 1024 ** 3 === 0 ? `${resource} ${amount / 1024 ** 3}Gi` : `${resource} ${amount / 1024 ** 2}Mi`;
  }
  return `${resource} ${amount}`;
}

/** Devices where the pods have claims, else pods. */
function amounts(shape: Shape, pods: number, room: number): Pick<Blocking, "resource" | "needed" | "available"> {
  const claims = shape.claims.filter(({ left }) => !left);
  const counted = claims.length > 0 ? claims : shape.claims;
  const [className] = classesOf(counted);
  if (className === undefined) return { resource: "pods", needed: pods, available: room };
  const devices = leastDevices(counted);
  return { resource: className, needed: pods * devices, available: room * devices };
}

/** No domain of a level holds the gang's share of a group. */
function groupVerdict(problem: Problem, group: Group, mine: readonly number[]): Verdict | undefined {
  const pods = new Map<ShapeTable, number>();
  for (const slot of mine) {
    const table = problem.tables[slot]!;
    if (!problem.slots[slot]!.own) pods.set(table, (pods.get(table) ?? 0) + 1);
  }
  const { ref, title } = group.rule;
  const level = ref.level.name;
  if (group.pins.length > 0) {
    const paths = pinnedDomains(problem.view, group);
    if (paths.length !== 1) {
      const where = paths.length === 0 ? `none of level ${level}` : `${paths.slice(0, 3).join(", ")}`;
      const message = `${title} has to share one ${level}, but pods that run already are in ${where}; delete them so that the gang is placed anew`;
      return { reason: "NoDomainFits", message, blocking: [] };
    }
  }
  for (const [table, count] of pods) {
    const best = bestDomain(problem, group, table);
    if (best.room >= count) continue;
    const pinned =
      group.pins.length > 0 ? `the ${level} of its running pods, ${best.path},` : `the best, ${best.path},`;
    const where = best.path === undefined ? "no node is in one" : `${pinned} has ${roomText(table, best.room)}`;
    return {
      reason: "NoDomainFits",
      message: `${title} needs ${needText(table, count)} in one ${level}; ${where}${missingText(problem, group, table)}`,
      blocking: [
        { level, ...(best.path !== undefined && { domain: best.path }), ...amounts(table.shape, count, best.room) },
      ],
    };
  }
  return undefined;
}

/** Nodes that the pods could use but that are in no domain of the level. */
function missingText({ view }: Problem, { rule: { ref } }: Group, { slots, admits }: ShapeTable): string {
  if (ref.kind !== "node") return "";
  const { name, nodeLabels, domainOf, inside } = ref.level;
  const missing = view.nodes.filter((node) => {
    if (!node || domainOf[node.index]! >= 0) return false;
    if (!inside) return slots[node.index]! > 0;
    const devices = admits[node.index] === 1 && view.inventory(node.index).devices.length > 0;
    return devices && valuesInside(view, node.index, inside.attribute).length === 0;
  }).length;
  if (missing === 0) return "";
  const lack = missing === 1 ? "lacks" : "lack";
  const labels = `the labels of ${name} (${nodeLabels.slice(0, 2).join(", ")})`;
  if (!inside) return `; ${plural(missing, "node")} with room ${lack} ${labels}`;
  return `; ${plural(missing, "node")} ${lack} ${labels}, and devices that tell ${inside.attribute}`;
}

/** Each part has a place by itself, all of them together have none: names the smallest set that has none. */
function togetherVerdict(view: ModelView, prepared: PreparedUnit, conflict: Conflict): Verdict {
  const { slots, rules, smallest, fitting } = conflict;
  const problem = problemOf(view, prepared, slots, rules);
  const texts = [
    ...new Set(
      rules.map(({ kind, title, ref }) => `${title} ${kind === "spread" ? "spread over" : "in one"} ${ref.level.name}`),
    ),
  ];
  const wanted = texts.length > 0 ? ` with ${texts.slice(0, 6).join(", ")}` : "";
  const counts = new Map<ShapeTable, number>();
  for (const table of problem.tables) counts.set(table, (counts.get(table) ?? 0) + 1);
  const pods = [...counts].map(([{ shape }, count]) => `${plural(count, "pod")} of ${describeShape(shape)}`);
  const parts = new Set(slots.map(({ gang, podSet }) => `${gang}/${podSet}`)).size + rules.length;
  const alone = smallest && parts > 1 ? ", though without any one part of that they have" : "";
  return {
    reason: "NoDomainFits",
    message: `${pods.join(" and ")} have no place together${wanted}${alone}; ${fitting} of the ${plural(slots.length, "pod")} fit`,
    blocking: [{ level: broadestLevel(rules), resource: "pods", needed: slots.length, available: fitting }],
  };
}

/** The level that the conflict is about; without rules the cluster itself. */
function broadestLevel(rules: readonly Rule[]): string {
  return rules.toSorted((a, b) => breadthOf(a) - breadthOf(b))[0]?.ref.level.name ?? "cluster";
}
