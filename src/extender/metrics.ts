import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { CoordinatorPorts } from "./ports.ts";

/** The planner's metrics. Labels come from closed sets: never a pod, gang, node or domain. */
export interface PlannerMetrics {
  registry: Registry;
  requestSeconds: Histogram<"verb">;
  requests: Counter<"verb" | "outcome">;
  plans: Counter<"outcome" | "reason">;
  refusedPlans: Counter;
  planSeconds: Histogram<"outcome">;
  explored: Counter;
  budgetExceeded: Counter<"for">;
  writes: Counter<"effect" | "outcome">;
  writeSeconds: Histogram<"effect">;
  gangs: Gauge;
  arrivals: Gauge;
  leader: Gauge;
  bypasses: Counter<"how">;
  releasedPods: Gauge;
  awaitingRelease: Gauge;
  draining: Gauge;
  staleSeconds: Gauge<"kind">;
  invalidObjects: Counter<"kind">;
  audits: Counter<"outcome">;
  drift: Counter<"kind" | "problem">;
  freeDevices: Gauge<"device_class" | "product">;
  largestFreeDomain: Gauge<"level" | "device_class" | "product">;
  fragmentation: Gauge;
  strandedDevices: Gauge;
  reaped: Counter<"outcome">;
  preemptions: Counter;
  victims: Counter<"kind">;
}

export function createPlannerMetrics(): PlannerMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, prefix: "kllama_" });
  const seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
  return {
    registry,
    requestSeconds: new Histogram({
      name: "kllama_extender_request_duration_seconds",
      help: "Time to answer kube-scheduler; bind calls are held until the gang is committed.",
      labelNames: ["verb"],
      buckets: seconds,
      registers,
    }),
    requests: new Counter({
      name: "kllama_extender_requests_total",
      help: "Calls of kube-scheduler by verb and outcome (ok, refused, invalid).",
      labelNames: ["verb", "outcome"],
      registers,
    }),
    plans: new Counter({
      name: "kllama_gang_plans_total",
      help: "Plans by outcome and, for rejections, by reason.",
      labelNames: ["outcome", "reason"],
      registers,
    }),
    refusedPlans: new Counter({
      name: "kllama_gang_plans_refused_total",
      help: "Places that the planner found fit and kube-scheduler refused: the planner judged less than it does.",
      registers,
    }),
    planSeconds: new Histogram({
      name: "kllama_gang_plan_duration_seconds",
      help: "Time of one plan on one snapshot.",
      labelNames: ["outcome"],
      buckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1],
      registers,
    }),
    explored: new Counter({
      name: "kllama_gang_plan_explored_total",
      help: "Search steps of all plans.",
      registers,
    }),
    budgetExceeded: new Counter({
      name: "kllama_gang_plan_budget_exceeded_total",
      help: "Plans that were made though the search used up its budget before it knew whether there is something better, by what for (PreferredRules, Surplus, Traffic, Compactness).",
      labelNames: ["for"],
      registers,
    }),
    writes: new Counter({
      name: "kllama_planner_writes_total",
      help: "Writes to the API server by effect and outcome.",
      labelNames: ["effect", "outcome"],
      registers,
    }),
    writeSeconds: new Histogram({
      name: "kllama_planner_write_duration_seconds",
      help: "Time of one write to the API server.",
      labelNames: ["effect"],
      buckets: seconds,
      registers,
    }),
    gangs: new Gauge({ name: "kllama_gangs", help: "Gangs known.", registers }),
    arrivals: new Gauge({ name: "kllama_barrier_arrivals", help: "Bind calls held at the barrier.", registers }),
    leader: new Gauge({ name: "kllama_planner_leader", help: "1 while this replica plans.", registers }),
    bypasses: new Counter({
      name: "kllama_bypasses_total",
      help: "Pods that came past kllama: ungated (claims on managed devices without the gate), unmarked (a gang's label without the marker resource), bound (a member bound by somebody else).",
      labelNames: ["how"],
      registers,
    }),
    releasedPods: new Gauge({
      name: "kllama_released_pods",
      help: "Members that are released and not yet bound, as the release window counts them.",
      registers,
    }),
    awaitingRelease: new Gauge({
      name: "kllama_gangs_awaiting_release",
      help: "Reserved gangs that wait for room in the release window.",
      registers,
    }),
    draining: new Gauge({
      name: "kllama_draining_gangs",
      help: "Gangs without room for too long: others are kept off the places that they wait for.",
      registers,
    }),
    staleSeconds: new Gauge({
      name: "kllama_store_staleness_seconds",
      help: "Time since the API server was last heard about a kind.",
      labelNames: ["kind"],
      registers,
    }),
    invalidObjects: new Counter({
      name: "kllama_store_invalid_objects_total",
      help: "Objects that could not be read and were left out.",
      labelNames: ["kind"],
      registers,
    }),
    audits: new Counter({
      name: "kllama_audits_total",
      help: "Audits of what is known against fresh lists, by outcome (clean, drift, failed).",
      labelNames: ["outcome"],
      registers,
    }),
    drift: new Counter({
      name: "kllama_audit_drift_total",
      help: "Objects known otherwise than the API server has them, by kind and problem (missing, leftover, differs).",
      labelNames: ["kind", "problem"],
      registers,
    }),
    freeDevices: new Gauge({
      name: "kllama_free_devices",
      help: "Devices that could be given now, by class and product; profiles of one GPU are alternatives.",
      labelNames: ["device_class", "product"],
      registers,
    }),
    largestFreeDomain: new Gauge({
      name: "kllama_largest_free_domain_devices",
      help: "Free devices of the domain that has most of them, by level of the default topology down to hosts, class and product.",
      labelNames: ["level", "device_class", "product"],
      registers,
    }),
    fragmentation: new Gauge({
      name: "kllama_fragmentation_ratio",
      help: "Share of free GPUs that a pod like those of the cluster cannot use on the average: 0 to 1.",
      registers,
    }),
    strandedDevices: new Gauge({
      name: "kllama_stranded_devices",
      help: "Free GPUs that no pod like those of the cluster can use where they are, parts counted as such.",
      registers,
    }),
    preemptions: new Counter({
      name: "kllama_preemptions_total",
      help: "Gangs that were given places which others of lower priority have to leave.",
      registers,
    }),
    victims: new Counter({
      name: "kllama_preemption_victims_total",
      help: "What had to leave for them, by kind (Gang, Pod).",
      labelNames: ["kind"],
      registers,
    }),
    reaped: new Counter({
      name: "kllama_claims_reclaimed_total",
      help: "Claims whose devices were given back because nobody used them, by outcome (ok, failed).",
      labelNames: ["outcome"],
      registers,
    }),
  };
}

/** Counts plans as they are made. */
export function planCounter(metrics: PlannerMetrics): CoordinatorPorts["planned"] {
  return (outcome, milliseconds, explored, reason, budgetExceeded = []) => {
    metrics.plans.inc({ outcome, reason });
    metrics.planSeconds.observe({ outcome }, milliseconds / 1000);
    metrics.explored.inc(explored);
    for (const wish of budgetExceeded) metrics.budgetExceeded.inc({ for: wish });
  };
}
