import type { RejectionReason } from "../../api/placement.ts";
import { isFree, leastWanted, type Rule, type Search, type Step, type StepChoice } from "./search.ts";
import { taintText } from "./taint-text.ts";

/** Device → a taint of it that is not tolerated. */
type Taints = ReadonlyMap<number, string>;
const noTaints: Taints = new Map();

/** Why the claims do not fit the node as it is; `resource` names a device class. */
export interface AllocationFailure {
  readonly reason: RejectionReason;
  readonly message: string;
  readonly needed: number;
  readonly available: number;
  readonly resource: string;
}

/** The first request, or sum of requests for the same devices, that the node cannot satisfy whatever is chosen. */
export function findShortage(search: Search): AllocationFailure | undefined {
  const wanted = new Map<string, number>();
  for (const step of search.steps) {
    const shortages = step.choices.map((choice) => shortageOf(search, choice));
    const first = shortages.every((shortage) => shortage !== undefined) ? shortages[0] : undefined;
    if (first !== undefined) return first;
    const choice = step.choices[0]!;
    if (step.choices.length > 1 || choice.alternative.mode === "All" || search.admin) continue;
    if (choice.candidates.shares.size > 0) continue;
    const { selectionKey, count, className } = choice.alternative;
    const sum = (wanted.get(selectionKey) ?? 0) + count;
    wanted.set(selectionKey, sum);
    const available = free(search, choice).length;
    if (sum > available) return insufficient(search, className, sum, available, { taints: taintsOf(search, choice) });
  }
  return undefined;
}

/** What blocked a search that found nothing. */
export function explainFailure(search: Search): AllocationFailure {
  const shortage = findShortage(search);
  if (shortage !== undefined) return shortage;
  for (const step of search.steps) {
    const blocked = constraintShortage(search, step);
    if (blocked !== undefined) return blocked;
  }
  const { className } = search.steps[0]!.choices[0]!.alternative;
  const needed = search.steps.reduce((sum, { choices }) => sum + choices[0]!.alternative.count, 0);
  const available = new Set(search.steps.flatMap(({ choices }) => choices.flatMap((choice) => free(search, choice))))
    .size;
  const taints = new Map(
    search.steps.flatMap(({ choices }) => choices.flatMap((choice) => [...taintsOf(search, choice)])),
  );
  const but = `, but no ${needed} that satisfy all requests and constraints together`;
  return insufficient(search, className, needed, available, { but, taints });
}

function shortageOf(search: Search, choice: StepChoice): AllocationFailure | undefined {
  const { alternative, eligible } = choice;
  if (eligible.length === 0 || choice.unknowable) return noMatch(search, choice);
  const needed = leastWanted(choice);
  const available = free(search, choice).length;
  if (available >= needed) return undefined;
  return insufficient(search, alternative.className, needed, available, { taints: taintsOf(search, choice) });
}

function noMatch({ inventory }: Search, { alternative, candidates }: StepChoice): AllocationFailure {
  const { withheld, error, foreign, usable } = candidates;
  const all = alternative.mode === "All" ? ", and allocationMode All needs every device that is selected" : "";
  const found =
    usable.length === 0
      ? `no device of node ${inventory.node} is selected`
      : `not all devices of node ${inventory.node} can be given`;
  const details = [
    ...(error === undefined ? [] : [`a selector failed: ${error}; guard the expression, for example with has()`]),
    ...(withheld[0] === undefined
      ? []
      : [
          `${withheld.length} selected but withheld: ${inventory.devices[withheld[0].device]!.key} has the taint ${withheld[0].taint}, which is not tolerated`,
        ]),
    ...(foreign === 0 ? [] : [foreignText(alternative, foreign)]),
    ...inventory.problems.map(({ message }) => message),
  ];
  return {
    reason: "NoMatchingDevice",
    message: `request ${alternative.name} (DeviceClass ${alternative.className}): ${found}${all}${details.map((d) => `; ${d}`).join("")}`,
    needed: Math.max(1, alternative.count),
    available: 0,
    resource: alternative.className,
  };
}

function foreignText({ foreignDriver }: StepChoice["alternative"], count: number): string {
  if (foreignDriver !== undefined) return `${count} selected of drivers whose devices kllama alone gives`;
  return `${count} selected of drivers that kllama does not manage: a claim for those is left to kube-scheduler when its DeviceClass, or its own selector, names the driver (device.driver == "…")`;
}

/** The largest set with one value of a match constraint, when it is too small for the request. */
function constraintShortage(search: Search, { choices }: Step): AllocationFailure | undefined {
  const choice = choices[0]!;
  const { alternative, rules } = choice;
  for (const rule of rules) {
    const sizes = valueCounts(rule, free(search, choice));
    const available = rule.kind === "distinct" ? sizes.size : Math.max(0, ...sizes.values());
    if (available >= alternative.count) continue;
    const what = rule.kind === "distinct" ? "different values" : "one value";
    return insufficient(search, alternative.className, alternative.count, available, {
      qualifier: ` with ${what} of ${rule.attribute}`,
      taints: taintsOf(search, choice),
    });
  }
  return undefined;
}

function valueCounts({ column, pinned }: Rule, devices: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const device of devices) {
    const value = column.values[device]!;
    if (value >= 0 && (pinned === undefined || pinned === value)) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  return counts;
}

function free(search: Search, choice: StepChoice): number[] {
  return choice.eligible.filter((device) => isFree(search, device, choice));
}

/** "All devices" is unknown while a pool of the node is; upstream waits for it whatever alternatives there are. */
export function unknownPools(search: Search): AllocationFailure | undefined {
  if (search.inventory.problems.length === 0) return undefined;
  const choices = search.steps.flatMap((step) => step.choices);
  const choice = choices.find(({ alternative }) => alternative.mode === "All");
  return choice === undefined ? undefined : noMatch(search, choice);
}

/** Taints of devices that the choice would have if it were not for these. */
function taintsOf(search: Search, choice: StepChoice): Taints {
  const { withheld } = choice.candidates;
  if (withheld.length === 0) return noTaints;
  const wanted = withheld.filter(({ device }) => isFree(search, device, choice));
  return new Map(wanted.map(({ device, taint }) => [device, taint]));
}

function insufficient(
  { inventory }: Search,
  resource: string,
  needed: number,
  available: number,
  { qualifier = "", but = "", taints }: { qualifier?: string; but?: string; taints: Taints },
): AllocationFailure {
  const what = `${needed} devices of DeviceClass ${resource}${qualifier}`;
  return {
    reason: "InsufficientDevices",
    message: `node ${inventory.node}: ${what} are needed, ${available} are free${but}${taintText([...taints.values()])}`,
    needed,
    available,
    resource,
  };
}
