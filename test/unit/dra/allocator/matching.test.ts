import { describe, expect, test } from "vitest";
import { canHold, canServe, leastAmounts } from "../../../../src/dra/allocator/matching.ts";

describe("devices serve all demands", () => {
  test.each<[string, [units: number, from: string][], boolean]>([
    [
      "when each has one of its own",
      [
        [1, "a"],
        [1, "b"],
      ],
      true,
    ],
    [
      "not when two want the only one",
      [
        [1, "a"],
        [1, "a"],
      ],
      false,
    ],
    [
      "when who can have others leaves them to who cannot",
      [
        [1, "ab"],
        [1, "a"],
        [1, "bc"],
      ],
      true,
    ],
    [
      "when that goes on over several",
      [
        [1, "abc"],
        [1, "ab"],
        [1, "a"],
      ],
      true,
    ],
    [
      "not when three want two, whatever else there is",
      [
        [1, "ab"],
        [1, "ab"],
        [1, "a"],
        [1, "cdef"],
      ],
      false,
    ],
    [
      "when several of one kind are wanted",
      [
        [3, "abcd"],
        [1, "ab"],
        [2, "ef"],
      ],
      true,
    ],
    [
      "not when one of several is lacking",
      [
        [3, "abcd"],
        [2, "ab"],
      ],
      false,
    ],
    ["when nothing is wanted", [[0, ""]], true],
  ])("%s", (_, demands, answer) => {
    expect(canServe(demands.map(([units, from]) => ({ units, from })))).toBe(answer);
  });
});

describe("devices given in parts hold all shares", () => {
  const demand = (units: number, from: string, lanes: bigint) => ({
    units,
    from,
    amounts: new Map([["lanes", lanes]]),
  });
  /** Each has as many lanes as its place in the alphabet says. */
  const left = (device: string, capacity: string) =>
    capacity === "lanes" ? BigInt(device.toLowerCase().charCodeAt(0) - 96) : 0n;

  test.each<[string, ReturnType<typeof demand>[], boolean]>([
    ["when their sum is enough", [demand(2, "bc", 2n), demand(1, "c", 1n)], true],
    ["not when it is not", [demand(2, "bc", 2n), demand(2, "bc", 1n)], false],
    ["not when it is not for those that can have no others", [demand(1, "ef", 2n), demand(2, "a", 1n)], false],
    ["not when each large one leaves less than the others ask for", [demand(2, "dD", 3n), demand(1, "dD", 2n)], false],
    ["when they take nothing", [demand(99, "a", 0n)], true],
  ])("%s", (_, demands, answer) => {
    expect(canHold(demands, left)).toBe(answer);
  });

  test("of which each takes at least the least of what the devices ask", () => {
    const shares = [
      new Map([
        ["lanes", 3n],
        ["memory", 5n],
      ]),
      new Map([["lanes", 2n]]),
    ];
    expect([...leastAmounts(shares)]).toEqual([
      ["lanes", 2n],
      ["memory", 0n],
    ]);
    expect([...leastAmounts([])]).toEqual([]);
  });
});
