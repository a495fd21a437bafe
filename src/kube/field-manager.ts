import { plannerName } from "../api/names.ts";
import type { KubeClient, RequestOptions } from "./client.ts";

/**
 * A planner's client: each write says in its field manager (`kllama-planner/EPOCH`) in which term it was sent, and the policy
 * `term` lets none of another pass. The holder alone does not tell: a planner that is killed and started again in its pod has
 * the same, and must not be surprised by what its predecessor had under way. A deletion has no field manager to say it in.
 * @param epoch undefined: no term has begun
 */
export function inTerm(client: KubeClient, epoch: () => number | undefined): KubeClient {
  return {
    ...client,
    request<T>(method: Parameters<KubeClient["request"]>[0], path: string, options: RequestOptions = {}): Promise<T> {
      if (method === "GET" || method === "DELETE") return client.request<T>(method, path, options);
      const query = { ...options.query, fieldManager: managerIn(epoch()) };
      return client.request<T>(method, path, { ...options, query });
    },
  };
}

function managerIn(epoch: number | undefined): string {
  return epoch === undefined ? plannerName : `${plannerName}/${epoch}`;
}

/** Whether a planner wrote it, in whichever term: nobody else's allocations are ever taken away. */
export function isPlanner(manager: string | undefined): boolean {
  return manager === plannerName || manager?.startsWith(`${plannerName}/`) === true;
}
