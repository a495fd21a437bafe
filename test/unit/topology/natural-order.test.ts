import fc from "fast-check";
import { expect, test } from "vitest";
import { compareNatural, comparePlain, naturalKey } from "../../../src/topology/natural-order.ts";

test("numbers in names count as numbers, and names that differ by zeros alone are told apart", () => {
  const names = ["w-10", "w-2", "a1", "w-2b", "a01", "w", "w-2a", "a1-9", "a1-10"];
  expect(names.toSorted(compareNatural)).toEqual(["a01", "a1", "a1-9", "a1-10", "w", "w-2", "w-2a", "w-2b", "w-10"]);
});

test("compares as padded keys do, then as the names, although it mostly makes none", () => {
  const part = fc.oneof(
    fc.constantFrom("a", "b", "-", "."),
    fc.stringMatching(/^[019]{1,3}$/),
    fc.stringMatching(/^\d{15,18}$/),
  );
  const tail = fc.array(part, { maxLength: 4 }).map((parts) => parts.join(""));
  fc.assert(
    fc.property(tail, tail, tail, (start, one, other) => {
      const [a, b] = [start + one, start + other];
      const byKeys = comparePlain(naturalKey(a), naturalKey(b)) || comparePlain(a, b);
      expect(compareNatural(a, b)).toBe(byKeys);
    }),
    { numRuns: 2_000 },
  );
});
