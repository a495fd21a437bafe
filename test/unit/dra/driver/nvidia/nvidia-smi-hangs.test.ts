import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { readNvidiaSmi, setTimeSlice } from "../../../../../src/dra/driver/nvidia/nvidia-smi.ts";

/** A program that hangs in the kernel: no signal ends it, so nobody hears that it ended before the test says so. */
const runs: PromiseWithResolvers<{ stdout: string }>[] = [];
vi.mock("node:child_process", () => ({
  execFile: Object.assign(() => undefined, {
    [promisify.custom]() {
      const run = Promise.withResolvers<{ stdout: string }>();
      runs.push(run);
      return run.promise;
    },
  }),
}));

const limitMs = 30_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("a program that no signal ends is not waited for, as all claims of the node would wait; it gets no second one beside it", async () => {
  const hangs = "nvidia-smi was killed after 30 s and does not end: it hangs in the kernel";
  const told = readNvidiaSmi("nvidia-smi", limitMs).catch((error: Error) => error.message);
  await vi.advanceTimersByTimeAsync(2 * limitMs);
  expect(await told).toBe(hangs);
  await expect(setTimeSlice("nvidia-smi", limitMs, "GPU-1", "Long")).rejects.toThrow(hangs);
  expect(runs).toHaveLength(1);
  runs[0]?.reject(new Error("killed"));
  await vi.advanceTimersByTimeAsync(0);
  const set = setTimeSlice("nvidia-smi", limitMs, "GPU-1", "Long");
  runs[1]?.resolve({ stdout: "" });
  await set;
});
