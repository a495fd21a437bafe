import { watch } from "node:fs";
import { basename, dirname } from "node:path";
import { z } from "zod";
import { type OnEffect, readIfThere, replaceFile } from "../dra/driver/durable-files.ts";
import { makeFolder } from "../dra/driver/folders.ts";
import type { Gpu, Inventory } from "../dra/driver/inventory.ts";
import type { Machine } from "../dra/driver/machine.ts";
import { type BoardState, simulatedBoards } from "./boards.ts";

/**
 * A simulated machine for the real driver. What a board remembers while the driver is down, its partitions and its faults,
 * stands in a file; whoever edits `losses` there breaks devices.
 */

const hardwareState = z.strictObject({
  instances: z.array(
    z.strictObject({
      gpu: z.string(),
      id: z.int(),
      profileId: z.int(),
      start: z.int(),
      size: z.int(),
      uuid: z.string().exactOptional(),
    }),
  ),
  /** Device name → how it is lost. */
  losses: z.record(z.string(), z.strictObject({ how: z.enum(["taint", "remove"]), since: z.iso.datetime() })),
  /** GPU → how long a program has it, where that is not as usual. */
  timeSlices: z.record(z.string(), z.enum(["Short", "Medium", "Long"])).exactOptional(),
});
type HardwareState = BoardState & Pick<z.output<typeof hardwareState>, "losses">;

/** Rejects when the file cannot be read; the message names it and says what to do. */
export async function openSimulatedMachine(gpus: readonly Gpu[], file: string, onEffect: OnEffect): Promise<Machine> {
  await makeFolder(dirname(file), 0o700);
  let state = await readState(file);
  const listeners = new Set<() => void>();
  // The folder, not the file: a file that is replaced is another one.
  const watcher = watch(dirname(file), (_, name) => {
    if (name === basename(file)) void reread();
  });

  async function reread(): Promise<void> {
    const before = JSON.stringify(state.losses);
    // An edit that makes no sense, or is half done, changes nothing.
    state = await readState(file).catch(() => state);
    if (JSON.stringify(state.losses) !== before) for (const listener of listeners) listener();
  }

  const boards = simulatedBoards(gpus, {
    read: () => readState(file),
    async update(step, change) {
      const now = await readState(file);
      state = { ...now, ...change(now) };
      await replaceFile(file, `${JSON.stringify(state)}\n`, { durable: false, onEffect: () => undefined });
      onEffect(`board/${step}`);
    },
  });

  return {
    inventory: (): Inventory => ({ gpus, losses: state.losses }),
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    ...boards,
    close: async () => watcher.close(),
  };
}

async function readState(file: string): Promise<HardwareState> {
  const bytes = await readIfThere(file);
  if (bytes === undefined) return { instances: [], losses: {} };
  try {
    return hardwareState.parse(JSON.parse(bytes.toString("utf8")));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message;
    throw new Error(`${file}: ${why}; correct or remove it`);
  }
}
