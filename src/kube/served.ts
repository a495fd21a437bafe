import { isNotFound, type KubeClient } from "./client.ts";
import type { ResourceLocation } from "./paths.ts";

/** A kind that not every API server has, and its versions, the preferred one first. */
interface OptionalResource {
  readonly group: string;
  readonly versions: readonly string[];
  readonly resource: string;
}

/** From Kubernetes 1.37 on in v1; 1.36 has it in v1beta2 where an administrator turned it on. */
export const deviceTaintRules: OptionalResource = {
  group: "resource.k8s.io",
  versions: ["v1", "v1beta2"],
  resource: "devicetaintrules",
};

/** Where the API server has the collection; undefined: it does not. */
export async function findServed(
  client: KubeClient,
  { group, versions, resource }: OptionalResource,
  signal?: AbortSignal,
): Promise<ResourceLocation | undefined> {
  for (const version of versions) {
    const names = await resourcesOf(client, `/apis/${group}/${version}`, signal);
    if (names.includes(resource)) return { group, version, resource };
  }
  return undefined;
}

async function resourcesOf(client: KubeClient, path: string, signal?: AbortSignal): Promise<string[]> {
  try {
    const options = signal === undefined ? {} : { signal };
    const answer = await client.request<{ resources?: { name: string }[] }>("GET", path, options);
    if (!Array.isArray(answer?.resources)) throw new Error(`GET ${path}: the answer is not a list of resources`);
    return answer.resources.map(({ name }) => name);
  } catch (error) {
    if (isNotFound(error)) return [];
    throw error;
  }
}
