import { type Found, isCheaper, priced } from "./optimize.ts";
import type { Traffic } from "./traffic.ts";

/**
 * Makes traffic cheaper by moving few gangs at a time, one or two, while the others stay where they are: large
 * neighbourhood search. Branch and bound over all gangs may end with its budget; over two it comes to an end.
 * @param move makes traffic of the gangs cheaper by moving only them; what it was given if it cannot
 * @param left may another move be tried?
 */
export function polish(
  start: Found,
  traffic: readonly Traffic[],
  move: (found: Found, gangs: ReadonlySet<number>) => Found,
  left: () => boolean,
): Found {
  const gangs = [...new Set(traffic.flatMap(({ parties }) => parties))];
  if (gangs.length < 2) return start;
  const pairs = gangs.flatMap((a, i) => gangs.slice(i + 1).map((b) => new Set([a, b])));
  const neighbourhoods = [...gangs.map((gang) => new Set([gang])), ...pairs];
  let best = priced(start, traffic);
  // Ends when no neighbourhood has helped since the last one that did.
  for (let [i, idle] = [0, 0]; idle < neighbourhoods.length && left(); i = (i + 1) % neighbourhoods.length) {
    const moved = priced(move(best.found, neighbourhoods[i]!), traffic);
    idle = isCheaper(moved, best) ? 0 : idle + 1;
    if (idle === 0) best = moved;
  }
  return best.found;
}
