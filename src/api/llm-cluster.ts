import { z } from "zod";
import {
  conditions,
  constraintFields,
  constraintRules,
  dnsLabel,
  immutable,
  keyedBy,
  objectName,
  observedGeneration,
  withRules,
} from "./common.ts";
import type { KubernetesObject } from "./kubernetes.ts";

const replaceIt = "create another LLMCluster with the new value, then delete this one";

const placement = z.object({
  topology: objectName
    .default("default")
    .describe("ClusterTopology whose levels the constraints speak of. Default: default."),
  constraints: z
    .array(
      withRules(z.object(constraintFields), constraintRules).describe("Where the pods lie in relation to each other."),
    )
    .max(8)
    .optional()
    .describe("Placement rules over all pods. On conflict between preferred ones the earlier wins."),
  placementGroup: objectName.optional().describe("PlacementGroup in the same namespace that the instance joins."),
  role: dnsLabel
    .optional()
    .describe("Role in the PlacementGroup, for example prefill. Default: the value of the label `role`."),
});

const deviceRequest = z.object({
  deviceClassName: objectName
    .default("gpu.kllama.ai")
    .describe("DeviceClass of the devices. Default: gpu.kllama.ai, whole GPUs."),
  /** CEL over `device`, as in a ResourceClaim. */
  selectors: z
    .array(z.string().min(1).max(10_240))
    .max(8)
    .optional()
    .describe("CEL expressions over `device`, as in a ResourceClaim; every device meets all of them."),
  /** Devices of one pod share this attribute (for example an NVLink domain inside the host). */
  matchAttribute: z
    .string()
    .max(100)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\/[A-Za-z_][A-Za-z0-9_]*$/)
    .optional()
    .describe(
      "Attribute, with its domain, that has one value for all devices of a pod, for example resource.kubernetes.io/numaNode.",
    ),
});

/** Names and quantities as in a container. A quantity is a string: `"4"`, not `4`. */
const quantities = z.record(
  z.string(),
  z
    .string()
    .min(1)
    .max(32)
    .regex(/^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[munkMGTPE]|[eE][-+]?[0-9]+)?$/),
);

const toleration = z
  .object({
    key: z.string().max(317).optional().describe("Key of the taint; empty with Exists: every taint."),
    operator: z.enum(["Exists", "Equal"]).optional().describe("Default Equal."),
    value: z.string().max(63).optional().describe("Value of the taint, for Equal."),
    effect: z
      .enum(["NoSchedule", "PreferNoSchedule", "NoExecute"])
      .optional()
      .describe("Effect of the taint. Default: every effect."),
  })
  .describe("A taint of nodes that the pods accept, as in a pod.");

const podDisruptionBudget = z.object({
  enabled: z.boolean().default(true).describe("Whether to create a PodDisruptionBudget. Default true."),
  minAvailable: z
    .int()
    .min(0)
    .max(256)
    .default(1)
    .describe(
      "Pods that a voluntary disruption must leave. Default 1. The instance serves only while all its pods are ready: set it to `replicas` to keep it serving.",
    ),
});

