import { clientLimits } from "./arguments.ts";

/** One entry of `extenders` in KubeSchedulerConfiguration v1; the keys are Kubernetes' own. */
type SchedulerExtender = {
  readonly urlPrefix: string;
  readonly filterVerb?: string;
  readonly prioritizeVerb?: string;
  readonly preemptVerb?: string;
  readonly bindVerb?: string;
  readonly weight?: number;
  readonly enableHTTPS?: boolean;
  /** Files, or base64 of PEM in the `…Data` keys. */
  readonly tlsConfig?: {
    readonly insecure?: boolean;
    readonly serverName?: string;
    readonly certFile?: string;
    readonly keyFile?: string;
    readonly caFile?: string;
    readonly certData?: string;
    readonly keyData?: string;
    readonly caData?: string;
  };
  /** A Go duration, as `200ms`. */
  readonly httpTimeout?: string;
  readonly nodeCacheCapable?: boolean;
  readonly managedResources?: readonly { readonly name: string; readonly ignoredByScheduler?: boolean }[];
  readonly ignorable?: boolean;
};

/** What a caller decides about kube-scheduler; what is left out keeps kube-scheduler's own default. */
export type SchedulerOptions = {
  readonly extenders?: readonly SchedulerExtender[];
  /** Share of nodes that are looked at, 1 to 100. Below 100 kube-scheduler may never show the planned node to an extender. */
  readonly percentageOfNodesToScore?: number;
  readonly parallelism?: number;
  readonly podInitialBackoffSeconds?: number;
  readonly podMaxBackoffSeconds?: number;
  /** `profiles` of KubeSchedulerConfiguration v1, as they are. */
  readonly profiles?: readonly unknown[];
};

/** A KubeSchedulerConfiguration for one instance without leader election. */
export function schedulerConfiguration(kubeconfig: string, options: SchedulerOptions): object {
  return {
    apiVersion: "kubescheduler.config.k8s.io/v1",
    kind: "KubeSchedulerConfiguration",
    clientConnection: { kubeconfig, qps: clientLimits.queriesPerSecond, burst: clientLimits.burst },
    leaderElection: { leaderElect: false },
    ...options,
  };
}

/** kwok manages the nodes with this label that are not lost; see kwok-scenarios/stages for what it does with them. */
const managedNodeSelector = "simulator.kllama.ai/node,!simulator.kllama.ai/lost";

/** kwok's own settings; the stages follow as further documents of the same file. */
export function kwokConfiguration(): object {
  return {
    apiVersion: "config.kwok.x-k8s.io/v1alpha1",
    kind: "KwokConfiguration",
    options: {
      manageAllNodes: false,
      manageNodesWithLabelSelector: managedNodeSelector,
      cidr: "10.128.0.0/9",
      enableDebuggingHandlers: false,
      podPlayStageParallelism: 16,
      nodePlayStageParallelism: 16,
      nodeLeaseParallelism: 16,
      podsOnNodeSyncParallelism: 4,
    },
  };
}

/** Every request that has been answered, one line each, without bodies: enough to count writes by verb, kind and user. */
export function auditPolicy(): object {
  return {
    apiVersion: "audit.k8s.io/v1",
    kind: "Policy",
    omitStages: ["RequestReceived", "ResponseStarted"],
    rules: [{ level: "None", nonResourceURLs: ["/healthz*", "/livez*", "/readyz*"] }, { level: "Metadata" }],
  };
}

const kwokUser = "system:kwok";

/** kwok's rights, which no Kubernetes default role grants: those it uses with our stages, and no more. */
export function kwokAccess(): { readonly path: string; readonly object: object }[] {
  const api = "/apis/rbac.authorization.k8s.io/v1";
  const metadata = { name: "kllama-kwok" };
  const rules = [
    { apiGroups: [""], resources: ["nodes", "pods"], verbs: ["get", "list", "watch"] },
    { apiGroups: [""], resources: ["nodes/status", "pods/status"], verbs: ["patch", "update"] },
    { apiGroups: [""], resources: ["pods"], verbs: ["patch", "delete"] },
    { apiGroups: ["", "events.k8s.io"], resources: ["events"], verbs: ["create", "patch", "update"] },
    {
      apiGroups: ["coordination.k8s.io"],
      resources: ["leases"],
      verbs: ["create", "get", "list", "watch", "patch", "update"],
    },
  ];
  const group = "rbac.authorization.k8s.io";
  return [
    {
      path: `${api}/clusterroles`,
      object: { apiVersion: `${group}/v1`, kind: "ClusterRole", metadata, rules },
    },
    {
      path: `${api}/clusterrolebindings`,
      object: {
        apiVersion: `${group}/v1`,
        kind: "ClusterRoleBinding",
        metadata,
        roleRef: { apiGroup: group, kind: "ClusterRole", name: metadata.name },
        subjects: [{ apiGroup: group, kind: "User", name: kwokUser }],
      },
    },
  ];
}
