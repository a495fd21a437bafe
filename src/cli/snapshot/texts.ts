import type { KubeClient } from "../../kube/client.ts";
import { readCluster, readRefusals } from "../live-cluster.ts";
import { placementsOf } from "../placements.ts";
import { pruned } from "./prune.ts";
import { readObjects } from "./read-objects.ts";

/** A List with one object a line: two dumps of one cluster differ where the cluster does. */
export async function snapshotText(client: KubeClient, warn: (text: string) => void): Promise<string> {
  const { objects, resourceVersion } = await readObjects(client);
  if (resourceVersion === undefined) {
    warn("the API server could not list all kinds as of one instant; what changed meanwhile may be in it half");
  }
  const metadata = JSON.stringify({ resourceVersion: resourceVersion ?? "" });
  const items = objects.map((object) => JSON.stringify(pruned(object)));
  return `{"apiVersion":"v1","kind":"List","metadata":${metadata},"items":[\n${items.join(",\n")}\n]}\n`;
}

/** What became of every gang, as `plan -o json` prints it. */
export async function placementsText(client: KubeClient, warn: (text: string) => void): Promise<string> {
  const [state, refusals] = await Promise.all([readCluster(client, warn), readRefusals(client)]);
  return `${JSON.stringify(placementsOf(state, { refusals }), undefined, 2)}\n`;
}
