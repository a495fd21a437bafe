import type { AddressInfo } from "node:net";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import type { CapacityFigures } from "./capacity-figures.ts";
import { holdEarlyCalls } from "./early-calls.ts";
import { type Engine, type EngineOptions, startEngine } from "./engine.ts";
import { createPlannerMetrics, type PlannerMetrics } from "./metrics.ts";
import { buildServer, type ServerOptions } from "./server.ts";

export interface PlannerOptions extends ServerOptions, Omit<EngineOptions, "metrics" | "log"> {
  log: Logger;
  listen: { host: string; port: number };
}

export interface Planner {
  url: string;
  /** Resolves once this replica leads and decides. */
  active: Promise<void>;
  metrics: PlannerMetrics;
  stop(): Promise<void>;
}

/** Starts watching, serving and electing; plans once the Lease is held and every kind is synced. */
export async function startPlanner(options: PlannerOptions): Promise<Planner> {
  const { log } = options;
  const metrics = createPlannerMetrics();
  const engine = startEngine({ ...options, metrics });
  const app = buildServer(holdEarlyCalls(engine.backend, engine.active, options.timing), metrics, {
    ...options,
    onError: (error) => log.error({ error: error.stack }, "a request failed"),
  });
  gauges(metrics, engine);
  await app.listen(options.listen);
  engine.elect();
  return {
    url: urlOf(app, options),
    active: engine.active,
    metrics,
    async stop() {
      engine.refuseCalls();
      await app.close();
      await engine.stop();
    },
  };
}

function urlOf(app: FastifyInstance, options: PlannerOptions): string {
  const address = app.server.address() as AddressInfo;
  const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return `${options.tls === undefined ? "http" : "https"}://${host}:${address.port}`;
}

function gauges(metrics: PlannerMetrics, engine: Engine): void {
  const collect = (): void => {
    const { gangs, arrivals, draining, released, awaitingRelease } = engine.stats();
    metrics.gangs.set(gangs);
    metrics.arrivals.set(arrivals);
    metrics.releasedPods.set(released);
    metrics.awaitingRelease.set(awaitingRelease);
    metrics.draining.set(draining);
    for (const [kind, staleMs] of engine.staleMs()) metrics.staleSeconds.set({ kind }, staleMs / 1000);
  };
  Object.assign(metrics.gangs, { collect });
  // One count for the gauges of one scrape, which are collected beside one another.
  let showing: Promise<void> | undefined;
  const show = async (): Promise<void> => {
    try {
      showCapacity(metrics, await engine.capacity());
    } finally {
      showing = undefined;
    }
  };
  const collectCapacity = async (): Promise<void> => {
    showing ??= show();
    await showing;
  };
  const { freeDevices, largestFreeDomain, fragmentation, strandedDevices } = metrics;
  for (const gauge of [freeDevices, largestFreeDomain, fragmentation, strandedDevices]) {
    Object.assign(gauge, { collect: collectCapacity });
  }
}

/** More rows than this are no metrics any more: partitions of many boards, classes of many teams. */
const maxRows = 64;

/** What is not known is not shown. */
export function showCapacity(metrics: PlannerMetrics, figures: CapacityFigures | undefined): void {
  const { freeDevices, largestFreeDomain, fragmentation, strandedDevices } = metrics;
  fragmentation.remove();
  strandedDevices.remove();
  freeDevices.reset();
  largestFreeDomain.reset();
  for (const { deviceClass, product, free, levels } of figures?.free.slice(0, maxRows) ?? []) {
    const labels = { device_class: deviceClass, product };
    freeDevices.set(labels, free);
    for (const { level, largest } of levels) largestFreeDomain.set({ level, ...labels }, largest.free);
  }
  if (figures?.waste === undefined) return;
  const { free, fragments, stranded } = figures.waste;
  fragmentation.set(free === 0 ? 0 : fragments / free);
  strandedDevices.set(stranded);
}
