import { type Consumption, copyUsage, type NodeInventory, type NodeUsage } from "../../topology/inventory.ts";
import { consumedPart } from "./availability.ts";
import { type AttributeColumn, attributeColumn, type Candidates, candidatesOf } from "./candidates.ts";
import { type CompiledAlternative, type CompiledClaim, maxDevicesPerClaim } from "./claim.ts";
import { countersFit, orderPartitions, orderPlacements, orderWhole, type PartitionState, take } from "./order.ts";

/** Claims of one pod, and what all of its devices have in common. */
export interface PodClaims {
  readonly claims: readonly CompiledClaim[];
  readonly together: readonly { readonly attribute: string; readonly value?: string }[];
}

/** One request of one claim, in the order in which they are satisfied. */
export interface Step {
  readonly pod: number;
  /** Position among the claims of all pods. */
  readonly claim: number;
  readonly request: number;
  readonly choices: readonly StepChoice[];
}

export interface StepChoice {
  readonly claim: number;
  readonly alternative: CompiledAlternative;
  readonly candidates: Candidates;
  /** Devices it chooses from; with mode `All`, those it needs. */
  readonly eligible: readonly number[];
  /** Mode `All`: what "all" is cannot be told, or not all of it can be given, or it is another number than it has to be. */
  readonly unknowable: boolean;
  /** Constraints that cover the devices of this choice. */
  readonly rules: readonly Rule[];
}

/** A constraint at work: the values that its devices have so far, with how many have each. */
export interface Rule {
  readonly kind: "match" | "distinct";
  readonly attribute: string;
  readonly column: AttributeColumn;
  /** The only value allowed from the start, or undefined. */
  readonly pinned: number | undefined;
  readonly counts: Map<number, number>;
}

interface Taken {
  readonly step: number;
  readonly choice: number;
  readonly device: number;
}

/** Everything the depth-first search needs; `state` is its own copy of what is held. */
export interface Search {
  readonly inventory: NodeInventory;
  readonly steps: readonly Step[];
  readonly islands: readonly AttributeColumn[];
  readonly near: readonly number[];
  readonly state: PartitionState;
  readonly taken: Taken[];
  readonly takenPerClaim: number[];
  readonly budget: number;
  trials: number;
  /** Some request has administrator's access: whether a device may be taken depends on the order of requests. */
  readonly admin: boolean;
  /** Per device, as far as they were asked for: `signatureOf`. */
  readonly signatures: (string | undefined)[];
  /** With several pods: what had been taken where a pod began, in vain. */
  readonly dead: Set<string>;
  readonly accept: SearchOptions["accept"];
  readonly apart: SearchOptions["apart"];
}

export interface SearchOptions {
  readonly islands: readonly string[];
  readonly near: readonly number[];
  readonly budget: number;
  /** Asked about each answer; false: another one is looked for. It minds which devices are taken, not who has which. */
  readonly accept?: ((search: Search) => boolean) | undefined;
  /** What somebody else tells devices apart by: those with different texts are not interchangeable. */
  readonly apart?: ((device: number) => string) | undefined;
}

/** Thrown out of the recursion when the budget is used up. */
export const budgetUsedUp = Symbol("budget used up");

export function createSearch(
  inventory: NodeInventory,
  usage: NodeUsage,
  pods: readonly PodClaims[],
  options: SearchOptions,
): Search {
  const claims = pods.flatMap((pod) => pod.claims);
  const state = { ...copyUsage(usage), groupHeld: new Int32Array(inventory.groups) };
  for (const [device, holders] of usage.used.entries()) {
    if (holders > 0) state.groupHeld[inventory.devices[device]!.group]! += 1;
  }
  const admin = claims.some(({ requests }) =>
    requests.some(({ alternatives }) => alternatives.some((a) => a.adminAccess)),
  );
  let claimsBefore = 0;
  const steps = pods.flatMap(({ claims: own, together }, pod) => {
    const common = together.map((each) => commonRule(inventory, each));
    const before = claimsBefore;
    claimsBefore += own.length;
    const made = own.flatMap((claim, i) => stepsOf(inventory, state, claim, { pod, position: before + i }, common));
    return admin || pods.length === 1 ? made : hardestFirst(made);
  });
  return {
    inventory,
    steps: admin || pods.length > 1 ? steps : hardestFirst(steps),
    admin,
    islands: options.islands.map((attribute) => attributeColumn(inventory, attribute)),
    near: options.near,
    state,
    taken: [],
    takenPerClaim: claims.map(() => 0),
    budget: options.budget,
    trials: 0,
    signatures: [],
    dead: new Set(),
    accept: options.accept,
    apart: options.apart,
  };
}

