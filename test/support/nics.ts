import type { GangRequest } from "../../src/gang/plan.ts";
import type { ClusterModel } from "../../src/topology/model.ts";
import type { ClaimRecord, SliceRecord } from "../../src/topology/records.ts";
import { claimSpec, deviceClass, exactly, sliceRecord } from "../builders.ts";
import { claimRecord, gangIn, type PodSetSketch } from "./cluster.ts";

/** Network cards of a driver that kllama does not manage, and gangs that want some beside their GPUs. */

export const nicDriver = "nic.example.com";
const nicClass = deviceClass(nicDriver, `device.driver == "${nicDriver}"`);

/** `nic-0`, `nic-1`, … of a node. */
export function addNics(model: ClusterModel, node: string, count: number): void {
  model.upsertSlice(nicSlice(node, count));
  model.upsertDeviceClass(nicClass);
}

/** Cards that every node can use. */
export function addWideNics(model: ClusterModel, count: number): void {
  const { nodeName: _, ...slice } = nicSlice("net", count);
  model.upsertSlice({ ...slice, allNodes: true });
  model.upsertDeviceClass(nicClass);
}

function nicSlice(pool: string, count: number): SliceRecord {
  const devices = Array.from({ length: count }, (_, index) => ({ name: `nic-${index}` }));
  return sliceRecord(pool, devices, { name: `${pool}-nics`, driver: nicDriver });
}

export function nicClaim(name: string, count = 1, more: Partial<ClaimRecord> = {}): ClaimRecord {
  return claimRecord(name, [exactly("nic", count, { deviceClassName: nicDriver })], more);
}

/** As kube-scheduler allocates it; `node` undefined: the devices can be used everywhere. */
export function allocatedNics(
  name: string,
  node: string | undefined,
  devices: readonly string[],
  podUids: readonly string[] = [],
): ClaimRecord {
  const onNode = { key: "metadata.name", operator: "In" as const, values: [node ?? ""] };
  return nicClaim(name, devices.length, {
    allocation: {
      devices: {
        results: devices.map((device) => ({ request: "nic", driver: nicDriver, pool: node ?? "net", device })),
      },
      ...(node === undefined ? {} : { nodeSelector: { nodeSelectorTerms: [{ matchFields: [onNode] }] } }),
    },
    reservedFor: podUids.map((uid) => ({ resource: "pods", name: uid, uid })),
  });
}

/** A gang of which each pod wants cards in a claim of its own besides. */
export function gangWithNics(
  model: ClusterModel,
  name: string,
  podSet: PodSetSketch,
  { nics = 1, spec = {} }: { nics?: number; spec?: Partial<GangRequest["spec"]> } = {},
): GangRequest {
  const gang = gangIn(model, name, { w: podSet }, spec);
  const pods = gang.pods.map((pod) => {
    const claimName = `${pod.name}-nic`;
    model.upsertClaim(nicClaim(claimName, nics));
    return { ...pod, claims: [{ name: "nic", claimName, templateName: "nics" }, ...pod.claims] };
  });
  for (const pod of pods) model.upsertPod(pod);
  return { ...gang, pods };
}

/** GPUs and a card from one claim. */
export const mixedSpec = claimSpec([exactly("gpu", 1), exactly("nic", 1, { deviceClassName: nicDriver })]);
