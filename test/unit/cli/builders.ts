import { readFileSync } from "node:fs";
import type { GangStatus } from "../../../src/api/gang.ts";
import type { Placement, PlanOutput } from "../../../src/api/placement.ts";
import type { ClusterState } from "../../../src/cli/cluster-state.ts";
import type { GangRecord } from "../../../src/gang/lifecycle/state.ts";
import { projectNode, projectSlice } from "../../../src/kube/project.ts";
import { parseFleet } from "../../../src/simulator/fleet.ts";
import { fleetNodes, nodeManifest, nodeSlices } from "../../../src/simulator/objects.ts";
import type { ClaimRecord, PodRecord } from "../../../src/topology/records.ts";
import { podRecord as anyPod, driver } from "../../builders.ts";

/** Objects as the command line sees them: the state of a cluster, and placements in it. */

/** Nodes and slices of a fleet file, as the API server would hold them. */
export function fleetState(file = "fleets/default.yaml"): Pick<ClusterState, "nodes" | "slices"> {
  const nodes = fleetNodes(parseFleet(readFileSync(file, "utf8"), file));
  return {
    nodes: nodes.map((node) => projectNode(nodeManifest(node))),
    slices: nodes.flatMap((node) => nodeSlices(node, { nodeUid: node.name, generation: 1 })).map(projectSlice),
  };
}

export function gangRecord(
  name: string,
  podSets: GangRecord["spec"]["podSets"],
  status: GangStatus = {},
  more: Partial<GangRecord> = {},
): GangRecord {
  return {
    namespace: "ns",
    name,
    uid: `uid-${name}`,
    generation: 1,
    resourceVersion: "1",
    deleting: false,
    createdAtMs: 0,
    labels: {},
    spec: { podSets, topology: "default", scheduleTimeoutSeconds: 600, disruption: "All" },
    problems: [],
    status,
    ...more,
  };
}

export function podRecord(name: string, more: Partial<PodRecord> = {}): PodRecord {
  return anyPod(name, { uid: `uid-${name}`, namespace: "ns", requests: {}, ...more });
}

/** A pod with one claim, `POD-gpus`, under the reference `gpus`. */
export function podWithClaim(name: string, more: Partial<PodRecord> = {}): PodRecord {
  return podRecord(name, { claims: [{ name: "gpus", claimName: `${name}-gpus` }], ...more });
}

/** The claim of `podWithClaim`; with a node and devices it is allocated. */
export function claimRecord(pod: string, node?: string, devices: readonly string[] = []): ClaimRecord {
  const results = devices.map((device) => ({ request: "gpus", driver, pool: node ?? "", device }));
  return {
    uid: `uid-${pod}-gpus`,
    namespace: "ns",
    name: `${pod}-gpus`,
    resourceVersion: "1",
    spec: {},
    ...(node === undefined ? {} : { allocation: { devices: { results } } }),
    reservedFor: [],
    finalizers: [],
    deleting: false,
  };
}

/** A placement with one entry per pod: node and devices. */
export function placement(
  gang: string,
  pods: readonly { node: string; devices?: readonly string[] }[],
  more: Partial<Placement> = {},
): Placement {
  return {
    gang,
    namespace: "ns",
    pods: pods.map(({ node, devices = [] }, index) => ({
      pod: `${gang}-${index}`,
      podSet: "workers",
      index,
      node,
      claims: [
        {
          claim: `${gang}-${index}-gpus`,
          reference: "gpus",
          devices: devices.map((device) => ({ request: "gpus", driver, pool: node, device })),
        },
      ],
    })),
    domains: {},
    cost: { totalMs: 0, byLink: [], assumes: [] },
    ...more,
  };
}

export function planOutput(placements: Placement[], more: Partial<PlanOutput> = {}): PlanOutput {
  const stats = { nodes: 0, devices: 0, gangs: 0, planMs: 0, explored: 0, budgetExceeded: false };
  return { placements, rejections: [], stats, ...more };
}

/** `gpu-FROM` to `gpu-(TO - 1)`. */
export function gpuNames(from: number, to: number): string[] {
  return Array.from({ length: to - from }, (_, index) => `gpu-${from + index}`);
}
