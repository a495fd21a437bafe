import type { PlacedPod } from "../../src/api/placement.ts";
import { counterfactualsOf } from "../../src/gang/counterfactuals.ts";
import { type PlanResult, plan } from "../../src/gang/plan.ts";
import { type Case, type CaseWorld, worldOf } from "./plan-cases.ts";
import {
  brokenRule,
  deviceSets,
  leastCost,
  leftOf,
  leftsOf,
  type OraclePlace,
  type OraclePod,
  type OracleRule,
  placementExists,
  predictedCost,
  putPod,
  selectedOn,
  tooMuch,
} from "./plan-oracle.ts";
import { refusalFault } from "./refusal-judge.ts";

/** What the oracle says of the planner's answer to one case. */
export interface Judgement {
  /** What is wrong with the answer; undefined: nothing. */
  fault?: string;
  feasible: boolean;
  /** The planner's cost and the least there is, in milliseconds, where it was looked for. */
  cost?: { ours: number; least: number };
  /** Too many placements to try for the least cost; all else is judged. */
  costTooLarge?: true;
}

/** Above the least cost of all placements, relative and in milliseconds: what rounding may add. */
const costTolerance = { relative: 0, milliseconds: 0.01 };

/** What is judged beside feasibility and rules: least cost, and what a refusal says. */
interface Questions {
  cost?: boolean;
  reasons?: boolean;
}

/** Undefined: there is too much for the oracle to try. */
export function judge(sample: Case, questions: Questions = {}): Judgement | undefined {
  const world = worldOf(sample);
  return unlessTooMuch(() => judgeWorld(world, plan(world.model, world.unit), questions));
}

function unlessTooMuch<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch (thrown) {
    if (thrown === tooMuch) return undefined;
    throw thrown;
  }
}

const isNew = (pod: OraclePod) => pod.pinned === undefined;

function judgeWorld(world: CaseWorld, result: PlanResult, { cost, reasons }: Questions): Judgement {
  const { nodes, base, all, required } = world;
  const feasible = !base.some(isNew) || numbersOf(world).some((pods) => placementExists(nodes, pods, required));
  if (!("plans" in result)) {
    if (result.budgetExceeded) return { feasible, fault: "the planner does not know" };
    const why = result.rejections.map(({ message }) => message).join("; ");
    if (feasible) return { feasible, fault: `refused, though there is a placement: ${why}` };
    const fault = reasons ? refusalFault(world, result, counterfactualsOf(world.model, world.unit)) : undefined;
    return { feasible, ...(fault !== undefined && { fault }) };
  }
  if (!feasible) return { feasible, fault: "placed, though there is no placement" };
  const placed = new Map(result.plans.flatMap(({ placement }) => placement.pods).map((pod) => [pod.pod, pod]));
  const pods = all.filter((pod) => !isNew(pod) || placed.has(pod.name));
  const left = base.find((pod) => isNew(pod) && !placed.has(pod.name));
  if (left) return { feasible, fault: `${left.name} is left out` };
  const misfit = misfitOf(world, placed);
  if (misfit) return { feasible, fault: misfit };
  const places = pods.map((pod) => pod.pinned ?? placeOf(world, placed.get(pod.name)!));
  const broken = brokenRule(nodes, pods, places, required);
  if (broken) return { feasible, fault: `breaks ${broken}` };
  const forgotten = oneMore(world, pods).find((more) => placementExists(nodes, more, required));
  if (forgotten) return { feasible, fault: "leaves out surplus that fits" };
  return { feasible, ...judgeWishes(world, result, pods, places, placed, cost === true) };
}

/** All pods, where some are left out; these with the next surplus pods of a pod set. */
function oneMore({ surplus, all }: CaseWorld, pods: readonly OraclePod[]): OraclePod[][] {
  if (pods.length === all.length) return [];
  const next = surplus.flatMap((entries) => entries.filter((entry) => !pods.includes(entry[0]!)).slice(0, 1));
  return [all, ...next.map((more) => all.filter((pod) => pods.includes(pod) || more.includes(pod)))];
}

/** What is needed alone, and with every number of surplus pods of every pod set. */
function numbersOf({ base, surplus, all }: CaseWorld): OraclePod[][] {
  let numbers: OraclePod[][] = [base];
  for (const entries of surplus) {
    const leading = [...entries.keys(), entries.length].map((n) => entries.slice(0, n).flat());
    numbers = leading.flatMap((more) => numbers.map((pods) => [...pods, ...more]));
  }
  // In the order of the rules' parts, as everywhere.
  return numbers.map((pods) => all.filter((pod) => pods.includes(pod)));
}

