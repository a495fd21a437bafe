import type { KubeClient } from "../../src/kube/client.ts";

/** The client, noting in `writes` every request that would change something: `METHOD PATH`. */
export function counted(client: KubeClient, writes: string[]): KubeClient {
  return {
    ...client,
    request: (method, path, options) => {
      if (method !== "GET") writes.push(`${method} ${path}`);
      return client.request(method, path, options);
    },
  };
}
