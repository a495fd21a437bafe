/**
 * What each account may do, all of it, and some of what it must not be able to do. The sources are the calls that the code
 * makes; nothing is granted that no call needs, but for get beside list and watch.
 */

export interface Right {
  verb: string;
  group: string;
  resource: string;
  subresource?: string;
  namespace?: string;
  name?: string;
}

export interface AccountRights {
  account: string;
  may: Right[];
  mayNot: Right[];
}

const scheduling = "scheduling.kllama.ai";
const dra = "resource.k8s.io";

/** `pods/status` → resource and subresource; several verbs and resources at once, separated by blanks. */
function rights(verbs: string, group: string, resources: string, more: Partial<Right> = {}): Right[] {
  return resources.split(" ").flatMap((path) => {
    const [resource, subresource] = path.split("/");
    return verbs.split(" ").map((verb) => ({
      verb,
      group,
      resource: resource!,
      ...(subresource === undefined ? {} : { subresource }),
      ...more,
    }));
  });
}

const anywhere = "get list watch";
const write = "create update patch delete deletecollection";

/** No component of kllama may do any of these. */
const nobody: Right[] = [
  ...rights(`${anywhere} ${write}`, "", "secrets"),
  ...rights(write, "rbac.authorization.k8s.io", "clusterroles clusterrolebindings roles rolebindings"),
  ...rights(write, "admissionregistration.k8s.io", "validatingadmissionpolicies mutatingadmissionpolicies"),
  ...rights(write, "apiextensions.k8s.io", "customresourcedefinitions"),
  ...rights("create", "", "pods serviceaccounts/token pods/exec pods/ephemeralcontainers"),
  ...rights("impersonate", "", "users groups serviceaccounts"),
  ...rights(write, dra, "deviceclasses"),
  ...rights("create update delete", scheduling, "clustertopologies placementgroups"),
  ...rights("create update patch delete", "serving.ai", "llmclusters"),
];

/** Where the planner's Lease is. */
export const lease = { namespace: "kllama-system" };

