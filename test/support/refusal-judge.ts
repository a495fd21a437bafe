import type { Blocking, Rejection } from "../../src/api/placement.ts";
import { ruleText } from "../../src/gang/explain-conflict.ts";
import type { PlanResult } from "../../src/gang/plan.ts";
import { type PreparedUnit, prepareUnit } from "../../src/gang/prepare.ts";
import type { Rule } from "../../src/gang/problem.ts";
import { type CaseWorld, classNameOf, neighbour } from "./plan-cases.ts";
import {
  type OracleNode,
  type OraclePod,
  type OracleRequest,
  type OracleRule,
  placementExists,
} from "./plan-oracle.ts";

type Refusal = Extract<PlanResult, { rejections: unknown }>;

/** What is untrue of the reasons that a refusal gives, by trying everything; undefined: nothing. */
export function refusalFault(
  world: CaseWorld,
  { rejections }: Refusal,
  counterfactuals: readonly string[],
): string | undefined {
  const pinned = world.base.filter((pod) => pod.pinned);
  for (const { gang, reason, message } of rejections) {
    if (reason === "WaitingForPlacementGroup") continue;
    const together = message.includes("have no place together");
    const mine = world.base.filter((pod) => !pod.pinned && (together || pod.gang === gang));
    // The one that is named is impossible, whatever the others of the unit need.
    if (placementExists(world.nodes, [...pinned, ...mine], world.required)) return `${gang} by itself fits: ${message}`;
  }
  const untrue = counterfactuals.find((text) => !comesTrue(world, text));
  if (untrue) return `untrue: ${untrue}`;
  const prepared = prepareUnit(world.model, world.unit);
  if (Array.isArray(prepared)) return undefined;
  for (const rejection of rejections) {
    if (rejection.reason === "WaitingForPlacementGroup") continue;
    const fault = conflictFault(world, prepared, rejection) ?? blockingFault(world, prepared, rejection);
    if (fault !== undefined) return `${fault}: ${rejection.message}`;
  }
  return undefined;
}

/** Does the unit fit if what the text says happens? */
function comesTrue({ nodes, base, required }: CaseWorld, text: string): boolean {
  const fits = (changed: readonly OracleNode[]) => placementExists(changed, base, required);
  const stranger = /^if a gang of another namespace with \d+ (device|pod)s? leaves$/;
  if (text === `if gang ${neighbour} leaves` || stranger.test(text)) {
    return fits(nodes.map((node) => ({ ...node, ...node.withoutNeighbour })));
  }
  const returned = /^if (\d+) nodes? returns?(?: to (\S+) (\S+))?$/.exec(text);
  const freed = /^if (\d+) nodes?(?: of (\S+) (\S+))? becomes? free$/.exec(text);
  const [, count, level, path] = returned ?? freed ?? [];
  if (count === undefined) return false;
  const there = [...nodes.keys()].filter((i) => level === undefined || pathOf(nodes[i]!, level) === path);
  const change = (node: OracleNode): OracleNode => (returned ? { ...node, down: false } : { ...node, ...node.emptied });
  return subsets(there, Number(count)).some((chosen) =>
    fits(nodes.map((node, i) => (chosen.includes(i) ? change(node) : node))),
  );
}

function pathOf(node: OracleNode, level: string): string | undefined {
  const labels = { zone: node.zone, rack: node.rack, island: node.island, host: node.name };
  const names = Object.keys(labels) as (keyof typeof labels)[];
  const upTo = names.slice(0, names.indexOf(level as keyof typeof labels) + 1).map((name) => labels[name]);
  return upTo.at(-1) === undefined ? undefined : upTo.filter((value) => value !== undefined).join("/");
}

function subsets(list: readonly number[], size: number): number[][] {
  if (size === 0) return [[]];
  return list.flatMap((first, i) => subsets(list.slice(i + 1), size - 1).map((rest) => [first, ...rest]));
}

