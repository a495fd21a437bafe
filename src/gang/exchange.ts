import type { Given } from "../dra/allocator/claim.ts";
import type { PreparedUnit } from "./prepare.ts";
import type { Problem, Slot } from "./problem.ts";
import type { Traffic } from "./traffic.ts";

/** Ways of exchanging gangs that are looked at: all of three and four gangs that are alike, and some of more. */
const most = 144;

/**
 * For each way of exchanging gangs that differ in nothing but their names, the position of the traffic that each traffic
 * becomes. What can be placed can be placed with such gangs exchanged, at the same cost. The first changes nothing.
 * @param given what claims of slots are to get
 */
export function exchanges(
  unit: PreparedUnit,
  problem: Problem,
  traffic: readonly Traffic[],
  given: ReadonlyMap<Slot, readonly Given[]>,
): readonly number[][] {
  const position = new Map(traffic.map((each, t) => [nameOf(each, each.parties), t]));
  const classes = [...alikeGangs(unit, problem, traffic, given).values()].filter(({ length }) => length > 1);
  let ways: ReadonlyMap<number, number>[] = [new Map()];
  for (const gangs of classes) {
    const orders = permutations(gangs, Math.floor(most / ways.length));
    ways = ways.flatMap((way) =>
      orders.map((order) => new Map([...way, ...gangs.map((g, i) => [g, order[i]!] as const)])),
    );
  }
  return ways.flatMap((way) => {
    const becomes = traffic.map((each) =>
      position.get(
        nameOf(
          each,
          each.parties.map((g) => way.get(g) ?? g),
        ),
      ),
    );
    return becomes.every((t) => t !== undefined) ? [becomes] : [];
  });
}

function nameOf({ label }: Traffic, parties: readonly number[]): string {
  return `${parties.join(">")} ${label}`;
}

/**
 * Gangs by all that matters of them. Like no other are those that have pods already, and those of several slices: the
 * search keeps such slices in one order, and two orders of what is alike may leave out what only one of them would try.
 */
function alikeGangs(
  { gangs }: PreparedUnit,
  { slots, tables, pins }: Problem,
  traffic: readonly Traffic[],
  given: ReadonlyMap<Slot, readonly Given[]>,
): Map<string, number[]> {
  const numbers = new Map<unknown, number>();
  const numberOf = (table: unknown): number => {
    const known = numbers.get(table) ?? numbers.size;
    numbers.set(table, known);
    return known;
  };
  const shapes = gangs.map((): unknown[] => []);
  for (const [i, slot] of slots.entries()) {
    const { gang, podSet, index, own, borrows } = slot;
    shapes[gang]!.push([podSet, index, numberOf(tables[i]), given.get(slot), own || borrows ? i : ""]);
  }
  const twins = [...Map.groupBy(traffic, (each) => each.class).values()].filter(({ length }) => length > 1);
  const unlike = [...pins.map(({ gang }) => gang), ...twins.flatMap((each) => each[0]!.parties)];
  for (const gang of unlike) shapes[gang]!.push(`gang ${gang}`);
  return Map.groupBy(gangs.keys(), (g) => JSON.stringify([gangs[g]!.role, gangs[g]!.request.spec, shapes[g]]));
}

/** At most so many orders of a list, the list itself first. */
function permutations(list: readonly number[], limit: number): number[][] {
  if (list.length < 2) return [[...list]];
  const found: number[][] = [];
  for (const [i, first] of list.entries()) {
    for (const rest of permutations(list.toSpliced(i, 1), limit - found.length)) {
      found.push([first, ...rest]);
      if (found.length >= limit) return found;
    }
  }
  return found;
}
