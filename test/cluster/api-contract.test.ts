import { Client } from "undici";
import { install, kubeconfigOf } from "../../src/cli/system/system.ts";
import { createClient } from "../../src/kube/client.ts";
import { loadConnection } from "../../src/kube/connection.ts";
import { resourcePath } from "../../src/kube/paths.ts";
import { waitForPolicies } from "../../src/kube/policy-probes.ts";
import { type ControlPlane, startControlPlane } from "../../tools/control-plane/control-plane.ts";
import { layout } from "../../tools/control-plane/layout.ts";
import { describeApiContract } from "../support/api-contract.ts";

const namespace = "contract";

/** No controllers: what happens to objects is what the test does. */
describeApiContract("kube-apiserver keeps the contract", async () => {
  const plane = await startControlPlane({ components: [] });
  const clientOf = async (path: string) => createClient(await loadConnection({ kubeconfigPath: path }));
  const admin = await clientOf(plane.admin.path);
  await install(admin);
  await waitForPolicies(admin);
  await admin.request("POST", resourcePath({ group: "", version: "v1", resource: "namespaces" }), {
    body: { metadata: { name: namespace } },
  });
  await admin.request("POST", resourcePath({ group: "", version: "v1", resource: "serviceaccounts", namespace }), {
    body: { metadata: { name: "default" } },
  });
  const planner = await clientOf(await kubeconfigOf(plane, "planner"));
  return {
    admin,
    planner,
    namespace,
    compact: () => compact(plane),
    async close() {
      await Promise.all([admin.close(), planner.close()]);
      await plane.stop();
    },
  };
});

/** Forgets all history in etcd, and what the API server remembers of it. */
async function compact(plane: ControlPlane): Promise<void> {
  const etcd = new Client("http://localhost", { socketPath: layout(plane.dataDir).etcdSocket });
  const post = async (path: string, body: object): Promise<{ header?: { revision: string } }> => {
    const response = await etcd.request({ method: "POST", path, body: JSON.stringify(body) });
    return (await response.body.json()) as { header?: { revision: string } };
  };
  const { header } = await post("/v3/kv/range", { key: Buffer.from("a").toString("base64") });
  await post("/v3/kv/compaction", { revision: header?.revision, physical: true });
  await etcd.close();
  await plane.component("kube-apiserver").restart();
}