type Fits = (some: readonly OraclePod[], under: readonly OracleRule[], nodes?: readonly OracleNode[]) => boolean;

/** What the oracle makes of the set that a rejection names. */
function named(world: CaseWorld, prepared: PreparedUnit, { pods: names, rules }: NonNullable<Rejection["conflict"]>) {
  const pinned = world.base.filter((pod) => pod.pinned);
  const pods = world.base.filter(({ name }) => names.includes(name));
  // Rules of one text are told as one.
  const under = (texts: readonly string[]) =>
    prepared.rules
      .filter((rule) => rule.required && texts.includes(ruleText(rule)))
      .map((rule) => oracleRule(world, prepared, rule))
      .filter((rule) => pods.some(rule.covers));
  const fits: Fits = (some, list, nodes = world.nodes) => placementExists(nodes, [...pinned, ...some], list);
  return { pods, rules, under, fits };
}

/** What is untrue of the set that has no place together, and of its being the smallest. */
function conflictFault(world: CaseWorld, prepared: PreparedUnit, rejection: Rejection): string | undefined {
  if (rejection.conflict === undefined) return "names no set";
  const { size } = rejection.conflict;
  const { pods, rules, under, fits } = named(world, prepared, rejection.conflict);
  const what = `${pods.map(({ name }) => name).join()} under ${rules.join() || "no rule"}`;
  if (fits(pods, under(rules))) return `${what} has a place`;
  if (size !== "smallest") return `${what} is ${size} only`;
  const gangs = new Set(pods.map(({ gang }) => gang));
  const candidates = world.base.filter((pod) => !pod.pinned && (gangs.size > 1 || gangs.has(pod.gang)));
  const spread = world.required.some(({ type }) => type === "spread");
  for (let number = spread ? 1 : pods.length - 1; number < pods.length; number++) {
    const fewer = subsets([...candidates.keys()], number).find(
      (some) =>
        !fits(
          candidates.filter((_, i) => some.includes(i)),
          world.required,
        ),
    );
    if (fewer) return `fewer than ${what}: ${fewer.map((i) => candidates[i]!.name).join()} have no place`;
  }
  for (let number = 0; number < rules.length; number++) {
    const fewer = subsets([...rules.keys()], number).find((some) => !fits(pods, under(some.map((i) => rules[i]!))));
    if (fewer) return `fewer rules than ${what}: ${fewer.map((i) => rules[i]).join() || "none"}`;
  }
  return undefined;
}

/** What is untrue of what a rejection says is short, and of the domain that comes closest. */
function blockingFault(world: CaseWorld, prepared: PreparedUnit, rejection: Rejection): string | undefined {
  const { blocking, message, conflict } = rejection;
  if (blocking.length === 0) return "says nothing of what blocks";
  const { pods, rules, under, fits } = named(world, prepared, conflict!);
  const list = under(rules);
  for (const each of blocking) {
    const { level, domain, resource, needed, available } = each;
    const what = JSON.stringify(each);
    if (available >= needed) return `${what} is not short`;
    if (domain !== undefined && available > 0 && !message.includes("that run already")) {
      const nodes = world.nodes.map((node) => (isInside(node, level, domain) ? node : { ...node, down: true }));
      const sizes = conflict!.size === "unknown" ? [...pods.keys()].slice(1) : [pods.length - 1];
      const parts = sizes.flatMap((size) => subsets([...pods.keys()], size));
      const most = parts.some((some) =>
        fits(
          some.map((i) => pods[i]!),
          list,
          nodes,
        ),
      );
      if (!most) return `${what} does not come close`;
    }
    const isOpen = conflict!.size === "unknown";
    const fault = message.includes("have no place together") ? shortFault(pods, list, each, fits, isOpen) : undefined;
    if (fault) return `${what}: ${fault}`;
    const single = pods.length > 1 && !message.includes("have no place together") && resource !== "nodes";
    const per = amountOf(pods[0]!, resource);
    if (single && available !== per * (pods.length - 1)) return `${what} is not what one fewer than its pods take`;
    const running = message.includes("that run already");
    const cured = pods.map((pod) => without(pod, resource));
    if (single && !running && resource !== "pods" && !fits(cured, list)) return `${what} is not what is short`;
  }
  return undefined;
}

