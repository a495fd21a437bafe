import { describe, expect, test } from "vitest";
import type { Rejection, RejectionReason } from "../../../src/api/placement.ts";
import {
  firstPlaced,
  type GangSet,
  oldestSet,
  type RefusedSet,
  type RuledOut,
  type Seats,
  triedText,
} from "../../../src/extender/gang-sets.ts";
import { newGangState } from "../../../src/gang/lifecycle/state.ts";
import type { PlanResult } from "../../../src/gang/plan.ts";

const seats = (count: number, ...names: string[]): Seats => ({
  count,
  waiting: names.map((name) => newGangState(`team/${name}`)),
});
const nameOf = (key: string): string => key.slice("team/".length);
const ruled = (...names: string[]): RuledOut => new Set(names.map((name) => `team/${name}`));
const chosen = (roles: readonly Seats[], ...ruledOut: RuledOut[]): string[] | undefined => {
  const set = oldestSet(roles, ruledOut);
  return set && [...set].map(({ key }) => nameOf(key));
};

describe("the oldest set of gangs", () => {
  const roles = [seats(1, "p0", "p1"), seats(2, "d0", "d1", "d2")];

  test("takes the oldest of each role", () => {
    expect(chosen(roles)).toEqual(["p0", "d0", "d1"]);
    expect(chosen([seats(0, "p0"), seats(1, "d0")])).toEqual(["d0"]);
    expect(chosen([])).toEqual([]);
  });

  test("takes the next one for whoever is ruled out, alone or together with another", () => {
    expect(chosen(roles, ruled("d0"))).toEqual(["p0", "d1", "d2"]);
    expect(chosen(roles, ruled("p0"))).toEqual(["p1", "d0", "d1"]);
    expect(chosen(roles, ruled("p0", "d1"))).toEqual(["p0", "d0", "d2"]);
    expect(chosen(roles, ruled("p0", "d0"), ruled("p0", "d1"))).toEqual(["p1", "d0", "d1"]);
    expect(chosen(roles, ruled("d0"), ruled("d1"))).toBeUndefined();
  });

  test("ends its search for one among many that are ruled out", () => {
    const many = Array.from({ length: 60 }, (_, index) => `d${index}`);
    const pairs = many.slice(0, 56).map((name) => ruled(name, "p0"));
    expect(chosen([seats(30, ...many), seats(1, "p0")], ...pairs)).toBeUndefined();
  });
});

describe("sets of gangs that are planned one after the other", () => {
  const roles = [seats(1, "p0"), seats(1, "d0", "d1", "d2")];
  const setOf = (ruledOut: readonly RuledOut[]): GangSet | undefined => {
    const set = oldestSet(roles, ruledOut);
    return set && { unit: { gangs: [] }, keys: [...set].map(({ key }) => key) };
  };
  const rejection = (gang: string, reason: RejectionReason): Rejection => {
    return { gang, namespace: "team", reason, message: reason, blocking: [], counterfactuals: [] };
  };
  /** Gangs that fit nowhere, and the others, which would wait for them. */
  const planner = (...tooLarge: string[]) => {
    const tried: string[] = [];
    const plan = ({ keys }: GangSet): PlanResult => {
      const names = keys.map(nameOf);
      tried.push(names.join("+"));
      if (!names.some((name) => tooLarge.includes(name))) return { plans: [], explored: 0 };
      const reasonOf = (name: string) => (tooLarge.includes(name) ? "InsufficientDevices" : "WaitingForPlacementGroup");
      return { rejections: names.map((name) => rejection(name, reasonOf(name))), explored: 0, budgetExceeded: false };
    };
    return { tried, plan };
  };

  test("end with the oldest that has a place", () => {
    const { tried, plan } = planner();
    expect(firstPlaced(setOf, plan)).toMatchObject({ keys: ["team/p0", "team/d0"] });
    expect(tried).toEqual(["p0+d0"]);
  });

  test("go on with a younger gang for one that does not fit", () => {
    const { tried, plan } = planner("d0", "d1");
    expect(firstPlaced(setOf, plan)).toMatchObject({ keys: ["team/p0", "team/d2"] });
    expect(tried).toEqual(["p0+d0", "p0+d1", "p0+d2"]);
  });

  test("end when nobody else is left, and say who was tried", () => {
    const { tried, plan } = planner("d0", "d1", "d2");
    const refused: RefusedSet[] = [];
    expect(firstPlaced(setOf, plan, refused)).toBeUndefined();
    expect(tried).toHaveLength(3);
    expect(triedText(refused[0]!.keys, refused)).toBe("; nor is there a place with d1, d2 in their stead");
    expect(triedText(refused[0]!.keys, refused.slice(0, 1))).toBe("");
  });

  test("are not tried again for one for which there is nobody else", () => {
    const { tried, plan } = planner("p0");
    expect(firstPlaced(setOf, plan)).toBeUndefined();
    expect(tried).toEqual(["p0+d0"]);
    const alone = planner("g");
    expect(firstPlaced(() => ({ unit: { gangs: [] }, keys: ["team/g"] }), alone.plan)).toBeUndefined();
    expect(alone.tried).toEqual(["g"]);
  });

  test("take one set more in each turn when time is short, none twice", () => {
    const { tried, plan } = planner("d0", "d1");
    const refused: RefusedSet[] = [];
    const turn = () => firstPlaced(setOf, plan, refused, () => false);
    expect([turn(), turn()]).toEqual(["later", "later"]);
    expect(turn()).toMatchObject({ keys: ["team/p0", "team/d2"] });
    expect(tried).toEqual(["p0+d0", "p0+d1", "p0+d2"]);
  });

  test("are sixteen at most", () => {
    const names = Array.from({ length: 40 }, (_, index) => `d${index}`);
    const { tried, plan } = planner(...names);
    const many = [seats(1, ...names)];
    const next = (ruledOut: readonly RuledOut[]): GangSet | undefined => {
      const set = oldestSet(many, ruledOut);
      return set && { unit: { gangs: [] }, keys: [...set].map(({ key }) => key) };
    };
    expect(firstPlaced(next, plan)).toBeUndefined();
    expect(tried).toHaveLength(16);
  });
});
