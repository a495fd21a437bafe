import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createReleaseWindow } from "../../../src/gang/lifecycle/release-window.ts";

const patienceMs = 30_000;
const byName = (a: string, b: string): number => (a < b ? -1 : 1);

describe("the release window", () => {
  test("lets gangs in while they fit, and the rest wait in line", () => {
    const window = createReleaseWindow(64, patienceMs);
    expect(window.request("a", 40, [], 0)).toBe(true);
    expect(window.request("b", 24, [], 0)).toBe(true);
    expect(window.request("c", 1, [], 0)).toBe(false);
    expect(window.admit(byName, 0)).toEqual([]);
    expect(window.stats(0)).toEqual({ pods: 64, waiting: 1 });
  });

  test("lets the next in as members are bound, in the order given and not in that of asking", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.request("first", 4, [], 0);
    for (const key of ["c", "b", "a"]) window.request(key, 2, [], 0);
    window.occupy("first", 2, 10);
    expect(window.admit(byName, 10)).toEqual(["a"]);
    window.occupy("first", 0, 20);
    expect(window.admit(byName, 20)).toEqual(["b"]);
    expect(window.request("b", 2, [], 20)).toBe(true);
  });

  test("takes a gang larger than itself once it is empty, and nobody overtakes that gang", () => {
    const window = createReleaseWindow(64, patienceMs);
    window.request("small", 2, [], 0);
    expect(window.request("large", 2_000, [], 0)).toBe(false);
    expect(window.request("later", 2, [], 0)).toBe(false);
    expect(window.admit((a) => (a === "large" ? -1 : 1), 0)).toEqual([]);
    window.occupy("small", 0, 1);
    expect(window.admit((a) => (a === "large" ? -1 : 1), 1)).toEqual(["large"]);
  });

  test("a gang that cannot be bound holds others up for 30 s and no longer", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.request("stuck", 4, [], 1_000);
    window.request("next", 4, [], 2_000);
    expect(window.nextMs(2_000)).toBe(1_000 + patienceMs);
    expect(window.admit(byName, 30_999)).toEqual([]);
    expect(window.admit(byName, 31_000)).toEqual(["next"]);
    expect(window.nextMs(31_000)).toBe(Number.POSITIVE_INFINITY);
  });

  test("gangs that commit together enter together: one alone would wait for the others at the barrier", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.request("prefill", 4, ["prefill", "decode"], 0);
    window.request("stranger", 1, [], 0);
    expect(window.request("decode", 4, ["prefill", "decode"], 0)).toBe(true);
    expect(window.stats(0)).toEqual({ pods: 8, waiting: 1 });
  });

  test("a gang whose members return one after another enters with each of them", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.request("team/other", 2, [], 0);
    expect([1, 2, 3].map((pods) => window.request("team/running", pods, [], pods))).toEqual([true, true, false]);
    expect(window.request("team/later", 1, [], 4)).toBe(false);
    window.occupy("team/running", 2, 5);
    window.occupy("team/other", 1, 5);
    expect(window.admit(() => 0, 5)).toEqual(["team/running"]);
    expect(window.request("team/running", 3, [], 5)).toBe(true);
    window.occupy("team/running", 0, 6);
    expect(window.admit(() => 0, 6)).toEqual(["team/later"]);
  });

  test("after a restart, what was released before counts", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.occupy("before", 3, 0);
    expect(window.request("next", 2, [], 0)).toBe(false);
  });

  test("gangs that come back again and again to be refused keep no other out", () => {
    const window = createReleaseWindow(64, patienceMs);
    const stuck = ["a", "b", "c", "d", "e", "f"];
    // Let in one after another, refused, and reserved again later: their members were let go the first time.
    for (const [index, key] of stuck.entries()) {
      const startMs = index * patienceMs;
      window.request(key, 64, [], startMs);
      window.occupy(key, 64, startMs);
      window.occupy(key, 0, startMs + 15_000);
    }
    const nowMs = stuck.length * patienceMs;
    for (const key of stuck) window.occupy(key, 64, nowMs, true);
    expect(window.request("young", 64, [], nowMs)).toBe(true);
  });

  test("of gangs that are alike who stands in line for longest comes first, however old", () => {
    const window = createReleaseWindow(4, patienceMs);
    const alike = () => 0;
    window.request("old", 4, [], 0);
    window.request("young", 4, [], 1);
    window.occupy("old", 0, 2);
    window.request("old", 4, [], 3);
    expect(window.admit(alike, 3)).toEqual(["young"]);
  });

  test("namespaces take turns: a hundred gangs of one that are never bound keep one of another waiting for one of them", () => {
    const window = createReleaseWindow(64, patienceMs);
    const alike = (): number => 0;
    const flood = Array.from({ length: 100 }, (_, index) => `noisy/g${index}`);
    for (const key of flood) window.request(key, 64, [], 0);
    expect(window.request("quiet/g", 4, [], 1)).toBe(false);
    expect(window.admit(alike, patienceMs)).toEqual(["quiet/g"]);
    window.occupy("quiet/g", 0, patienceMs);
    // Of one namespace who stands in line for longest comes first, and a higher priority before any turn.
    expect(window.admit(alike, patienceMs)).toEqual(["noisy/g1"]);
    window.request("quiet/g", 64, [], patienceMs);
    window.occupy("noisy/g1", 0, patienceMs);
    const higher = (a: string, b: string): number => Number(b === "noisy/g7") - Number(a === "noisy/g7");
    expect(window.admit(higher, patienceMs)).toEqual(["noisy/g7"]);
  });

  test("a gang that gives up its place in line holds up nobody", () => {
    const window = createReleaseWindow(4, patienceMs);
    window.request("inside", 3, [], 0);
    window.request("revoked", 4, [], 0);
    window.request("next", 1, [], 0);
    window.withdraw("revoked");
    expect(window.admit((a, b) => -byName(a, b), 0)).toEqual(["next"]);
  });

  test("never holds more than its limit or one gang, and everybody gets in", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(sizes, fc.infiniteStream(fc.nat(100)), (gangs, dice) => {
        const window = createReleaseWindow(8, patienceMs);
        const inside = new Map<string, number>();
        const done = new Set<string>();
        const enter = (key: string): void => {
          inside.set(key, gangs[Number(key)] ?? 0);
          const total = [...inside.values()].reduce((sum, pods) => sum + pods, 0);
          expect(total <= 8 || inside.size === 1).toBe(true);
        };
        for (const [index, pods] of gangs.entries()) if (window.request(`${index}`, pods, [], 0)) enter(`${index}`);
        for (let turn = 0; done.size < gangs.length; turn++) {
          expect(turn).toBeLessThan(1_000);
          const keys = [...inside.keys()];
          const key = keys[(dice.next().value ?? 0) % keys.length] ?? "";
          const left = (inside.get(key) ?? 0) - 1;
          window.occupy(key, left, turn);
          if (left === 0) {
            inside.delete(key);
            done.add(key);
          } else inside.set(key, left);
          for (const admitted of window.admit((a, b) => Number(a) - Number(b), turn)) enter(admitted);
        }
      }),
    );
  });
});
