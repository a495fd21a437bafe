import type { Pod, ResourceClaim } from "../api/kubernetes.ts";
import { bindMarker, claimFinalizer, driverName, gangGate, gangLabel, memberMarker } from "../api/names.ts";
import { isAlreadyExists, isNotFound, type KubeClient, KubeError } from "./client.ts";
import { eventually } from "./eventually.ts";
import { claimPath, podPath, resourcePath } from "./paths.ts";

const namespace = "kllama-system";
const probeName = "kllama-policy-probe";
const dra = { group: "resource.k8s.io", version: "v1" };
const podsPath = podPath({ namespace });
const claimsPath = claimPath({ namespace });
const probePath = claimPath({ namespace, name: probeName });
const probeStatusPath = claimPath({ namespace, name: probeName }, "status");

/** Says what a policy does not do yet; undefined when it does what it must. */
type Probe = (client: KubeClient) => Promise<string | undefined>;

/**
 * Waits until the policies of deploy/policies.yaml take effect, which is some seconds after they were applied: dry runs
 * must be gated, marked or refused. Two cannot be tried by dry runs of an administrator: the planner probes
 * term.scheduling.kllama.ai before it plans, and finalizers.scheduling.kllama.ai looks at allocated claims only. The client needs the rights of an administrator, without being the planner; one
 * ResourceClaim is created for the probe and deleted. Throws an error that names the policy that does not take effect.
 */
export async function waitForPolicies(
  client: KubeClient,
  options: { timeoutMs?: number; signal?: AbortSignal } = {},
): Promise<void> {
  const { timeoutMs = 60_000, signal } = options;
  await createProbeClaim(client);
  try {
    await Promise.all(
      Object.entries(probes).map(([policy, probe]) =>
        eventually(`policy ${policy} takes effect`, () => probe(client), { timeoutMs, signal }),
      ),
    );
  } finally {
    await deleteProbeClaim(client);
  }
}

const probes: Record<string, Probe> = {
  "gang-members.scheduling.kllama.ai": async (client) => {
    const pod = await dryRunPod(client, { labels: { [gangLabel]: probeName }, spec: oneClaim });
    if (!gated(pod) || !marked(pod, bindMarker)) return "a gang member is created without gate or marker";
    const claimless = await dryRunPod(client, { labels: { [gangLabel]: probeName } });
    return marked(claimless, memberMarker) ? undefined : "a gang member without claims is created without its marker";
  },
  "pods-with-claims.scheduling.kllama.ai": async (client) => {
    const pod = await dryRunPod(client, { spec: oneClaim });
    return gated(pod) ? undefined : `a pod with claims in namespace ${namespace} is created without gate`;
  },
  "claims.scheduling.kllama.ai": async (client) => {
    const body = { ...probeClaim, metadata: { name: `${probeName}-2`, namespace } };
    const claim = await client.request<ResourceClaim>("POST", claimsPath, { query: dryRun, body });
    return claim.metadata.finalizers?.includes(claimFinalizer) ? undefined : "a claim is created without finalizer";
  },
  "account.scheduling.kllama.ai": (client) =>
    refused("account.scheduling.kllama.ai", () =>
      client.request("PATCH", probeStatusPath, { query: dryRun, body: { status: { allocation: probeAllocation } } }),
    ),
  "extended-resources.scheduling.kllama.ai": (client) =>
    refused("extended-resources.scheduling.kllama.ai", () =>
      dryRunPod(client, { limits: { [`deviceclass.resource.kubernetes.io/${driverName}`]: "1" } }),
    ),
  "slices.scheduling.kllama.ai": (client) =>
    refused("slices.scheduling.kllama.ai", () =>
      client.request("POST", resourcePath({ ...dra, resource: "resourceslices" }), {
        query: dryRun,
        body: {
          apiVersion: "resource.k8s.io/v1",
          kind: "ResourceSlice",
          metadata: { name: probeName },
          spec: {
            driver: driverName,
            nodeName: probeName,
            pool: { name: probeName, generation: 1, resourceSliceCount: 1 },
            devices: [],
          },
        },
      }),
    ),
  "device-classes.scheduling.kllama.ai": (client) =>
    refused("device-classes.scheduling.kllama.ai", () =>
      client.request("POST", resourcePath({ ...dra, resource: "deviceclasses" }), {
        query: dryRun,
        body: {
          apiVersion: "resource.k8s.io/v1",
          kind: "DeviceClass",
          metadata: { name: driverName },
          spec: { extendedResourceName: "kllama.ai/probe" },
        },
      }),
    ),
};

const dryRun = { dryRun: "All" };

const oneClaim = { resourceClaims: [{ name: "probe", resourceClaimName: probeName }] };

const probeClaim = {
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaim",
  metadata: { name: probeName, namespace },
  spec: { devices: { requests: [{ name: "probe", exactly: { deviceClassName: driverName } }] } },
};

const probeAllocation = {
  devices: { results: [{ request: "probe", driver: driverName, pool: "probe", device: "probe" }] },
};

interface ProbePod {
  labels?: Record<string, string>;
  limits?: Record<string, string>;
  spec?: object;
}

function dryRunPod(client: KubeClient, { labels, limits, spec }: ProbePod): Promise<Pod> {
  const container = { name: "probe", image: "probe", resources: { limits } };
  const body = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: probeName, namespace, labels },
    // An account that surely exists: `default` comes later than its namespace.
    spec: { serviceAccountName: "kllama-planner", containers: [container], ...spec },
  };
  return client.request<Pod>("POST", podsPath, { query: dryRun, body });
}

function gated(pod: Pod): boolean {
  return pod.spec.schedulingGates?.some(({ name }) => name === gangGate) ?? false;
}

function marked(pod: Pod, marker: string): boolean {
  return pod.spec.containers[0]?.resources?.requests?.[marker] === "1";
}

async function refused(policy: string, attempt: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await attempt();
  } catch (error) {
    if (error instanceof KubeError && error.message.includes(policy)) return undefined;
    // The classes may exist already: then the API server says so as long as no policy refuses the request first.
    if (!isAlreadyExists(error)) throw error;
  }
  return "what it must refuse is accepted";
}

async function createProbeClaim(client: KubeClient): Promise<void> {
  try {
    await client.request("POST", claimsPath, { body: probeClaim });
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
}

/** Takes the finalizer off itself: kube-controller-manager may not be running yet. */
async function deleteProbeClaim(client: KubeClient): Promise<void> {
  try {
    await client.request("PATCH", probePath, { body: { metadata: { finalizers: null } } });
    await client.request("DELETE", probePath);
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}
