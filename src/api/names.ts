/** Every name that kllama shares with the API server and with other people's objects, in one place. */

export const schedulingGroup = "scheduling.kllama.ai";
export const servingGroup = "serving.ai";
export const version = "v1alpha1";

/** The driver that kllama publishes itself; `managedDrivers` may name more. */
export const driverName = "gpu.kllama.ai";

/** Gate and label carry the same name: the label says which gang, the gate holds the pod until the gang is reserved. */
export const gangLabel = "scheduling.kllama.ai/gang";
export const gangGate = "scheduling.kllama.ai/gang";
/** Condition of a gated pod: False while the Gang that its label names does not exist. */
export const gangCondition = "scheduling.kllama.ai/Gang";
export const podSetLabel = "scheduling.kllama.ai/pod-set";

/** First of these that a pod has is its index within its pod set. */
export const podIndexLabels = [
  "scheduling.kllama.ai/pod-index",
  "apps.kubernetes.io/pod-index",
  "batch.kubernetes.io/job-completion-index",
  "leaderworkerset.sigs.k8s.io/worker-index",
] as const;

/** Namespaces with this label set to `enabled` have every pod with resource claims gated at creation. */
export const injectLabel = "scheduling.kllama.ai/inject";

/** Marker resources: kube-scheduler calls an extender only for pods that request one of its `managedResources`. */
export const bindMarker = "scheduling.kllama.ai/bind";
export const memberMarker = "scheduling.kllama.ai/member";

/** Kept on managed claims from their creation, so that kube-controller-manager deallocates before a claim disappears. */
export const claimFinalizer = "resource.kubernetes.io/delete-protection";

/** Label values that join gangs into a PlacementGroup by role. */
export const roleLabel = "scheduling.kllama.ai/role";

/** Name of the Lease that elects the planner and of the PlannerTerm that fences it. */
export const plannerName = "kllama-planner";

export const fieldManager = "kllama";
