import { expect, test } from "vitest";
import { createBatchQueue } from "../../../../src/dra/driver/batch-queue.ts";

test("neighbours that go together share a batch, batches never overlap, order is kept", async () => {
  const batches: string[] = [];
  let running = 0;
  const queue = createBatchQueue<string>(
    async (batch) => {
      expect(++running).toBe(1);
      batches.push(batch.join(""));
      if (batches.length === 1) for (const late of ["a", "b", "b"]) queue.push(late);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
    },
    (first, next) => first === next && first !== "x",
  );
  for (const job of ["a", "a", "b", "x", "x", "b"]) queue.push(job);
  await queue.idle();
  expect(batches).toEqual(["aa", "b", "x", "x", "b", "a", "bb"]);
  queue.push("b");
  await queue.idle();
  expect(batches.at(-1)).toBe("b");
});
