/** A seeded source of choices: the same seed makes the same case on every machine. */
export interface Random {
  /** A whole number from 0 to below `below`. */
  below(below: number): number;
  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean;
  pick<T>(values: readonly T[]): T;
  /** `most` values at most, in their order. */
  some<T>(values: readonly T[], most: number): T[];
}

/** Mulberry32 by Tommy Ettinger (public domain): 32 bits of state, good enough to choose test cases. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    below,
    chance: (percent) => below(100) < percent,
    pick: (values) => values[below(values.length)]!,
    some: (values, most) => values.filter(() => below(values.length) < most).slice(0, most),
  };
}
