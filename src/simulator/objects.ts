import { createHash } from "node:crypto";
import type { KubernetesObject, ResourceSlice } from "../api/kubernetes.ts";
import type { DeviceLosses, Gpu } from "../dra/driver/inventory.ts";
import { poolSlices } from "../dra/driver/slices.ts";
import { parseQuantity } from "../topology/quantity.ts";
import type { Fleet, GpuSlot, NodeType } from "./fleet.ts";
import { migGeometry } from "./mig.ts";
import { simulatedNode } from "./names.ts";

/** Fleet → the Kubernetes objects that stand for it. Everything follows from names: same fleet, same objects. */

/** One machine of a fleet and where it stands. */
export interface SimulatedNode {
  name: string;
  type: NodeType;
  region: string;
  zone: string;
  block: string;
  rack: string;
  /** `CLUSTER_UUID.CLIQUE_ID` of a rack-wide NVLink domain. */
  clique?: string;
}

/** A Node as it is created, status included. */
export interface NodeManifest extends KubernetesObject {
  apiVersion: "v1";
  kind: "Node";
  status: {
    capacity: Record<string, string>;
    allocatable: Record<string, string>;
    conditions: { type: string; status: string; reason: string; message: string }[];
    nodeInfo: Record<string, string>;
  };
}

/** Deterministic UUID (version 5 layout) of a name. */
export function nameUuid(name: string): string {
  const hex = createHash("sha1").update(`kllama-simulator/${name}`).digest("hex");
  const variant = ((Number.parseInt(hex[16]!, 16) & 0x3) | 0x8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** All machines of a fleet, rack by rack. */
export function fleetNodes(fleet: Fleet): SimulatedNode[] {
  const types = new Map(fleet.nodeTypes.map((type) => [type.name, type]));
  return fleet.racks.flatMap((rack) =>
    Array.from({ length: rack.nodes }, (_, index) => {
      const type = types.get(rack.nodeType)!;
      return {
        name: `${rack.name}-${String(index).padStart(2, "0")}`,
        type,
        region: fleet.region,
        zone: fleet.zone,
        block: rack.block,
        rack: rack.name,
        ...(type.nvlink === "rack" ? { clique: `${nameUuid(`${fleet.name}/${rack.name}`)}.0` } : {}),
      };
    }),
  );
}

/** The Node object, Ready from its creation, with the labels that cloud providers, GPU feature discovery and topograph set. */
export function nodeManifest(node: SimulatedNode): NodeManifest {
  const { allocatable, gpu, cpuArchitecture, slots } = node.type;
  const resources = { ...allocatable, pods: String(allocatable.pods), "ephemeral-storage": "1Ti" };
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: node.name,
      labels: {
        [simulatedNode]: "true",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": cpuArchitecture,
        "node.kubernetes.io/instance-type": node.type.name,
        "topology.kubernetes.io/region": node.region,
        "topology.kubernetes.io/zone": node.zone,
        "fabric.topograph.run/tier-1": node.block,
        "fabric.topograph.run/tier-0": node.rack,
        "nvidia.com/gpu.count": String(slots.length),
        "nvidia.com/gpu.family": labelValue(gpu.architecture.toLowerCase()),
        "nvidia.com/gpu.product": labelValue(gpu.productName),
        ...(node.clique === undefined ? {} : { "nvidia.com/gpu.clique": node.clique }),
      },
      annotations: {
        [simulatedNode]: "Simulated by kllama: no such machine exists, its containers do not run.",
        "kwok.x-k8s.io/node": "fake",
      },
    },
    status: {
      capacity: resources,
      allocatable: { ...resources },
      conditions: readyConditions,
      nodeInfo: {
        architecture: cpuArchitecture,
        operatingSystem: "linux",
        osImage: "none (simulated)",
        kubeletVersion: "kllama-simulator",
        kernelVersion: "",
        containerRuntimeVersion: "",
        kubeProxyVersion: "",
        machineID: "",
        systemUUID: nameUuid(node.name),
        bootID: "",
      },
    },
  };
}

/** Label values are at most 63 letters, digits, `-`, `_` or `.`, and begin and end with a letter or digit. */
function labelValue(value: string): string {
  return value
    .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
    .slice(0, 63)
    .replaceAll(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "");
}

const readyConditions = [
  { type: "Ready", status: "True", reason: "KubeletReady", message: "simulated node agent is ready" },
  { type: "MemoryPressure", status: "False", reason: "KubeletHasSufficientMemory", message: "simulated" },
  { type: "DiskPressure", status: "False", reason: "KubeletHasNoDiskPressure", message: "simulated" },
  { type: "PIDPressure", status: "False", reason: "KubeletHasSufficientPID", message: "simulated" },
];

/** The node's ResourceSlices, as a driver on such a machine publishes them. */
export function nodeSlices(
  node: SimulatedNode,
  options: { nodeUid: string; generation: number; losses?: DeviceLosses },
): ResourceSlice[] {
  const { nodeUid, generation, losses = {} } = options;
  return poolSlices(
    { gpus: simulatedGpus(node), losses },
    { nodeName: node.name, nodeUid, generation, labels: { [simulatedNode]: "true" } },
  );
}

/** A machine that stands alone, outside of any rack. */
export function standaloneNode(name: string, type: NodeType): SimulatedNode {
  const place = { region: "sim-region", zone: "sim-zone-a", block: name, rack: name };
  return { name, type, ...place, ...(type.nvlink === "rack" ? { clique: `${nameUuid(name)}.0` } : {}) };
}

export function simulatedGpus(node: SimulatedNode): Gpu[] {
  const { mig, memory, ...model } = node.type.gpu;
  return node.type.slots.map((slot, minor) => {
    const domain = nvlinkDomain(node, slot);
    return {
      ...model,
      minor,
      uuid: `GPU-${nameUuid(`${node.name}/gpu-${minor}`)}`,
      memoryBytes: parseQuantity(memory),
      pciBusID: slot.pciBusID,
      pcieRoot: slot.pcieRoot,
      numaNode: slot.numaNode,
      ...(domain === undefined ? {} : { nvlinkDomain: domain }),
      ...(node.clique === undefined ? {} : { clique: node.clique }),
      ...(mig === undefined ? {} : { mig: migGeometry(mig) }),
    };
  });
}

/** Names the set of GPUs that NVLink joins; unique in the cluster, since node and rack names are. */
function nvlinkDomain(node: SimulatedNode, slot: GpuSlot): string | undefined {
  if (node.type.nvlink === "rack") return node.clique;
  if (node.type.nvlink === "host") return node.name;
  return node.type.nvlink === "bridge" ? `${node.name}.bridge-${slot.bridge}` : undefined;
}
