import type { ResourceClaim } from "../../api/kubernetes.ts";
import { driverName } from "../../api/names.ts";
import type { KubeClient } from "../../kube/client.ts";
import { insist } from "../../kube/insist.ts";
import { resourcePath } from "../../kube/paths.ts";
import { type Timing, wholeSeconds } from "../../kube/timing.ts";
import type { PreparedClaim, PreparedDevice } from "./prepared-claim.ts";

/**
 * Tells in `status.devices` of a claim which hardware stands behind each device: metrics exporters attribute by UUID, and a
 * partition's UUID is known nowhere else. In the background: no container waits for it. A claim that is no longer prepared is not told.
 */
export interface DeviceStatusWriter {
  push(claim: PreparedClaim): void;
  /** Drops what has not begun, and resolves when nothing is under way. */
  stop(): Promise<void>;
}

export interface DeviceStatusOptions {
  client: KubeClient;
  timing: Timing;
  onError(claim: PreparedClaim, error: unknown): void;
}

const parallelism = 4;
/** Preparing goes first: a kubelet that asks for many pods at once waits for that, and nobody for this. */
const quietMs = 500;
/** Where pods come without end, it waits no longer than this. */
const longestQuietMs = 5_000;

interface Pending {
  claim: PreparedClaim;
  pushedMs: number;
}

export function createDeviceStatusWriter({ client, timing, onError }: DeviceStatusOptions): DeviceStatusWriter {
  const pending = new Map<string, Pending>();
  const workers = new Set<Promise<void>>();
  const ended = new AbortController();
  let lastPushMs = 0;

  return {
    push(claim) {
      if (ended.signal.aborted) return;
      lastPushMs = timing.nowMs();
      pending.set(claim.uid, { claim, pushedMs: lastPushMs });
      if (workers.size >= parallelism) return;
      const worker = drain().finally(() => workers.delete(worker));
      workers.add(worker);
    },
    async stop() {
      ended.abort();
      pending.clear();
      await Promise.all(workers);
    },
  };

  async function drain(): Promise<void> {
    for (const [uid, { pushedMs }] of pending) {
      await quiet(pushedMs);
      const next = pending.get(uid);
      if (next === undefined) continue;
      pending.delete(uid);
      await write(next.claim);
    }
  }

  /** Until no claim has come for a while. */
  async function quiet(sinceMs: number): Promise<void> {
    for (;;) {
      const waitMs = Math.min(lastPushMs + quietMs, sinceMs + longestQuietMs) - timing.nowMs();
      if (waitMs <= 0 || ended.signal.aborted) return;
      await timing.sleep(waitMs, ended.signal);
    }
  }

  async function write(claim: PreparedClaim): Promise<void> {
    await insist(() => apply(claim), {
      timing,
      signal: ended.signal,
      onError: (error) => onError(claim, error),
      isWanted: () => claim.state === "Completed",
    });
  }

  async function apply({ namespace, name, uid, devices }: PreparedClaim): Promise<void> {
    const lastTransitionTime = wholeSeconds(timing.wallClock());
    const condition = { type: "Ready", status: "True", reason: "Prepared", message: "", lastTransitionTime };
    const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims", namespace, name };
    await client.request("PATCH", resourcePath({ ...location, subresource: "status" }), {
      contentType: "application/apply-patch+yaml",
      query: { fieldManager: driverName, force: true },
      body: {
        apiVersion: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        metadata: { name, namespace, uid },
        status: {
          devices: each(devices).map((device) => ({
            ...identity(device),
            conditions: [condition],
            data: hardware(device),
          })),
        },
      },
      signal: ended.signal,
    });
  }
}

/** The claim's status tells already what stands behind its devices. */
export function tellsDevices(object: ResourceClaim, claim: PreparedClaim): boolean {
  const told = (object.status?.devices ?? []) as { pool?: string; device?: string; data?: unknown }[];
  return claim.devices.every((device) =>
    told.some(
      (entry) =>
        entry.pool === device.pool &&
        entry.device === device.device &&
        (entry.data as { uuid?: string } | undefined)?.uuid === hardware(device).uuid,
    ),
  );
}

/** A claim may have a device twice, the second time for administration. */
function each(devices: readonly PreparedDevice[]): PreparedDevice[] {
  return [...new Map(devices.map((device) => [`${device.pool}/${device.device}`, device])).values()];
}

function identity({ pool, device }: PreparedDevice): { driver: string; pool: string; device: string } {
  return { driver: driverName, pool, device };
}

/** `uuid` is what exporters see: of the partition if it is one. */
function hardware({ gpu, partition }: PreparedDevice): { uuid: string; parentUUID?: string; pciBusID: string } {
  const { uuid, pciBusID } = gpu;
  return partition?.uuid === undefined ? { uuid, pciBusID } : { uuid: partition.uuid, parentUUID: uuid, pciBusID };
}
