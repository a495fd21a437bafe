import { EventEmitter } from "node:events";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openNvmlProcess } from "../../../../../src/dra/driver/nvidia/nvml-process.ts";

/** NVML's process as its parent sees it, without NVML: its messages come when the test says so. */

const children: EventEmitter[] = [];
vi.mock("node:child_process", () => ({
  fork() {
    const send = (_question: object, sent: (error: null) => void): void => sent(null);
    const child = Object.assign(new EventEmitter(), { pid: 7, send, kill: () => true });
    children.push(child);
    return child;
  },
}));

const limitMs = 30_000;
/** After a call that hung. */
const restMs = limitMs / 2;

beforeEach(() => {
  children.length = 0;
  vi.useFakeTimers();
});
afterEach(() => void vi.useRealTimers());

test("an answer that was on its way when its process was given up answers no other question", async () => {
  const heard: number[] = [];
  const onEvent = (_gpu: string, xid: number): void => void heard.push(xid);
  const nvml = openNvmlProcess({ library: "", lockFile: "", limitMs, onEvent });
  const first = nvml.ask("instances", { gpu: "g" }).catch((error: Error) => error.message);
  await vi.advanceTimersByTimeAsync(limitMs);
  expect(await first).toContain("did not answer instances within 30 s");
  children[0]?.emit("exit", null, "SIGKILL");
  await vi.advanceTimersByTimeAsync(restMs);
  const second = nvml.ask("createGpuInstance", { gpu: "g", profileId: 19, start: 0 });
  await vi.advanceTimersByTimeAsync(0);
  const [old, young] = children;
  old?.emit("message", { type: "event", gpu: "g", xid: 79 });
  old?.emit("message", { type: "answer", answer: [] });
  old?.emit("message", { type: "failed", message: "too late", refused: true });
  young?.emit("message", { type: "answer", answer: 7 });
  expect([await second, heard]).toEqual([7, [79]]);
});

test("a process that hangs in the kernel, where no signal reaches it, gets no second one beside it", async () => {
  const nvml = openNvmlProcess({ library: "", lockFile: "", limitMs, onEvent: () => undefined });
  const told: string[] = [];
  for (let index = 0; index < 3; index++) {
    void nvml.ask("read", {}).catch((error: Error) => told.push(error.message));
    await vi.advanceTimersByTimeAsync(limitMs + restMs);
  }
  const stuck = "NVML's process 7 was killed and does not end: it hangs in the kernel; restart the machine if it stays";
  expect(told).toEqual([expect.stringContaining("did not answer read within 30 s"), stuck, stuck]);
  expect(children).toHaveLength(1);
  const instances = nvml.ask("instances", { gpu: "g" });
  children[0]?.emit("exit", null, "SIGKILL");
  await vi.advanceTimersByTimeAsync(0);
  children[1]?.emit("message", { type: "answer", answer: [] });
  expect(await instances).toEqual([]);
});

test("a driver that ends does not wait for a process that hangs in the kernel", async () => {
  const nvml = openNvmlProcess({ library: "", lockFile: "", limitMs, onEvent: () => undefined });
  const ask = () => nvml.ask("read", {}).catch((error: Error) => error.message);
  const told = [ask()];
  await vi.advanceTimersByTimeAsync(limitMs + restMs);
  told.push(ask());
  await vi.advanceTimersByTimeAsync(0);
  await nvml.close();
  expect(await Promise.all(told)).toEqual([expect.stringContaining("did not answer"), "the driver is being stopped"]);
});

test("after a call that hung nothing is asked for a while: whoever has eight boards to ask does not wait for each of them", async () => {
  const nvml = openNvmlProcess({ library: "", lockFile: "", limitMs, onEvent: () => undefined });
  const told: string[] = [];
  const boards = Array.from({ length: 8 }, (_, index) => nvml.ask("instances", { gpu: `g${index}` }));
  for (const board of boards) board.catch((error: Error) => told.push(error.message));
  await vi.advanceTimersByTimeAsync(limitMs);
  const later = "NVML did not answer instances within 30 s; it is asked again in 15 s";
  expect(told).toEqual(Array(8).fill(later));
  children[0]?.emit("exit", null, "SIGKILL");
  await vi.advanceTimersByTimeAsync(restMs - 1);
  await expect(nvml.ask("instances", { gpu: "g" })).rejects.toThrow("it is asked again in 1 s");
  await vi.advanceTimersByTimeAsync(1);
  const instances = nvml.ask("instances", { gpu: "g" });
  await vi.advanceTimersByTimeAsync(0);
  children[1]?.emit("message", { type: "answer", answer: [] });
  expect(await instances).toEqual([]);
});
