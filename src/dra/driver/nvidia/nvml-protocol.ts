import type { MigInstanceReading, Reading } from "./reading.ts";

/** What NVML's process is asked, one at a time, and what it answers. */
export interface NvmlCalls {
  read: { ask: object; answer: Reading };
  instances: { ask: { gpu: string }; answer: MigInstanceReading[] };
  createGpuInstance: { ask: { gpu: string; profileId: number; start: number }; answer: number };
  createComputeInstance: { ask: { gpu: string; gpuInstance: number }; answer: { id: number; uuid: string } };
  destroyGpuInstance: { ask: { gpu: string; gpuInstance: number }; answer: null };
}

export type NvmlQuestion = { [C in keyof NvmlCalls]: { call: C } & NvmlCalls[C]["ask"] }[keyof NvmlCalls];

export type NvmlMessage =
  | { type: "answer"; answer: unknown }
  /** `refused`: the board was asked to make something, and said no. */
  | { type: "failed"; message: string; refused: boolean }
  /** Something happened to a board; `xid` 0: an uncorrectable memory error. */
  | { type: "event"; gpu: string; xid: number };
