import type { Node, ResourceSlice } from "../api/kubernetes.ts";
import type { DeviceLosses } from "../dra/driver/inventory.ts";
import { differingFields } from "../dra/driver/slice-changes.ts";
import { droppedMessage, slicePath, writeSlices } from "../dra/driver/slice-writer.ts";
import type { KubeClient } from "../kube/client.ts";
import { resourcePath } from "../kube/paths.ts";
import { lostDevicesAnnotation, simulatedNode } from "./names.ts";
import { type NodeManifest, nodeManifest, nodeSlices, type SimulatedNode } from "./objects.ts";
import { forEachLimited } from "./parallel.ts";

/** Writes Nodes and ResourceSlices, and only what differs from what is there. */

export const simulatedSelector = `${simulatedNode}=true`;
const pageSize = 500;

export function nodePath(name?: string, subresource?: string): string {
  return resourcePath({ group: "", version: "v1", resource: "nodes", name, subresource });
}

export interface PublishOptions {
  client: KubeClient;
  nodes: readonly SimulatedNode[];
  /** Requests under way at once. */
  parallelism: number;
  /** Called after each node. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Brings all nodes of a fleet into being. Returns the number of slices. What is there already is kept; faults noted on
 * a Node stay.
 */
export async function publishFleet(options: PublishOptions): Promise<{ slices: number }> {
  const { client, nodes } = options;
  const known = await existing(client);
  let done = 0;
  let slices = 0;
  await forEachLimited(nodes, options.parallelism, async (node) => {
    const { uid, losses } = await ensureNode(client, node, known.nodes.get(node.name));
    const written = await writeNodeSlices(client, node, uid, known.slices.get(node.name) ?? [], losses);
    slices += written;
    done += 1;
    options.onProgress?.(done, nodes.length);
  });
  return { slices };
}

/** Publishes one node's slices anew, after a fault or when the node came back. */
export async function publishNode(client: KubeClient, node: SimulatedNode, known: Node | undefined): Promise<void> {
  const { uid, losses } = await ensureNode(client, node, known);
  const query = { fieldSelector: `spec.nodeName=${node.name}`, labelSelector: simulatedSelector };
  await writeNodeSlices(client, node, uid, await listAll<ResourceSlice>(client, slicePath(), query), losses);
}

/** The faults noted on a Node. Throws an Error that names node, annotation and remedy when they cannot be read. */
export function lossesOf(node: Node): DeviceLosses {
  const text = node.metadata.annotations?.[lostDevicesAnnotation] ?? "{}";
  const bad = (why: string): Error =>
    new Error(`node ${node.metadata.name}: annotation ${lostDevicesAnnotation}: ${why}; correct or remove it`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw bad(`not JSON (${(error as Error).message})`);
  }
  const sound = (loss: unknown): boolean =>
    typeof loss === "object" && loss !== null && "how" in loss && (loss.how === "taint" || loss.how === "remove");
  if (typeof parsed !== "object" || parsed === null || !Object.values(parsed).every(sound)) {
    throw bad('expected devices with "how": "taint" or "remove" and "since"');
  }
  return parsed as DeviceLosses;
}

/** Reads a whole collection in pages. */
async function listAll<T>(client: KubeClient, path: string, query: Record<string, string>): Promise<T[]> {
  const items: T[] = [];
  let next: string | undefined;
  do {
    const page = await client.request<{ items?: T[]; metadata: { continue?: string } }>("GET", path, {
      query: { ...query, limit: pageSize, continue: next },
    });
    items.push(...(page.items ?? []));
    next = page.metadata.continue === "" ? undefined : page.metadata.continue;
  } while (next !== undefined);
  return items;
}

async function existing(
  client: KubeClient,
): Promise<{ nodes: ReadonlyMap<string, Node>; slices: ReadonlyMap<string, ResourceSlice[]> }> {
  const query = { labelSelector: simulatedSelector };
  const nodes = await listAll<Node>(client, nodePath(), query);
  const slices = new Map<string, ResourceSlice[]>();
  for (const slice of await listAll<ResourceSlice>(client, slicePath(), query)) {
    const { nodeName = "" } = slice.spec;
    slices.set(nodeName, [...(slices.get(nodeName) ?? []), slice]);
  }
  return { nodes: new Map(nodes.map((node) => [node.metadata.name, node])), slices };
}

async function ensureNode(
  client: KubeClient,
  node: SimulatedNode,
  known: Node | undefined,
): Promise<{ uid: string; losses: DeviceLosses }> {
  const manifest = nodeManifest(node);
  if (known === undefined) {
    const created = await client.request<Node>("POST", nodePath(), { body: manifest });
    rejectDropped(`node ${node.name}`, manifest.status.allocatable, created.status?.allocatable, "status.allocatable");
    return { uid: created.metadata.uid ?? "", losses: {} };
  }
  await correctNode(client, manifest, known);
  return { uid: known.metadata.uid ?? "", losses: lossesOf(known) };
}

async function correctNode(client: KubeClient, manifest: NodeManifest, known: Node): Promise<void> {
  const { labels, annotations } = manifest.metadata;
  const { allocatable, capacity } = manifest.status;
  if (differingFields({ labels, annotations }, known.metadata).length > 0) {
    await client.request("PATCH", nodePath(known.metadata.name), { body: { metadata: { labels, annotations } } });
  }
  if (differingFields({ allocatable, capacity }, known.status).length > 0) {
    await client.request("PATCH", nodePath(known.metadata.name, "status"), {
      body: { status: { allocatable, capacity } },
    });
  }
}

async function writeNodeSlices(
  client: KubeClient,
  node: SimulatedNode,
  nodeUid: string,
  current: readonly ResourceSlice[],
  losses: DeviceLosses,
): Promise<number> {
  const build = (generation: number): ResourceSlice[] => nodeSlices(node, { nodeUid, generation, losses });
  const written = await writeSlices(client, current, build);
  const [dropped] = written.dropped;
  if (dropped !== undefined) throw new Error(droppedMessage(dropped));
  return written.slices;
}

/** An API server drops fields of features that are off, and says nothing. */
function rejectDropped(what: string, sent: unknown, kept: unknown, path: string): void {
  const dropped = differingFields(sent, kept, path);
  if (dropped.length === 0) return;
  const shown = dropped.slice(0, 3).join(", ");
  throw new Error(
    `${what}: the API server did not keep ${shown}; turn on its feature gates for dynamic resource allocation (DRAPartitionableDevices, DRADeviceTaints)`,
  );
}
