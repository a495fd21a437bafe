import type { Consumption, NodeInventory, NodeUsage } from "../../topology/inventory.ts";

/** So many devices, each to be one of those named. */
export interface Demand {
  readonly units: number;
  readonly from: Iterable<string>;
}

/** So many shares, each of one of the devices named, and of so much of its capacities at least. */
export interface ShareDemand extends Demand {
  readonly amounts: ReadonlyMap<string, bigint>;
}

/** What a device that is given in parts has left of a capacity. */
export type CapacityLeft = (device: string, capacity: string) => bigint;

/** A demand as it is found: devices that are given whole, or in parts of so much, or (`whole`, with shares) some of either. */
export interface Wish extends Demand {
  readonly shares: readonly Consumption[];
  readonly whole: boolean;
}

/** Can all be met at once, for all that `canServe` and `canHold` know? A bound; who may have devices of either sort counts for none. */
export function canMeet(wishes: readonly Wish[], left: CapacityLeft): boolean {
  const inParts = wishes.filter(({ shares, whole }) => shares.length > 0 && !whole);
  return (
    canServe(wishes.filter(({ shares }) => shares.length === 0)) &&
    canHold(
      inParts.map(({ shares, ...demand }) => ({ ...demand, amounts: leastAmounts(shares) })),
      left,
    )
  );
}

/** Devices that the same demands name. */
interface Kind {
  left: number;
  readonly demands: readonly number[];
}

/**
 * Can all demands be served at once, if every device serves one of them? Where it cannot be told whether a device serves
 * several (it is given in parts), or which of them may not be together, the answer is a bound only.
 */
export function canServe(demands: readonly Demand[]): boolean {
  const joined = joinEqual(demands);
  const kinds = kindsOf(joined);
  /** kind → demand → units given */
  const given = kinds.map(() => joined.map(() => 0));
  /** Gives one more unit to a demand; those who lose one for it get another. */
  const serve = (demand: number, seen: Set<number>): boolean => {
    for (const [k, kind] of kinds.entries()) {
      if (seen.has(k) || !kind.demands.includes(demand)) continue;
      seen.add(k);
      const other = kind.left > 0 ? undefined : kind.demands.find((each) => given[k]![each]! > 0 && serve(each, seen));
      if (kind.left === 0 && other === undefined) continue;
      if (other === undefined) kind.left--;
      else given[k]![other]!--;
      given[k]![demand]!++;
      return true;
    }
    return false;
  };
  return joined.every(({ units }, demand) => {
    for (let unit = 0; unit < units; unit++) if (!serve(demand, new Set())) return false;
    return true;
  });
}

/**
 * Do devices that are given in parts hold all the shares, if a share may be cut over several of them? That is asked of the
 * devices of each demand, and of all demands which they alone can serve. A bound: more parts may be left over that serve nobody.
 */
export function canHold(demands: readonly ShareDemand[], left: CapacityLeft): boolean {
  return demands.every(({ from: around }) => {
    const devices = new Set(around);
    const inside = demands.filter(({ from }) => [...from].every((device) => devices.has(device)));
    const capacities = new Set(inside.flatMap(({ amounts }) => [...amounts.keys()]));
    return [...capacities].every((name) => {
      const there = [...devices].map((device) => left(device, name));
      let largest = 0n;
      for (const each of there) if (each > largest) largest = each;
      return weightings(largest).every((weigh) => {
        const needed = inside.reduce(
          (sum, { units, amounts }) => sum + BigInt(units) * weigh(amounts.get(name) ?? 0n),
          0n,
        );
        return needed <= there.reduce((sum, each) => sum + weigh(each), 0n);
      });
    });
  });
}

/**
 * Ways to weigh amounts up to the largest: two together weigh no more than their sum, so what fits into a device weighs no
 * more than that. The first counts amounts; others see that a large share leaves too little for any other (Fekete and
 * Schepers, New classes of fast lower bounds for bin packing problems, 2001: u^(k)).
 */
function weightings(largest: bigint): ((amount: bigint) => bigint)[] {
  const plain = (amount: bigint) => amount;
  if (largest <= 0n) return [plain];
  const steps = [1n, 2n, 3n].map((k) => (amount: bigint) => {
    const times = (k + 1n) * amount;
    return times % largest === 0n ? amount * k : (times / largest) * largest;
  });
  return [plain, ...steps];
}

/** What every share takes at least. */
export function leastAmounts(shares: readonly Consumption[]): Map<string, bigint> {
  const least = new Map<string, bigint>();
  for (const name of shares[0]?.keys() ?? []) {
    let amount = shares[0]!.get(name)!;
    for (const share of shares) if ((share.get(name) ?? 0n) < amount) amount = share.get(name) ?? 0n;
    least.set(name, amount);
  }
  return least;
}

/** What is left of a capacity of a device; nothing where it has none of that name. */
export function capacityLeft(
  { devices }: NodeInventory,
  { consumed }: NodeUsage,
  device: number,
  name: string,
): bigint {
  const capacity = devices[device]!.shared?.capacities.find((each) => each.name === name);
  return capacity === undefined ? 0n : capacity.limit - consumed[capacity.slot]!;
}

function joinEqual(demands: readonly Demand[]): { units: number; from: readonly string[] }[] {
  const joined = new Map<string, { units: number; from: readonly string[] }>();
  for (const { units, from } of demands) {
    const names = [...from].sort();
    const known = joined.get(names.join()) ?? { units: 0, from: names };
    known.units += units;
    joined.set(names.join(), known);
  }
  return [...joined.values()];
}

function kindsOf(demands: readonly { readonly from: readonly string[] }[]): Kind[] {
  const wantedBy = new Map<string, number[]>();
  for (const [demand, { from }] of demands.entries()) {
    for (const name of from) {
      const known = wantedBy.get(name);
      if (known === undefined) wantedBy.set(name, [demand]);
      else known.push(demand);
    }
  }
  const kinds = new Map<string, Kind>();
  for (const list of wantedBy.values()) {
    const kind = kinds.get(list.join()) ?? { left: 0, demands: list };
    kind.left++;
    kinds.set(list.join(), kind);
  }
  return [...kinds.values()];
}
