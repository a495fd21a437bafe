import { type KubeClient, KubeError } from "../kube/client.ts";

/** Sends nothing once the Lease is lost, however long a request waited for its turn. The fence stops what is on its way. */
export function whileLeading(client: KubeClient, isLeader: () => boolean): KubeClient {
  return {
    ...client,
    async request(...call) {
      if (!isLeader()) throw new KubeError("this replica does not lead any more", { status: 0, reason: "NotLeading" });
      return await client.request(...call);
    },
  };
}
