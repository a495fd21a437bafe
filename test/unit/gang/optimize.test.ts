import { describe, expect, it } from "vitest";
import { instanceOf, sceneOf } from "../../../bench/mid-size.ts";
import { plan } from "../../../src/gang/plan.ts";
import { createRandom } from "../../simulation/random.ts";

/**
 * Instances of `npm run bench -- exact`, whose least cost HiGHS has proved. Each needs a placement that branch and bound
 * does not meet first, and has choices of which it takes long to prove that nothing keeps them.
 */
describe("traffic that could be cheaper", () => {
  it.each([
    { seed: 8, leastMs: 200.86, lesson: "one hard question does not take the steps of all others" },
    { seed: 9, leastMs: 241.98, lesson: "keeping everything close comes first" },
    { seed: 65, leastMs: 192.85, lesson: "one or two gangs move at a time" },
    { seed: 74, leastMs: 480.65, lesson: "which of the gangs that are alike is which is asked once" },
  ])("is found on instance $seed: $lesson", ({ seed, leastMs }) => {
    const { model, unit } = sceneOf(instanceOf("pdSets", createRandom(seed)));
    const result = plan(model, unit);
    const costs = "plans" in result ? result.plans.map(({ placement }) => placement.cost.totalMs) : [];
    expect(costs.length).toBe(unit.gangs.length);
    expect(costs.reduce((sum, cost) => sum + cost, 0)).toBeCloseTo(leastMs, 1);
  });
});
