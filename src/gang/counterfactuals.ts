import type { ClusterModel } from "../topology/model.ts";
import { comparePlain } from "../topology/natural-order.ts";
import type { BudgetRecord } from "../topology/records.ts";
import { atOnce, goOn, type Steps } from "./in-slices.ts";
import { isGangKey, nameOf, namespaceOf } from "./keys.ts";
import { busyNodes, downNodes, fewestOf, likeliestDomains } from "./likely-room.ts";
import type { PlanUnit } from "./plan.ts";
import { choosePreemption } from "./preemption.ts";
import { type PreparedUnit, prepareUnit } from "./prepare.ts";
import { sharedLevels } from "./shared-levels.ts";
import { fitsIn } from "./try-out.ts";
import type { Victim } from "./victims.ts";
import { type WhatIf, withEmptied, withoutGang, withReturned } from "./what-if.ts";

/** Clusters that differ from the present one and are searched at most. */
const maxTries = 32;
/** Of more gangs than these not each is tried. */
const maxGangs = 8;
/** Nodes that are otherwise in one try: each has to be looked at, and nobody else gets a turn meanwhile. */
const maxNodes = 1_000;

export interface OutlookOptions {
  /** Namespaces whose gangs are called by name; default: the unit's own. */
  readonly named?: ReadonlySet<string>;
  /** The model as the unit sees it: with claims of its own, say, that exist nowhere else. */
  readonly seenBy?: (model: ClusterModel) => ClusterModel;
}

/**
 * What would make room for a unit that `plan` refused, each tried out: `if gang X leaves` (of the same namespace; of
 * others only `if a gang of another namespace with 8 devices leaves`, and where none of its own would do), `if 2 nodes
 * return to rack r7` (cordoned or not ready now), `if 2 nodes of rack r7 become free` (whoever uses them now). At most one
 * of each kind; costs some searches more than the plan itself. Empty also where no search was made.
 * @param inTime false: what was found so far is the answer
 */
export function counterfactualsOf(
  model: ClusterModel,
  unit: PlanUnit,
  options: OutlookOptions = {},
  inTime: () => boolean = () => true,
): readonly string[] {
  const subject = subjectOf(model, unit, options);
  goOn(lookOut(subject), inTime);
  return subject.texts;
}

/** The same in steps of about one search each, between which the cluster may change. */
export function* counterfactualSteps(
  model: ClusterModel,
  unit: PlanUnit,
  options: OutlookOptions = {},
): Steps<readonly string[]> {
  const subject = subjectOf(model, unit, options);
  yield* lookOut(subject);
  return subject.texts;
}

interface Subject {
  readonly model: ClusterModel;
  readonly unit: PlanUnit;
  readonly named: ReadonlySet<string>;
  /** What was found so far. */
  readonly texts: string[];
  prepare(): PreparedUnit | undefined;
  /** Does the unit fit then? No when there were too many tries. */
  fits(change: WhatIf): boolean;
}

function subjectOf(model: ClusterModel, unit: PlanUnit, options: OutlookOptions): Subject {
  const { named = namespacesOf(unit), seenBy = (each) => each } = options;
  let tries = 0;
  return {
    model,
    unit,
    named,
    texts: [],
    prepare() {
      const prepared = prepareUnit(seenBy(model), unit);
      return Array.isArray(prepared) || prepared.base.length === 0 ? undefined : prepared;
    },
    fits: (change) => ++tries <= maxTries && fitsIn(model, unit, change, seenBy),
  };
}

function* lookOut(subject: Subject): Steps<void> {
  for (const look of [lookAtGangs, lookAtDownNodes, lookAtBusyNodes]) {
    const prepared = subject.prepare();
    if (prepared === undefined) return;
    const text = yield* look(subject, prepared);
    if (text !== undefined) subject.texts.push(text);
  }
}

function namespacesOf({ gangs }: PlanUnit): Set<string> {
  return new Set(gangs.map(({ namespace }) => namespace));
}

// ---- Gangs that leave ----------------------------------------------------------------------------------------------

/** Other gangs, those that hold least first; those that may be named before the others. */
function* lookAtGangs(subject: Subject, prepared: PreparedUnit): Steps<string | undefined> {
  const { model, unit, named } = subject;
  const own = new Set(unit.gangs.map(({ namespace, name }) => `${namespace}/${name}`));
  const others = gangsNear(model, prepared).filter((key) => !own.has(key));
  for (const isNamed of [true, false]) {
    const found = yield* oneThatIsEnough(
      subject,
      others.filter((key) => named.has(namespaceOf(key)) === isNamed),
    );
    if (found === undefined) continue;
    return isNamed ? `if gang ${nameOf(found)} leaves` : `if a gang ${strangerText(model, found, named)} leaves`;
  }
  return undefined;
}

/** Gangs that hold something where pods of the unit could go, in order of how many pods they hold places for. */
function gangsNear({ view }: ClusterModel, prepared: PreparedUnit): string[] {
  const tables = [...new Set(prepared.base.map((slot) => prepared.tableOf(slot, [])))];
  const isNear = (name: string): boolean => {
    const node = view.indexOf(name);
    // Devices that several nodes reach may be held from anywhere.
    return node !== undefined && (view.inventory(node).wide || tables.some(({ admits }) => admits[node] === 1));
  };
  return view
    .holders()
    .filter(({ key, namespace }) => isGangKey(key, namespace))
    .map(({ key }) => ({ key, pods: view.heldUnder(key) }))
    .filter(({ pods }) => pods.some(({ placed }) => isNear(placed.node)))
    .sort((a, b) => a.pods.length - b.pods.length || comparePlain(a.key, b.key))
    .map(({ key }) => key);
}

