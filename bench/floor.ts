import type { Pod, ResourceClaim, ResourceSlice } from "../src/api/kubernetes.ts";
import type { KubeClient } from "../src/kube/client.ts";
import { createReflector } from "../src/kube/reflector.ts";
import { wholeSeconds } from "../src/kube/timing.ts";

/** The gate of pods that are placed this way. */
export const floorGate = "bench.kllama.ai/floor";

const devicesPerPod = 4;

/**
 * Does for each gated pod the writes that any planner beside kube-scheduler owes it (allocation with reservation, nominated
 * node, gate), and nothing else: no gang, no barrier, no search, no policy. What it reaches is what the API server and
 * kube-scheduler of this machine leave to a planner that costs nothing.
 *
 * Pods must have one claim of four devices each. @returns a function that stops it
 */
export async function placeWithoutDeciding(client: KubeClient, namespace: string): Promise<() => Promise<void>> {
  const places = await freePlaces(client);
  const pods = new Map<string, Pod>();
  const claims = new Map<string, ResourceClaim>();
  const begun = new Set<string>();

  function consider(pod: Pod | undefined): void {
    const claim = claims.get(pod?.status?.resourceClaimStatuses?.[0]?.resourceClaimName ?? "");
    if (pod === undefined || claim === undefined || begun.has(pod.metadata.name)) return;
    const place = places.pop();
    if (place === undefined) throw new Error("the fleet has fewer free places than there are pods");
    begun.add(pod.metadata.name);
    void write(client, pod, claim, place);
  }

  const podWatch = createReflector<Pod, Pod>({
    client,
    path: `/api/v1/namespaces/${namespace}/pods`,
    name: "gated pods",
    // Bound pods are done: their events would only cost.
    query: { fieldSelector: "spec.nodeName=" },
    project: (pod) => pod,
    onChange: (change) => {
      if (change.type !== "added" && change.type !== "updated") return;
      pods.set(change.value.metadata.name, change.value);
      consider(change.value);
    },
  });
  const claimWatch = createReflector<ResourceClaim, ResourceClaim>({
    client,
    path: `/apis/resource.k8s.io/v1/namespaces/${namespace}/resourceclaims`,
    name: "claims",
    project: (claim) => claim,
    onChange: (change) => {
      if (change.type !== "added") return;
      claims.set(change.value.metadata.name, change.value);
      consider(pods.get(change.value.metadata.ownerReferences?.[0]?.name ?? ""));
    },
  });
  for (const watch of [podWatch, claimWatch]) watch.start();
  await Promise.all([podWatch.waitForSync(), claimWatch.waitForSync()]);
  return async () => {
    await Promise.all([podWatch.stop(), claimWatch.stop()]);
  };
}

interface Place {
  node: string;
  devices: { driver: string; pool: string; device: string }[];
}

/** Every whole group of four devices of every node. */
async function freePlaces(client: KubeClient): Promise<Place[]> {
  const { items } = await client.request<{ items: ResourceSlice[] }>("GET", "/apis/resource.k8s.io/v1/resourceslices");
  return items.flatMap(({ spec }) => {
    const devices = (spec.devices ?? []).map(({ name }) => ({
      driver: spec.driver,
      pool: spec.pool.name,
      device: name,
    }));
    const groups = Array.from({ length: Math.floor(devices.length / devicesPerPod) }, (_, group) =>
      devices.slice(group * devicesPerPod, (group + 1) * devicesPerPod),
    );
    return groups.map((group) => ({ node: spec.nodeName ?? "", devices: group }));
  });
}

async function write(client: KubeClient, pod: Pod, claim: ResourceClaim, { node, devices }: Place): Promise<void> {
  const { name, namespace, uid } = pod.metadata;
  const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
  const contentType = "application/strategic-merge-patch+json";
  const status = {
    allocation: {
      devices: { results: devices.map((device) => ({ request: "gpus", ...device })) },
      nodeSelector: {
        nodeSelectorTerms: [{ matchFields: [{ key: "metadata.name", operator: "In", values: [node] }] }],
      },
      allocationTimestamp: wholeSeconds(new Date()),
    },
    reservedFor: [{ resource: "pods", name, uid }],
  };
  const claimPath = `/apis/resource.k8s.io/v1/namespaces/${namespace}/resourceclaims/${claim.metadata.name}/status`;
  const nomination = { status: { nominatedNodeName: node } };
  await Promise.all([
    client.request("PUT", claimPath, { body: { ...claim, status } }),
    client.request("PATCH", `${path}/status`, { contentType, body: nomination }),
  ]);
  const lifted = { spec: { schedulingGates: [{ $patch: "delete", name: floorGate }] } };
  await client.request("PATCH", path, { contentType, body: lifted });
}
