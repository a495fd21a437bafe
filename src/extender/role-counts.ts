import type { PlacementGroupSpec } from "../api/placement-group.ts";

/** How many gangs of each role are to be placed, and why more than asked for. */
export interface RoleCounts {
  readonly counts: ReadonlyMap<string, number>;
  /** Role → the bound of a pairing that asks for the last gangs of it. */
  readonly because: ReadonlyMap<string, string>;
}

/** No group has so many gangs: ratios that lead here contradict each other. */
const tooMany = 100_000;
/** Ratios are decimal numbers: 3 at most per 1 is also met by 0.333333 at least per 1. */
const tolerance = 1e-5;

/**
 * The least numbers of gangs, `wanted` at least, that keep the bounds of all pairings. A bound counts for the role whose
 * growth would break it: more gangs that hand over ask for receivers (`maxRatio`), more receivers for gangs that hand over
 * (`minRatio`). So nobody waits because of what is out of balance already, such as by a gang that was lost.
 * @param placed role → gangs that have their places
 * @returns undefined when no numbers do
 */
export function roleCounts(
  { pairing = [] }: PlacementGroupSpec,
  placed: ReadonlyMap<string, number>,
  wanted: ReadonlyMap<string, number>,
): RoleCounts | undefined {
  const counts = new Map(wanted);
  const because = new Map<string, string>();
  const countOf = (role: string): number => counts.get(role) ?? 0;
  const grows = (role: string): boolean => countOf(role) > (placed.get(role) ?? 0);
  const raise = (role: string, least: number, why: string): boolean => {
    const needed = Math.ceil(least - tolerance * Math.max(1, least));
    if (countOf(role) >= needed) return false;
    counts.set(role, needed);
    because.set(role, why);
    return true;
  };
  for (let moved = true; moved; ) {
    moved = false;
    for (const { from, to, minRatio, maxRatio } of pairing) {
      if (maxRatio !== undefined && grows(from)) {
        const why = `at most ${maxRatio} ${from} per ${to}: pairing's maxRatio`;
        if (raise(to, countOf(from) / Number(maxRatio), why)) moved = true;
      }
      if (minRatio !== undefined && grows(to)) {
        const why = `at least ${minRatio} ${from} per ${to}: pairing's minRatio`;
        if (raise(from, countOf(to) * Number(minRatio), why)) moved = true;
      }
    }
    if ([...counts.values()].some((count) => count > tooMany)) return undefined;
  }
  return { counts, because };
}

/** The base set: the minima of all roles, and what the ratios ask for besides; the minima alone when no numbers keep the ratios. */
export function baseCounts(spec: PlacementGroupSpec): ReadonlyMap<string, number> {
  const minima = new Map(spec.members.map(({ role, minInstances }) => [role, minInstances]));
  return roleCounts(spec, new Map(), minima)?.counts ?? minima;
}