/** Preferred rules in order, each kept that could be kept beside those before it; spreads that cannot, with the least skew; then the cost. */
function judgeWishes(
  { nodes, required, preferred, links, trafficOf }: CaseWorld,
  result: Extract<PlanResult, { plans: unknown }>,
  pods: readonly OraclePod[],
  places: readonly OraclePlace[],
  placed: ReadonlyMap<string, PlacedPod>,
  withCost: boolean,
): Pick<Judgement, "fault" | "cost" | "costTooLarge"> {
  const kept = [...required];
  const canKeep = (rule: OracleRule) => pods.some(isNew) && placementExists(nodes, pods, [...kept, rule]);
  const missed = preferred.filter((rule) => {
    if (!canKeep(rule)) return true;
    kept.push(rule);
    return false;
  });
  for (const rule of missed.filter(({ type }) => type === "spread")) {
    const skews = Array.from({ length: pods.length }, (_, i) => rule.maxSkew + 1 + i);
    const least = skews.find((maxSkew) => canKeep({ ...rule, maxSkew }));
    if (least !== undefined) kept.push({ ...rule, maxSkew: least });
  }
  const lost = brokenRule(nodes, pods, places, kept);
  if (lost) return { fault: `loses the preferred ${lost}` };
  const traffic = trafficOf(pods);
  const ours = predictedCost(nodes, places, traffic, links);
  // Of gangs that run as they are nothing is told.
  const answers = result.plans.map(({ placement }) => placement);
  const told = answers.reduce((sum, { cost }) => sum + cost.totalMs, 0);
  const theirs = traffic.filter(({ gang }) => answers.some((answer) => answer.gang === gang));
  const is = predictedCost(nodes, places, theirs, links);
  if (Math.abs(told - is) > costTolerance.milliseconds) return { fault: `says ${told} ms, it is ${is} ms` };
  if (!withCost || !pods.some(isNew)) return {};
  const cost = (all: readonly OraclePlace[]) => predictedCost(nodes, all, traffic, links);
  const same = pods.map((pod) => asPlaced(pod, placed.get(pod.name)));
  const least = unlessTooMuch(() => leastCost(nodes, same, kept, cost)!);
  if (least === undefined) return { costTooLarge: true };
  if (ours <= least * (1 + costTolerance.relative) + costTolerance.milliseconds) return { cost: { ours, least } };
  return { cost: { ours, least }, fault: `costs ${ours} ms, ${least} ms is possible` };
}

/** The pod as if it asked for the alternatives that it got, and, where it got all devices, for as many. */
function asPlaced(pod: OraclePod, answer: PlacedPod | undefined): OraclePod {
  if (answer === undefined) return pod;
  const requests = pod.requests.map(({ claim, alternatives }, i): OraclePod["requests"][number] => {
    const before = pod.requests.slice(0, i).filter((other) => other.claim === claim).length;
    const given = answer.claims[claim]!.devices.filter(({ request }) => request.split("/")[0] === `r${before}`);
    const [, name = "a0"] = given[0]!.request.split("/");
    return { claim, alternatives: [{ ...alternatives[Number(name.slice(1))]!, number: given.length }] };
  });
  return { ...pod, requests };
}

function placeOf({ nodes }: CaseWorld, { node, claims }: PlacedPod): OraclePlace {
  const position = nodes.findIndex(({ name }) => name === node);
  const names = claims.flatMap(({ devices }) => devices.map(({ device }) => device));
  return {
    node: position,
    devices: names.map((name) => nodes[position]!.devices.findIndex((device) => device.name === name)),
  };
}

/** The first pod that does not fit where it was put, or has devices that it did not ask for. */
function misfitOf(world: CaseWorld, placed: ReadonlyMap<string, PlacedPod>): string | undefined {
  const left = leftsOf(world.nodes);
  for (const pod of world.all) {
    const answer = placed.get(pod.name);
    if (!answer) continue;
    const { node, devices } = placeOf(world, answer);
    const target = world.nodes[node]!;
    // By itself, on the node without anybody else: are these devices what it asked for?
    const alone = { ...target, held: 0, devices: target.devices.filter((_, i) => devices.includes(i)) };
    const served = deviceSets(alone, leftOf(alone), pod).some((set) => set.length === devices.length);
    const all = pod.requests.flatMap(({ alternatives: [first] }) => (first!.count === "all" ? first!.what : []));
    const whole = all.every((what) => selectedOn(target, pod, what).every((position) => devices.includes(position)));
    if (!served || !whole) return `${pod.name} has devices that it did not ask for`;
    if (!putPod(target, left[node]!, pod, devices, 1)) return `${pod.name} does not fit ${target.name}`;
  }
  return undefined;
}
