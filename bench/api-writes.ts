import type { KubeClient } from "../src/kube/client.ts";

/** `VERB resource/subresource` → successful writes so far, as kube-apiserver counts them. */
export type WriteCounts = ReadonlyMap<string, number>;

const writeVerbs = new Set(["POST", "PUT", "PATCH", "APPLY", "DELETE"]);

/** Reads `apiserver_request_total`: it counts every client, costs the server nothing and needs no audit log. */
export async function readWriteCounts(metrics: () => Promise<string>): Promise<WriteCounts> {
  const counts = new Map<string, number>();
  for (const line of (await metrics()).split("\n")) {
    if (!line.startsWith("apiserver_request_total{")) continue;
    const label = (name: string): string => new RegExp(`[{,]${name}="([^"]*)"`).exec(line)?.[1] ?? "";
    const verb = label("verb");
    if (!writeVerbs.has(verb) || !label("code").startsWith("2") || label("dry_run") !== "") continue;
    const subresource = label("subresource");
    const key = `${verb} ${label("resource")}${subresource === "" ? "" : `/${subresource}`}`;
    counts.set(key, (counts.get(key) ?? 0) + Number(line.slice(line.lastIndexOf(" ") + 1)));
  }
  return counts;
}

/** What happened between two readings. */
export function writesBetween(before: WriteCounts, after: WriteCounts): Map<string, number> {
  const difference = new Map<string, number>();
  for (const [key, count] of after) {
    const more = count - (before.get(key) ?? 0);
    if (more > 0) difference.set(key, more);
  }
  return difference;
}

/** kube-apiserver's own metrics, raw. */
export async function apiServerMetrics(client: KubeClient): Promise<string> {
  const lines: string[] = [];
  for await (const line of client.lines("/metrics", { signal: AbortSignal.timeout(30_000) })) lines.push(line);
  return lines.join("\n");
}
