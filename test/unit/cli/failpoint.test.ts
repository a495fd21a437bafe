import { expect, test } from "vitest";
import { tellingWrites } from "../../../src/cli/failpoint.ts";
import type { KubeClient } from "../../../src/kube/client.ts";

test("failpoints are told of writes that came to pass, by kind; of no reads, refusals and dry runs", async () => {
  const told: string[] = [];
  const request = async (_method: string, path: string): Promise<unknown> => {
    if (path.endsWith("/refused")) throw new Error("refused");
    return {};
  };
  const client = tellingWrites({ request } as unknown as KubeClient, (write) => told.push(write));
  await client.request("GET", "/api/v1/namespaces/team/pods/p");
  await client.request("PATCH", "/api/v1/namespaces/team/pods/p/status");
  await client.request("PATCH", "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims/c");
  await client.request("POST", "/apis/events.k8s.io/v1/namespaces/team/events");
  await client.request("PUT", "/apis/scheduling.kllama.ai/v1alpha1/plannerterms/t");
  await client.request("PUT", "/apis/scheduling.kllama.ai/v1alpha1/plannerterms/t/status", {
    query: { dryRun: "All" },
  });
  await expect(client.request("PUT", "/apis/coordination.k8s.io/v1/namespaces/s/leases/refused")).rejects.toThrow();
  expect(told).toEqual(["PATCH/pods/status", "PATCH/resourceclaims", "POST/events", "PUT/plannerterms"]);
});
