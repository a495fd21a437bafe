import { describe, expect, test } from "vitest";
import { violationText } from "../simulation/report.ts";
import { runSeed } from "../simulation/world.ts";

/** A slice of `npm run simulate`: always the same worlds, so that a change is judged by what it changed. */
const slices = 4;
const worldsPerSlice = 40;

describe("the planner in simulated clusters", () => {
  for (let slice = 0; slice < slices; slice++) {
    const first = 1 + slice * worldsPerSlice;
    test(`seeds ${first} to ${first + worldsPerSlice - 1} keep every invariant`, async () => {
      for (let seed = first; seed < first + worldsPerSlice; seed++) {
        const run = await runSeed({ seed });
        if (run.violation !== undefined) expect.fail(violationText(run));
      }
    });
  }

  test("worlds in which gangs preempt one another, seeds 15 to 24, keep every invariant", async () => {
    let decisions = 0;
    for (let seed = 15; seed <= 24; seed++) {
      const onTrace = (line: string) => {
        if (/ gangs \S+ by kllama-planner \S+ Preempting/.test(line)) decisions++;
      };
      const run = await runSeed({ seed, preemption: true, onTrace });
      if (run.violation !== undefined) expect.fail(violationText(run));
    }
    expect(decisions).toBeGreaterThan(2);
  });

  test.each([
    [417, "nobody answers kube-scheduler's filter: a fault of the double"],
    [587, "a gang waits for its group's base set, which takes no room that becomes free"],
    [736, "ordinary pods take the node of a member that is away"],
    [1567, "an API server of two that hears of two terms in the wrong order, with other faults"],
    [9688, "the same, with others again"],
    [2381, "members beyond minCount in a group that somebody deleted: a fault of the judge"],
    [6826, "the place that a member gives up, while the write of its new one fails"],
    [410, "surplus of a gang is planned while another gang of its group has no place"],
    [584, "gangs of a group whose time is shorter than kube-scheduler's back-off"],
    [938, "a watch that waits for silence, whose two sums of time round differently"],
    [534, "a member runs on a node whose object was deleted"],
    [921, "a Gang is created again while pods are unknown: a place without its claim"],
    [1054, "the same, once its claim was emptied"],
    [1354, "the same, and the node comes back"],
    [5139, "an API server of two that hears of two terms in the wrong order: a fault of the double"],
    [4911, "a node comes back whose place a member of a running gang has just given up"],
    [6101, "a second restart at rest finds what the first one's trial of a refused place changed"],
    [10446, "a pod is deleted while its kubelet writes that it runs: a fault of the double"],
    [13537, "a running gang loses members, and then its planner"],
    [176, "a planner that does not lead looks for lost events"],
    [3550, "a watch goes on with a Gang whose successor an audit has found"],
    [2220, "a watch begins with a list while events get lost: a fault of the double"],
    [1373, "a watch dies without a word before a storm: a fault of the judge"],
    [3644, "a planner is paused while it writes that a gang is scheduled, until the gang's time is over"],
    [3791, "the oldest gang of a role does not fit, a younger one does"],
    [8804, "kube-scheduler refused a place of a Gang that was deleted and created again, and has the same place"],
    [12123, "of members that wait for places without devices only one is planned"],
    [6793, "somebody strips a reserved claim of its guard, then its gang gives up"],
    [194, "a gang of a group grows and its new members do not come; another one of the group waits beside room"],
    [4981, "a planner begins, and one gang of a group decides before it knows where the others are"],
    [4646, "a gang of a group is edited while the group is committed"],
    [3937, "a gang of a group is planned beside places on nodes that are gone: a fault of the judge"],
    [6400, "a namespace is deleted while kube-scheduler binds a pod that came past the gate"],
  ])("seed %i keeps every invariant: %s", async (seed) => {
    const run = await runSeed({ seed });
    if (run.violation !== undefined) expect.fail(violationText(run));
  });

  test("seeds 201 to 215 keep every invariant where two members are released and not bound at a time", async () => {
    for (let seed = 201; seed <= 215; seed++) {
      const run = await runSeed({ seed, limits: { releasedPods: 2 } });
      if (run.violation !== undefined) expect.fail(violationText(run));
    }
  });

  test("the same seed gives the same trace, another seed another", async () => {
    const hashes = [];
    for (const seed of [7, 8, 7, 8]) hashes.push((await runSeed({ seed })).hash);
    expect(hashes.slice(2)).toEqual(hashes.slice(0, 2));
    expect(hashes[0]).not.toBe(hashes[1]);
  });
});
