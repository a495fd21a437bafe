import { expect, test } from "vitest";
import { brokenText, runLine } from "../../simulation/report.ts";
import type { Run } from "../../simulation/world.ts";

const violation = { invariant: "nothing is leaked", message: "", step: 1, tail: [], state: [] };
const run = (seed: number, more: Partial<Run> = {}): Run => ({
  seed,
  preemption: false,
  hash: "abc",
  steps: 7,
  seconds: 3,
  ...more,
});

test("a world is told in one line, with the invariant that it broke", () => {
  expect(runLine(run(4))).toBe("seed 4  trace abc  7 events  3 s");
  expect(runLine(run(4, { violation }))).toBe("seed 4  trace abc  7 events  3 s  BROKEN: nothing is leaked");
});

test("the last line names the broken seeds in order", () => {
  expect(brokenText([])).toBe("0 broken");
  expect(brokenText([run(12), run(4)])).toBe("2 broken: 4, 12");
});
