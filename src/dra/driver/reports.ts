import { systemTiming, type Timing } from "../../kube/timing.ts";
import { partlyShown } from "./cdi.ts";
import type { ClaimReference, RegistrationStatus } from "./grpc.ts";
import { type DeviceState, stateOf } from "./health.ts";
import { deviceTable } from "./inventory.ts";
import type { Machine } from "./machine.ts";
import type { DriverMetrics } from "./metrics.ts";
import type { PreparedClaim, PreparedDevice } from "./prepared-claim.ts";

/** The lines that pino and its like take. */
export interface DriverLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

interface ReportOptions {
  metrics: DriverMetrics;
  log: DriverLog;
  machine: Machine;
  timing?: Timing;
}

/** What happens, as log lines and metrics. */
export function createReports(options: ReportOptions, preparedClaims: () => number) {
  const { metrics, log, machine, timing = systemTiming } = options;
  let registered = false;
  let published = false;
  const failed = (part: string, error: unknown, fields: object = {}): void => {
    metrics.errors.inc({ part });
    log.warn({ ...fields, error: error instanceof Error ? error.message : String(error) }, `${part} failed`);
  };
  return {
    isReady: () => registered && published,
    lost: (fields: object) => log.error(fields, "the checkpoint cannot be used; rebuilding it"),
    statusError: ({ namespace, name }: ClaimReference, error: unknown) =>
      failed("status", error, { claim: `${namespace}/${name}` }),
    upkeepError: failed,
    forgotten: ({ namespace, name }: ClaimReference, { device, gpu }: PreparedDevice, why: Error) =>
      failed("boards", why, {
        claim: `${namespace}/${name}`,
        device,
        gpu: gpu.uuid,
        note: "the board is gone; what was left on it is forgotten",
      }),
    repairs({ undone, strays }: { undone: number; strays: number }) {
      metrics.repairs.inc({ kind: "undone" }, undone);
      metrics.repairs.inc({ kind: "stray" }, strays);
      metrics.prepared.set(preparedClaims());
      if (undone + strays > 0) log.warn({ undone, strays }, "undid what was left over");
    },
    registration({ plugin_registered, error }: RegistrationStatus) {
      registered = plugin_registered;
      metrics.registered.set(registered ? 1 : 0);
      if (registered) log.info({}, "registered with the kubelet");
      else failed("registration", error);
    },
    slices: {
      onWritten({ slices, writes }: { slices: number; writes: number }) {
        published = true;
        metrics.sliceWrites.inc(writes);
        if (writes > 0) log.info({ slices, writes }, "slices published");
      },
      onStandBy(standsBy: boolean) {
        // The slices are there: it is up to the successor to be ready.
        published = true;
        const what = standsBy ? "leaves the slices to it" : "is gone; publishing slices again";
        log.info({}, `a younger process of this driver ${what}`);
      },
      onError: (message: string) => failed("slices", message),
    },
    devices() {
      const inventory = machine.inventory();
      const count: Record<DeviceState, number> = { ok: 0, unhealthy: 0, unknown: 0, lost: 0 };
      for (const name of deviceTable(inventory.gpus).keys()) count[stateOf(name, inventory).state]++;
      for (const [health, devices] of Object.entries(count)) metrics.devices.set({ health }, devices);
    },
    /** What its owner may not expect. */
    prepared(claim: PreparedClaim) {
      for (const request of partlyShown(claim)) {
        const fields = { claim: `${claim.namespace}/${claim.name}`, request };
        log.warn(fields, "CUDA shows a process one partition only; ask for each by a request of its own");
      }
    },
    /** Measures calls and tells how each claim fared, once the answer is on its way: the kubelet waits for that alone. */
    timed<A extends unknown[], T extends { error: string }>(
      verb: "prepare" | "unprepare",
      method: (claims: readonly ClaimReference[], ...more: A) => Promise<Record<string, T>>,
    ) {
      const tell = (claims: readonly ClaimReference[], answers: Record<string, T>): void => {
        metrics.prepared.set(preparedClaims());
        for (const { namespace, name, uid } of claims) {
          const error = answers[uid]?.error ?? "not answered";
          metrics.claims.inc({ verb, outcome: error === "" ? "ok" : "failed" });
          const fields = { claim: `${namespace}/${name}`, uid };
          if (error === "") log.info(fields, `${verb}d`);
          else log.warn({ ...fields, error }, `cannot ${verb}`);
        }
      };
      return async (claims: readonly ClaimReference[], ...more: A): Promise<Record<string, T>> => {
        const startedMs = timing.nowMs();
        const answers = await method(claims, ...more);
        metrics.callSeconds.observe({ verb }, (timing.nowMs() - startedMs) / 1_000);
        setImmediate(tell, claims, answers);
        return answers;
      };
    },
  };
}