export const accountRights: AccountRights[] = [
  {
    account: "kllama-planner",
    may: [
      ...rights(anywhere, "", "nodes pods"),
      ...rights(anywhere, dra, "resourceslices resourceclaims deviceclasses devicetaintrules"),
      ...rights(anywhere, scheduling, "gangs placementgroups clustertopologies"),
      ...rights("update", scheduling, "gangs/status"),
      ...rights("update patch", dra, "resourceclaims/status resourceclaims/binding"),
      ...rights("patch", dra, "resourceclaims"),
      ...rights("patch", "", "pods pods/status"),
      ...rights("create", "", "pods/binding pods/eviction"),
      ...rights(anywhere, "policy", "poddisruptionbudgets"),
      ...rights("delete", "", "pods"),
      ...rights("create patch", "events.k8s.io", "events"),
      ...rights("create", "coordination.k8s.io", "leases", lease),
      ...rights("get update", "coordination.k8s.io", "leases", { ...lease, name: "kllama-planner" }),
      ...rights("create", scheduling, "plannerterms"),
      ...rights("get update", scheduling, "plannerterms", { name: "kllama-planner" }),
      ...rights("update", scheduling, "plannerterms/status", { name: "kllama-planner" }),
      ...["account", "device-classes", "extended-resources", "finalizers", "slices"].flatMap((policy) =>
        rights("get", "admissionregistration.k8s.io", "validatingadmissionpolicies validatingadmissionpolicybindings", {
          name: `${policy}.scheduling.kllama.ai`,
        }),
      ),
    ],
    mayNot: [
      ...nobody,
      ...rights("update", "", "pods"),
      ...rights(write, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
      ...rights(write, "", "nodes nodes/status"),
      ...rights(write, scheduling, "gangs"),
      ...rights("update patch", scheduling, "placementgroups/status clustertopologies/status"),
      ...rights("create update delete", dra, "resourceclaims"),
      ...rights(write, dra, "resourceslices resourceclaimtemplates devicetaintrules"),
      ...rights("update patch", dra, "resourceclaims/driver", { name: "gpu.kllama.ai" }),
      ...rights("create", "coordination.k8s.io", "leases", { namespace: "kube-system" }),
      ...rights("get update", "coordination.k8s.io", "leases", { namespace: "kube-system", name: "kube-scheduler" }),
      ...rights("update", "coordination.k8s.io", "leases", { ...lease, name: "another" }),
      ...rights("delete", "coordination.k8s.io", "leases", { ...lease, name: "kllama-planner" }),
      ...rights("update", scheduling, "plannerterms", { name: "another" }),
      ...rights("delete", scheduling, "plannerterms", { name: "kllama-planner" }),
    ],
  },
  {
    account: "kllama-operator",
    may: [
      ...rights(anywhere, "serving.ai", "llmclusters"),
      ...rights("patch", "serving.ai", "llmclusters/status"),
      ...rights("update", "serving.ai", "llmclusters/finalizers"),
      ...rights(`${anywhere} create patch delete`, "", "services"),
      ...rights(`${anywhere} create patch delete`, "apps", "statefulsets"),
      ...rights(`${anywhere} create patch delete`, dra, "resourceclaimtemplates"),
      ...rights(`${anywhere} create patch delete`, "policy", "poddisruptionbudgets"),
      ...rights(`${anywhere} create patch delete`, scheduling, "gangs"),
      ...rights(`${anywhere} delete`, "", "pods"),
      ...rights("create patch", "events.k8s.io", "events"),
    ],
    mayNot: [
      ...nobody,
      ...rights("patch update", "", "pods pods/status"),
      ...rights("create", "", "pods/binding"),
      ...rights("update patch", scheduling, "gangs/status"),
      ...rights("update patch", dra, "resourceclaims resourceclaims/status resourceclaims/binding"),
      ...rights(write, dra, "resourceslices"),
      ...rights(anywhere, "", "nodes"),
      ...rights("deletecollection", "", "pods services"),
    ],
  },
  {
    account: "kllama-node-agent",
    may: [
      ...rights("get", "", "nodes"),
      ...rights(`${anywhere} create update delete`, dra, "resourceslices"),
      ...rights("get", dra, "resourceclaims"),
      ...rights("patch", dra, "resourceclaims/status"),
      ...rights("associated-node:patch", dra, "resourceclaims/driver", { name: "gpu.kllama.ai" }),
      ...rights("create patch", "events.k8s.io", "events"),
    ],
    mayNot: [
      ...nobody,
      ...rights("list watch", "", "nodes pods"),
      ...rights("patch", "", "pods nodes nodes/status"),
      ...rights("list update patch", dra, "resourceclaims"),
      ...rights("update patch", dra, "resourceclaims/binding"),
      ...rights("arbitrary-node:update arbitrary-node:patch", dra, "resourceclaims/driver", { name: "gpu.kllama.ai" }),
      ...rights("associated-node:patch", dra, "resourceclaims/driver", { name: "gpu.nvidia.com" }),
    ],
  },
  {
    account: "kllama-simulator",
    may: [
      ...rights(`${anywhere} create patch delete`, "", "nodes"),
      ...rights("patch", "", "nodes/status pods/status"),
      ...rights(`${anywhere} patch delete`, "", "pods"),
      ...rights(`${anywhere} create update delete`, dra, "resourceslices"),
      ...rights(anywhere, dra, "resourceclaims"),
      ...rights("patch", dra, "resourceclaims/status"),
      ...rights("arbitrary-node:patch", dra, "resourceclaims/driver", { name: "gpu.kllama.ai" }),
      ...rights("create patch", "events.k8s.io", "events"),
    ],
    mayNot: [
      ...nobody,
      ...rights("create", "", "pods/binding"),
      ...rights("update patch", dra, "resourceclaims resourceclaims/binding"),
      ...rights("arbitrary-node:patch", dra, "resourceclaims/driver", { name: "gpu.nvidia.com" }),
      ...rights("update patch", scheduling, "gangs gangs/status"),
    ],
  },
];

const team = { namespace: "team" };

/** What everybody may see who has any of Kubernetes' own roles. */
const seen: Right[] = [
  ...rights(anywhere, scheduling, "gangs placementgroups", team),
  ...rights("get", scheduling, "gangs/status placementgroups/status", team),
  ...rights(anywhere, "serving.ai", "llmclusters", team),
  ...rights("get", "serving.ai", "llmclusters/status", team),
  // Cluster-scoped: a role that is bound in one namespace grants nothing of them, one that is bound in all does.
  ...rights(anywhere, scheduling, "clustertopologies plannerterms", team),
];

/** Rights of people over our kinds, all of them, by the built-in role that they are bound to in namespace `team`. */
export const userRights: { role: "admin" | "edit" | "view"; may: Right[]; mayNot: Right[] }[] = [
  ...(["admin", "edit"] as const).map((role) => ({
    role,
    may: [
      ...seen,
      ...rights(write, scheduling, "gangs placementgroups", team),
      ...rights(write, "serving.ai", "llmclusters", team),
    ],
    mayNot: [
      ...rights("update patch", scheduling, "gangs/status placementgroups/status", team),
      ...rights("update patch", "serving.ai", "llmclusters/status llmclusters/finalizers", team),
      ...rights("create", "serving.ai", "llmclusters", { namespace: "default" }),
      ...rights(write, scheduling, "clustertopologies plannerterms"),
      ...rights("update patch", dra, "resourceclaims/status resourceclaims/binding", team),
    ],
  })),
  {
    role: "view",
    may: seen,
    mayNot: [
      ...rights(write, scheduling, "gangs placementgroups", team),
      ...rights(write, "serving.ai", "llmclusters", team),
      ...rights(write, scheduling, "clustertopologies plannerterms"),
    ],
  },
];
