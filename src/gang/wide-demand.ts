import { candidatesOf } from "../dra/allocator/candidates.ts";
import type { CompiledClaim } from "../dra/allocator/claim.ts";
import { type CapacityLeft, canMeet, capacityLeft, type Wish } from "../dra/allocator/matching.ts";
import type { Consumption, NodeInventory } from "../topology/inventory.ts";
import type { ModelView } from "../topology/model.ts";
import type { ShapeTable } from "./fit.ts";
import type { Problem } from "./problem.ts";
import { type WideTake, wideTakes } from "./wide-choice.ts";

/** One request of so many pods of a shape. */
interface Wanted {
  readonly table: ShapeTable;
  readonly claim: CompiledClaim;
  readonly request: number;
  readonly units: number;
}

/**
 * Are there enough of the devices that several nodes reach, for pods which nothing else on these nodes can serve? Summed up
 * by node they would count several times. A bound: what it refuses cannot be, whatever is chosen.
 * @param pods how many of each shape, without those that have a hold of their own
 */
export function wideSuffices(
  problem: Problem,
  pods: readonly (readonly [table: ShapeTable, count: number])[],
  nodes: () => readonly number[],
): boolean {
  const wanted = pods.flatMap(([table, count]) => (table.reaching === 0 ? [] : wantedBy(table, count)));
  if (wanted.length === 0) return true;
  const { view, decided } = problem;
  const taken = decided.flatMap(({ place }) => wideTakes(view, place.node, place.choice));
  const looked = nodes();
  const wishes: Wish[] = [];
  const places = new Map<string, Place>();
  for (const each of wanted) {
    const found = wideOffers(problem, each, looked);
    if (found === undefined) continue;
    const { shares, whole } = found;
    const from = shares.length === 0 ? without(found.places, taken) : [...found.places.keys()];
    wishes.push({ units: each.units, from, shares, whole });
    for (const [key, place] of found.places) places.set(key, place);
  }
  const left: CapacityLeft = (key, name) => {
    const { node, device } = places.get(key)!;
    const gone = taken.reduce(
      (sum, { key: other, share }) => (other === key ? sum + (share?.get(name) ?? 0n) : sum),
      0n,
    );
    return capacityLeft(view.inventory(node), view.usage(node), device, name) - gone;
  };
  return canMeet(wishes, left) && countersSuffice(view, wishes, places);
}

/** Do counters that devices share, as partitions of a board do, hold what each device takes at least? As every node has them. */
function countersSuffice(view: ModelView, wishes: readonly Wish[], places: ReadonlyMap<string, Place>): boolean {
  const whole = wishes.filter(({ shares }) => shares.length === 0);
  return [...new Set([...places.values()].map(({ node }) => node))].every((node) => {
    const inventory = view.inventory(node);
    const { counterUsed } = view.usage(node);
    const needed = new Map<number, number>();
    for (const { units, from } of whole) {
      for (const [counter, amount] of leastTaken(inventory, from)) {
        needed.set(counter, (needed.get(counter) ?? 0) + units * amount);
      }
    }
    return [...needed].every(
      ([counter, amount]) => amount <= inventory.counterCapacity[counter]! - counterUsed[counter]!,
    );
  });
}

/** Counter → what whichever of the devices takes of it, at least; of none where the node does not know all of them. */
function leastTaken({ devices, indexOf }: NodeInventory, from: Iterable<string>): Map<number, number> {
  let least: Map<number, number> | undefined;
  for (const key of from) {
    const taken = new Map(devices[indexOf.get(key) ?? -1]?.counters.map(({ counter, amount }) => [counter, amount]));
    least ??= taken;
    for (const [counter, amount] of least) least.set(counter, Math.min(amount, taken.get(counter) ?? 0));
  }
  return least ?? new Map();
}

function without(offers: ReadonlyMap<string, Place>, taken: readonly WideTake[]): string[] {
  const gone = new Set(taken.map(({ key }) => key));
  return [...offers.keys()].filter((key) => !gone.has(key));
}

function wantedBy(table: ShapeTable, count: number): Wanted[] {
  const { claims, admin } = table.shape;
  if (admin) return [];
  return claims.flatMap((claim) =>
    claim.requests.map(({ alternatives }, request) => {
      const each = Math.min(...alternatives.map((alternative) => Math.max(1, alternative.count)));
      return { table, claim, request, units: each * count };
    }),
  );
}

/** Where a device was found first. */
interface Place {
  readonly node: number;
  readonly device: number;
}

interface Offers {
  /** By key of the device. */
  readonly places: ReadonlyMap<string, Place>;
  /** What may be taken of such as are given in parts. */
  readonly shares: readonly Consumption[];
  /** Some are given whole. */
  readonly whole: boolean;
}

/** All that could serve the request; undefined: some could that only one node reaches. */
function wideOffers(
  { view }: Problem,
  { table, claim, request }: Wanted,
  nodes: readonly number[],
): Offers | undefined {
  const places = new Map<string, Place>();
  const amounts: Consumption[] = [];
  let whole = false;
  const { alternatives } = claim.requests[request]!;
  for (const node of nodes) {
    if (table.slots[node] === 0) continue;
    const inventory = view.inventory(node);
    const { used } = view.usage(node);
    for (const alternative of alternatives) {
      const { usable, shares } = candidatesOf(inventory, claim, alternative);
      for (const device of usable) {
        if (used[device] !== 0) continue;
        const { wide, key } = inventory.devices[device]!;
        if (!wide) return undefined;
        const share = shares.get(device);
        if (share === undefined) whole = true;
        else if (alternatives.length > 1 || !places.has(key)) amounts.push(share);
        if (!places.has(key)) places.set(key, { node, device });
      }
    }
  }
  return { places, shares: amounts, whole };
}
