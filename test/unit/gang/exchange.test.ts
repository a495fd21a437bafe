import { describe, expect, it } from "vitest";
import { exchanges } from "../../../src/gang/exchange.ts";
import type { PreparedUnit } from "../../../src/gang/prepare.ts";
import type { Problem } from "../../../src/gang/problem.ts";
import type { Traffic } from "../../../src/gang/traffic.ts";

/** Gangs of one pod each, by what tells them apart; pods of `running` have a place already. */
function scene(kinds: readonly string[], running: readonly number[] = [], sliced: readonly number[] = []) {
  const table = {};
  const unit = {
    gangs: kinds.map((kind) => ({ role: kind, request: { spec: { podSets: [{ name: kind, count: 1 }] } } })),
  } as unknown as PreparedUnit;
  const problem = {
    slots: kinds.map((_, gang) => ({ gang, podSet: "ranks", index: 0 })),
    tables: kinds.map(() => table),
    pins: running.map((gang) => ({ gang })),
  } as unknown as Problem;
  const stream = (from: number, to: number) =>
    ({ parties: [from, to], label: "pairing 0", class: `${from}>${to}` }) as unknown as Traffic;
  const of = (kind: string) => [...kinds.keys()].filter((gang) => kinds[gang] === kind);
  const traffic = of("prefill").flatMap((from) => of("decode").map((to) => stream(from, to)));
  for (const gang of sliced) {
    for (const label of ["slice 0", "slice 1"]) {
      traffic.push({ parties: [gang], label, class: `${gang}/ranks` } as unknown as Traffic);
    }
  }
  return { ways: exchanges(unit, problem, traffic, new Map()), traffic };
}

describe("gangs that are alike", () => {
  it("may be exchanged in all ways that keep their roles", () => {
    const { ways, traffic } = scene(["prefill", "decode", "prefill", "decode", "prefill"]);
    expect(ways.length).toBe(6 * 2);
    expect(new Set(ways.map(String)).size).toBe(6 * 2);
    for (const way of ways) expect([...way].sort((a, b) => a - b)).toEqual([...traffic.keys()]);
  });

  it("come first as they are", () => {
    const { ways, traffic } = scene(["prefill", "prefill", "decode"]);
    expect(ways[0]).toEqual([...traffic.keys()]);
  });

  it("are like no other once they have pods that run", () => {
    expect(scene(["prefill", "prefill", "decode", "decode"], [0]).ways.length).toBe(2);
  });

  it("are like no other where they have slices that are alike", () => {
    expect(scene(["prefill", "prefill", "decode", "decode"], [], [2, 3]).ways.length).toBe(2);
  });

  it("are exchanged in some ways only when there are many", () => {
    const { ways } = scene([...Array(8).fill("prefill"), ...Array(8).fill("decode")]);
    expect(ways.length).toBeGreaterThan(1);
    expect(ways.length).toBeLessThanOrEqual(144);
    expect(new Set(ways.map(String)).size).toBe(ways.length);
  });
});
