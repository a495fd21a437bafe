import { schedulingGroup, version } from "../../api/names.ts";
import type { KubeClient } from "../../kube/client.ts";
import { type ResourceLocation, resourcePath } from "../../kube/paths.ts";
import { projectGang, projectPod } from "../../kube/project.ts";
import { createReflector, type Reflector } from "../../kube/reflector.ts";
import type { SearchStats } from "../placements.ts";
import { sumSeries } from "../system/metrics.ts";
import { type Expected, type Progressed, progressOf } from "./expected.ts";

const core = (resource: string): ResourceLocation => ({ group: "", version: "v1", resource });
const ours = (resource: string): ResourceLocation => ({ group: schedulingGroup, version, resource });

/**
 * Watches gangs and pods until everything expected is placed and ready. Calls `onProgress` whenever another gang is
 * scheduled. Resolves with what is lacking when the signal aborts first.
 */
export async function watchUntilReady(
  client: KubeClient,
  expected: Expected,
  onProgress: (progressed: Progressed) => void,
  signal: AbortSignal,
): Promise<Progressed> {
  const watched: Reflector<unknown>[] = [];
  const done = Promise.withResolvers<Progressed>();
  let before = 0;
  const look = (): Progressed => {
    const progressed = progressOf(expected, gangs.items.values(), pods.items.values());
    if (!watched.every((reflector) => reflector.synced)) return progressed;
    const { gangsScheduled, reasons } = progressed;
    if (gangsScheduled > before || reasons.length === 0) onProgress(progressed);
    before = gangsScheduled;
    if (reasons.length === 0) done.resolve(progressed);
    return progressed;
  };
  const watch = <R, T>(location: ResourceLocation, project: (raw: R) => T): Reflector<T> => {
    const reflector = createReflector<R, T>({
      client,
      path: resourcePath(location),
      name: location.resource,
      project,
      onChange: () => void look(),
      onError: (error, fatal) => fatal && done.reject(error),
    });
    watched.push(reflector);
    return reflector;
  };
  const gangs = watch(ours("gangs"), projectGang);
  const pods = watch(core("pods"), projectPod);
  const giveUp = (): void => done.resolve(look());
  signal.addEventListener("abort", giveUp);
  for (const reflector of watched) reflector.start();
  try {
    return await done.promise;
  } finally {
    signal.removeEventListener("abort", giveUp);
    await Promise.all(watched.map((reflector) => reflector.stop()));
  }
}

/** What the planner's metrics tell of its search. */
export function searchStats(metrics: string): SearchStats {
  const sum = (name: string, label?: string): number => sumSeries(metrics, name, label);
  return {
    planMs: Math.round(sum("kllama_gang_plan_duration_seconds_sum") * 1e6) / 1000,
    explored: sum("kllama_gang_plan_explored_total"),
    budgetExceeded:
      sum("kllama_gang_plans_total", 'reason="BudgetExceeded"') + sum("kllama_gang_plan_budget_exceeded_total") > 0,
  };
}
