import { z } from "zod";

/**
 * The shape of what `kllama plan` reads of Kubernetes' own kinds, as loosely as the planner needs it: other fields may
 * stand there. What the API server checks beyond that is not checked again. Fields that are null were left out before.
 */

const strings = z.record(z.string(), z.string());
/** YAML reads `cpu: 4` as a number, which the API server takes too. */
const quantity = z.union([z.string(), z.number().transform(String)], "expected a quantity, such as 4, 500m or 64Gi");
const quantities = z.record(z.string(), quantity);
const count = z.int().min(0);
const maxReplicas = 100_000;
const time = z
  .string()
  .refine((text) => !Number.isNaN(Date.parse(text)), "is no time; write for example 2026-01-02T03:04:05Z");
/** Fully qualified, as the API server wants it of attributes that constraints name. */
const qualified = z
  .string()
  .regex(/^[^/]+\/[^/]+$/, "expected a name with its domain, such as gpu.kllama.ai/nvlinkDomain");

/** No two of them have one name. */
function named<T extends z.ZodType<{ name: string }>>(entry: T) {
  return z.array(entry).superRefine((entries, context) => {
    for (const [i, { name }] of entries.entries()) {
      if (entries.findIndex((each) => each.name === name) === i) continue;
      context.addIssue({ code: "custom", path: [i], message: `${name} is there twice; keep one entry` });
    }
  });
}

/** Of an object of any kind. */
export const metadata = z.looseObject({
  name: z.string(),
  namespace: z.string().optional(),
  uid: z.string().optional(),
  labels: strings.optional(),
  annotations: strings.optional(),
  creationTimestamp: time.optional(),
  ownerReferences: z
    .array(z.looseObject({ kind: z.string(), name: z.string(), uid: z.string().optional() }))
    .optional(),
});

const requirement = z.looseObject({
  key: z.string(),
  operator: z.enum(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]),
  values: z.array(z.string()).optional(),
});
const nodeSelector = z.looseObject({
  nodeSelectorTerms: z.array(
    z.looseObject({
      matchExpressions: z.array(requirement).optional(),
      matchFields: z.array(requirement).optional(),
    }),
  ),
});