function commonRule(inventory: NodeInventory, { attribute, value }: PodClaims["together"][number]): Rule {
  const rule = createRule(inventory, "match", attribute);
  return value === undefined ? rule : { ...rule, pinned: rule.column.numberOf.get(value) ?? -1 };
}

function createRule(inventory: NodeInventory, kind: "match" | "distinct", attribute: string): Rule {
  return { kind, attribute, column: attributeColumn(inventory, attribute), pinned: undefined, counts: new Map() };
}

function stepsOf(
  inventory: NodeInventory,
  usage: NodeUsage,
  claim: CompiledClaim,
  { pod, position }: { pod: number; position: number },
  common: readonly Rule[],
): Step[] {
  const rules = claim.constraints.map(({ kind, attribute }) => createRule(inventory, kind, attribute));
  return claim.requests.map(({ alternatives }, request) => ({
    pod,
    claim: position,
    request,
    choices: alternatives.map((alternative, choice) => {
      const candidates = candidatesOf(inventory, claim, alternative);
      return {
        claim: position,
        alternative,
        candidates,
        ...eligibility(inventory, usage, alternative, candidates),
        // What kube-scheduler allocates it chooses without knowing of the others.
        rules: [
          ...(claim.left ? [] : common),
          ...rules.filter((_, i) => claim.constraints[i]!.covers[request]![choice]),
        ],
      };
    }),
  }));
}

/**
 * "All" are the selected devices, without shared ones that are used up already. They are known only when no pool or
 * expression hides any and every one can be given.
 */
function eligibility(
  inventory: NodeInventory,
  usage: NodeUsage,
  { mode, count }: CompiledAlternative,
  candidates: Candidates,
) {
  const { usable, withheld, shares, foreign, error } = candidates;
  if (mode === "ExactCount") return { eligible: usable, unknowable: false };
  const hasRoom = (device: number) => !shares.has(device) || sharesFit(inventory, usage, device, shares.get(device)!);
  const eligible = shares.size === 0 ? usable : usable.filter(hasRoom);
  const blocked = withheld.some(({ device }) => hasRoom(device)) || foreign > 0 || error !== undefined;
  const another = count > 0 && eligible.length !== count;
  return { eligible, unknowable: blocked || another || eligible.length === 0 };
}

/**
 * Requests that select the fewest devices go first, so that the others do not take it away. With alternatives the claim's own
 * order stays: it says whose wish counts more.
 */
function hardestFirst(steps: Step[]): Step[] {
  if (steps.length < 2 || steps.some(({ choices }) => choices.length > 1)) return steps;
  const selected = ({ choices }: Step): number => choices[0]!.candidates.usable.length;
  return steps.toSorted((a, b) => selected(a) - selected(b));
}

/** Satisfies the steps from `position` on; true leaves the answer in `taken`, false leaves everything as before. */
export function solve(search: Search, position: number): boolean {
  const step = search.steps[position];
  if (step === undefined) return search.accept?.(search) ?? true;
  if (search.trials > 0 && !restCanFit(search, position)) return false;
  // What the pods before took, not which of them took what, decides what is left for the others.
  const begins = position > 0 && search.steps[position - 1]!.pod !== step.pod;
  const trace = begins ? traceOf(search, position) : "";
  if (begins && search.dead.has(trace)) return false;
  for (const [choice, stepChoice] of step.choices.entries()) {
    const { claim } = step;
    const wanted = leastWanted(stepChoice);
    if (search.takenPerClaim[claim]! + wanted > maxDevicesPerClaim || stepChoice.unknowable) continue;
    const offered = offer(search, stepChoice, wanted);
    if (offered.length < wanted) continue;
    const ordered = orderOffered(search, step, position, choice, offered);
    if (pick(search, position, choice, wanted, ordered)) return true;
  }
  if (begins) search.dead.add(trace);
  return false;
}

function traceOf({ inventory, steps, taken }: Search, position: number): string {
  const devices = taken.map(({ device }) => device).sort((a, b) => a - b);
  if (inventory.sharedDevices === 0) return `${position}:${devices}`;
  const shares = taken.map(({ step, choice, device }) => {
    return `${device}=${shareText(steps[step]!.choices[choice]!.candidates.shares.get(device))}`;
  });
  return `${position}:${shares.sort()}`;
}

