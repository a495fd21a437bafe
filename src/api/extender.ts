/**
 * Wire form of kube-scheduler's extender protocol, `k8s.io/kube-scheduler/extender/v1` v0.36: Go structs without JSON
 * tags, so keys are the Go field names. Go reads any case and writes these.
 */

export interface ExtenderFilterResult {
  NodeNames: string[];
  FailedNodes: Record<string, string>;
  FailedAndUnresolvableNodes: Record<string, string>;
  Error: string;
}

export interface HostPriority {
  Host: string;
  Score: number;
}

export interface ExtenderPreemptionResult {
  NodeNameToMetaVictims: Record<string, { Pods: { UID: string }[]; NumPDBViolations: number }>;
}

export interface ExtenderBindingResult {
  Error: string;
}
