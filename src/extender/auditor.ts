import type { Logger } from "pino";
import type { Gang } from "../api/gang.ts";
import type { KubernetesObject, Pod, ResourceClaim } from "../api/kubernetes.ts";
import { schedulingGroup, version } from "../api/names.ts";
import type { GangRecord } from "../gang/lifecycle/state.ts";
import type { KubeClient } from "../kube/client.ts";
import { listPages } from "../kube/list.ts";
import { type ResourceLocation, resourcePath } from "../kube/paths.ts";
import { projectClaim, projectGang, projectPod } from "../kube/project.ts";
import type { Timing } from "../kube/timing.ts";
import { beginComparison, confirmedDrift, type Drift } from "../topology/drift.ts";
import type { ClusterModel } from "../topology/model.ts";
import type { ClaimRecord, PodRecord } from "../topology/records.ts";
import type { Coordinator } from "./coordinator.ts";
import { claimDrift, gangDrift, podDrift, strayHolders } from "./ledger-audit.ts";
import type { PlannerMetrics } from "./metrics.ts";

export interface AuditorOptions {
  client: KubeClient;
  model: ClusterModel;
  coordinator: Coordinator;
  metrics: Pick<PlannerMetrics, "audits" | "drift">;
  log: Pick<Logger, "warn">;
  timing: Timing;
  /** Time between two audits, give or take a fifth; 0: none. */
  periodMs: number;
  /** Ends the audits. */
  signal: AbortSignal;
}

/** One kind that the ledger is made of: where the API server has it, what is known of it, and how that is put right. */
interface Audited<T> {
  kind: "claims" | "pods" | "gangs";
  location: ResourceLocation;
  project: (raw: KubernetesObject) => T;
  known: () => ReadonlyMap<string, T>;
  derived?: (record: T) => string | undefined;
  repair(drift: Drift<T>): void;
}

interface Named {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion?: string;
}

/** A watch that works has explained within this time why a list and the model differ. */
const explainMs = 10_000;
/** Lines that one audit may log for a kind; the rest is in the metric. */
const mostLines = 20;

/**
 * Compares claims, pods and Gangs, which the ledger is made of, with fresh lists, and takes what the API server says; and the
 * ledger's entries with them.
 * Watches tell all of it already: drift means a lost event, a fault of ours, or an etcd that was restored from a backup.
 * Audits only read; they come seldom, at times of their own, one kind and one page after another.
 */
export async function runAudits(options: AuditorOptions): Promise<void> {
  const { timing, periodMs, signal } = options;
  if (periodMs === 0) return;
  const { claims, pods, gangs } = auditedKinds(options);
  while (!signal.aborted) {
    await timing.sleep(periodMs * (0.8 + 0.4 * timing.random()), signal);
    if (signal.aborted) return;
    try {
      const drift =
        (await auditKind(options, claims)) +
        (await auditKind(options, pods)) +
        (await auditKind(options, gangs)) +
        (await auditStrays(options));
      options.metrics.audits.inc({ outcome: drift > 0 ? "drift" : "clean" });
    } catch (error) {
      if (signal.aborted) return;
      options.metrics.audits.inc({ outcome: "failed" });
      options.log.warn({ error: String(error) }, "audit failed; the next one tries again");
    }
  }
}

/** A second list only where the first differs from what is known. @returns how many objects were put right. */
async function auditKind<T extends Named>(options: AuditorOptions, audited: Audited<T>): Promise<number> {
  const suspects = await compareKind(options, audited);
  if (suspects.length === 0) return 0;
  await options.timing.sleep(explainMs, options.signal);
  // No await from here on: what was compared is what is put right.
  const drift = confirmedDrift(suspects, await compareKind(options, audited));
  for (const [index, each] of drift.entries()) {
    const { problem, key, uid, difference } = each;
    options.metrics.drift.inc({ kind: audited.kind, problem });
    if (index < mostLines) options.log.warn({ kind: audited.kind, problem, object: key, uid, difference }, "drift");
  }
  if (drift.length > mostLines) {
    options.log.warn({ kind: audited.kind, objects: drift.length, shown: mostLines }, "more drift than is shown");
  }
  // Left over ones first: a successor may have their name.
  for (const each of drift) if (each.listed === undefined) audited.repair(each);
  for (const each of drift) if (each.listed !== undefined) audited.repair(each);
  return drift.length;
}

/** What the ledger holds for what is not there, twice. @returns how many entries were removed */
async function auditStrays({ model, coordinator, metrics, log, timing, signal }: AuditorOptions): Promise<number> {
  const suspects = new Set(strayHolders(model, coordinator));
  if (suspects.size === 0) return 0;
  await timing.sleep(explainMs, signal);
  const strays = strayHolders(model, coordinator).filter((holder) => suspects.has(holder));
  for (const [index, holder] of strays.entries()) {
    const kind = holder.startsWith("claim:") ? "claims" : /^(hold:)?pod:/.test(holder) ? "pods" : "gangs";
    const difference = `the ledger has devices [${model.heldBy(holder).join()}] for what is not there`;
    metrics.drift.inc({ kind, problem: "leftover" });
    if (index < mostLines) log.warn({ kind, problem: "leftover", object: holder, difference }, "drift");
    model.restore(holder);
  }
  return strays.length;
}

async function compareKind<T extends Named>(
  { client, signal }: AuditorOptions,
  audited: Audited<T>,
): Promise<Drift<T>[]> {
  const { location, project, known, derived } = audited;
  const comparison = beginComparison(known(), derived);
  const unreadable = new Set<string>();
  const path = resourcePath(location);
  for await (const page of listPages({ client, path, project, signal })) {
    comparison.page(page.items, known());
    for (const key of page.unreadable) unreadable.add(key);
  }
  return comparison.finish(known(), unreadable);
}

function auditedKinds({ model, coordinator }: AuditorOptions) {
  const claims: Audited<ClaimRecord> = {
    kind: "claims",
    location: { group: "resource.k8s.io", version: "v1", resource: "resourceclaims" },
    project: (raw) => projectClaim(raw as ResourceClaim),
    known: () => model.claims,
    derived: (claim) => claimDrift(model, claim),
    repair({ uid, known, listed }) {
      if (listed === undefined) {
        coordinator.observeClaimGone(known!);
        return;
      }
      coordinator.distrust(uid);
      // The same record again would change nothing: what follows from it is made anew.
      model.removeClaim(uid);
      coordinator.observeClaim(listed);
    },
  };
  const pods: Audited<PodRecord> = {
    kind: "pods",
    location: { group: "", version: "v1", resource: "pods" },
    project: (raw) => projectPod(raw as Pod),
    known: () => model.pods,
    derived: (pod) => podDrift(model, pod),
    repair({ uid, listed }) {
      if (listed === undefined) {
        coordinator.observePodGone(uid);
        return;
      }
      coordinator.distrust(uid);
      coordinator.observePod(listed);
      model.restore(`pod:${uid}`);
    },
  };
  const gangs: Audited<GangRecord> = {
    kind: "gangs",
    location: { group: schedulingGroup, version, resource: "gangs" },
    project: (raw) => projectGang(raw as Gang),
    known: coordinator.gangs,
    derived: ({ namespace, name }) => gangDrift(model, coordinator, `${namespace}/${name}`),
    repair({ key, uid, known, listed }) {
      if (listed === undefined) {
        coordinator.observeGangGone(known!);
        return;
      }
      coordinator.distrust(uid);
      coordinator.observeGang(listed);
      coordinator.rehold(key);
    },
  };
  return { claims, pods, gangs };
}