export function shareText(share: Consumption | undefined): string {
  return share === undefined ? "" : [...share].map(([name, amount]) => `${name} ${amount}`).join("+");
}

/** One share of one device goes where least is left, so that other devices stay whole. */
function orderOffered(
  search: Search,
  step: Step,
  position: number,
  choice: number,
  offered: readonly number[],
): readonly number[] {
  const { alternative, candidates } = step.choices[choice]!;
  if (alternative.count === 1 && candidates.shares.size > 0) {
    const part = new Map(offered.map((device) => [device, consumedPart(search.inventory, search.state, device)]));
    return offered.toSorted((a, b) => part.get(b)! - part.get(a)! || a - b);
  }
  if (!candidates.whole) return offered;
  return orderWhole(offered, demandFrom(search, position, choice), candidates.usable, contextOf(search, step, choice));
}

/** Devices that the choice could take now, without those whose value of a matching attribute too few others have. */
function offer(search: Search, choice: StepChoice, wanted: number): readonly number[] {
  let offered = choice.eligible.filter((device) => canTake(search, device, choice));
  for (const { kind, column, counts } of choice.rules) {
    if (offered.length < wanted) return offered;
    if (kind === "distinct" || counts.size > 0) continue;
    const sizes = new Int32Array(column.numberOf.size);
    for (const device of offered) sizes[column.values[device]!]! += 1;
    offered = offered.filter((device) => sizes[column.values[device]!]! >= wanted);
  }
  return offered;
}

/** Cheap look ahead: has every request to come an alternative with enough devices left? */
function restCanFit(search: Search, from: number): boolean {
  for (let position = from; position < search.steps.length; position++) {
    const step = search.steps[position]!;
    if (!step.choices.some((choice) => countTakeable(search, choice) >= leastWanted(choice))) return false;
  }
  return true;
}

/** Devices that the choice takes. */
export function leastWanted({ alternative, eligible }: StepChoice): number {
  return alternative.mode === "All" ? Math.max(1, eligible.length) : alternative.count;
}

function countTakeable(search: Search, choice: StepChoice): number {
  let count = 0;
  for (const device of choice.eligible) if (canTake(search, device, choice)) count += 1;
  return count;
}

function canTake(search: Search, device: number, choice: StepChoice): boolean {
  return isFree(search, device, choice) && choice.rules.every((rule) => admits(rule, device));
}

/**
 * The choice may have the device beside those who hold something already, constraints left out. Administrators' access
 * minds no holders, but gives a device once per claim, and keeps it from requests that come later in the same search
 * (as upstream); counters are taken in any case.
 */
export function isFree(search: Search, device: number, { claim, alternative, candidates }: StepChoice): boolean {
  const { inventory, state, steps, taken } = search;
  const share = candidates.shares.get(device);
  if (!alternative.adminAccess && state.used[device] !== 0) return false;
  if (share !== undefined)
    return sharesFit(inventory, state, device, share) && sharedCountersFit(inventory, device, state);
  if (alternative.adminAccess && taken.some((one) => one.device === device && steps[one.step]!.claim === claim)) {
    return false;
  }
  return countersFit(inventory, device, state.counterUsed);
}

/** One more share leaves no capacity overdrawn. */
function sharesFit({ devices }: NodeInventory, { consumed }: NodeUsage, device: number, share: Consumption): boolean {
  const capacities = devices[device]!.shared?.capacities ?? [];
  return capacities.every(({ name, slot, limit }) => consumed[slot]! + (share.get(name) ?? 0n) <= limit);
}

/** The first share of a device takes its counters for all. */
function sharedCountersFit(inventory: NodeInventory, device: number, { shares, counterUsed }: NodeUsage): boolean {
  return shares[inventory.devices[device]!.shared!.index]! > 0 || countersFit(inventory, device, counterUsed);
}

/** A device without the attribute satisfies no constraint on it, as upstream. */
function admits({ kind, column, pinned, counts }: Rule, device: number): boolean {
  const value = column.values[device]!;
  if (value < 0) return false;
  if (kind === "distinct") return !counts.has(value);
  return pinned === undefined ? counts.size === 0 || counts.has(value) : pinned === value;
}

