/**
 * The fields of Kubernetes objects that kllama reads, as raw JSON carries them.
 *
 * Typed clients rename fields (`int` becomes `_int`) and turn timestamps into dates in lists but not in watches; one
 * reader for both needs the wire form. Fields are optional exactly where the API server may omit them.
 */

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerReference[];
  /** Who wrote which fields last, as the API server keeps it. */
  managedFields?: FieldsEntry[];
}

interface FieldsEntry {
  manager?: string;
  subresource?: string;
  fieldsV1?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

export interface KubernetesObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
}

/** `metav1.Condition`. */
export interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason: string;
  message: string;
  lastTransitionTime: string;
  observedGeneration?: number;
}

export interface Taint {
  key: string;
  value?: string;
  effect: string;
}

export interface Toleration {
  key?: string;
  operator?: string;
  value?: string;
  effect?: string;
  tolerationSeconds?: number;
}

export interface NodeSelectorRequirement {
  key: string;
  operator: "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt";
  values?: string[];
}

interface NodeSelectorTerm {
  matchExpressions?: NodeSelectorRequirement[];
  matchFields?: NodeSelectorRequirement[];
}

export interface NodeSelector {
  nodeSelectorTerms: NodeSelectorTerm[];
}

export interface Node extends KubernetesObject {
  spec?: { taints?: Taint[]; unschedulable?: boolean };
  status?: {
    allocatable?: Record<string, string>;
    capacity?: Record<string, string>;
    conditions?: { type: string; status: string }[];
  };
}

export interface Container {
  name: string;
  restartPolicy?: string;
  resources?: {
    requests?: Record<string, string>;
    limits?: Record<string, string>;
    claims?: { name: string; request?: string }[];
  };
}

interface PodResourceClaim {
  name: string;
  resourceClaimName?: string;
  resourceClaimTemplateName?: string;
}

export interface Pod extends KubernetesObject {
  spec: {
    nodeName?: string;
    schedulerName?: string;
    schedulingGates?: { name: string }[];
    nodeSelector?: Record<string, string>;
    affinity?: { nodeAffinity?: { requiredDuringSchedulingIgnoredDuringExecution?: NodeSelector } };
    tolerations?: Toleration[];
    priority?: number;
    priorityClassName?: string;
    preemptionPolicy?: string;
    overhead?: Record<string, string>;
    resources?: { requests?: Record<string, string>; limits?: Record<string, string> };
    containers: Container[];
    initContainers?: Container[];
    resourceClaims?: PodResourceClaim[];
  };
  status?: {
    phase?: string;
    nominatedNodeName?: string;
    conditions?: { type: string; status: string; reason?: string; message?: string; lastTransitionTime?: string }[];
    resourceClaimStatuses?: { name: string; resourceClaimName?: string }[];
  };
}

/** As far as the Eviction API's answer rests on it. */
export interface PodDisruptionBudget extends KubernetesObject {
  spec?: {
    selector?: {
      matchLabels?: Record<string, string>;
      matchExpressions?: { key: string; operator: string; values?: string[] }[];
    } | null;
    unhealthyPodEvictionPolicy?: string;
    /** A number of pods, or a percentage. */
    minAvailable?: number | string | undefined;
    maxUnavailable?: number | string;
  };
  status?: { observedGeneration?: number; disruptionsAllowed?: number };
}

/** One value of a device attribute; exactly one field is set. */
export interface DeviceAttribute {
  int?: number;
  bool?: boolean;
  string?: string;
  version?: string;
}

export interface DeviceTaint {
  key: string;
  value?: string;
  effect: "None" | "NoSchedule" | "NoExecute";
  timeAdded?: string;
}

/** How requests for a part of a capacity are rounded and limited; only on devices that may be allocated several times. */
export interface CapacityRequestPolicy {
  default?: string;
  validValues?: string[];
  validRange?: { min?: string; max?: string; step?: string };
}

export interface DeviceCapacity {
  value: string;
  requestPolicy?: CapacityRequestPolicy;
}

