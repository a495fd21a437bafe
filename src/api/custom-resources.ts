import { clusterTopologySpec } from "./cluster-topology.ts";
import type { CustomResource, PrinterColumn } from "./crd.ts";
import { gangSpec, gangStatus } from "./gang.ts";
import { llmClusterSpec, llmClusterStatus } from "./llm-cluster.ts";
import { schedulingGroup, servingGroup, version } from "./names.ts";
import { placementGroupSpec, placementGroupStatus } from "./placement-group.ts";
import { plannerTermSpec, plannerTermStatus } from "./planner-term.ts";

const age: PrinterColumn = { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" };

const gang: CustomResource = {
  group: schedulingGroup,
  version,
  kind: "Gang",
  plural: "gangs",
  singular: "gang",
  shortNames: ["gg"],
  scope: "Namespaced",
  description:
    "Pods that are placed all or nothing: nodes and devices together. Member pods carry the label scheduling.kllama.ai/gang with its name.",
  spec: gangSpec,
  status: gangStatus,
  rules: [
    {
      rule: "size(self.metadata.name) <= 63",
      message: "pods name their gang in a label, so its name has at most 63 characters; choose a shorter one",
    },
  ],
  columns: [
    { name: "Phase", type: "string", jsonPath: ".status.phase" },
    { name: "Members", type: "string", jsonPath: ".status.members", description: "Pods against pods wanted" },
    { name: "Reason", type: "string", jsonPath: '.status.conditions[?(@.type=="Scheduled")].reason' },
    { name: "Domains", type: "string", jsonPath: ".status.placement.domains", priority: 1 },
    { name: "Group", type: "string", jsonPath: ".spec.placementGroup", priority: 1 },
    { name: "Explanation", type: "string", jsonPath: ".status.explanation", priority: 1 },
    age,
  ],
};

const placementGroup: CustomResource = {
  group: schedulingGroup,
  version,
  kind: "PlacementGroup",
  plural: "placementgroups",
  singular: "placementgroup",
  shortNames: ["pgrp"],
  scope: "Namespaced",
  description:
    "Joins gangs by role, for example prefill and decode, so that they are placed together. The minima of its roles are placed all or nothing.",
  spec: placementGroupSpec,
  status: placementGroupStatus,
  columns: [
    { name: "Phase", type: "string", jsonPath: ".status.phase" },
    { name: "Topology", type: "string", jsonPath: ".spec.topology" },
    age,
  ],
};

const clusterTopology: CustomResource = {
  group: schedulingGroup,
  version,
  kind: "ClusterTopology",
  plural: "clustertopologies",
  singular: "clustertopology",
  shortNames: ["ctopo"],
  scope: "Cluster",
  description:
    "The levels of the cluster, from region down to NVLink domain, NUMA node and PCIe root: how they are told and what a link at each is worth.",
  spec: clusterTopologySpec,
  columns: [
    { name: "Broadest", type: "string", jsonPath: ".spec.levels[0].name" },
    { name: "Narrowest", type: "string", jsonPath: ".spec.levels[-1:].name" },
    age,
  ],
};

const llmCluster: CustomResource = {
  group: servingGroup,
  version,
  kind: "LLMCluster",
  plural: "llmclusters",
  singular: "llmcluster",
  shortNames: ["llmc"],
  scope: "Namespaced",
  description:
    "One tensor-parallel instance of a model: `replicas` pods of `gpusPerPod` GPUs each, useless apart and placed as one gang.",
  spec: llmClusterSpec,
  status: llmClusterStatus,
  rules: [
    {
      rule: "size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
      message:
        "Services and pods are named after the LLMCluster: its name has at most 52 characters, lower-case letters, digits and dashes, and starts with a letter",
    },
  ],
  columns: [
    { name: "TP", type: "integer", jsonPath: ".spec.tensorParallelSize", description: "Tensor parallel size" },
    { name: "Ready", type: "string", jsonPath: ".status.ready", description: "Ready pods against pods wanted" },
    { name: "Gang", type: "string", jsonPath: ".status.gang" },
    { name: "Reason", type: "string", jsonPath: '.status.conditions[?(@.type=="Ready")].reason' },
    { name: "GPUs/Pod", type: "integer", jsonPath: ".spec.gpusPerPod", priority: 1 },
    { name: "Image", type: "string", jsonPath: ".spec.image", priority: 1 },
    { name: "URL", type: "string", jsonPath: ".status.url", priority: 1 },
    age,
  ],
};

const plannerTerm: CustomResource = {
  group: schedulingGroup,
  version,
  kind: "PlannerTerm",
  plural: "plannerterms",
  singular: "plannerterm",
  shortNames: ["pterm"],
  scope: "Cluster",
  description:
    "Which planner may write: the API server refuses every other one, also one that was paused and does not know yet that it was replaced.",
  spec: plannerTermSpec,
  status: plannerTermStatus,
  columns: [
    { name: "Holder", type: "string", jsonPath: ".spec.holder" },
    { name: "Epoch", type: "integer", jsonPath: ".spec.epoch" },
    age,
  ],
};

/** Every kind that kllama adds to the API server. */
export const customResources: readonly CustomResource[] = [
  gang,
  placementGroup,
  clusterTopology,
  plannerTerm,
  llmCluster,
];