/** Devices wanted by this step and by those of its pod to come that select the same devices: they belong together. */
function demandFrom(search: Search, position: number, choice: number): number {
  const { selectionKey } = search.steps[position]!.choices[choice]!.alternative;
  let demand = search.steps[position]!.choices[choice]!.alternative.count;
  for (const { choices, pod } of search.steps.slice(position + 1)) {
    if (pod !== search.steps[position]!.pod) continue;
    const first = choices[0]!.alternative;
    if (first.selectionKey === selectionKey) demand += first.count;
  }
  return demand;
}

/** Attributes that have to match come first: an island of theirs that is too small is no use. */
function contextOf(search: Search, step: Step, choice: number) {
  const { inventory, islands } = search;
  const required = step.choices[choice]!.rules.filter(({ kind }) => kind === "match").map(({ column }) => column);
  const near = search.taken.length === 0 ? search.near : [...search.near, ...search.taken.map(({ device }) => device)];
  return { inventory, islands: required.length === 0 ? islands : [...required, ...islands], near };
}

/**
 * Takes `wanted` of the devices offered and goes on to the next step. Each combination is tried once: what was tried
 * and failed is not offered again further down.
 */
function pick(search: Search, position: number, choice: number, wanted: number, offered: readonly number[]): boolean {
  if (wanted === 0) return solve(search, position + 1);
  const stepChoice = search.steps[position]!.choices[choice]!;
  const usable =
    search.taken.at(-1)?.step === position ? offered.filter((d) => canTake(search, d, stepChoice)) : offered;
  if (usable.length < wanted) return false;
  const segments = stepChoice.candidates.whole ? [usable] : orderPartitions(usable, search.inventory, search.state);
  const failed = new Set<string>();
  let rest = segments.flat();
  for (const segment of segments) {
    const placements = stepChoice.candidates.whole ? segment : orderPlacements(segment, search.inventory, search.state);
    for (const device of placements) {
      if (rest.length < wanted) return false;
      rest = rest.filter((other) => other !== device);
      if (failed.size > 0 && failed.has(signatureOf(search, device))) continue;
      enter(search, position, choice, device);
      if (pick(search, position, choice, wanted - 1, rest)) return true;
      leave(search, stepChoice);
      failed.add(signatureOf(search, device));
    }
  }
  return false;
}

function enter(search: Search, step: number, choice: number, device: number): void {
  search.trials += 1;
  if (search.trials > search.budget) throw budgetUsedUp;
  const { candidates, rules } = search.steps[step]!.choices[choice]!;
  take(search.inventory, device, search.state, 1, candidates.shares.get(device));
  for (const { counts, column } of rules) {
    const value = column.values[device]!;
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  search.takenPerClaim[search.steps[step]!.claim]! += 1;
  search.taken.push({ step, choice, device });
}

function leave(search: Search, { candidates, rules }: StepChoice): void {
  const { step, device } = search.taken.pop()!;
  take(search.inventory, device, search.state, -1, candidates.shares.get(device));
  for (const { counts, column } of rules) {
    const value = column.values[device]!;
    const count = counts.get(value)! - 1;
    if (count === 0) counts.delete(value);
    else counts.set(value, count);
  }
  search.takenPerClaim[search.steps[step]!.claim]! -= 1;
}

/**
 * Devices with equal signatures are interchangeable: where one led nowhere, the other does too. Devices with shared
 * counters, and all beside administrators' access, are taken as all different; of such as are given in parts also what is
 * consumed of them now tells them apart.
 */
export function signatureOf(search: Search, device: number): string {
  const { inventory, state, signatures } = search;
  signatures[device] ??= lastingSignature(search, device);
  const { shared } = inventory.devices[device]!;
  if (shared === undefined) return signatures[device];
  const consumed = shared.capacities.map(({ slot }) => state.consumed[slot]);
  return `${signatures[device]} ${state.used[device]} ${state.shares[shared.index]} ${consumed}`;
}

function lastingSignature({ inventory, steps, admin, apart }: Search, device: number): string {
  let signature = apart?.(device) ?? "";
  const { counters, shared } = inventory.devices[device]!;
  if (shared !== undefined) signature += shared.capacities.map(({ name, limit }) => `${name} ${limit}`).join();
  if (admin || counters.length > 0) signature = `device ${device}`;
  else {
    for (const { choices } of steps) {
      for (const { candidates, rules } of choices) {
        signature += candidates.usable.includes(device) ? "+" : "-";
        signature += shareText(candidates.shares.get(device));
        for (const { column } of rules) signature += `${column.values[device]},`;
      }
    }
  }
  return signature;
}