export interface Device {
  name: string;
  attributes?: Record<string, DeviceAttribute>;
  capacity?: Record<string, DeviceCapacity>;
  consumesCounters?: { counterSet: string; counters: Record<string, { value: string }> }[];
  nodeName?: string;
  nodeSelector?: NodeSelector;
  allNodes?: boolean;
  taints?: DeviceTaint[];
  bindsToNode?: boolean;
  bindingConditions?: string[];
  bindingFailureConditions?: string[];
  allowMultipleAllocations?: boolean;
}

export interface ResourceSlice extends KubernetesObject {
  spec: {
    driver: string;
    pool: { name: string; generation: number; resourceSliceCount: number };
    nodeName?: string;
    nodeSelector?: NodeSelector;
    allNodes?: boolean;
    perDeviceNodeSelection?: boolean;
    sharedCounters?: { name: string; counters: Record<string, { value: string }> }[];
    devices?: Device[];
  };
}

/** `resource.k8s.io/v1` from Kubernetes 1.37 on; `v1beta2` of 1.36 is the same. */
export interface DeviceTaintRule extends KubernetesObject {
  spec: { deviceSelector?: { driver?: string; pool?: string; device?: string }; taint: DeviceTaint };
}

export interface DeviceSelector {
  cel?: { expression: string };
}

export interface DeviceToleration {
  key?: string;
  operator?: "Exists" | "Equal";
  value?: string;
  effect?: string;
}

/** The part that `exactly` and every entry of `firstAvailable` have in common. */
export interface ExactDeviceRequest {
  deviceClassName: string;
  selectors?: DeviceSelector[];
  allocationMode?: "ExactCount" | "All";
  count?: number;
  adminAccess?: boolean;
  tolerations?: DeviceToleration[];
  capacity?: { requests?: Record<string, string> };
}

export interface DeviceRequest {
  name: string;
  exactly?: ExactDeviceRequest;
  firstAvailable?: (ExactDeviceRequest & { name: string })[];
}

export interface DeviceConstraint {
  requests?: string[];
  matchAttribute?: string;
  distinctAttribute?: string;
}

export interface OpaqueConfiguration {
  opaque?: { driver: string; parameters: unknown };
}

export interface ResourceClaimSpec {
  devices?: {
    requests?: DeviceRequest[];
    constraints?: DeviceConstraint[];
    config?: (OpaqueConfiguration & { requests?: string[] })[];
  };
}

export interface DeviceRequestAllocationResult {
  request: string;
  driver: string;
  pool: string;
  device: string;
  adminAccess?: boolean;
  tolerations?: DeviceToleration[];
  bindingConditions?: string[];
  bindingFailureConditions?: string[];
  shareID?: string;
  consumedCapacity?: Record<string, string>;
}

export interface AllocationResult {
  devices?: {
    results?: DeviceRequestAllocationResult[];
    config?: (OpaqueConfiguration & { source: "FromClass" | "FromClaim"; requests?: string[] })[];
  };
  nodeSelector?: NodeSelector;
  allocationTimestamp?: string;
}

export interface ResourceClaimConsumer {
  apiGroup?: string;
  resource: string;
  name: string;
  uid: string;
}

/** What a driver says of a device that a claim holds. */
interface AllocatedDeviceStatus {
  driver: string;
  pool: string;
  device: string;
  conditions?: Pick<Condition, "type" | "status" | "reason" | "message">[];
}

export interface ResourceClaim extends KubernetesObject {
  spec: ResourceClaimSpec;
  status?: {
    allocation?: AllocationResult;
    reservedFor?: ResourceClaimConsumer[];
    devices?: AllocatedDeviceStatus[];
  };
}

export interface ResourceClaimTemplate extends KubernetesObject {
  spec: {
    metadata?: { labels?: Record<string, string>; annotations?: Record<string, string> };
    spec: ResourceClaimSpec;
  };
}

export interface DeviceClass extends KubernetesObject {
  spec: {
    selectors?: DeviceSelector[];
    config?: OpaqueConfiguration[];
    extendedResourceName?: string;
  };
}