/** The first that is enough; of many it is looked for by halves, as if whoever has more places gave more room. */
function* oneThatIsEnough({ model, fits }: Subject, gangs: readonly string[]): Steps<string | undefined> {
  if (gangs.length > maxGangs) {
    const count = yield* fewestOf(gangs, (some) => fits(withoutGang(model, some.at(-1)!)));
    return count === undefined ? undefined : gangs[count - 1];
  }
  for (const key of gangs) {
    yield;
    if (fits(withoutGang(model, key))) return key;
  }
  return undefined;
}

/** All that is told of a gang that may not be named. */
function strangerText({ view }: ClusterModel, key: string, named: ReadonlySet<string>): string {
  const pods = view.heldUnder(key);
  const devices = pods.reduce(
    (sum, { placed }) => sum + placed.claims.reduce((n, each) => n + each.devices.length, 0),
    0,
  );
  const what = devices > 0 ? counted(devices, "device") : counted(pods.length, "pod");
  return named.size > 0 ? `of another namespace with ${what}` : `with ${what}`;
}

function counted(count: number, what: string): string {
  return count === 1 ? `1 ${what}` : `${count} ${what}s`;
}

// ---- Nodes that return or become free ------------------------------------------------------------------------------

function* lookAtDownNodes(subject: Subject, prepared: PreparedUnit): Steps<string | undefined> {
  const found = yield* fewestNodes(subject, placesOf(subject.model, prepared, downNodes(subject.model)), withReturned);
  if (found === undefined) return undefined;
  const { count, where } = found;
  const to = where === undefined ? "" : ` to ${where}`;
  return count === 1 ? `if 1 node returns${to}` : `if ${count} nodes return${to}`;
}

function* lookAtBusyNodes(subject: Subject, prepared: PreparedUnit): Steps<string | undefined> {
  const { model, unit } = subject;
  const found = yield* fewestNodes(subject, placesOf(model, prepared, busyNodes(model, unit, prepared)), withEmptied);
  if (found === undefined) return undefined;
  const { count, where } = found;
  const of = where === undefined ? "" : ` of ${where}`;
  return count === 1 ? `if 1 node${of} becomes free` : `if ${count} nodes${of} become free`;
}

/** Nodes of one domain, by name: what has an index now may have none, or another, when it is tried. */
interface Place {
  /** Level and path; undefined: anywhere. */
  readonly where: string | undefined;
  readonly nodes: readonly string[];
}

/** Domains of each level that the pods have to share, narrow levels first, and then the whole cluster. */
function placesOf({ view }: ClusterModel, prepared: PreparedUnit, candidates: readonly number[]): Place[][] {
  if (candidates.length === 0) return [];
  const named = (nodes: readonly number[]) => nodes.slice(0, maxNodes).map((index) => view.nodes[index]!.record.name);
  const levels = sharedLevels(prepared).map((level) =>
    likeliestDomains(prepared, level, candidates).map(({ path, nodes }) => ({
      where: `${level.name} ${path}`,
      nodes: named(nodes),
    })),
  );
  return [...levels, [{ where: undefined, nodes: named(candidates) }]];
}

/** Where fewest nodes are enough, in the first level where any are. */
function* fewestNodes(
  { model, fits }: Subject,
  places: readonly (readonly Place[])[],
  change: (model: ClusterModel, nodes: readonly number[]) => WhatIf,
): Steps<{ readonly count: number; readonly where: string | undefined } | undefined> {
  const areEnough = (names: readonly string[]): boolean => {
    const nodes = names.flatMap((name) => model.view.indexOf(name) ?? []);
    return fits(change(model, nodes));
  };
  for (const alternatives of places) {
    let best: { count: number; where: string | undefined } | undefined;
    for (const { where, nodes } of alternatives) {
      const count = yield* fewestOf(nodes, areEnough);
      if (count !== undefined && (!best || count < best.count)) best = { count, where };
    }
    if (best) return best;
  }
  return undefined;
}

// ---- Preemption ----------------------------------------------------------------------------------------------------

/**
 * Whom the planner would have leave for the unit if it may: `by preemption of gang X and 2 gangs of others`. Names only of
 * the unit's namespaces. Nothing where it would preempt nobody.
 */
export function preemptionOutlook(
  model: ClusterModel,
  unit: PlanUnit,
  candidates: readonly Victim[],
  budgets: readonly BudgetRecord[],
): string[] {
  const found = atOnce(choosePreemption(model, unit, candidates, { budgets }));
  if (found === undefined || found.victims.length === 0) return [];
  const namespaces = namespacesOf(unit);
  const keys = found.victims.flatMap(({ leavers }) => leavers.flatMap(({ key }) => key ?? []));
  const pods = found.victims.flatMap(({ leavers }) =>
    leavers.flatMap((each) => (each.key === undefined ? each.pods : [])),
  );
  const named = [
    ...keys.flatMap((key) => (namespaces.has(namespaceOf(key)) ? [`gang ${nameOf(key)}`] : [])),
    ...pods.flatMap(({ namespace, name }) => (namespaces.has(namespace) ? [`pod ${name}`] : [])),
  ];
  const others = keys.length + pods.length - named.length;
  const list = [
    ...named,
    ...(others === 0 ? [] : [others === 1 ? "1 of another tenant" : `${others} of other tenants`]),
  ];
  return [`by preemption of ${list.join(", ")}`];
}
