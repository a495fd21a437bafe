import { expect, test } from "vitest";
import { whenReachable } from "../../../src/cli/service.ts";
import { KubeError } from "../../../src/kube/client.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

const quiet = { warn: () => undefined };
const refusal = (status: number, retryAfterMs?: number) =>
  new KubeError(`HTTP ${status}`, { status, reason: "", ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });

/** Asks an API server that answers with these errors, the last one for ever, until it does not. */
function ask(errors: (KubeError | undefined)[]) {
  const timing = createVirtualTiming();
  const asked: number[] = [];
  const result: { answer?: string; error?: unknown } = {};
  const once = async (): Promise<string> => {
    asked.push(timing.nowMs() - 1_000);
    const error = errors.length > 1 ? errors.shift() : errors[0];
    if (error !== undefined) throw error;
    return "answer";
  };
  void whenReachable(quiet as never, once, timing).then(
    (answer) => Object.assign(result, { answer }),
    (error: unknown) => Object.assign(result, { error }),
  );
  return { timing, asked, result };
}

test("an API server that is away, starts or is overloaded is asked again, as late as it says", async () => {
  const { timing, asked, result } = ask([
    refusal(0),
    refusal(503),
    refusal(403),
    refusal(401),
    refusal(429, 5_000),
    undefined,
  ]);
  await timing.advance(60_000);
  expect(result).toEqual({ answer: "answer" });
  expect(asked).toEqual([0, 1_000, 2_000, 3_000, 4_000, 9_000]);
});

test("an account without rights is told so after half a minute", async () => {
  const { timing, asked, result } = ask([refusal(0), refusal(403)]);
  await timing.advance(120_000);
  expect(result.error).toMatchObject({ status: 403 });
  expect(asked.at(-1)).toBe(31_000);
});

test("any other refusal is an answer", async () => {
  const { timing, asked, result } = ask([refusal(404)]);
  await timing.advance(0);
  expect([asked, result.error]).toEqual([[0], expect.objectContaining({ status: 404 })]);
});
