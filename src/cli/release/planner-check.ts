import { type KubeClient, KubeError } from "../../kube/client.ts";
import { resourcePath } from "../../kube/paths.ts";

interface Lease {
  spec?: { holderIdentity?: string; renewTime?: string; leaseDurationSeconds?: number };
}

/**
 * Who plans now, by the Lease: a planner that runs would take hold again of what is let go. Undefined: nobody, or the
 * caller may not know (an owner of one namespace need not).
 * @param nowMs wall clock; a clock that is wrong by more than the Lease's duration judges wrongly
 */
export async function runningPlanner(
  client: KubeClient,
  namespace: string,
  nowMs: number,
): Promise<string | undefined> {
  const location = {
    group: "coordination.k8s.io",
    version: "v1",
    resource: "leases",
    namespace,
    name: "kllama-planner",
  };
  try {
    const { spec } = await client.request<Lease>("GET", resourcePath(location));
    const lastsMs = Date.parse(spec?.renewTime ?? "") + (spec?.leaseDurationSeconds ?? 0) * 1000;
    return spec?.holderIdentity && lastsMs > nowMs ? spec.holderIdentity : undefined;
  } catch (error) {
    if (error instanceof KubeError && (error.status === 404 || error.status === 403)) return undefined;
    throw error;
  }
}
