import type { ClusterTopologySpec } from "../../src/api/cluster-topology.ts";
import type { GangSpec } from "../../src/api/gang.ts";
import type { DeviceRequest } from "../../src/api/kubernetes.ts";
import type { PlacedPod, Rejection } from "../../src/api/placement.ts";
import type { GangPlan, GangRequest, PlanResult } from "../../src/gang/plan.ts";
import { type ClusterModel, createClusterModel } from "../../src/topology/model.ts";
import type { ClaimRecord, NodeRecord, PodRecord } from "../../src/topology/records.ts";
import { deviceClasses, driver, exactly, gpus, nodeRecord, podRecord, sliceRecord } from "../builders.ts";

/** One node in short: where it is, how many GPUs it has, and how many of them others use. */
export interface NodeSketch {
  name: string;
  zone?: string;
  rack?: string;
  gpus?: number;
  /** GPUs that somebody else's claims hold, the first ones. */
  used?: number;
  /** NUMA node of each GPU; default: the first half 0, the second half 1. */
  numa?: (gpu: number) => number;
  /** NVLink domain of each GPU; default: none is told. */
  nvlink?: (gpu: number) => string;
  /** Product of the GPUs; default: an H100. */
  product?: string;
  more?: Partial<NodeRecord>;
}

/** Three levels and one inside the host: what most tests need. */
const zoneRackHost: ClusterTopologySpec = {
  levels: [
    { name: "zone", nodeLabels: ["zone"] },
    { name: "rack", nodeLabels: ["rack"] },
    { name: "host", nodeLabels: ["kubernetes.io/hostname"] },
    { name: "numa", deviceAttribute: "resource.kubernetes.io/numaNode" },
  ],
};

export function clusterOf(nodes: readonly NodeSketch[], topology: ClusterTopologySpec = zoneRackHost): ClusterModel {
  const model = createClusterModel({ managedDrivers: [driver] });
  model.upsertTopology("default", topology);
  for (const deviceClass of deviceClasses().values()) model.upsertDeviceClass(deviceClass);
  for (const node of nodes) addNode(model, node);
  return model;
}

export function addNode(model: ClusterModel, sketch: NodeSketch): void {
  const { name, zone, rack, more = {}, gpus: count = 0, used = 0 } = sketch;
  const numa = sketch.numa ?? ((gpu: number) => (gpu < count / 2 ? 0 : 1));
  const labels = { ...(zone && { zone }), ...(rack && { rack }), "kubernetes.io/hostname": name, ...more.labels };
  model.upsertNode(nodeRecord(name, { ...more, labels }));
  if (count > 0) {
    const devices = gpus(count, (gpu) => ({
      "resource.kubernetes.io/numaNode": numa(gpu),
      ...(sketch.nvlink && { nvlinkDomain: sketch.nvlink(gpu) }),
      ...(sketch.product && { productName: sketch.product }),
    }));
    model.upsertSlice(sliceRecord(name, devices));
  }
  for (let gpu = 0; gpu < used; gpu++) {
    model.upsertClaim(allocatedClaim(`other-${name}-${gpu}`, name, [`gpu-${gpu}`], []));
  }
}

export function claimRecord(name: string, requests: DeviceRequest[], more: Partial<ClaimRecord> = {}): ClaimRecord {
  return {
    uid: `claim-uid-${name}`,
    namespace: "team",
    name,
    resourceVersion: "1",
    spec: { devices: { requests } },
    reservedFor: [],
    finalizers: [],
    deleting: false,
    ...more,
  };
}

export function allocatedClaim(name: string, node: string, devices: string[], podUids: string[]): ClaimRecord {
  return claimRecord(name, [exactly("gpu", devices.length)], {
    allocation: {
      devices: { results: devices.map((device) => ({ request: "gpu", driver, pool: node, device })) },
      nodeSelector: {
        nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: [node] }] }],
      },
    },
    reservedFor: podUids.map((uid) => ({ resource: "pods", name: uid, uid })),
  });
}

export interface PodSetSketch {
  count: number;
  /** GPUs per pod, in one claim; 0: no claim. */
  gpus?: number;
  /** Requests of another kind than whole GPUs. */
  requests?: DeviceRequest[];
  minCount?: number;
  slices?: { size: number; level: string }[];
  /** Pods that exist; default: `count`. */
  present?: number;
  more?: Partial<PodRecord>;
}

/** A gang whose pods and claims exist in the model. */
export function gangIn(
  model: ClusterModel,
  name: string,
  podSets: Record<string, PodSetSketch>,
  spec: Partial<GangSpec> = {},
  placed: readonly PlacedPod[] = [],
): GangRequest {
  const pods: PodRecord[] = [];
  for (const [podSet, sketch] of Object.entries(podSets)) {
    for (let index = 0; index < (sketch.present ?? sketch.count); index++) {
      const pod = `${name}-${podSet}-${index}`;
      const requests = sketch.requests ?? (sketch.gpus ? [exactly("gpu", sketch.gpus)] : []);
      if (requests.length > 0) model.upsertClaim(claimRecord(`${pod}-gpu`, requests));
      const claims = requests.length > 0 ? [{ name: "gpu", claimName: `${pod}-gpu` }] : [];
      pods.push(podRecord(pod, { gang: name, podSet, index, claims, ...sketch.more }));
    }
  }
  const sets = Object.entries(podSets).map(([podSet, { count, minCount, slices }]) => ({
    name: podSet,
    count,
    ...(minCount !== undefined && { minCount }),
    ...(slices && { slices }),
  }));
  return {
    namespace: "team",
    name,
    spec: { podSets: sets, topology: "default", scheduleTimeoutSeconds: 600, disruption: "All", ...spec },
    priority: 0,
    createdAtMs: 0,
    pods,
    placed,
  };
}

/** Slots in the order of the plan as `pod@node[devices]`. */
export function picture(result: PlanResult): string[] {
  if (!("plans" in result))
    return result.rejections.map(({ gang, reason, message }) => `${gang}: ${reason}: ${message}`);
  return result.plans.flatMap(({ placement }) => placement.pods.map(podPicture));
}

function podPicture({ pod, node, claims }: PlacedPod): string {
  const devices = claims.flatMap((claim) => claim.devices.map(({ device }) => device.replace(/^gpu-/, "")));
  return `${pod}@${node}${devices.length > 0 ? `[${devices.join()}]` : ""}`;
}

export function plansOf(result: PlanResult): GangPlan[] {
  if ("plans" in result) return result.plans;
  throw new Error(`rejected: ${result.rejections.map(({ message }) => message).join("; ")}`);
}

export function rejectionsOf(result: PlanResult): Rejection[] {
  if ("rejections" in result) return result.rejections;
  throw new Error(`placed: ${picture(result).join(" ")}`);
}

/** Node of each pod of a plan, by pod name. */
export function nodesOf(result: PlanResult): Record<string, string> {
  const pods = plansOf(result).flatMap(({ placement }) => placement.pods);
  return Object.fromEntries(pods.map(({ pod, node }) => [pod, node]));
}