const taint = z.looseObject({
  key: z.string(),
  value: z.string().optional(),
  effect: z.enum(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
});

const node = z.looseObject({
  metadata,
  spec: z.looseObject({ taints: z.array(taint).optional(), unschedulable: z.boolean().optional() }).optional(),
  status: z
    .looseObject({
      allocatable: quantities.optional(),
      capacity: quantities.optional(),
      conditions: z.array(z.looseObject({ type: z.string(), status: z.string() })).optional(),
    })
    .optional(),
});

const attribute = z.union(
  [
    z.strictObject({ string: z.string() }),
    z.strictObject({ int: z.int() }),
    z.strictObject({ bool: z.boolean() }),
    z.strictObject({ version: z.string() }),
  ],
  "expected exactly one of string, int, bool and version",
);
const value = z.looseObject({ value: quantity });
const placement = {
  nodeName: z.string().optional(),
  nodeSelector: nodeSelector.optional(),
  allNodes: z.boolean().optional(),
};

const deviceTaintEffect = z.enum(["None", "NoSchedule", "NoExecute"]);

const device = z.looseObject({
  name: z.string().min(1),
  attributes: z.record(z.string(), attribute).optional(),
  capacity: z.record(z.string(), value).optional(),
  consumesCounters: z
    .array(z.looseObject({ counterSet: z.string(), counters: z.record(z.string(), value) }))
    .optional(),
  taints: z.array(z.looseObject({ key: z.string(), effect: deviceTaintEffect })).optional(),
  ...placement,
});

const resourceSlice = z.looseObject({
  metadata,
  spec: z
    .looseObject({
      driver: z.string().min(1),
      pool: z.looseObject({ name: z.string().min(1), generation: count, resourceSliceCount: z.int().min(1) }),
      devices: z.array(device).max(128).optional(),
      sharedCounters: z.array(z.looseObject({ name: z.string(), counters: z.record(z.string(), value) })).optional(),
      perDeviceNodeSelection: z.boolean().optional(),
      ...placement,
    })
    .refine(
      ({ nodeName = "", nodeSelector, allNodes, perDeviceNodeSelection }) =>
        [nodeName !== "", nodeSelector !== undefined, allNodes, perDeviceNodeSelection].filter(Boolean).length === 1,
      "needs exactly one of nodeName, nodeSelector, allNodes and perDeviceNodeSelection",
    ),
});

/** A misspelt field would select other devices than are meant: more of them, or none. */
const deviceTaintRule = z.looseObject({
  metadata,
  spec: z.strictObject({
    deviceSelector: z
      .strictObject({
        driver: z.string().min(1).optional(),
        pool: z.string().min(1).optional(),
        device: z.string().min(1).optional(),
      })
      .optional(),
    taint: z.strictObject({
      key: z.string().min(1),
      value: z.string().optional(),
      effect: deviceTaintEffect,
      timeAdded: time.optional(),
    }),
  }),
});

const selectors = z.array(z.looseObject({ cel: z.looseObject({ expression: z.string() }).optional() })).optional();

const deviceClass = z.looseObject({
  metadata,
  spec: z.looseObject({ selectors, extendedResourceName: z.string().optional() }),
});

const exactRequest = {
  deviceClassName: z.string().min(1),
  selectors,
  allocationMode: z.enum(["ExactCount", "All"]).optional(),
  count: z.int().min(1).optional(),
  adminAccess: z.boolean().optional(),
};
const request = z
  .looseObject({
    name: z.string().min(1),
    exactly: z.looseObject(exactRequest).optional(),
    firstAvailable: z
      .array(z.looseObject({ name: z.string().min(1), ...exactRequest }))
      .min(1)
      .max(8)
      .optional(),
  })
  .refine((each) => (each.exactly === undefined) !== (each.firstAvailable === undefined), {
    message: "needs exactly one of exactly and firstAvailable (resource.k8s.io/v1)",
  });
const claimSpec = z.looseObject({
  devices: z
    .looseObject({
      requests: named(request).max(32).optional(),
      constraints: z
        .array(
          z.looseObject({
            requests: z.array(z.string()).optional(),
            matchAttribute: qualified.optional(),
            distinctAttribute: qualified.optional(),
          }),
        )
        .max(32)
        .optional(),
    })
    .optional(),
});

const allocated = z.looseObject({
  request: z.string(),
  driver: z.string(),
  pool: z.string(),
  device: z.string(),
});
const resourceClaim = z.looseObject({
  metadata,
  spec: claimSpec,
  status: z
    .looseObject({
      allocation: z
        .looseObject({
          devices: z.looseObject({ results: z.array(allocated).optional() }).optional(),
          nodeSelector: nodeSelector.optional(),
        })
        .optional(),
      reservedFor: z.array(z.looseObject({ resource: z.string(), name: z.string(), uid: z.string() })).optional(),
    })
    .optional(),
});

const resourceClaimTemplate = z.looseObject({ metadata, spec: z.looseObject({ spec: claimSpec }) });

const resources = z.looseObject({ requests: quantities.optional(), limits: quantities.optional() });
const container = z.looseObject({
  name: z.string(),
  restartPolicy: z.string().optional(),
  resources: resources.optional(),
});
const podSpec = z.looseObject({
  nodeName: z.string().optional(),
  priority: z.int().optional(),
  priorityClassName: z.string().optional(),
  nodeSelector: strings.optional(),
  affinity: z
    .looseObject({
      nodeAffinity: z
        .looseObject({ requiredDuringSchedulingIgnoredDuringExecution: nodeSelector.optional() })
        .optional(),
    })
    .optional(),
  tolerations: z.array(z.looseObject({ key: z.string().optional(), operator: z.string().optional() })).optional(),
  schedulingGates: z.array(z.looseObject({ name: z.string() })).optional(),
  schedulingGroup: z.looseObject({ podGroupName: z.string().optional() }).optional(),
  overhead: quantities.optional(),
  resources: resources.optional(),
  containers: z.array(container).min(1),
  initContainers: z.array(container).optional(),
  resourceClaims: named(
    z
      .looseObject({
        name: z.string().min(1),
        resourceClaimName: z.string().optional(),
        resourceClaimTemplateName: z.string().optional(),
      })
      .refine(
        (each) => (each.resourceClaimName === undefined) !== (each.resourceClaimTemplateName === undefined),
        "needs exactly one of resourceClaimName and resourceClaimTemplateName",
      ),
  ).optional(),
});

const pod = z.looseObject({
  metadata,
  spec: podSpec,
  status: z.looseObject({ phase: z.string().optional() }).optional(),
});

const replicated = z.looseObject({
  metadata,
  spec: z.looseObject({
    // Each becomes a pod here.
    replicas: count.max(maxReplicas, `Too big: at most ${maxReplicas} are planned`).optional(),
    selector: z.looseObject({ matchLabels: strings.optional() }).optional(),
    template: z.looseObject({
      metadata: z.looseObject({ labels: strings.optional() }).optional(),
      spec: podSpec,
    }),
  }),
});

const amount = z.union(
  [count, z.string().regex(/^\d{1,3}%$/)],
  "expected a number of pods or a percentage, such as 1 or 25%",
);
const podDisruptionBudget = z.looseObject({
  metadata,
  spec: z
    .looseObject({
      selector: z
        .looseObject({
          matchLabels: strings.optional(),
          matchExpressions: z
            .array(z.looseObject({ key: z.string(), operator: z.string(), values: z.array(z.string()).optional() }))
            .optional(),
        })
        .optional(),
      minAvailable: amount.optional(),
      maxUnavailable: amount.optional(),
    })
    .optional(),
  status: z.looseObject({ observedGeneration: count.optional(), disruptionsAllowed: count.optional() }).optional(),
});

const priorityClass = z.looseObject({ metadata, value: z.int(), globalDefault: z.boolean().optional() });

/** A PodGroup of any scheduler that is read, as far as it is. */
export const podGroup = z.looseObject({
  metadata,
  spec: z
    .looseObject({
      minMember: count.optional(),
      schedulingPolicy: z.looseObject({ gang: z.looseObject({ minCount: z.int().min(1) }).optional() }).optional(),
      schedulingConstraints: z
        .looseObject({ topology: z.array(z.looseObject({ key: z.string().optional() })).optional() })
        .optional(),
      topologyConstraint: z
        .looseObject({
          requiredTopologyLevel: z.string().optional(),
          preferredTopologyLevel: z.string().optional(),
        })
        .optional(),
      subGroups: z.array(z.unknown()).optional(),
    })
    .optional(),
});

/** Kind → what it must look like. */
export const builtInSchemas: Readonly<Record<string, z.ZodType>> = {
  Node: node,
  ResourceSlice: resourceSlice,
  DeviceTaintRule: deviceTaintRule,
  DeviceClass: deviceClass,
  ResourceClaim: resourceClaim,
  ResourceClaimTemplate: resourceClaimTemplate,
  Pod: pod,
  StatefulSet: replicated,
  Deployment: replicated,
  PriorityClass: priorityClass,
  PodDisruptionBudget: podDisruptionBudget,
};
