import { describe, expect, test } from "vitest";
import { isRefusal, withOutlook } from "../../../src/gang/outlook-text.ts";

describe("a refusal with what would make room", () => {
  test("is said in whole sentences", () => {
    expect(withOutlook("no room", [])).toBe("no room");
    expect(withOutlook("no room", ["if gang a leaves", "if 1 node returns"])).toBe(
      "no room; it would fit if gang a leaves; it would fit if 1 node returns",
    );
  });

  test("is as long as an event may be: sentences that do not fit are left out, the refusal never is", () => {
    const long = (length: number) => `if gang ${"x".repeat(length)} leaves`;
    const text = withOutlook("no room", [long(200), long(700), long(253)]);
    expect(text).toBe(`no room; it would fit ${long(200)}; it would fit ${long(700)}`);
    expect(withOutlook("m".repeat(1_100), [long(1)])).toHaveLength(1_100);
  });

  test("is told from other refusals that begin alike", () => {
    expect(isRefusal("no room", "no room")).toBe(true);
    expect(isRefusal(withOutlook("no room", ["if gang a leaves"]), "no room")).toBe(true);
    expect(isRefusal("no room; draining rack r7: waits for 1 gang to leave", "no room")).toBe(false);
    expect(isRefusal("no room at all", "no room")).toBe(false);
  });
});