/** One tensor-parallel instance: `replicas` pods of `gpusPerPod` GPUs each, useless apart. */
export const llmClusterSpec = withRules(
  z.object({
    model: z.string().max(253).optional().describe("Name of the served model, for people and tools."),
    image: z.string().min(1).max(512).describe("Container image of the model server."),
    tensorParallelSize: immutable(z.int().min(1).max(2048), "tensorParallelSize", replaceIt).describe(
      "GPUs over which each layer of the model is split; equals replicas × gpusPerPod. Cannot change.",
    ),
    replicas: immutable(z.int().min(1).max(256), "replicas", replaceIt).describe(
      "Pods of this one instance, not instances: more instances are more LLMClusters. Cannot change.",
    ),
    gpusPerPod: immutable(z.int().min(1).max(32), "gpusPerPod", replaceIt).describe(
      "GPUs in each pod's claim. Cannot change.",
    ),
    port: z.int().min(1).max(65_535).default(8000).describe("Port on which rank 0 serves. Default 8000."),
    args: z.array(z.string().max(4096)).max(128).optional().describe("Arguments of the container."),
    env: keyedBy(
      z
        .array(
          z
            .object({
              name: z.string().min(1).max(253).describe("Name of the variable."),
              value: z.string().max(32_768).describe("Its value; $(NAME) refers to variables before it."),
            })
            .describe("An environment variable."),
        )
        .max(128),
      "name",
    )
      .optional()
      .describe("Environment of the container, after RANK, WORLD_SIZE and the other variables that kllama sets."),
    resources: z
      .object({
        requests: quantities.optional().describe('Requests, for example cpu: "8". Quantities are strings.'),
        limits: quantities.optional().describe('Limits, for example memory: "64Gi". Quantities are strings.'),
      })
      .optional()
      .describe("CPU and memory of each pod. GPUs are not named here: they come with the claim."),
    nodeSelector: z.record(z.string(), z.string()).optional().describe("Labels that the nodes must have."),
    tolerations: z.array(toleration).max(32).optional().describe("Taints of nodes that the pods accept."),
    priorityClassName: objectName.optional().describe("PriorityClass of the pods, hence of the gang."),
    startupTimeoutSeconds: z
      .int()
      .min(1)
      .max(86_400)
      .default(600)
      .describe(
        "Seconds after which an instance that is not Ready is Degraded with reason StartupTimeout. Default 600.",
      ),
    devices: deviceRequest.prefault({}).describe("Which devices. Changing it replaces all pods together."),
    placement: immutable(placement, "placement", replaceIt).prefault({}).describe("Where. Cannot change."),
    podDisruptionBudget: podDisruptionBudget.prefault({}).describe("Protection from voluntary disruption."),
  }),
  [
    {
      rule: "self.tensorParallelSize == self.replicas * self.gpusPerPod",
      message: "tensorParallelSize must equal replicas × gpusPerPod; change one of the three",
      messageExpression:
        "'tensorParallelSize must equal replicas × gpusPerPod, but %d is not %d × %d = %d; change one of the three'.format([self.tensorParallelSize, self.replicas, self.gpusPerPod, self.replicas * self.gpusPerPod])",
      fieldPath: ".tensorParallelSize",
    },
    {
      rule: "self.devices.deviceClassName != 'mig.kllama.ai' || self.tensorParallelSize == 1",
      message:
        "MIG slices reach no other GPU, so they serve tensorParallelSize 1 only; use DeviceClass gpu.kllama.ai or set tensorParallelSize, replicas and gpusPerPod to 1",
      fieldPath: ".devices.deviceClassName",
    },
    {
      rule: "self.podDisruptionBudget.minAvailable <= self.replicas",
      message: "podDisruptionBudget.minAvailable must not exceed replicas, the number of pods",
      messageExpression:
        "'podDisruptionBudget.minAvailable (%d) must not exceed replicas (%d), the number of pods'.format([self.podDisruptionBudget.minAvailable, self.replicas])",
      fieldPath: ".podDisruptionBudget.minAvailable",
    },
  ],
).describe("What to serve, and on which devices.");

export const llmClusterStatus = z
  .object({
    observedGeneration,
    readyReplicas: z.int().min(0).optional().describe("Pods that are ready."),
    /** `ready/wanted` pods, for people. */
    ready: z.string().max(32).optional().describe("Ready pods against pods wanted, for people, for example 2/2."),
    gang: z.string().max(253).optional().describe("Gang that places the pods."),
    url: z.string().max(512).optional().describe("Where clients in the cluster reach rank 0."),
    conditions: conditions(
      "Ready: all pods are ready, the instance serves. Progressing: something is being brought about. Degraded: something needs attention.",
    ),
  })
  .describe("What became of it; written by kllama alone.");

type LLMClusterSpec = z.output<typeof llmClusterSpec>;
export type LLMClusterStatus = z.output<typeof llmClusterStatus>;

export interface LLMCluster extends KubernetesObject {
  spec: LLMClusterSpec;
  status?: LLMClusterStatus;
}
