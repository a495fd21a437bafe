import { EventEmitter } from "node:events";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openNvmlProcess } from "../../../../../src/dra/driver/nvidia/nvml-process.ts";

/** NVML's process as its parent sees it, without NVML: its messages come when the test says so. */

const children: EventEmitter[] = [];
vi.mock("node:child_process", () => ({
  fork() {
    const send = (_question: object, sent: (error: null) => void): void => sent(null);
    const child = Object.assign(new EventEmitter(), { send, kill: () => true });
    children.push(child);
    return child;
  },
}));

const limitMs = 30_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("an answer that was on its way when its process was given up answers no other question", async () => {
  const heard: number[] = [];
  const onEvent = (_gpu: string, xid: number): void => void heard.push(xid);
  const nvml = openNvmlProcess({ library: "", lockFile: "", limitMs, onEvent });
  const first = nvml.ask("instances", { gpu: "g" }).catch((error: Error) => error.message);
  await vi.advanceTimersByTimeAsync(limitMs);
  expect(await first).toContain("did not answer instances within 30 s");
  const second = nvml.ask("createGpuInstance", { gpu: "g", profileId: 19, start: 0 });
  await vi.advanceTimersByTimeAsync(0);
  const [old, young] = children;
  old?.emit("message", { type: "event", gpu: "g", xid: 79 });
  old?.emit("message", { type: "answer", answer: [] });
  old?.emit("message", { type: "failed", message: "too late", refused: true });
  young?.emit("message", { type: "answer", answer: 7 });
  expect([await second, heard]).toEqual([7, [79]]);
});
