import type {
  AllocationResult,
  Device,
  DeviceSelector,
  DeviceTaint,
  NodeSelector,
  OpaqueConfiguration,
  ResourceClaimConsumer,
  ResourceClaimSpec,
  Taint,
  Toleration,
} from "../api/kubernetes.ts";

/**
 * What kllama remembers of each object: projected once from raw JSON by `src/kube/project.ts` (live) or
 * `src/cli/plan/input.ts` (files), so that five thousand nodes fit in memory and the planner never parses.
 */

/** Resource name → integer amount: `cpu` in millicores, everything else in base units (bytes, pieces). */
export type Resources = Readonly<Record<string, number>>;

export interface NodeRecord {
  name: string;
  uid: string;
  labels: Readonly<Record<string, string>>;
  taints: readonly Taint[];
  unschedulable: boolean;
  ready: boolean;
  allocatable: Resources;
}

/** One ResourceSlice; pools are assembled from these by generation and slice count. */
export interface SliceRecord {
  name: string;
  driver: string;
  pool: string;
  generation: number;
  resourceSliceCount: number;
  nodeName?: string;
  nodeSelector?: NodeSelector;
  allNodes?: boolean;
  perDeviceNodeSelection?: boolean;
  devices: readonly Device[];
  sharedCounters: readonly { name: string; counters: Readonly<Record<string, { value: string }>> }[];
}

/** A DeviceTaintRule: an administrator's taint on all devices that it selects. */
export interface TaintRuleRecord {
  name: string;
  /** Every field that is there has to be the device's; empty: all devices, absent: none. */
  selector?: { readonly driver?: string; readonly pool?: string; readonly device?: string };
  taint: DeviceTaint;
}

export interface DeviceClassRecord {
  name: string;
  selectors: readonly DeviceSelector[];
  config: readonly OpaqueConfiguration[];
  extendedResourceName?: string;
}

/** A claim as a pod refers to it. `claimName` is absent while kube-controller-manager has not created it yet. */
interface PodClaimReference {
  name: string;
  claimName?: string;
  templateName?: string;
}

export interface PodRecord {
  uid: string;
  /** Absent offline. */
  resourceVersion?: string;
  namespace: string;
  name: string;
  /** Value of the gang label; absent: a pod of its own. */
  gang?: string;
  podSet?: string;
  /** From the index labels; absent: natural order of names. */
  index?: number;
  createdAtMs: number;
  priority: number;
  /** `preemptionPolicy: Never`: nobody is preempted for it. */
  neverPreempts?: true;
  /** Of members and of pods with claims, which may be evicted; of no others. */
  labels?: Readonly<Record<string, string>>;
  schedulerName: string;
  /** Names of all scheduling gates still on the pod. */
  gates: readonly string[];
  /** It requests the bind marker: its binding goes through kllama. */
  bindMarker: boolean;
  nodeName?: string;
  nominatedNodeName?: string;
  /** Succeeded or Failed: it uses nothing any more. */
  terminal: boolean;
  deleting: boolean;
  ready: boolean;
  /** Phase Running: its kubelet has prepared its claims. Of pods with claims only. */
  started?: true;
  /** When the API server bound it. Of pods with claims only. */
  boundAtMs?: number;
  /** Status of the condition that tells whether its Gang exists; absent: nobody had to be told. */
  gangCondition?: "True" | "False";
  /** Message of `PodScheduled=False`, reason Unschedulable. */
  unschedulableMessage?: string;
  /** Names of nodes that kube-scheduler refused a short while ago, in plain order; known to the planner only. */
  avoidedNodes?: readonly string[];
  requests: Resources;
  claims: readonly PodClaimReference[];
  nodeSelector: Readonly<Record<string, string>>;
  nodeAffinity?: NodeSelector;
  tolerations: readonly Toleration[];
  /** Owner with `controller: true`. */
  owner?: { kind: string; name: string; uid: string };
}

export interface ClaimRecord {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion: string;
  spec: ResourceClaimSpec;
  allocation?: AllocationResult;
  /** The API server says that kllama's planner wrote the allocation. */
  allocatedByPlanner?: true;
  reservedFor: readonly ResourceClaimConsumer[];
  /** A device that its driver could not make ready for the node (a binding failure condition), and why. */
  bindingFailure?: string;
  finalizers: readonly string[];
  deleting: boolean;
  /** The pod that owns a claim made from a template. */
  ownerPodUid?: string;
  /** Absent offline. */
  createdAtMs?: number;
}

/** A PodDisruptionBudget, as the Eviction API reads it. */
export interface BudgetRecord {
  namespace: string;
  name: string;
  /** Absent: it covers no pod. */
  selector?: LabelSelector;
  /** Pods that may be evicted now; 0 while its status is older than its spec. */
  disruptionsAllowed: number;
  /** `unhealthyPodEvictionPolicy: AlwaysAllow`: pods that are not ready count for nothing. */
  sparesReadyOnly: boolean;
}

export interface LabelSelector {
  matchLabels?: Readonly<Record<string, string>>;
  matchExpressions?: readonly { key: string; operator: string; values?: readonly string[] }[];
}
