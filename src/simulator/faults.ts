import type { Node, Taint } from "../api/kubernetes.ts";
import type { DeviceLosses } from "../dra/driver/inventory.ts";
import { isNotFound, type KubeClient } from "../kube/client.ts";
import { wholeSeconds } from "../kube/timing.ts";
import { lostDevicesAnnotation, lostNodeLabel } from "./names.ts";
import { nodeManifest, nodeSlices, type SimulatedNode } from "./objects.ts";
import { lossesOf, nodePath, publishNode } from "./publish.ts";

/**
 * Faults, made through the API alone: any process may cause one, and it outlives the process. A running fleet notices
 * it on the Node.
 */

/** `unreachable`: as if the machine fell silent, with the taints that node-lifecycle sets. `delete`: its Node is removed. */
export type NodeLoss = "unreachable" | "delete";

const unreachable = "node.kubernetes.io/unreachable";

export async function loseNode(client: KubeClient, node: SimulatedNode, how: NodeLoss, at: Date): Promise<void> {
  if (how === "delete") {
    await client.request("DELETE", nodePath(node.name));
    return;
  }
  const known = await readNode(client, node.name);
  if (known === undefined) throw new Error(`node ${node.name}: does not exist; restore it before it is lost again`);
  const others = (known.spec?.taints ?? []).filter((taint) => taint.key !== unreachable);
  const taints: (Taint & { timeAdded?: string })[] = [
    ...others,
    { key: unreachable, effect: "NoSchedule", timeAdded: wholeSeconds(at) },
    { key: unreachable, effect: "NoExecute", timeAdded: wholeSeconds(at) },
  ];
  await patchNode(client, known, { metadata: { labels: { [lostNodeLabel]: "true" } }, spec: { taints } });
  await patchReady(client, node.name, {
    status: "Unknown",
    reason: "NodeStatusUnknown",
    message: "Kubelet stopped posting node status (simulated).",
  });
}

/** The node answers again; a deleted one returns as a new machine without faults. */
export async function restoreNode(client: KubeClient, node: SimulatedNode): Promise<void> {
  const known = await readNode(client, node.name);
  if (known !== undefined) {
    const taints = (known.spec?.taints ?? []).filter((taint) => taint.key !== unreachable);
    const ready = nodeManifest(node).status.conditions.find((condition) => condition.type === "Ready")!;
    await patchNode(client, known, { metadata: { labels: { [lostNodeLabel]: null } }, spec: { taints } });
    await patchReady(client, node.name, ready);
  }
  await publishNode(client, node, known);
}

/** A device breaks: `taint` evicts its pods (NoExecute), `remove` lets it vanish from the slices. */
export async function loseDevice(
  client: KubeClient,
  node: SimulatedNode,
  device: string,
  how: "taint" | "remove",
  at: Date,
): Promise<void> {
  await changeLosses(client, node, device, (losses) => ({ ...losses, [device]: { how, since: wholeSeconds(at) } }));
}

export async function restoreDevice(client: KubeClient, node: SimulatedNode, device: string): Promise<void> {
  await changeLosses(client, node, device, ({ [device]: _, ...rest }) => rest);
}

async function changeLosses(
  client: KubeClient,
  node: SimulatedNode,
  device: string,
  change: (losses: DeviceLosses) => DeviceLosses,
): Promise<void> {
  const devices = nodeSlices(node, { nodeUid: "", generation: 1 }).flatMap((slice) => slice.spec.devices ?? []);
  if (!devices.some((candidate) => candidate.name === device)) {
    throw new Error(
      `node ${node.name} has no device ${JSON.stringify(device)}; its ${devices.length} devices begin with ${devices[0]?.name}`,
    );
  }
  const known = await readNode(client, node.name);
  if (known === undefined) throw new Error(`node ${node.name}: does not exist; restore it first`);
  const losses = change(lossesOf(known));
  const text = Object.keys(losses).length === 0 ? null : JSON.stringify(losses);
  const changed = await patchNode(client, known, { metadata: { annotations: { [lostDevicesAnnotation]: text } } });
  await publishNode(client, node, changed);
}

async function readNode(client: KubeClient, name: string): Promise<Node | undefined> {
  try {
    return await client.request<Node>("GET", nodePath(name));
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** With the version that was read: taints and faults are replaced as a whole. */
async function patchNode(
  client: KubeClient,
  known: Node,
  change: { metadata: Record<string, unknown>; spec?: unknown },
): Promise<Node> {
  const { resourceVersion } = known.metadata;
  return client.request<Node>("PATCH", nodePath(known.metadata.name), {
    body: { ...change, metadata: { ...change.metadata, resourceVersion } },
  });
}

async function patchReady(
  client: KubeClient,
  name: string,
  ready: { status: string; reason: string; message: string },
): Promise<void> {
  await client.request("PATCH", nodePath(name, "status"), {
    contentType: "application/strategic-merge-patch+json",
    body: { status: { conditions: [{ ...ready, type: "Ready" }] } },
  });
}
