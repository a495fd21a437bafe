import type { ClusterTopologySpec } from "../api/cluster-topology.ts";
import type { NodeRecord } from "./records.ts";

/** The label that names a host; a node without it is named by itself. */
const hostnameLabel = "kubernetes.io/hostname";

/** Names the set of GPUs that NVLink joins, on one host or several; partitions have none. */
const nvlinkAttribute = "gpu.kllama.ai/nvlinkDomain";

/**
 * Levels of a cluster without a ClusterTopology named `default`, broad to narrow. Each reads what clouds, NVIDIA's
 * tools and topograph write; the first label that a node has counts.
 *
 * | level | labels |
 * |---|---|
 * | region, zone | `topology.kubernetes.io/…` |
 * | block | topograph tier 1 (and its older `spine`, `block`), Google block, AWS layer 2, OCI network block |
 * | rack | topograph tier 0 (older `leaf`), `topology.kubernetes.io/rack`, Google sub-block, AWS layer 3, OCI rack, Volcano ToR |
 * | nvlink-domain | `nvidia.com/gpu.clique`, topograph accelerator domain, CoreWeave, AWS UltraServer; else `nvlink` |
 * | host | `kubernetes.io/hostname`, else the node's name |
 * | numa, pcie-root, nvlink | attributes of devices, inside one host |
 *
 * `gpu.clique` comes before the labels of third parties: it is what the fabric itself reports. On a host without any of
 * those labels NVLink ends at the host, and its GPUs say how far it reaches: all 8 of a DGX H100 are one domain, each
 * bridged pair of PCIe cards is one of 2, and MIG partitions, which reach no peer, are in none.
 *
 * Link figures are assumptions for one GPU and one direction: 400 Gb/s rails in a rack, half of that in a block; NVLink
 * is as fast as the GPUs that are placed (`src/gang/links.ts`), here that of H100.
 */
export const builtInTopology: ClusterTopologySpec = {
  levels: [
    { name: "region", nodeLabels: ["topology.kubernetes.io/region"] },
    { name: "zone", nodeLabels: ["topology.kubernetes.io/zone"] },
    {
      name: "block",
      nodeLabels: [
        "fabric.topograph.run/tier-1",
        "network.topology.nvidia.com/spine",
        "network.topology.nvidia.com/block",
        "cloud.google.com/gce-topology-block",
        "topology.k8s.aws/network-node-layer-2",
        "oci.oraclecloud.com/host.network_block_id",
      ],
      gigabytesPerSecond: 25,
      microseconds: 10,
    },
    {
      name: "rack",
      nodeLabels: [
        "fabric.topograph.run/tier-0",
        "network.topology.nvidia.com/leaf",
        "topology.kubernetes.io/rack",
        "cloud.google.com/gce-topology-subblock",
        "topology.k8s.aws/network-node-layer-3",
        "oci.oraclecloud.com/host.rack_id",
        "volcano.sh/tor",
      ],
      gigabytesPerSecond: 50,
      microseconds: 6,
    },
    {
      name: "nvlink-domain",
      nodeLabels: [
        "nvidia.com/gpu.clique",
        "accelerator.topograph.run/domain",
        "network.topology.nvidia.com/accelerator",
        "ds.coreweave.com/nvlink.domain",
        "topology.k8s.aws/ultraserver-id",
      ],
      deviceAttribute: nvlinkAttribute,
      gigabytesPerSecond: 450,
      microseconds: 2,
    },
    { name: "host", nodeLabels: [hostnameLabel] },
    { name: "numa", deviceAttribute: "resource.kubernetes.io/numaNode" },
    { name: "pcie-root", deviceAttribute: "resource.kubernetes.io/pcieRoot" },
    { name: "nvlink", deviceAttribute: nvlinkAttribute, gigabytesPerSecond: 450, microseconds: 1 },
  ],
  beyond: { gigabytesPerSecond: 12.5, microseconds: 50 },
};

/** What a node's labels say at a level that reads labels; undefined: the node is in no domain of the level. */
export function levelValue(nodeLabels: readonly string[], node: NodeRecord): string | undefined {
  for (const label of nodeLabels) {
    const value = node.labels[label];
    if (value !== undefined && value !== "") return value;
  }
  return nodeLabels.includes(hostnameLabel) ? node.name : undefined;
}