/**
 * Is what several pods lack together counted rightly, and would more of it do?
 * @param isOpen fewer pods may have no place either, so that one less need not help: then some of them have one with what is there
 */
function shortFault(
  pods: readonly OraclePod[],
  rules: readonly OracleRule[],
  { resource, needed, available }: Blocking,
  fits: Fits,
  isOpen: boolean,
): string | undefined {
  const amounts = pods.map((pod) => amountOf(pod, resource));
  if (amounts.reduce((sum, each) => sum + each, 0) !== needed) return "counts something else";
  if (
    resource !== "pods" &&
    !fits(
      pods.map((pod) => without(pod, resource)),
      rules,
    )
  )
    return "is not what is short";
  const least = Math.min(
    ...pods.flatMap((pod, i) => {
      const gain =
        amounts[i]! > 0 &&
        fits(
          pods.filter((each) => each !== pod),
          rules,
        );
      return gain ? amounts[i]! : [];
    }),
  );
  if (needed - available === least) return undefined;
  const all = [...pods.keys()];
  const fit = (some: readonly number[]) =>
    some.reduce((sum, i) => sum + amounts[i]!, 0) === available &&
    fits(
      some.map((i) => pods[i]!),
      rules,
    );
  if (isOpen && least === Number.POSITIVE_INFINITY && all.some((size) => subsets(all, size).some(fit)))
    return undefined;
  return `${least} less would do`;
}

function classOf({ alternatives }: OracleRequest): string {
  return classNameOf(alternatives[0]!.what);
}

function amountOf({ cpu, memory, requests }: OraclePod, resource: string): number {
  if (resource === "pods") return 1;
  if (resource === "cpu") return cpu * 1000;
  if (resource === "memory") return memory * 2 ** 30;
  return requests
    .filter((request) => classOf(request) === resource)
    .reduce(
      (sum, { alternatives }) => sum + Math.min(...alternatives.map(({ count }) => (count === "all" ? 1 : count))),
      0,
    );
}

function without(pod: OraclePod, resource: string): OraclePod {
  if (resource === "cpu" || resource === "memory") return { ...pod, [resource]: 0 };
  return { ...pod, requests: pod.requests.filter((request) => classOf(request) !== resource) };
}

function isInside(node: OracleNode, level: string, domain: string): boolean {
  // Inside a host devices tell the domain: then the host is all that is looked at.
  return pathOf(node, level) === domain || domain.endsWith(node.name) || domain.includes(`${node.name}/`);
}

/** The rule that binds the same pods in the same sets. */
function oracleRule({ base, required }: CaseWorld, prepared: PreparedUnit, rule: Rule): OracleRule {
  const position = new Map(prepared.gangs.map(({ request }, i) => [request.name, i]));
  const sets = (setOf: (pod: OraclePod) => string | undefined) => {
    const numbers = new Map<string, number>();
    return base.map((pod) => {
      const name = setOf(pod);
      if (name === undefined) return -1;
      if (!numbers.has(name)) numbers.set(name, numbers.size);
      return numbers.get(name)!;
    });
  };
  const mine = sets(({ gang, podSet, index }) => rule.setOf({ gang: position.get(gang)!, podSet, index }));
  const found = required.find((each) => {
    const alike = each.type === rule.kind && each.level === rule.ref.level.name;
    const evenAs = each.type === "colocate" || each.maxSkew === rule.maxSkew;
    return alike && evenAs && sets((pod) => (each.covers(pod) ? each.part(pod) : undefined)).join() === mine.join();
  });
  if (!found) throw new Error(`no such rule: ${rule.kind} ${rule.ref.level.name}`);
  return found;
}
