import { type Conflict, smallestConflict } from "../../src/gang/conflict.ts";
import type { PlanResult } from "../../src/gang/plan.ts";
import { type PreparedUnit, prepareUnit } from "../../src/gang/prepare.ts";
import type { Rule } from "../../src/gang/problem.ts";
import { type CaseWorld, neighbour } from "./plan-cases.ts";
import { type OracleNode, type OraclePod, type OracleRule, placementExists } from "./plan-oracle.ts";

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
  if (!rejections.some(({ message }) => message.includes("have no place together"))) return undefined;
  const prepared = prepareUnit(world.model, world.unit);
  if (Array.isArray(prepared)) return undefined;
  return conflictFault(world, prepared, smallestConflict(world.model.view, prepared));
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

function conflictFault(world: CaseWorld, prepared: PreparedUnit, conflict: Conflict): string | undefined {
  const pinned = world.base.filter((pod) => pod.pinned);
  const names = conflict.slots.map(({ pod }) => pod.name);
  const pods = names.map((name) => world.base.find((pod) => pod.name === name)!);
  const rules = conflict.rules.map((rule) => oracleRule(world, prepared, rule));
  const fits = (some: readonly OraclePod[], under: readonly OracleRule[]) =>
    placementExists(world.nodes, [...pinned, ...some], under);
  const what = `${names.join()} under ${rules.map(({ type, level }) => `${type} ${level}`).join()}`;
  if (fits(pods, rules)) return `no conflict: ${what}`;
  if (!fits(pods.slice(0, conflict.fitting), rules)) return `${conflict.fitting} do not fit: ${what}`;
  if (!conflict.smallest) return undefined;
  if (fits(pods.slice(0, conflict.fitting + 1), rules)) return `more than ${conflict.fitting} fit: ${what}`;
  const setOf = ({ gang, podSet }: OraclePod) => `${gang}/${podSet}`;
  for (const set of new Set(pods.map(setOf))) {
    const fewer = pods.filter((pod) => setOf(pod) !== set);
    if (!fits(fewer, rules)) return `without ${set} it is a conflict still: ${what}`;
  }
  const needless = rules.find(
    (rule) =>
      !fits(
        pods,
        rules.filter((each) => each !== rule),
      ),
  );
  return needless && `without ${needless.type} ${needless.level} it is a conflict still: ${what}`;
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
