import {
  type Consumption,
  changeUsage,
  copyUsage,
  type NodeInventory,
  type NodeUsage,
} from "../../topology/inventory.ts";
import { choicesOf, type DeviceChoice, type PodToAllocate, searchFor, shortageBefore } from "./allocate.ts";
import { type CapacityLeft, canMeet, capacityLeft, type Wish } from "./matching.ts";
import { budgetUsedUp, isFree, leastWanted, type Search, shareText, signatureOf, solve } from "./search.ts";

/** Pods of one node, of several nodes that reach the same devices. */
export interface NodeToAllocate {
  readonly inventory: NodeInventory;
  /** What all others hold. */
  readonly usage: NodeUsage;
  readonly pods: readonly PodToAllocate[];
}

/** `choices`: per node and pod, as they were given; undefined: there are none, or the budget ended before they were found. */
export interface AcrossNodes {
  readonly choices: readonly (readonly DeviceChoice[])[] | undefined;
  readonly budgetExceeded: boolean;
  /** Devices that were tried. */
  readonly trials: number;
}

/** A device, or a share of it, that an earlier node of the chain took. */
interface Taken {
  readonly key: string;
  readonly share: Consumption | undefined;
}

interface Chain {
  readonly nodes: readonly NodeToAllocate[];
  /** Per node, as if nobody of the others took anything. */
  readonly alone: readonly Search[];
  /** Key of a device → text that is the same for those which no pod of any node tells apart. */
  readonly classes: Map<string, string>;
  /** What had been taken where a node began, in vain. */
  readonly dead: Set<string>;
  readonly answers: (readonly DeviceChoice[])[];
}

/**
 * Chooses devices for pods on several nodes at once: node after node, and anew for those before where a later one lacks
 * what they took. Pods with administrator's access share their place in the list with nobody; a node may stand there
 * several times. Complete up to the budget, which counts devices tried.
 */
export function allocateAcross(given: readonly NodeToAllocate[], budget: number): AcrossNodes {
  const searches = given.map(({ inventory, usage, pods }) => searchFor(inventory, usage, pods, { budget }));
  if (!isEnough(searches)) return { choices: undefined, budgetExceeded: false, trials: 0 };
  // Who can have the fewest devices goes first.
  const fewest = searches.map(fewestOffered);
  const order = [...given.keys()].sort((a, b) => fewest[a]! - fewest[b]! || a - b);
  const nodes = order.map((i) => given[i]!);
  const chain: Chain = {
    nodes,
    alone: order.map((i) => searches[i]!),
    classes: new Map(),
    dead: new Set(),
    answers: [],
  };
  try {
    const { found, trials } = solveFrom(chain, 0, [], budget);
    const choices = found ? given.map((_, i) => chain.answers[order.indexOf(i)]!) : undefined;
    return { choices, budgetExceeded: false, trials };
  } catch (thrown) {
    if (thrown === budgetUsedUp) return { choices: undefined, budgetExceeded: true, trials: budget };
    throw thrown;
  }
}

/** Of all requests: devices that it could take, beyond those that it needs. */
function fewestOffered(search: Search): number {
  const spare = search.steps.map(({ choices }) => {
    const offered = new Set(
      choices.flatMap((choice) => choice.eligible.filter((device) => isFree(search, device, choice))),
    );
    return offered.size - Math.min(...choices.map(leastWanted));
  });
  return Math.min(...spare);
}

/** Finds devices for the nodes from `position` on, beside what those before took. */
function solveFrom(chain: Chain, position: number, taken: readonly Taken[], budget: number) {
  const node = chain.nodes[position];
  if (node === undefined) return { found: true, trials: 0 };
  const trace = `${position} ${traceOf(chain, position, taken)}`;
  if (chain.dead.has(trace)) return { found: false, trials: 0 };
  const { inventory, pods } = node;
  const search = searchFor(inventory, usageBeside(node, taken), pods, {
    budget,
    apart: (device) => (inventory.devices[device]!.wide ? classOf(chain, inventory.devices[device]!.key) : ""),
    accept(self) {
      const rest = solveFrom(chain, position + 1, [...taken, ...takenBy(self)], budget - self.trials);
      self.trials += rest.trials;
      return rest.found;
    },
  });
  const found = shortageBefore(search) === undefined && solve(search, 0);
  if (found) chain.answers[position] = choicesOf(search, pods);
  else chain.dead.add(trace);
  return { found, trials: search.trials };
}

function usageBeside({ inventory, usage }: NodeToAllocate, taken: readonly Taken[]): NodeUsage {
  if (taken.length === 0) return usage;
  const beside = copyUsage(usage);
  for (const { key, share } of taken) {
    const device = inventory.indexOf.get(key);
    if (device !== undefined) changeUsage(inventory, beside, device, 1, share);
  }
  return beside;
}

function takenBy({ inventory, steps, taken }: Search): Taken[] {
  return taken.flatMap(({ step, choice, device }): Taken[] => {
    const { alternative, candidates } = steps[step]!.choices[choice]!;
    if (alternative.adminAccess) return [];
    return [{ key: inventory.devices[device]!.key, share: candidates.shares.get(device) }];
  });
}

/** What the nodes from `position` on can see of what is taken; which of devices that are alike does not matter. */
function traceOf(chain: Chain, position: number, taken: readonly Taken[]): string {
  const later = chain.nodes.slice(position);
  const shares = new Map<string, string[]>();
  for (const { key, share } of taken) {
    if (!later.some(({ inventory }) => inventory.indexOf.has(key))) continue;
    shares.set(key, [...(shares.get(key) ?? []), shareText(share)]);
  }
  return [...shares]
    .map(([key, list]) => `${classOf(chain, key)} ${list.sort()}`)
    .sort()
    .join(";");
}

function classOf({ nodes, alone, classes }: Chain, key: string): string {
  const known = classes.get(key);
  if (known !== undefined) return known;
  const seen = nodes.map(({ inventory, usage }, i) => {
    const device = inventory.indexOf.get(key);
    return device === undefined ? "" : `${usage.used[device]} ${signatureOf(alone[i]!, device)}`;
  });
  const found = seen.join("|");
  classes.set(key, found);
  return found;
}

/** Is there enough for all, constraints left out? A bound. */
function isEnough(searches: readonly Search[]): boolean {
  const wishes: Wish[] = [];
  /** Key of a device → where it was found. */
  const places = new Map<string, { search: Search; device: number }>();
  for (const search of searches) {
    const { devices } = search.inventory;
    for (const { choices } of search.steps) {
      if (choices.some(({ alternative }) => alternative.adminAccess)) continue;
      const units = Math.min(...choices.map(leastWanted));
      const offers = choices.flatMap((choice) =>
        choice.eligible
          .filter((device) => isFree(search, device, choice))
          .map((device) => ({ device, share: choice.candidates.shares.get(device) })),
      );
      const from = new Set(offers.map(({ device }) => devices[device]!.key));
      const shares = offers.flatMap(({ share }) => share ?? []);
      wishes.push({ units, from, shares, whole: shares.length < offers.length });
      for (const { device } of offers) places.set(devices[device]!.key, { search, device });
    }
  }
  const left: CapacityLeft = (key, name) => {
    const { search, device } = places.get(key)!;
    return capacityLeft(search.inventory, search.state, device, name);
  };
  return canMeet(wishes, left);
}
