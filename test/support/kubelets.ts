import { readFileSync } from "node:fs";
import type { ResourceClaim } from "../../src/api/kubernetes.ts";
import type { Gpu } from "../../src/dra/driver/inventory.ts";
import type { PreparedClaim } from "../../src/dra/driver/prepared-claim.ts";
import { parseFleet } from "../../src/simulator/fleet.ts";
import { createHardware, type FleetHardware, type NodeState } from "../../src/simulator/hardware.ts";
import { createKubelets, type Decision, type Kubelets } from "../../src/simulator/kubelets.ts";
import { createNodeDrivers, type NodeDrivers } from "../../src/simulator/node-drivers.ts";
import { nameUuid, standaloneNode } from "../../src/simulator/objects.ts";
import { type BoundPod, type ObservedClaim, observedClaim } from "../../src/simulator/observed.ts";

/** Kubelets and drivers of nodes `n1`, `n2` and `node-1`, of a type of `fleets/default.yaml`, without an API server. */
export interface KubeletScene {
  kubelets: Kubelets;
  drivers: NodeDrivers;
  hardware: FleetHardware;
  /** What drivers have prepared anew, in order. */
  prepared: PreparedClaim[];
  /** What was decided because of these changes, once every driver has answered. */
  upon(...changes: ((kubelets: Kubelets) => unknown)[]): Promise<Decision[]>;
}

export function openKubelets(type = "dgx-a100-mig", state: NodeState = { down: false, losses: {} }): KubeletScene {
  const { nodeTypes } = parseFleet(readFileSync("fleets/default.yaml", "utf8"), "default.yaml");
  const nodeType = nodeTypes.find(({ name }) => name === type)!;
  const names = ["n1", "n2", "node-1"];
  const hardware = createHardware(names.map((name) => standaloneNode(name, nodeType)));
  for (const name of names) hardware.setState(name, state);
  const prepared: PreparedClaim[] = [];
  const decisions: Decision[] = [];
  const drivers = createNodeDrivers({ ...hardware, onPrepared: (claim) => void prepared.push(claim) });
  const kubelets = createKubelets({ hardware, drivers, onDecision: (decision) => void decisions.push(decision) });
  return {
    ...{ kubelets, drivers, hardware, prepared },
    async upon(...changes) {
      for (const change of changes) change(kubelets);
      await kubelets.idle();
      return decisions.splice(0);
    },
  };
}

let version = 0;

/** A pod on `n1`, with claims by name; its UID follows from its name. */
export function podOf(name: string, claims: readonly string[], fields: Partial<BoundPod> = {}): BoundPod {
  return {
    uid: nameUuid(name),
    namespace: "ns",
    name,
    node: "n1",
    resourceVersion: ++version,
    terminal: false,
    marked: false,
    claims: claims.map((claim) => ({ name: claim, claimName: claim })),
    ...fields,
  };
}

/** A claim on devices of `pool`, reserved for pods by name; its UID follows from its name. */
export function claimOf(
  name: string,
  devices: readonly string[],
  users: readonly string[],
  more: { pool?: string; config?: object[]; deleting?: boolean; adminAccess?: boolean } = {},
): ObservedClaim {
  const { pool = "n1", config } = more;
  const results = devices.map((device) => ({
    ...{ request: "gpus", driver: "gpu.kllama.ai", pool, device },
    ...(more.adminAccess === true ? { adminAccess: true } : {}),
  }));
  const raw: ResourceClaim = {
    metadata: {
      ...{ name, namespace: "ns", uid: nameUuid(name), resourceVersion: String(++version) },
      ...(more.deleting === true ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
    },
    spec: {},
    status: {
      allocation: { devices: { results, ...(config === undefined ? {} : { config: config as never }) } },
      reservedFor: users.map((user) => ({ resource: "pods", name: user, uid: nameUuid(user) })),
    },
  };
  return observedClaim(raw);
}

/** `start a`, `DeviceInUse b` */
export function shown(decisions: readonly Decision[]): string[] {
  return decisions.map((d) => `${d.type === "start" ? "start" : d.problem.kind} ${d.pod.name}`);
}

/** UUIDs of a node's boards. */
export function boardsOf({ hardware }: KubeletScene, node = "n1"): string[] {
  return hardware.gpus(node).map(({ uuid }: Gpu) => uuid);
}
