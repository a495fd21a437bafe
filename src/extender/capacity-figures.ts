import { setImmediate as nextTurn } from "node:timers/promises";
import type { FreeDevices } from "../api/capacity.ts";
import { fitCache } from "../gang/fit.ts";
import type { Waste } from "../gang/fragmentation.ts";
import { freeDevices } from "../gang/free-devices.ts";
import { expectedWorkload } from "../gang/workload.ts";
import type { ClusterModel } from "../topology/model.ts";

/** What is free, and what of it is worth little. */
export interface CapacityFigures {
  readonly free: readonly FreeDevices[];
  /** Over all nodes, for the mix of pods that the cluster has; undefined: it has none with devices. */
  readonly waste: Waste | undefined;
}

/** Counting may not hold the event loop for longer than this before others get their turn. */
const sliceMs = 10;
/** Turns after which it is given up: nodes change faster than they are counted. */
const maxTurns = 1_000;

/**
 * Counts in slices, with the planner's own work between them; later calls look at changed nodes only.
 * @returns undefined: given up
 */
export async function capacityFigures(model: ClusterModel, nowMs: () => number): Promise<CapacityFigures | undefined> {
  for (let turn = 0; turn < maxTurns; turn++) {
    const startMs = nowMs();
    const inTime = (): boolean => nowMs() - startMs <= sliceMs;
    const free = freeDevices(model.view, inTime);
    const waste = free && wasteOf(model, inTime);
    if (free !== undefined && waste !== "later") return { free, waste };
    await nextTurn();
  }
  return undefined;
}

function wasteOf(model: ClusterModel, inTime: () => boolean): Waste | "later" | undefined {
  const cache = fitCache(model);
  cache.expect(expectedWorkload(model));
  const fragmentation = cache.fragmentation();
  if (fragmentation === undefined) return undefined;
  const sum = { free: 0, fragments: 0, stranded: 0 };
  for (const [index, node] of model.view.nodes.entries()) {
    if (node === undefined || !node.record.ready || node.record.unschedulable) continue;
    const { free, fragments, stranded } = fragmentation.waste(index);
    sum.free += free;
    sum.fragments += fragments;
    sum.stranded += stranded;
    // What was counted is remembered: the next turn gets further.
    if (index % 64 === 63 && !inTime()) return "later";
  }
  return sum;
}
